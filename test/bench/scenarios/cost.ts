import { BARE, type Bench, PAIR, type Scenario } from '../bench.ts'
import { bareTls } from '../loads/bare-tls.ts'
import { bulk, type Address } from '../loads/iperf3.ts'
import { cpuSeconds } from '../proc.ts'
import { OURS } from '../table.ts'

const BOTH = 'CPU for a GB of one TCP stream, both ends'
const SENDER = 'CPU for a GB, the sender’s agent'
const RECEIVER = 'CPU for a GB, the receiver’s agent'
const told = { unit: 's', better: 'lower', against: { [BARE]: 'report', [PAIR]: 'report' } } as const

/**
 * Seconds of CPU for 10⁹ bytes. Bare Node TLS sends from memory and throws away what comes: it has no programs at its ends, so it
 * copies each byte once less at each.
 */
export const cost: Scenario = {
  rows: [
    { measure: BOTH, unit: 's', better: 'lower', against: { [BARE]: 1.3, [PAIR]: 'report' } },
    { measure: SENDER, ...told },
    { measure: RECEIVER, ...told },
  ],
  needs: ['iperf3', 'haproxy'],
  lanes: [
    {
      name: OURS,
      measure: async (bench) => {
        const { mesh, iperf } = await bench.ours()
        return through(bench, iperf, { sender: mesh.pid('a'), receiver: mesh.pid('b') })
      },
    },
    {
      name: BARE,
      needs: ['openssl'],
      measure: async (bench) => {
        const { sender, receiver } = await bareTls(bench.testbed, await bench.command(), bench.seconds)
        return { [BOTH]: sender + receiver, [SENDER]: sender, [RECEIVER]: receiver }
      },
    },
    {
      name: PAIR,
      needs: ['openssl'],
      measure: async (bench) => {
        const { iperf, pids } = await bench.pair()
        return through(bench, iperf, { sender: pids.a, receiver: pids.b })
      },
    },
  ],
}

async function through(
  { testbed, seconds }: Bench,
  place: Address,
  { sender, receiver }: { sender: number; receiver: number },
): Promise<Record<string, number>> {
  const before = { sender: cpuSeconds(sender), receiver: cpuSeconds(receiver) }
  const { bytes } = await bulk(testbed, place, { seconds, streams: 1 })
  const near = (cpuSeconds(sender) - before.sender) / (bytes / 1e9)
  const far = (cpuSeconds(receiver) - before.receiver) / (bytes / 1e9)
  return { [BOTH]: near + far, [SENDER]: near, [RECEIVER]: far }
}
