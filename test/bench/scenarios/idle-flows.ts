import { setTimeout as sleep } from 'node:timers/promises'
import { type Bench, PAIR, type Scenario } from '../bench.ts'
import { hold } from '../loads/connections.ts'
import type { Address } from '../loads/iperf3.ts'
import { rssMib } from '../proc.ts'
import { OURS } from '../table.ts'

const COUNT = 10_000
/** HAProxy needs two descriptors for each, of 20,000 a process. */
const PAIR_COUNT = 9_000
const NEAR = `RSS of the caller's agent with ${COUNT} idle flows`
const FAR = `RSS of the instance's agent with ${COUNT} idle flows`
const EACH = 'memory for each idle flow, both sides together'
const LIMIT = 'limit'
const limited = { against: { [LIMIT]: 1 }, limits: { [LIMIT]: 200 } }

/** What collectors of garbage may still give back. */
const SETTLE_MS = 3_000

/** Connections that are open and say nothing. */
export const idleFlows: Scenario = {
  rows: [
    { measure: NEAR, unit: 'MiB', better: 'lower', ...limited },
    { measure: FAR, unit: 'MiB', better: 'lower', ...limited },
    { measure: EACH, unit: 'bytes', better: 'lower', against: { [PAIR]: 'report' } },
  ],
  needs: ['haproxy', 'iperf3'],
  isOnce: true,
  lanes: [
    {
      name: OURS,
      measure: async (bench) => {
        const { mesh, echo } = await bench.ours()
        const { rss, each } = await held(bench, echo, [mesh.pid('a'), mesh.pid('b')], COUNT)
        return { [NEAR]: rss[0] as number, [FAR]: rss[1] as number, [EACH]: each }
      },
    },
    {
      name: PAIR,
      needs: ['openssl'],
      measure: async (bench) => {
        const { echo, pids } = await bench.pair()
        return { [EACH]: (await held(bench, echo, Object.values(pids), PAIR_COUNT)).each }
      },
    },
  ],
}

/** Memory in MiB of the processes while so many connections are held, and by how many bytes each of these has raised it. */
async function held(
  { testbed }: Bench,
  place: Address,
  pids: readonly number[],
  count: number,
): Promise<{ rss: number[]; each: number }> {
  const before = pids.map(rssMib)
  const { open, program } = await hold(testbed, place, count)
  try {
    if (open < count) throw new Error(`only ${open} of ${count} connections opened`)
    await sleep(SETTLE_MS)
    const rss = pids.map(rssMib)
    const raised = rss.reduce((sum, mib, i) => sum + mib - (before[i] as number), 0)
    return { rss, each: (raised * 2 ** 20) / count }
  } finally {
    await program.stop()
  }
}
