import { interestOf } from '../model/ids.ts'
import { Uplink, type UplinkOptions, type UplinkWorker } from '../orchestrator/worker/uplink.ts'
import type { Interests } from '../table/interests.ts'
import type { Ground } from './ground.ts'
import type { Knowledge } from './knowledge.ts'
import type { Member } from './member.ts'
import type { Work } from './work.ts'

/*
 * The one link to the cluster: work and changes come down, reports and questions go up.
 */

/** How soon the cluster hears that the machine has other addresses. */
const ADDRESSES_MS = 5_000
/** A successor waits so long for its link, so that it knows no less than the agent before; without one it goes on. */
const LINKED_MS = 2_000
const LOOK_MS = 10

export async function linkUp(
  { life, clock, log, metrics, elder }: Ground,
  { identity, url, egress }: Member,
  { interests, follow }: Knowledge,
  told: Pick<UplinkOptions, 'onRevoked' | 'onRelays'>,
  work: Work,
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
  life.every(ADDRESSES_MS, () => {
    if (work.refresh()) uplink.factsChanged()
  })
  await follow(uplink)
  if (elder !== undefined) {
    const until = clock.now() + LINKED_MS
    while (!uplink.isUp && clock.now() < until) await clock.sleep(LOOK_MS)
  }
  return uplink
}

/**
 * The worker, and what its instances say they will call: the node asks for that before their first question. And for
 * the instances themselves: those on this node that they call shall see them under their own VIPs.
 */
function wishing(work: Work, interests: Pick<Interests, 'wish'>): UplinkWorker {
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
