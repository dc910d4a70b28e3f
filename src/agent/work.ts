import { join } from 'node:path'
import { machineFacts } from '../machine.ts'
import { interestOf, type InstanceId, type NodeId } from '../model/ids.ts'
import { ExternalRuntime } from '../orchestrator/worker/external-runtime.ts'
import { ProcessRuntime } from '../orchestrator/worker/process-runtime.ts'
import type { Endpoint } from '../orchestrator/worker/runtime.ts'
import { Uplink, type UplinkWorker } from '../orchestrator/worker/uplink.ts'
import { Worker } from '../orchestrator/worker/worker.ts'
import type { InstanceReport, NodeFacts } from '../orchestrator/spec.ts'
import type { Interests } from '../table/interests.ts'
import type { Doors, Flows } from './flows.ts'
import type { Ground } from './ground.ts'
import type { Knowledge } from './knowledge.ts'
import type { Member } from './member.ts'
import type { Reach } from './reach.ts'

/*
 * What we run, and what the cluster tells us of it. Wired here: the runtimes, the worker, the control link.
 */

/** The instances on this node, for those who need them before the worker is there: it needs the proxies' ports first. */
export class InstancesHere {
  #worker: Worker | undefined

  workedBy(worker: Worker): void {
    this.#worker = worker
  }

  readonly endpointOf = (instance: InstanceId, port: number, protocol: 'tcp' | 'udp'): Endpoint | undefined =>
    this.#worker?.endpointOf(instance, port, protocol)

  readonly isDraining = (instance: InstanceId): boolean => this.#worker?.isDraining(instance) ?? true

  has(instance: string): boolean {
    return this.#worker?.reports().some((report) => report.instance === instance) === true
  }

  processes(): Iterable<{ instance: InstanceId; pids: number[] }> {
    return this.#worker?.processes() ?? []
  }
}

export interface Work {
  readonly worker: Worker
  readonly facts: () => NodeFacts
  /** Looks at the machine's addresses; true when the cluster must hear of new ones. */
  readonly refresh: () => boolean
  /** Reports go there from now on; what was reported before, the link asks for itself. */
  readonly reportTo: (uplink: Uplink) => void
}

/** How soon the cluster hears that the machine has other addresses. */
const ADDRESSES_MS = 5_000

export interface WorkOptions {
  /** Of which instances get what every program needs: PATH, HOME, language, time zone. */
  environment: Readonly<Record<string, string | undefined>>
}

export async function startWork(
  { life, self, dir, config, version, clock, log, metrics }: Ground,
  { inbound, candidates }: Reach,
  { book }: Flows,
  { access, ports }: Doors,
  here: InstancesHere,
  { environment }: WorkOptions,
): Promise<Work> {
  let addresses = candidates()
  let uplink: Uplink | undefined
  const facts = () => machineFacts(self, config, { addresses, runtimes: ['process', 'external'], version })
  const worker = life.use(
    await Worker.start(
      {
        facts: facts(),
        runtimes: [new ProcessRuntime({ node: self, inherited: environment, clock }), new ExternalRuntime()],
        logsDir: join(dir, 'logs'),
        runDir: join(dir, 'instances'),
        report: (report: InstanceReport) => uplink?.report(report),
        openFlows: (instance) => book.openFlows(instance) + inbound.openFlows(instance),
        proxyEnvironment: (instance) => access.environment(instance, ports),
        clock,
      },
      log,
      metrics,
    ),
  )
  here.workedBy(worker)
  return {
    worker,
    facts,
    refresh: () => {
      const found = candidates()
      const isNew = found.join() !== addresses.join()
      addresses = found
      return isNew
    },
    reportTo: (link) => {
      uplink = link
    },
  }
}

/** The one link to the cluster: work and changes come down, reports and questions go up. */
export async function linkUp(
  { life, clock, log, metrics }: Ground,
  { identity, url }: Member,
  { interests, follow }: Knowledge,
  revoke: (nodes: readonly NodeId[]) => void,
  { worker, facts, refresh, reportTo }: Work,
): Promise<Uplink> {
  const uplink = life.use(
    Uplink.start(
      { urls: [url], identity, facts, worker: wishing(worker, interests), onRevoked: revoke, clock },
      log,
      metrics,
    ),
  )
  reportTo(uplink)
  life.every(ADDRESSES_MS, () => {
    if (refresh()) uplink.factsChanged()
  })
  await follow(uplink)
  return uplink
}

/**
 * The worker, and what its instances say they will call: the node asks for that before their first question. And for
 * the instances themselves: those on this node that they call shall see them under their own VIPs.
 */
function wishing(worker: Worker, interests: Pick<Interests, 'wish'>): UplinkWorker {
  return {
    assign: (assignment) => {
      worker.assign(assignment)
      const { id, connectivity } = assignment.spec
      interests.wish([id, ...connectivity].map((named) => (named.split('.').length === 4 ? interestOf(named) : named)))
    },
    withdraw: (instance) => worker.withdraw(instance),
    keepOnly: (wanted) => worker.keepOnly(wanted),
    reports: () => worker.reports(),
    logs: (instance, options, signal) => worker.logs(instance, options, signal),
  }
}
