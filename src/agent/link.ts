import { interestOf } from '../core/model/ids.ts'
import type { UplinkLeases } from '../orchestrator/worker/lease-renewals.ts'
import { Uplink } from '../orchestrator/worker/uplink.ts'
import type { UplinkOptions, UplinkWorker } from '../orchestrator/worker/uplink-options.ts'
import type { Interests } from '../core/table/interests.ts'
import type { AgentContext } from './context.ts'
import type { TableSync } from './table-sync.ts'
import type { NodeIdentity } from './node-identity.ts'
import type { Instances } from './instances.ts'
import type { NodeFactsSource } from './node-facts.ts'

/*
 * The one link to the cluster: assignments and changes of the table come down, reports and queries go up.
 */

/** How soon the cluster learns that the addresses of this machine have changed. */
const FACTS_MS = 5_000
/** A successor waits this long for its link, so that it knows no less than its predecessor; then it goes on without. */
const LINKED_MS = 2_000
const POLL_MS = 10

export async function openUplink(
  { life, clock, log, metrics, predecessor }: AgentContext,
  { certificate: identity, url, egress }: NodeIdentity,
  { interests, follow }: TableSync,
  { instances, facts, ...handlers }: UplinkNeeds,
): Promise<Uplink> {
  const uplink = life.use(
    Uplink.start(
      {
        urls: [url],
        identity,
        egress,
        facts: facts.current,
        worker: workerFor(instances, interests),
        leases: leasesOf(instances),
        onWish: (keys) => interests.wish(keys),
        ...handlers,
        clock,
      },
      log,
      metrics,
    ),
  )
  instances.askSecretsFrom((instance) => uplink.secretsOf(instance))
  instances.onReport((report) => uplink.report(report))
  const refresh = () => {
    if (facts.refresh()) uplink.factsChanged()
  }
  life.every(FACTS_MS, refresh, 'node facts')
  await follow(uplink)
  if (predecessor !== undefined) {
    const until = clock.now() + LINKED_MS
    while (!uplink.isUp && clock.now() < until) await clock.sleep(POLL_MS)
  }
  return uplink
}

export interface UplinkNeeds extends Pick<UplinkOptions, 'links' | 'onRelays' | 'onRefusal' | 'isAtRest'> {
  instances: Instances
  facts: NodeFactsSource
}

/** The worker may be another one later. */
function leasesOf(instances: Instances): UplinkLeases {
  return {
    get shortest() {
      return instances.worker.leases.shortest
    },
    now: () => instances.worker.leases.now(),
    renewed: (sentAt) => instances.worker.leases.renewed(sentAt),
  }
}

/**
 * The worker as the link sees it. The node also asks at once for what a new instance will call, before its first question; and
 * for the instance itself, so that instances of this node that it calls see it under its own VIP.
 */
function workerFor(instances: Instances, interests: Pick<Interests, 'wish'>): UplinkWorker {
  return {
    assign: (assignment, how) => {
      const { id, connectivity } = assignment.spec
      const called = [id, ...connectivity].map((named) => (named.split('.').length === 4 ? interestOf(named) : named))
      const waiting = instances.assign(assignment, how)
      if (waiting === undefined) interests.wish(called)
      else return waiting.then(() => interests.wish(called))
    },
    withdraw: (instance, options) => instances.worker.withdraw(instance, options),
    cancel: (instance, run) => instances.worker.cancel(instance, run),
    keepOnly: (wanted) => instances.worker.keepOnly(wanted),
    reports: () => instances.reports(),
    exec: (instance, cmd) => instances.worker.exec(instance, cmd),
    usage: (signal) => instances.worker.usage(signal),
    get volumes() {
      return instances.worker.volumes
    },
    logs: (instance, options, signal) => instances.worker.logs(instance, options, signal),
  }
}
