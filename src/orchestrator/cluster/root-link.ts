import type { Agent } from 'node:https'
import type { MeshError } from '../../core/errors.ts'
import type { Principal } from '../../core/identity/contract.ts'
import type { HeldIdentity } from '../../core/identity/held.ts'
import { clientOptions, verifyServer } from '../../core/identity/tls.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import { Paced } from '../../core/kit/paced.ts'
import { dialText } from '../../core/kit/websocket.ts'
import type { Metrics } from '../../core/metrics.ts'
import { interestOf, type InstanceId, type InterestKey, type NodeId } from '../../core/model/ids.ts'
import { INSTANCE_STATES } from '../../core/model/instance.ts'
import type { NodeReach } from '../../core/model/node.ts'
import type { VipIndex } from '../../core/model/service.ts'
import { DialledLink } from '../link/dialled-link.ts'
import type { Link, NotificationHandlers, RequestHandlers } from '../link/link.ts'
import { SENT_AT_ONCE, type ResponseBody } from '../link/messages/protocol.ts'
import {
  clusterToRoot,
  type ClusterEvent,
  type Enrolment,
  rootToCluster,
  type LocatedReport,
} from '../link/messages/cluster-root.ts'
import { PROCESS_ID } from '../link/peer-links.ts'
import { MAX_RETRY_MS } from '../link/schemas.ts'
import { summarise, type ClusterSummary } from '../scheduling/summary.ts'
import type { MoveCause } from '../spec.ts'
import { alsoOn, nodeViews, type AssignmentRecord, type Assignments, type Successor } from './assignments.ts'
import type { EntryCache } from './entry-cache.ts'
import type { Nodes } from './nodes.ts'
import type { Publisher } from './publisher.ts'
import { Unsent } from './unsent.ts'

export interface RootLinkParts {
  /** `https://host:port` of the root. */
  rootUrl: string
  /** The HTTP proxy to go through, if any (core/kit/egress.ts). */
  egress?: Agent | undefined
  /** This cluster's name. */
  name: string
  version: string
  /** Distinguishes this process from another one with a copy of the same state; PROCESS_ID by default. */
  process?: string | undefined
  identity: HeldIdentity
  assignments: Assignments
  nodes: Nodes
  entryCache: EntryCache
  publisher: Publisher
  reachOf: (node: NodeId) => NodeReach | undefined
  /** Every node and relay that this cluster has enrolled. */
  enrolments: () => Enrolment[]
  clock: Clock
  log: Log
  metrics: Metrics
  /** See link/held-back.ts. */
  pending: () => Promise<void> | undefined
}

/** What the cluster does with messages of the root. */
export interface RootListener {
  requests(): RequestHandlers<typeof rootToCluster>
  notifications(): NotificationHandlers<typeof rootToCluster>
  welcomed(welcome: Welcome): void
}

/** The root's answer to hello: instances to end, those of them that run elsewhere, certificates that are revoked. */
export type Welcome = ResponseBody<typeof clusterToRoot, 'cluster.hello'>

type ToRoot = DialledLink<typeof clusterToRoot, typeof rootToCluster>

/** Between two messages with reports. Smaller sends more of them while much changes, larger delays news that follows other news. */
const REPORT_MS = 50
/** Between two summaries of free capacity; the first change is told at once. Smaller sends more, larger places by what was. */
const SUMMARY_MS = 200
/** With a thousand nodes a summary is dear: then it is made later, so that summaries take a fiftieth of the processor, up to this. */
const SUMMARY_COST = 50
const SUMMARY_MOST_MS = 1_000
/** The longest wait between two dials of the root: clusters are few. Smaller costs a root that is starting; larger tells it later what runs. */
const DIAL_MS = 1_000

/** The cluster's link to the root. While it is down the cluster goes on by itself. */
export class RootLink implements AsyncDisposable {
  readonly #parts: RootLinkParts
  readonly #unsent = new Unsent()
  readonly #learning = new Map<InterestKey, Promise<void>>()
  #link: ToRoot | undefined
  readonly #reports: Paced
  #summaryTimer: NodeJS.Timeout | undefined
  #summaryDueAt = Number.NEGATIVE_INFINITY

