import { isMeshError, MeshError } from '../../core/errors.ts'
import type { Trust } from '../../core/identity/contract.ts'
import type { HeldIdentity } from '../../core/identity/held.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import { issueNode } from '../../core/identity/issuer.ts'
import type { ServiceEntry, ResumePoint, Resumed } from '../../core/model/change.ts'
import type { InterestKey, NodeId } from '../../core/model/ids.ts'
import type { NotificationHandlers, RequestHandlers } from '../link/link.ts'
import type { nodeToCluster } from '../link/messages/node-cluster.ts'
import type { InstanceReport, NodeFacts } from '../spec.ts'
import type { ChangeLog } from './change-log.ts'
import type { ClusterStore } from './cluster-store.ts'
import type { EntryCache } from './entry-cache.ts'
import { heardTrust, remembered } from './issued.ts'
import { nameOf, type LinkedNode, type NodeLink, type NodeListener, type Nodes } from './nodes.ts'
import type { Publisher } from './publisher.ts'
import type { Relays } from './relays.ts'
import type { RootLink } from './root-link.ts'
import type { Scheduler } from './scheduler.ts'

export interface NodeMessagesParts {
  store: ClusterStore
  identity: HeldIdentity
  clock: Clock
  changeLog: ChangeLog
  entryCache: EntryCache
  publisher: Publisher
  nodes: Nodes
  relays: Relays
  scheduler: Scheduler
  root: RootLink
  log: Log
}

/** How many services one node may ask to be informed about. */
const MAX_KEYS = 10_000
/** Requests to the root at a time when a node resumes keys that this cluster has forgotten. */
const LEARN_AT_ONCE = 100

/** What the cluster does when one of its nodes sends something, or is lost. */
export class NodeMessages implements NodeListener {
  readonly #parts: NodeMessagesParts
  #isClosed = false

  constructor(parts: NodeMessagesParts) {
    this.#parts = parts
  }

  close(): void {
    this.#isClosed = true
  }

