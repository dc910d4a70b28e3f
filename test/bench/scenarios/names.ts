import { type Bench, COREDNS, DNSMASQ, type Scenario } from '../bench.ts'
import { dnsperf } from '../loads/dnsperf.ts'
import type { Address } from '../loads/iperf3.ts'
import { OURS } from '../table.ts'

const RATE = 'DNS answers/s'
const P99 = 'DNS, p99 at half of that'

/** The same names: ours answers VIPs from its table, dnsmasq from address records, CoreDNS from a hosts file. */
export const names: Scenario = {
  rows: [
    { measure: RATE, unit: '1/s', better: 'higher', against: { [COREDNS]: 1.3, [DNSMASQ]: 0.8 } },
    { measure: P99, unit: 'ms', better: 'lower', against: { [COREDNS]: 'report', [DNSMASQ]: 'report' } },
  ],
  needs: ['dnsperf', 'haproxy'],
  lanes: [
    {
      name: OURS,
      measure: async (bench) => ask(bench, await (await bench.ours()).mesh.resolver(), await bench.names()),
    },
    {
      name: DNSMASQ,
      needs: ['dnsmasq'],
      measure: async (bench) => {
        const all = await bench.names()
        return ask(bench, await bench.dnsmasq(all), all)
      },
    },
    {
      name: COREDNS,
      needs: ['coredns'],
      measure: async (bench) => {
        const all = await bench.names()
        return ask(bench, await bench.coredns(all), all)
      },
    },
  ],
}

async function ask(
  { testbed, seconds }: Bench,
  place: Address,
  all: readonly string[],
): Promise<Record<string, number>> {
  await dnsperf(testbed, place, all, { seconds: 1, perSecond: 500 }) // asked for the first time, a name costs a question upward
  const { perSecond } = await dnsperf(testbed, place, all, { seconds })
  const { p99 = Number.NaN } = await dnsperf(testbed, place, all, { seconds, perSecond: perSecond / 2 })
  return { [RATE]: perSecond, [P99]: p99 }
}
