import { MeshError } from '../../core/errors.ts'
import type { Identity } from '../../core/identity/contract.ts'
import { issueNode } from '../../core/identity/issuer.ts'
import type { Log } from '../../core/kit/log.ts'
import type { InterestKey, NodeId } from '../../core/model/ids.ts'
import type { RequestHandlers, NotificationHandlers } from '../link/link.ts'
import type { nodeToCluster } from '../link/messages.ts'
import type { NodeFacts } from '../spec.ts'
import type { ClusterStore } from './cluster-store.ts'
import type { ChangeLog } from './change-log.ts'
import type { EntryCache } from './entry-cache.ts'
import type { LinkedNode, NodeLink, Nodes } from './nodes.ts'
import type { Scheduler } from './scheduler.ts'
import type { Publisher } from './publisher.ts'
import type { RootLink } from './root-link.ts'

export interface NodeMessagesParts {
  store: ClusterStore
  identity: Identity
  feed: ChangeLog
  entryCache: EntryCache
  publisher: Publisher
  nodes: Nodes
  placement: Scheduler
  root: () => RootLink
  revoked: () => NodeId[]
  /** Where nodes may listen. */
  relays: () => string[]
  log: Log
}

/** Keys one node may ask to be told about. */
const MAX_KEYS = 10_000
/** Questions to the root at a time when a node resumes keys that this cluster has forgotten. */
const LEARN_AT_ONCE = 100

/** What the cluster answers when its nodes speak. */
export class NodeMessages {
  readonly #parts: NodeMessagesParts

  constructor(parts: NodeMessagesParts) {
    this.#parts = parts
  }

  requests(id: NodeId, link: () => NodeLink): RequestHandlers<typeof nodeToCluster> {
    const { nodes, placement, feed, publisher, entryCache, identity, root, store } = this.#parts
    return {
      'node.hello': ({ facts, reports }) => {
        const node = nodes.hello({ id, link: link(), facts: { ...facts, id } })
        this.#remember(id, facts)
        placement.adopt(id, reports)
        setImmediate(() => placement.nodeBack(node, reports)) // after the answer
        root().summarise()
        return {
          instances: store.assignments.on(id).map(({ assignment }) => assignment.instance),
          revoked: this.#parts.revoked(),
          relays: this.#parts.relays(),
        }
      },
      'interest.ask': async ({ key }) => {
        const { keys } = this.#demand(id)
        const isNew = !keys.has(key)
        if (isNew && keys.size >= MAX_KEYS)
          throw new MeshError('REQUEST_FAILED', { reason: 'too many interests', node: id })
        keys.add(key)
        try {
          if (entryCache.get(key) === undefined) await root().learn(key)
        } catch (error) {
          if (isNew) keys.delete(key)
          throw error
        }
        publisher.flush()
        return { seq: feed.seq, entries: feed.entries(key) }
      },
      'interest.vip': async ({ vip }) => {
        const key = entryCache.keyOfVip(vip) ?? (await root().keyOfVip(vip))
        return key === undefined ? {} : { key }
      },
      'interest.resume': async (point) => {
        const node = this.#demand(id)
        node.keys = new Set(point.keys.slice(0, MAX_KEYS))
        await this.#learnAll([...node.keys].filter((key) => entryCache.get(key) === undefined))
        publisher.flush()
        const resumed = feed.resume(point)
        const isPartial = point.keys.some((key) => entryCache.get(key) === undefined)
        // "all there is" would wipe what the node knows, when it is only all that we know
        if (resumed.full && isPartial)
          throw new MeshError('LINK_CLOSED', { peer: 'root', reason: 'not everything is known here yet' })
        return resumed
      },
      'certificate.renew': async ({ csr }) => ({ chain: await issueNode(identity, csr, nameOf(id)) }),
    }
  }

  notifications(id: NodeId): NotificationHandlers<typeof nodeToCluster> {
    const { nodes, placement, root } = this.#parts
    return {
      'node.facts': ({ facts }) => {
        const node = nodes.alive(id)
        if (node === undefined) return
        node.facts = { ...facts, id }
        this.#remember(id, facts)
        root().summarise()
        placement.retry()
      },
      reports: ({ reports }) => {
        const node = nodes.alive(id)
        if (node !== undefined) placement.take(node, reports)
      },
      'interest.forget': ({ keys }) => {
        const node = nodes.alive(id)
        for (const key of keys) node?.keys.delete(key)
      },
    }
  }

  #demand(id: NodeId): LinkedNode {
    const node = this.#parts.nodes.alive(id)
    if (node === undefined) throw new MeshError('MESSAGE_INVALID', { problem: 'say hello first' })
    return node
  }

  /** Where the node is reached may have changed: every service on it is told anew. */
  #remember(id: NodeId, facts: NodeFacts): void {
    const { store, publisher } = this.#parts
    const name = nameOf(id)
    const record = store.nodes.get(name)
    if (record !== undefined) store.nodes.put(name, { ...record, facts: { ...facts, id } })
    for (const { assignment } of store.assignments.on(id)) publisher.touch(assignment.spec.id)
  }

  async #learnAll(keys: readonly InterestKey[]): Promise<void> {
    for (let start = 0; start < keys.length; start += LEARN_AT_ONCE) {
      const learned = await Promise.allSettled(
        keys.slice(start, start + LEARN_AT_ONCE).map((key) => this.#parts.root().learn(key)),
      )
      if (learned.some(({ status }) => status === 'rejected')) return // without a root there is no more to learn
    }
  }
}

export function nameOf(id: NodeId): string {
  return id.slice(id.indexOf('/') + 1)
}
