import { type Bench, NEBULA, type Scenario } from '../bench.ts'
import { datagrams, type Address } from '../loads/iperf3.ts'
import { highestRate } from '../loads/udp.ts'
import { OURS } from '../table.ts'

const MEASURE = 'UDP, packets/s of 1,200 bytes with < 1 % lost'

/** Each step of the search; shorter ones say more about chance. */
const STEP_SECONDS = 1

/** UDP, sealed: the highest rate at which less than a hundredth is lost. */
export const udp: Scenario = {
  rows: [{ measure: MEASURE, unit: '1/s', better: 'higher', against: { [NEBULA]: 1.5 } }],
  needs: ['iperf3', 'haproxy'],
  lanes: [
    { name: OURS, measure: async (bench) => search(bench, (await bench.ours()).iperf) },
    {
      name: NEBULA,
      needs: ['nebula'],
      needsNamespaces: true,
      measure: async (bench) => search(bench, { host: await bench.nebula(), port: (await bench.origins()).iperf }),
    },
  ],
}

async function search({ testbed }: Bench, place: Address): Promise<Record<string, number>> {
  const send = (perSecond: number) => datagrams(testbed, place, { seconds: STEP_SECONDS, bytes: 1_200, perSecond })
  const highest = await highestRate(send)
  if (highest === 0) throw new Error('too much is lost at any rate')
  return { [MEASURE]: highest }
}
