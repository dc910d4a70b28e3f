import { type Bench, HOP, PAIR, type Scenario } from '../bench.ts'
import type { Address } from '../loads/iperf3.ts'
import { wrk } from '../loads/wrk.ts'
import { OURS } from '../table.ts'

const KEPT = 'requests/s, 64 keep-alive connections'
const FRESH = 'new connections/s, 16 at once'
const P50 = 'one connection, p50'
const P99 = 'one connection, p99'
const HERE = 'same-node flow, requests/s at 64'

/** Small HTTP requests through two nodes. */
export const requests: Scenario = {
  rows: [
    { measure: KEPT, unit: '1/s', better: 'higher', against: { [PAIR]: 1.3 } },
    { measure: FRESH, unit: '1/s', better: 'higher', against: { [PAIR]: 4 } },
    { measure: P50, unit: 'ms', better: 'lower', against: { [PAIR]: 1 } },
    { measure: P99, unit: 'ms', better: 'lower', against: { [PAIR]: 1 } },
  ],
  needs: ['wrk', 'haproxy'],
  lanes: [
    { name: OURS, measure: async (bench) => ask(bench, (await bench.ours()).web) },
    { name: PAIR, needs: ['openssl'], measure: async (bench) => ask(bench, (await bench.pair()).web) },
  ],
}

/** Caller and instance on one node: no TLS, no tunnel. */
export const sameNode: Scenario = {
  rows: [{ measure: HERE, unit: '1/s', better: 'higher', against: { [HOP]: 0.9 } }],
  needs: ['wrk', 'haproxy'],
  lanes: [
    { name: OURS, measure: async (bench) => askHere(bench, (await bench.ours()).here) },
    { name: HOP, measure: async (bench) => askHere(bench, await bench.hop()) },
  ],
}

async function ask({ testbed, seconds }: Bench, { host, port }: Address): Promise<Record<string, number>> {
  const url = `http://${host}:${port}/`
  const kept = await wrk(testbed, url, { connections: 64, seconds })
  const fresh = await wrk(testbed, url, { connections: 16, seconds, isFresh: true })
  const one = await wrk(testbed, url, { connections: 1, seconds })
  return { [KEPT]: kept.perSecond, [FRESH]: fresh.perSecond, [P50]: one.p50, [P99]: one.p99 }
}

async function askHere({ testbed, seconds }: Bench, { host, port }: Address): Promise<Record<string, number>> {
  return { [HERE]: (await wrk(testbed, `http://${host}:${port}/`, { connections: 64, seconds })).perSecond }
}