  constructor(parts: RootLinkParts) {
    this.#parts = parts
    this.#reports = new Paced({
      name: 'reports to the root',
      work: () => this.#sendWhenRead(),
      everyMs: REPORT_MS,
      clock: parts.clock,
    })
  }

  /** Dials from now on, and again whenever the link breaks. `url` is where this cluster is reached. */
  connect(url: string, listener: RootListener): void {
    const { identity, rootUrl, egress, clock, log, metrics, pending } = this.#parts
    const isRoot = ({ role }: Principal) => role === 'root'
    this.#link = DialledLink.start(
      {
        dial: (signal) =>
          dialText(
            `${rootUrl.replace(/^http/, 'ws')}/link`,
            { tls: clientOptions(identity, isRoot), verify: verifyServer(isRoot, identity.revocations), egress },
            signal,
          ),
        sides: {
          sends: clusterToRoot,
          receives: rootToCluster,
          onRequest: listener.requests(),
          onNotification: listener.notifications(),
        },
        onUp: (link) => this.#hello(link, url, listener),
        onDown: () => undefined,
        limitMs: DIAL_MS,
      },
      { tier: 'root', peer: 'root', clock, log, metrics, pending },
    )
  }

  get isUp(): boolean {
    return this.#link?.isUp === true
  }

  get refusal(): MeshError | undefined {
    return this.#link?.refusal
  }

  /** Asks the root about a key that is not in the cache; callers at the same time share one request. @throws MeshError LINK_CLOSED, REQUEST_TIMEOUT */
  learn(key: InterestKey): Promise<void> {
    const running = this.#learning.get(key)
    if (running !== undefined) return running
    const learning = this.#learn(key).finally(() => this.#learning.delete(key))
    this.#learning.set(key, learning)
    return learning
  }

  /** @throws MeshError LINK_CLOSED, REQUEST_TIMEOUT */
  async keyOfVip(vip: VipIndex): Promise<InterestKey | undefined> {
    return (await this.#open().request('interest.vip', { vip })).key
  }

  /** Of the service of an instance. @throws MeshError LINK_CLOSED, REQUEST_TIMEOUT, SECRET_UNKNOWN */
  secretsOf(instance: InstanceId): Promise<ResponseBody<typeof clusterToRoot, 'secrets.read'>> {
    return this.#open().request('secrets.read', { instance })
  }

  /** A new certificate chain for this cluster, PEM. @throws MeshError LINK_CLOSED, REQUEST_TIMEOUT */
  async renew(csr: string, signal: AbortSignal): Promise<string> {
    return (await this.#open().request('certificate.renew', { csr }, signal)).chain
  }

  /** A node or relay has joined. While the link is down this waits for the next hello. */
  enrolled(enrolment: Enrolment): void {
    this.#link?.notify('enrolled', { enrolment })
  }

  /** What this cluster trusts or presents is another authority. */
  trustChanged(): void {
    this.#link?.notify('trust', { trust: this.#parts.identity.trust })
  }

  /** The cluster no longer wants to be informed about these keys. */
  forget(keys: InterestKey[]): void {
    for (let start = 0; start < keys.length; start += MAX_FORGET)
      this.#link?.notify('interest.forget', { keys: keys.slice(start, start + MAX_FORGET) })
  }

  /** Reports the instance to the root soon, in the state that it has then. */
  reportChanged({ assignment }: AssignmentRecord): void {
    this.#unsent.changed(assignment.instance)
    this.#reports.due()
  }

  /** Reports to the root soon that the instance has left this cluster. */
  reportEnded({ assignment, restarts }: AssignmentRecord): void {
    const { instance, generation } = assignment
    this.#unsent.ended({ report: { instance, generation, state: 'stopped', restarts } })
    this.#reports.due()
  }

  /** Tells the root soon, or when it is back, of something that reports do not show. The oldest are left out if it is away for long. */
  record({ why, ...rest }: Omit<ClusterEvent, 'agoMs'>): void {
    const cut = why === undefined ? {} : { why: why.slice(0, 500) }
    const event = { ...rest, ...cut, at: this.#parts.clock.now() }
    this.#unsent.happened(event, this.isUp ? this.#reportOf : undefined)
    this.#reports.due()
  }

  /** Asks the root to place the instance elsewhere. False, and nothing sent, while the link is down. */
  handBack({ assignment }: AssignmentRecord, reason: string): boolean {
    if (!this.isUp) return false
    if (this.#unsent.hasEventsOf(assignment.instance)) this.#sendReports() // who refused it is told before
    this.#link?.notify('handback', { instance: assignment.instance, reason: reason.slice(0, 2_000) })
    return true
  }

  /** It is to go to another cluster. Resolves when one has accepted it. @throws MeshError UNPLACEABLE, LINK_CLOSED, REQUEST_TIMEOUT */
  relocate(
    instance: InstanceId,
    why: { cause: MoveCause; isViolation?: true },
  ): Promise<{ cluster: string; node?: NodeId }> {
    return this.#open().request('instance.relocate', { instance, ...why })
  }

  /** Sends the root a new summary soon: the capacity has changed. */
  summariseSoon(): void {
    if (this.#summaryTimer !== undefined) return
    const rest = Math.max(0, this.#summaryDueAt - performance.now())
    this.#summaryTimer = setTimeout(() => {
      this.#summaryTimer = undefined
      const startedAt = performance.now()
      this.#link?.notify('summary', { summary: this.#summary() })
      const costMs = SUMMARY_COST * (performance.now() - startedAt)
      this.#summaryDueAt = startedAt + Math.min(Math.max(SUMMARY_MS, costMs), SUMMARY_MOST_MS)
    }, rest)
    this.#summaryTimer.unref()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#reports[Symbol.dispose]()
    clearTimeout(this.#summaryTimer)
    await this.#link?.[Symbol.asyncDispose]()
  }

  #open(): ToRoot {
    if (this.#link === undefined) throw new Error('used before connect()')
    return this.#link
  }

  async #learn(key: InterestKey): Promise<void> {
    const { entries } = await this.#open().request('interest.ask', { key })
    for (const service of this.#parts.entryCache.put({ key, entries })) this.#parts.publisher.touch(service)
  }

  async #hello(
    link: Link<typeof clusterToRoot, typeof rootToCluster>,
    url: string,
    listener: RootListener,
  ): Promise<void> {
    const { assignments, entryCache, version, enrolments } = this.#parts
    // with a successor, its generation: what the root has delegated
    const ours = Array.from(assignments.all(), ({ assignment, successor }) => successor?.assignment ?? assignment)
    const welcome = await link.request('cluster.hello', {
      summary: this.#summary(),
      url,
      version,
      process: this.#parts.process ?? PROCESS_ID,
      enrolments: enrolments(),
      trust: this.#parts.identity.trust,
      instances: ours.map(({ instance, generation }) => ({ instance, generation })),
      keys: [...new Set([...entryCache.keys(), ...ours.map(({ spec }) => interestOf(spec.id))])],
    })
    this.#unsent.again(ours.map(({ instance }) => instance)) // hello listed what is still here
    this.#reports.due()
    listener.welcomed(welcome)
  }

  #summary(): ClusterSummary {
    const { name, nodes, assignments, metrics } = this.#parts
    const counts = new Map<string, number>()
    for (const { state } of assignments.all()) counts.set(state, (counts.get(state) ?? 0) + 1)
    for (const state of INSTANCE_STATES) metrics.instances.labels(state).set(counts.get(state) ?? 0)
    return summarise(name, nodeViews(nodes, assignments))
  }

  #sendWhenRead(): void {
    if (this.#link?.isCongested === true)
      this.#reports.due() // what changes again meanwhile is reported once
    else if (this.isUp) this.#sendReports() // else hello reports everything
  }

  #sendReports(): void {
    this.#parts.publisher.beforeReports()
    const now = this.#parts.clock.now()
    for (const { reports, events } of this.#unsent.take(this.#reportOf)) {
      for (let start = 0; start < reports.length; start += SENT_AT_ONCE)
        this.#link?.notify('standings', { standings: reports.slice(start, start + SENT_AT_ONCE) })
      const told = events.map(({ at, ...event }) => ({ ...event, agoMs: Math.max(0, Math.round(now - at)) }))
      for (let start = 0; start < told.length; start += SENT_AT_ONCE)
        this.#link?.notify('events', { events: told.slice(start, start + SENT_AT_ONCE) })
    }
  }

  /** Within the bounds of a message, also after a step of the clock. */
  #msUntil(at: number): number {
    return Math.min(Math.max(0, Math.round(at - this.#parts.clock.wall())), MAX_RETRY_MS)
  }

  readonly #reportOf = (id: InstanceId): LocatedReport | undefined => {
    const { assignments, reachOf } = this.#parts
    const record = assignments.get(id)
    if (record === undefined) return undefined
    const { assignment, state, detail, restarts, retryAt, noOtherNode, successor, violation, cause } = record
    const { instance, generation, epoch } = assignment
    // a node that has not accepted may refuse it yet; its reports may come before its answer
    const isAsked = state === 'placed' && assignments.asking.has(id)
    const node = record.node === undefined || isAsked ? undefined : reachOf(record.node)
    const report = {
      instance,
      generation,
      state,
      restarts,
      ...(epoch === undefined ? {} : { epoch }),
      ...(detail === undefined ? {} : { detail }),
      ...(retryAt === undefined ? {} : { retryInMs: this.#msUntil(retryAt) }), // the clocks differ
    }
    const also = alsoOn(record)
    return {
      report,
      ...(node === undefined ? {} : { node }),
      ...(noOtherNode === undefined ? {} : { noOtherNode }),
      ...(successor === undefined ? {} : { successor: toldOf(successor) }),
      ...(also.length === 0 ? {} : { also }),
      ...(violation === undefined ? {} : { violation }),
      ...(cause === undefined ? {} : { cause }),
    }
  }
}

/** The most keys in one message. */
const MAX_FORGET = 10_000

function toldOf({ node, assignment: { generation, epoch }, state, detail, restarts }: Successor) {
  return {
    node,
    generation,
    state,
    restarts,
    ...(epoch === undefined ? {} : { epoch }),
    ...(detail === undefined ? {} : { detail }),
  }
}
