import type { Bench, Scenario } from '../bench.ts'
import { FastPathMachine } from '../fast-path.ts'
import { readWrk } from '../loads/wrk.ts'
import { OURS } from '../table.ts'

const MEASURE = 'same-node flow, kernel fast path: requests/s at 64'
const DIRECT = 'direct connection'

/** `host` mode on a machine of its own; the same HAProxy under its own address and under its VIP. */
export const kernel: Scenario = {
  rows: [{ measure: MEASURE, unit: '1/s', better: 'higher', against: { [DIRECT]: 0.95 } }],
  needs: ['wrk', 'haproxy'],
  lanes: [
    { name: OURS, needsNamespaces: true, isOfThisCheckout: true, measure: (bench) => ask(bench, 'fast') },
    { name: DIRECT, needsNamespaces: true, measure: (bench) => ask(bench, 'direct') },
  ],
}

async function ask(bench: Bench, way: 'fast' | 'direct'): Promise<Record<string, number>> {
  const { machine, web } = await bench.part('fast path', async () => {
    const started = bench.testbed.use(await FastPathMachine.start())
    return { machine: started, web: await started.web() }
  })
  const said = await machine.host.text(['wrk', '-t1', '-c64', `-d${bench.seconds}s`, '--latency', web[way]], {
    timeoutMs: (bench.seconds + 30) * 1_000,
  })
  return { [MEASURE]: readWrk(said).perSecond }
}
