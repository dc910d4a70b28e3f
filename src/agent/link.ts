import { interestOf } from '../core/model/ids.ts'
import { Uplink, type UplinkOptions, type UplinkWorker } from '../orchestrator/worker/uplink.ts'
import type { Interests } from '../core/table/interests.ts'
import type { AgentContext } from './context.ts'
import type { TableSync } from './table-sync.ts'
import type { NodeIdentity } from './node-identity.ts'
import type { Instances } from './instances.ts'

/*
 * The one link to the cluster: work and changes come down, reports and questions go up.
 */

/** How soon the cluster hears that the machine has other addresses. */
const ADDRESSES_MS = 5_000
/** A successor waits so long for its link, so that it knows no less than the agent before; without one it goes on. */
const LINKED_MS = 2_000
const LOOK_MS = 10

export async function linkUp(
  { life, clock, log, metrics, predecessor }: AgentContext,
  { identity, url, egress }: NodeIdentity,
  { interests, follow }: TableSync,
  told: Pick<UplinkOptions, 'onRelays'>,
  work: Instances,
): Promise<Uplink> {
  const uplink = life.use(
    Uplink.start(
      {
        urls: [url],
        identity,
        egress,
        facts: work.facts,
        worker: wishing(work, interests),
        onWish: (keys) => interests.wish(keys),
        ...told,
        clock,
      },
      log,
      metrics,
    ),
  )
  work.reportTo(uplink)
  const refresh = () => {
    if (work.refresh()) uplink.factsChanged()
  }
  life.every(ADDRESSES_MS, refresh, 'node facts')
  await follow(uplink)
  if (predecessor !== undefined) {
    const until = clock.now() + LINKED_MS
    while (!uplink.isUp && clock.now() < until) await clock.sleep(LOOK_MS)
  }
  return uplink
}

/**
 * The worker, and what its instances say they will call: the node asks for that before their first question. And for
 * the instances themselves: those on this node that they call shall see them under their own VIPs.
 */
function wishing(work: Instances, interests: Pick<Interests, 'wish'>): UplinkWorker {
  return {
    assign: async (assignment) => {
      await work.mayAssign
      work.worker.assign(assignment)
      const { id, connectivity } = assignment.spec
      interests.wish([id, ...connectivity].map((named) => (named.split('.').length === 4 ? interestOf(named) : named)))
    },
    withdraw: (instance) => work.worker.withdraw(instance),
    keepOnly: (wanted) => work.worker.keepOnly(wanted),
    reports: () => work.worker.reports(),
    logs: (instance, options, signal) => work.worker.logs(instance, options, signal),
  }
}
