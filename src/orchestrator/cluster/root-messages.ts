import { MeshError } from '../../core/errors.ts'
import { background } from '../../core/kit/background.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { HeldIdentity } from '../../core/identity/held.ts'
import type { Log } from '../../core/kit/log.ts'
import type { InstanceId, NodeId } from '../../core/model/ids.ts'
import type { NotificationHandlers, RequestHandlers } from '../link/link.ts'
import { type LinkOfNode, MOST_LINKS, MOST_LINKS_OF_NODE, type UsageRow } from '../link/messages/both.ts'
import { busiest } from '../link/busiest.ts'
import type { NodeRow, rootToCluster } from '../link/messages/cluster-root.ts'
import { wireOutcomes } from '../link/outcomes.ts'
import { takeRevocations } from '../link/take-revocations.ts'
import { nodeViews } from './assignments.ts'
import type { ClusterStore } from './cluster-store.ts'
import type { Cordons } from './cordons.ts'
import type { Drains } from './drains.ts'
import type { EntryCache } from './entry-cache.ts'
import type { LinkedNode, Nodes } from './nodes.ts'
import type { Publisher } from './publisher.ts'
import type { Relays } from './relays.ts'
import type { RootLink, RootListener, Welcome } from './root-link.ts'
import type { Scheduler } from './scheduler.ts'
import { listVolumes, removeVolume } from './volumes.ts'

export interface RootMessagesParts {
  /** This cluster's name. */
  name: string
  version: string
  store: ClusterStore
  nodes: Nodes
  cordons: Cordons
  drains: Drains
  relays: Relays
  scheduler: Scheduler
  root: Pick<RootLink, 'summariseSoon'>
  clock: Clock
  entryCache: EntryCache
  publisher: Publisher
  mint: MintToken
  identity: HeldIdentity
  log: Log
}

/** Makes a join token. `expiresAt` is in milliseconds since 1970. */
export type MintToken = (role: 'node' | 'relay', ttlSeconds: number) => { token: string; expiresAt: number }

/** A node that takes longer is left out: whoever asked waits. */
const USAGE_MS = 2_000
/** Nodes in one page of `nodes.list`. */
const PAGE = 500

/** What the cluster does when the root sends something: work, and what people ask the root about this cluster. */
export class RootMessages implements RootListener {
  readonly #parts: RootMessagesParts

  constructor(parts: RootMessagesParts) {
    this.#parts = parts
  }

