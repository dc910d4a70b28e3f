import type { Agent } from 'node:https'
import { clientOptions, verifyServer } from '../../core/identity/tls.ts'
import type { HeldIdentity } from '../../core/identity/held.ts'
import type { Principal } from '../../core/identity/contract.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import { dialText } from '../../core/kit/websocket.ts'
import type { Metrics } from '../../core/metrics.ts'
import { interestOf, type InstanceId, type InterestKey, type NodeId } from '../../core/model/ids.ts'
import type { NodeReach } from '../../core/model/node.ts'
import type { VipIndex } from '../../core/model/service.ts'
import { DialledLink } from '../link/dialled-link.ts'
import type { RequestHandlers } from '../link/link.ts'
import { BATCH, clusterToRoot, rootToCluster, type LocatedReport } from '../link/messages.ts'
import type { ClusterSummary } from '../scheduling/candidate.ts'
import type { AssignmentRecord, Assignments } from './cluster-store.ts'
import type { EntryCache } from './entry-cache.ts'
import type { Scheduler } from './scheduler.ts'
import type { Publisher } from './publisher.ts'

export interface RootLinkParts {
  /** `https://host:port` of the root. */
  rootUrl: string
  /** The way out, when it is not straight (kit/egress.ts). */
  egress?: Agent | undefined
  url: string
  version: string
  identity: HeldIdentity
  assignments: Assignments
  entryCache: EntryCache
  publisher: Publisher
  placement: Scheduler
  reachOf: (node: NodeId) => NodeReach | undefined
  summary: () => ClusterSummary
  revoked: (nodes: readonly NodeId[]) => void
  /** What the root may ask beside work: nodes, tokens, logs. */
  services: Omit<RequestHandlers<typeof rootToCluster>, 'delegate' | 'withdraw'>
  onLogsClosed: (stream: string) => void
  clock: Clock
  log: Log
  metrics: Metrics
}

/** Many reports in one turn are one message; smaller sends more, larger is noticed later. */
const GATHER_MS = 20
const SUMMARY_MS = 200

/** The cluster's link to the root. While it is down the cluster goes on by itself. */
export class RootLink implements AsyncDisposable {
  readonly #parts: RootLinkParts
  readonly #link: DialledLink<typeof clusterToRoot, typeof rootToCluster>
  readonly #changed = new Set<InstanceId>()
  readonly #ended = new Map<InstanceId, LocatedReport>()
  readonly #learning = new Map<InterestKey, Promise<void>>()
  #gathering: NodeJS.Timeout | undefined
  #summarising: NodeJS.Timeout | undefined

