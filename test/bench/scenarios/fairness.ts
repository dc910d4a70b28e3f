import { setTimeout as sleep } from 'node:timers/promises'
import { type Bench, PAIR, type Scenario } from '../bench.ts'
import { bulk, type Address } from '../loads/iperf3.ts'
import { wrk } from '../loads/wrk.ts'
import { OURS } from '../table.ts'

const BESIDE = 'p99 of one connection beside 8 bulk streams'
const ALONE = 'the same, unloaded'

/** Bulk streams are well under way, and the small requests end before they do. */
const LEAD_MS = 500

/** Small requests and bulk through the same carriers. The pair has no carriers to share: it is told for comparison. */
export const fairness: Scenario = {
  rows: [{ measure: BESIDE, unit: 'ms', better: 'lower', against: { [ALONE]: 3, [PAIR]: 'report' } }],
  needs: ['wrk', 'iperf3', 'haproxy'],
  lanes: [
    {
      name: OURS,
      measure: async (bench) => {
        const { web, iperf } = await bench.ours()
        return { [BESIDE]: await beside(bench, web, iperf) }
      },
    },
    {
      name: ALONE,
      measure: async (bench) => ({ [BESIDE]: await alone(bench, (await bench.ours()).web) }),
    },
    {
      name: PAIR,
      needs: ['openssl'],
      measure: async (bench) => {
        const { web, iperf } = await bench.pair()
        return { [BESIDE]: await beside(bench, web, iperf) }
      },
    },
  ],
}

async function alone({ testbed, seconds }: Bench, { host, port }: Address): Promise<number> {
  return (await wrk(testbed, `http://${host}:${port}/`, { connections: 1, seconds })).p99
}

async function beside(bench: Bench, web: Address, iperf: Address): Promise<number> {
  const { testbed, seconds } = bench
  const load = bulk(testbed, iperf, { seconds: seconds + 1, streams: 8 })
  load.catch(() => undefined) // told below, after the small ones
  await sleep(LEAD_MS)
  const p99 = await alone(bench, web)
  await load
  return p99
}