  requests(): RequestHandlers<typeof rootToCluster> {
    const { store, scheduler, relays, nodes, name, version, mint } = this.#parts
    return {
      delegate: ({ assignment, keepsPlace, replacement, to }) =>
        scheduler.delegate(assignment, { keepsPlace, replacement, to }),
      'delegate.many': async ({ assignments }) => ({
        outcomes: await wireOutcomes(assignments, (assignment) => scheduler.delegate(assignment)),
      }),
      'withdraw.many': ({ instances }) => {
        store.database.transaction(() => {
          for (const instance of instances) scheduler.withdraw(instance)
        })
        return { ended: instances.filter((instance) => store.assignments.get(instance) === undefined) }
      },
      withdraw: ({ instance, atOnce, isReplaced }) => {
        scheduler.withdraw(instance, { atOnce, isReplaced })
        return { ended: store.assignments.get(instance) === undefined }
      },
      'placement.explain': ({ spec }) => scheduler.explain(spec),
      'placement.preview': ({ spec, instances }) => scheduler.preview(spec, instances),
      'placement.judge': (asked) => scheduler.explanations.judge(asked),
      'nodes.list': ({ after }) => this.#listNodes(after),
      'node.cordon': ({ node, reason }) => this.#cordon(node, reason),
      'node.uncordon': ({ node }) => this.#uncordon(node),
      'node.drain': ({ node, isForced, reason }) => {
        const status = this.#parts.drains.begin(node, { isForced, reason })
        this.#parts.root.summariseSoon()
        return status
      },
      'node.drained': ({ node }) => this.#parts.drains.status(node),
      'instance.replace': async ({ instance, to, elsewhere, cause }) => {
        const where = to === undefined ? (elsewhere === true ? 'elsewhere' : 'here') : { node: to }
        const replaced = await scheduler.replace(instance, { where, mayGap: where === 'here', cause })
        const { successor, assignment } = store.assignments.get(instance) ?? {}
        return { ...replaced, epoch: (successor?.assignment ?? assignment)?.epoch ?? 0 }
      },
      'relays.list': () => {
        const listeningAt = Array.from(nodes.all(), ({ facts }) => facts.relays ?? [])
        return { relays: relays.rows(name, version, listeningAt) }
      },
      'interest.used': ({ keys }) => ({ used: keys.filter((key) => nodes.followers.wants(key)) }),
      'token.mint': ({ role, ttlSeconds }) => mint(role, ttlSeconds),
      'logs.open': async (query) => {
        const node = this.#nodeOf(query.instance)
        const { stream } = await node.link.request('logs.open', query)
        return { stream: `${node.id}#${stream}` }
      },
      'exec.open': async (asked) => {
        const node = this.#nodeOf(asked.instance)
        const { stream } = await node.link.request('exec.open', asked)
        return { stream: `${node.id}#${stream}` }
      },
      'exec.read': ({ stream }) => {
        const on = this.#streamOn(stream)
        return on.link.request('exec.read', { stream: on.stream })
      },
      'exec.write': ({ stream, ...rest }) => {
        const on = this.#streamOn(stream)
        return on.link.request('exec.write', { stream: on.stream, ...rest })
      },
      'usage.list': async () => ({ usage: await this.#usage() }),
      'links.list': async () => ({ links: await this.#links() }),
      'volumes.list': async () => ({ volumes: await listVolumes(this.#parts.nodes) }),
      'volumes.remove': (volume) => removeVolume(this.#parts.nodes, volume),
      'logs.next': ({ stream }) => {
        const on = this.#streamOn(stream)
        return on.link.request('logs.next', { stream: on.stream })
      },
    }
  }

  notifications(): NotificationHandlers<typeof rootToCluster> {
    const { name, log, store, entryCache, publisher } = this.#parts
    return {
      known: ({ known }) => {
        const changed = store.database.transaction(() => known.flatMap((entries) => entryCache.put(entries)))
        for (const service of changed) publisher.touch(service)
      },
      revocations: ({ list }) => takeRevocations(list, this.#parts),
      renew: () => this.#parts.identity.renewSoon(),
      duplicate: () => log.error('another process uses the identity of this cluster', { cluster: name }),
      'logs.close': ({ stream }) => {
        const on = this.#streamOn(stream)
        on.link.notify('logs.close', { stream: on.stream })
      },
      'exec.close': ({ stream }) => {
        const on = this.#streamOn(stream)
        on.link.notify('exec.close', { stream: on.stream })
      },
    }
  }

  welcomed({ surplus, moved = [], revocations }: Welcome): void {
    const { scheduler } = this.#parts
    const elsewhere = new Set(moved)
    for (const instance of surplus) scheduler.withdraw(instance, { atOnce: elsewhere.has(instance) })
    takeRevocations(revocations, this.#parts)
    // what fits nowhere here can now be handed back
    setImmediate(() => void background.run('placement retry at the cluster', () => scheduler.retry()))
  }

  /** Of the nodes that answer in time; a node speaks only of what is assigned to it. */
  async #usage(): Promise<UsageRow[]> {
    const { nodes, store } = this.#parts
    const lists = await Promise.all(
      Array.from(nodes.all(), async ({ id, link }) => {
        const limit = AbortSignal.timeout(USAGE_MS)
        const { usage } = await link.request('usage.list', {}, limit).catch(() => ({ usage: [] }))
        return usage.filter(({ instance }) => store.assignments.get(instance)?.node === id)
      }),
    )
    return lists.flat()
  }

  /** Of the nodes that answer in time; a node speaks only of itself. */
  async #links(): Promise<LinkOfNode[]> {
    const lists = await Promise.all(
      Array.from(this.#parts.nodes.all(), async ({ id, link }) => {
        const limit = AbortSignal.timeout(USAGE_MS)
        const { links } = await link.request('links.list', {}, limit).catch(() => ({ links: [] }))
        return links.filter(({ node }) => node === id).slice(0, MOST_LINKS_OF_NODE)
      }),
    )
    return busiest(lists.flat(), MOST_LINKS)
  }

  #listNodes(after: string): { nodes: NodeRow[]; more: boolean } {
    const { store, nodes, name } = this.#parts
    const free = new Map(nodeViews(nodes, store.assignments).map((view) => [view.facts.id, view.free]))
    const all = store.nodes.list().map((record): NodeRow => {
      const id = `${name}/${record.name}`
      const linked = nodes.alive(id)
      const facts = linked?.facts ?? record.facts
      const left = free.get(id)
      const duplicateAt = nodes.duplicateAt(id)
      return {
        id,
        condition: linked === undefined ? 'lost' : 'alive',
        instances: store.assignments.on(id).length,
        since: linked?.since ?? record.enrolledAt,
        ...(facts === undefined ? {} : { facts }),
        ...(left === undefined ? {} : { free: left }),
        ...(duplicateAt === undefined ? {} : { duplicateAt }),
        ...(record.certificateUntil === undefined ? {} : { certificateUntil: record.certificateUntil }),
        ...(record.trust === undefined ? {} : { trust: record.trust }),
        ...this.#doubtsOf(id),
      }
    })
    const rest = all.filter(({ id }) => id > after).sort((a, b) => (a.id < b.id ? -1 : 1))
    return { nodes: rest.slice(0, PAGE), more: rest.length > PAGE }
  }

  #cordon(node: NodeId, reason: string | undefined): { changed: boolean } {
    const { cordons, clock, root, log } = this.#parts
    const changed = cordons.set(node, { at: clock.wall(), ...(reason === undefined ? {} : { reason }) })
    if (changed) log.info('node cordoned', { node, reason })
    root.summariseSoon()
    return { changed }
  }

  #uncordon(node: NodeId): { changed: boolean } {
    const { cordons, scheduler, root, log } = this.#parts
    const changed = cordons.lift(node)
    if (changed) log.info('node uncordoned', { node })
    root.summariseSoon()
    scheduler.retry() // what waits for room has some now
    return { changed }
  }

  /** What speaks against relying on the node. */
  #doubtsOf(id: NodeId): Pick<NodeRow, 'silentMs' | 'linksLost' | 'dampedMs' | 'cordon' | 'mayStillRun'> {
    const { store, nodes, cordons } = this.#parts
    const dampedMs = Math.round(nodes.dampedMs(id))
    const cordon = cordons.of(id)
    const linked = nodes.alive(id)
    const linksLost = nodes.linksLost(id)
    const left = linked === undefined ? store.assignments.leftOn(id).slice(0, 1_000) : []
    return {
      ...(linked === undefined ? {} : { silentMs: Math.max(0, Math.round(linked.link.silentMs)) }),
      ...(linksLost === 0 ? {} : { linksLost }),
      ...(dampedMs === 0 ? {} : { dampedMs }),
      ...(cordon === undefined ? {} : { cordon }),
      ...(left.length === 0 ? {} : { mayStillRun: left.map(({ assignment }) => assignment.instance) }),
    }
  }

  #nodeOf(instance: InstanceId): LinkedNode {
    const { node } = this.#parts.store.assignments.get(instance) ?? {}
    const linked = node === undefined ? undefined : this.#parts.nodes.alive(node)
    if (linked !== undefined) return linked
    const reason = node === undefined ? 'it is on no node yet' : `its node ${node} does not answer`
    throw new MeshError('INSTANCE_UNKNOWN', { instance, reason })
  }

  /** The root knows a stream as `<node id>#<the stream's name on that node>`. */
  #streamOn(name: string): { link: LinkedNode['link']; stream: string } {
    const [id = '', stream = ''] = name.split('#')
    const linked = this.#parts.nodes.alive(id)
    if (linked === undefined) throw new MeshError('LINK_CLOSED', { node: id })
    return { link: linked.link, stream }
  }
}