  private constructor(parts: RootLinkParts) {
    this.#parts = parts
    const { identity, rootUrl, clock, log, metrics } = parts
    const expected = ({ role }: Principal) => role === 'root'
    const url = `${rootUrl.replace(/^http/, 'ws')}/link`
    this.#link = DialledLink.start(
      {
        dial: (signal) =>
          dialText(
            url,
            {
              tls: clientOptions(identity, expected),
              verify: verifyServer(expected, identity.revocations),
              egress: parts.egress,
            },
            signal,
          ),
        sides: {
          sends: clusterToRoot,
          receives: rootToCluster,
          onRequest: {
            ...parts.services,
            delegate: async ({ assignment }) => {
              await parts.placement.delegate(assignment)
              return {}
            },
            withdraw: ({ instance }) => {
              parts.placement.withdraw(instance)
              return { ended: parts.assignments.get(instance) === undefined }
            },
          },
          onNotification: {
            known: ({ known }) => {
              for (const each of known) for (const service of parts.entryCache.put(each)) parts.publisher.touch(service)
            },
            revoked: ({ nodes }) => parts.revoked(nodes),
            'logs.close': ({ stream }) => parts.onLogsClosed(stream),
          },
        },
        onUp: (link) => this.#hello(link),
        onDown: () => undefined,
      },
      { tier: 'root', peer: 'root', clock, log, metrics },
    )
  }

  static start(parts: RootLinkParts): RootLink {
    return new RootLink(parts)
  }

  get isUp(): boolean {
    return this.#link.isUp
  }

  /** Asks the root about a key this cluster knows nothing of, once for all who ask at the same time. @throws MeshError LINK_CLOSED, REQUEST_TIMEOUT */
  learn(key: InterestKey): Promise<void> {
    const running = this.#learning.get(key)
    if (running !== undefined) return running
    const learning = this.#link
      .request('interest.ask', { key })
      .then(({ entries }) => {
        for (const service of this.#parts.entryCache.put({ key, entries })) this.#parts.publisher.touch(service)
      })
      .finally(() => this.#learning.delete(key))
    this.#learning.set(key, learning)
    return learning
  }

  /** @throws MeshError LINK_CLOSED, REQUEST_TIMEOUT */
  async keyOfVip(vip: VipIndex): Promise<InterestKey | undefined> {
    return (await this.#link.request('interest.vip', { vip })).key
  }

  async renew(csr: string, signal: AbortSignal): Promise<string> {
    return (await this.#link.request('certificate.renew', { csr }, signal)).chain
  }

  forget(keys: InterestKey[]): void {
    this.#link.notify('interest.forget', { keys })
  }

  /** The root hears of it soon, as it is then. */
  changed({ assignment }: AssignmentRecord): void {
    this.#changed.add(assignment.instance)
    this.#gather()
  }

  /** The root hears that it has left this cluster. */
  ended({ assignment, restarts }: AssignmentRecord): void {
    const { instance, generation } = assignment
    this.#ended.set(instance, { report: { instance, generation, state: 'stopped', restarts } })
    this.#gather()
  }

  /** False while there is no root to take it. */
  giveBack({ assignment }: AssignmentRecord, reason: string): boolean {
    if (!this.#link.isUp) return false
    this.#link.notify('handback', { instance: assignment.instance, reason: reason.slice(0, 2_000) })
    return true
  }

  /** Capacity has changed: the root hears of it soon. */
  summarise(): void {
    this.#summarising ??= setTimeout(() => {
      this.#summarising = undefined
      this.#link.notify('summary', { summary: this.#parts.summary() })
    }, SUMMARY_MS)
    this.#summarising.unref()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#gathering)
    clearTimeout(this.#summarising)
    await this.#link[Symbol.asyncDispose]()
  }

  async #hello(
    link: Pick<DialledLink<typeof clusterToRoot, typeof rootToCluster>, 'request' | 'notify'>,
  ): Promise<void> {
    const { assignments, entryCache, summary, url, version, placement, revoked } = this.#parts
    const mine = [...assignments.all()].map(({ assignment }) => assignment)
    const { surplus, revoked: nodes } = await link.request('cluster.hello', {
      summary: summary(),
      url,
      version,
      instances: mine.map(({ instance, generation }) => ({ instance, generation })),
      keys: [...new Set([...entryCache.keys(), ...mine.map(({ spec }) => interestOf(spec.id))])],
    })
    for (const instance of surplus) placement.withdraw(instance)
    revoked(nodes)
    this.#ended.clear() // hello has said it
    for (const { instance } of mine) this.#changed.add(instance)
    this.#gather()
    setImmediate(() => placement.retry()) // what fits nowhere here can be given back now
  }

  #gather(): void {
    this.#gathering ??= setTimeout(() => {
      this.#gathering = undefined
      if (!this.#link.isUp) return // hello tells everything
      const now = [...this.#changed].flatMap((id) => this.#standing(this.#parts.assignments.get(id)))
      const standings = [...this.#ended.values(), ...now]
      this.#changed.clear()
      this.#ended.clear()
      for (let start = 0; start < standings.length; start += BATCH) {
        this.#link.notify('standings', { standings: standings.slice(start, start + BATCH) })
      }
    }, GATHER_MS)
    this.#gathering.unref()
  }

  #standing(record: AssignmentRecord | undefined): LocatedReport[] {
    if (record === undefined) return []
    const { assignment, state, detail, restarts } = record
    const { instance, generation } = assignment
    const node = record.node === undefined ? undefined : this.#parts.reachOf(record.node)
    const report = { instance, generation, state, restarts, ...(detail === undefined ? {} : { detail }) }
    return [{ report, ...(node === undefined ? {} : { node }) }]
  }
}
