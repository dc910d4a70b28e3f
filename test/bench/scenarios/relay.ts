import type { Scenario } from '../bench.ts'
import { relayLoad } from '../relay-load.ts'
import { OURS } from '../table.ts'

const MEASURE = 'CPU of a relay for a GB between two nodes, both legs TLS'
const LIMIT = 'limit'

/** `npm run bench:relay` says more of it. On loopback: the nodes are in this process, the relay in one of its own. */
export const relay: Scenario = {
  rows: [{ measure: MEASURE, unit: 's', better: 'lower', against: { [LIMIT]: 1 }, limits: { [LIMIT]: 1.6 } }],
  needs: [],
  isOnce: true,
  lanes: [
    {
      name: OURS,
      isOfThisCheckout: true,
      measure: async () => {
        const { cpuSecondsPerGb = Number.NaN } = await relayLoad({
          nodes: 2,
          idleSeconds: 0,
          carryMb: 2_000,
          restarts: [],
        })
        return { [MEASURE]: cpuSecondsPerGb }
      },
    },
  ],
}
