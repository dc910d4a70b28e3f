import { NEBULA, PAIR, type Scenario, WIREGUARD } from '../bench.ts'
import { bulk, type Address } from '../loads/iperf3.ts'
import { OURS } from '../table.ts'
import type { Bench } from '../bench.ts'

const ONE = 'one TCP stream'
const FOUR = 'four TCP streams'
const against = { [PAIR]: 1.05, [NEBULA]: 10, [WIREGUARD]: 2.8 }

/** Bulk: as many bytes as go through. */
export const streams: Scenario = {
  rows: [
    { measure: ONE, unit: 'Gbit/s', better: 'higher', against },
    { measure: FOUR, unit: 'Gbit/s', better: 'higher', against },
  ],
  needs: ['iperf3', 'haproxy'],
  lanes: [
    { name: OURS, measure: async (bench) => both(bench, (await bench.ours()).iperf) },
    { name: PAIR, needs: ['openssl'], measure: async (bench) => both(bench, (await bench.pair()).iperf) },
    {
      name: NEBULA,
      needs: ['nebula'],
      needsNamespaces: true,
      measure: async (bench) => both(bench, { host: await bench.nebula(), port: (await bench.origins()).iperf }),
    },
    {
      name: WIREGUARD,
      needs: ['wireguard-go', 'wg'],
      needsNamespaces: true,
      measure: async (bench) => both(bench, { host: await bench.wireguard(), port: (await bench.origins()).iperf }),
    },
  ],
}

async function both({ testbed, seconds }: Bench, place: Address): Promise<Record<string, number>> {
  const one = await bulk(testbed, place, { seconds, streams: 1 })
  const four = await bulk(testbed, place, { seconds, streams: 4 })
  return { [ONE]: one.gigabits, [FOUR]: four.gigabits }
}