  #notTaken(node: NodeId, error: unknown): void {
    if (isMeshError(error, 'NOT_RUNNING')) return
    this.#parts.log.error('reports of a node cannot be kept', { node, error })
    if (isMeshError(error, 'DISK_FULL')) this.#parts.nodes.putOff(node)
  }

  /** What a node said that a full disk refuses: the node is to come again later, and says all of it. */
  #take(node: NodeId, work: () => void): void {
    try {
      work()
    } catch (error) {
      this.#notTaken(node, error)
    }
  }

  requests(id: NodeId, link: () => NodeLink): RequestHandlers<typeof nodeToCluster> {
    const { nodes, entryCache, identity, root, store, clock } = this.#parts
    return {
      'node.hello': async ({ facts, reports, process, trust }) => {
        try {
          const welcome = await this.#hello({ id, link: link(), facts: { ...facts, id } }, reports, process)
          link().afterResponse('node.hello', () => this.#take(id, () => this.#trusts(id, trust)))
          return welcome
        } catch (error) {
          if (isMeshError(error, 'DISK_FULL')) nodes.putOff(id)
          throw error
        }
      },
      'interest.ask': ({ key }) => this.#subscribe(id, key),
      'interest.vip': async ({ vip }) => {
        const key = entryCache.keyOfVip(vip) ?? (await root.keyOfVip(vip))
        return key === undefined ? {} : { key }
      },
      'interest.resume': (point) => this.#resume(id, point),
      'lease.renew': () => {
        if (this.#linked(id).link !== link()) throw new MeshError('LINK_CLOSED', { node: id })
        return {}
      },
      'secrets.read': ({ instance }) => {
        if (!store.assignments.isOn(instance, id))
          throw new MeshError('INSTANCE_UNKNOWN', { instance, reason: `it is not on ${id}` })
        return root.secretsOf(instance)
      },
      'certificate.renew': async ({ csr }) => {
        const { enrolment } = store.nodes.get(nameOf(id)) ?? {}
        const options = { clock, ...(enrolment === undefined ? {} : { enrolment }) }
        return remembered(store.nodes, nameOf(id), await issueNode(identity, csr, nameOf(id), options))
      },
    }
  }

  notifications(id: NodeId): NotificationHandlers<typeof nodeToCluster> {
    const { nodes, scheduler, root } = this.#parts
    return {
      'node.facts': ({ facts }) => {
        const node = nodes.alive(id)
        if (node === undefined) return
        node.facts = { ...facts, id }
        this.#take(id, () => this.#remember(id, facts))
        root.summariseSoon()
        scheduler.retry()
      },
      reports: ({ reports }) => {
        const take = async () => {
          const node = nodes.alive(id)
          if (node !== undefined && !this.#isClosed) scheduler.takeReports(node, reports)
        }
        scheduler.together(take).catch((error: unknown) => this.#notTaken(id, error))
      },
      trust: ({ trust }) => this.#take(id, () => this.#trusts(id, trust)),
      handover: ({ leaving }) => nodes.handOver(id, leaving),
      'interest.forget': ({ keys }) => {
        const node = nodes.alive(id)
        if (node !== undefined) for (const key of keys) nodes.followers.unfollow(node, key)
      },
    }
  }

  /** What the node says of the authorities is kept for the root, and may show that it needs another certificate. */
  #trusts(id: NodeId, trust: Trust | undefined): void {
    const { nodes, store, identity } = this.#parts
    const isBehind = heardTrust(store.nodes, nameOf(id), { trust, ours: identity.trust })
    if (isBehind) nodes.alive(id)?.link.notify('renew', {})
  }

  lost(id: NodeId): void {
    const { scheduler, publisher, root } = this.#parts
    root.record({ what: 'lost', node: id, why: 'its control link is down' })
    scheduler.nodeLost(id)
    publisher.flush() // now, not at the end of the turn: new flows must avoid the node
    root.summariseSoon()
  }

  async #hello(hello: Pick<LinkedNode, 'id' | 'link' | 'facts'>, reports: InstanceReport[], process?: string) {
    const { nodes, scheduler, root, store, identity, relays } = this.#parts
    const list = identity.revocations.text
    const node = await nodes.hello(hello, process)
    root.record({ what: 'connected', node: node.id })
    this.#remember(node.id, node.facts)
    scheduler.adopt(node.id, reports)
    hello.link.afterResponse('node.hello', () => this.#take(node.id, () => scheduler.nodeBack(node, reports)))
    root.summariseSoon()
    return {
      instances: store.assignments.runsOn(node.id),
      ...(list === undefined ? {} : { revocations: list }),
      relays: relays.urls(),
    }
  }

  async #subscribe(id: NodeId, key: InterestKey): Promise<{ seq: number; entries: ServiceEntry[] }> {
    const { nodes, entryCache, root, publisher, changeLog } = this.#parts
    const node = this.#linked(id)
    if (!node.keys.has(key) && node.keys.size >= MAX_KEYS) {
      const reason = `this node already follows ${MAX_KEYS} services`
      throw new MeshError('REQUEST_FAILED', { reason, node: id })
    }
    if (entryCache.get(key) === undefined) await root.learn(key)
    publisher.flush([key]) // before it follows: it is in the answer
    nodes.followers.follow(node, key)
    return { seq: changeLog.seq, entries: changeLog.entries(key) }
  }

  async #resume(id: NodeId, point: ResumePoint): Promise<Resumed> {
    const { nodes, entryCache, publisher, changeLog } = this.#parts
    const node = this.#linked(id)
    const keys = point.keys.slice(0, MAX_KEYS)
    await this.#learnAll(keys.filter((key) => entryCache.get(key) === undefined))
    publisher.flush(keys)
    nodes.followers.followOnly(node, keys)
    const resumed = changeLog.resume(point)
    const isPartial = point.keys.some((key) => entryCache.get(key) === undefined)
    // a full answer replaces what the node has, so it must not be sent while we know less than the node does
    if (resumed.full && isPartial) {
      const reason = 'this cluster does not know all of these services yet'
      throw new MeshError('LINK_CLOSED', { peer: 'root', reason })
    }
    return resumed
  }

  #linked(id: NodeId): LinkedNode {
    const node = this.#parts.nodes.alive(id)
    if (node === undefined) throw new MeshError('MESSAGE_INVALID', { problem: 'node.hello must come first' })
    return node
  }

  /** The node's addresses may have changed, so every service on it is published again. */
  #remember(id: NodeId, facts: NodeFacts): void {
    const { store, publisher } = this.#parts
    const name = nameOf(id)
    const record = store.nodes.get(name)
    if (record !== undefined) store.nodes.put(name, { ...record, facts: { ...facts, id } })
    for (const { assignment } of store.assignments.on(id)) publisher.touch(assignment.spec.id)
  }

  async #learnAll(keys: readonly InterestKey[]): Promise<void> {
    for (let start = 0; start < keys.length; start += LEARN_AT_ONCE) {
      const batch = keys.slice(start, start + LEARN_AT_ONCE).map((key) => this.#parts.root.learn(key))
      const learned = await Promise.allSettled(batch)
      if (learned.some(({ status }) => status === 'rejected')) return // the root is away: the rest would fail as well
    }
  }
}
