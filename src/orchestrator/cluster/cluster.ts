import type { Agent } from 'node:https'
import { MeshError } from '../../core/errors.ts'
import { fingerprintOf } from '../../core/identity/authority.ts'
import type { HeldIdentity } from '../../core/identity/held.ts'
import { systemClock, type Clock } from '../../core/kit/clock.ts'
import { Lifetime } from '../../core/kit/lifetime.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Metrics } from '../../core/metrics.ts'
import { clusterOf, type NodeId } from '../../core/model/ids.ts'
import { INSTANCE_STATES } from '../../core/model/instance.ts'
import type { NodeReach } from '../../core/model/node.ts'
import { LinkServer } from '../link/link-server.ts'
import { JoinTokens } from '../link/join-tokens.ts'
import { summarise } from '../scheduling/candidate.ts'
import { ClusterStore } from './cluster-store.ts'
import { NodeMessages, nameOf } from './node-messages.ts'
import { linkUpgrade, openRoutes, relayUpgrade, type Relayed } from './routes.ts'
import { ChangeLog } from './change-log.ts'
import { EntryCache } from './entry-cache.ts'
import { clusterNameOf, openIdentity } from './membership.ts'
import { Nodes } from './nodes.ts'
import { Scheduler } from './scheduler.ts'
import { Publisher } from './publisher.ts'
import { RootLink } from './root-link.ts'
import { Relays } from './relays.ts'
import { type Mint, rootRequests } from './root-messages.ts'
import { LatencyAnchors } from './latency-anchors.ts'
import { SWEEP_MS, sweeper } from './sweep.ts'
import { keepRenewed } from '../../core/identity/keep-renewed.ts'

export interface ClusterOptions {
  /** The state directory; made when absent. */
  dir: string
  listen: { host: string; port: number }
  /** Needed at first start only: the join token the root made for this cluster. */
  token?: string
  /** Checked against the certificate when given. */
  name?: string
  /** `https://…` of the root, when it has moved since this cluster joined. */
  rootUrl?: string
  /** The way out, when it is not straight (kit/egress.ts). */
  egress?: Agent | undefined
  /** What nodes and relayed agents dial, when it is not the listen address. */
  publicUrl?: string
  /** Takes `/relay` upgrades of nodes of the mesh (any cluster's, not revoked); absent: there is no relay here. */
  onRelay?: Relayed
  /** At the door, for links and relayed connections. */
  handshakesPerSecond?: number
  /** Nodes that no longer count: cut what is theirs. */
  onRevoked?: (nodes: readonly NodeId[]) => void
  /** A closed node link may come back within this time. */
  nodeGraceMs?: number
  /** After a restart of the cluster its nodes have this long to come back. */
  startGraceMs?: number
  version?: string
  clock?: Clock
}

/** Work without a place is looked at again this often, beside whenever a node comes. */
const RETRY_MS = 2_000
/** Certificates of nodes live 24 hours: a revoked node's last one is over by then. */
const REVOKED_MS = 25 * 3_600_000

interface Parts {
  name: string
  url: string
  relayUrl: string | undefined
  identity: HeldIdentity
  root: RootLink
  nodes: Nodes
  mint: Mint
  ready: () => Record<'store' | 'door', boolean>
}

/**
 * The middle tier: which node runs what, and what each node's table must know.
 *
 *     root link ─▶ placement ─▶ node links ─▶ reports ─▶ publisher ─▶ feed (numbered) ─▶ nodes that asked
 *                                                └────▶ standings ─▶ root
 *
 * All of it goes on while the root is away.
 */
export class Cluster implements AsyncDisposable {
  readonly name: string
  readonly url: string
  readonly relayUrl: string | undefined
  readonly identity: HeldIdentity
  readonly #life: Lifetime
  readonly #root: RootLink
  readonly #nodes: Nodes
  readonly #mint: Parts['mint']
  readonly #ready: Parts['ready']

  private constructor(life: Lifetime, parts: Parts) {
    this.#life = life
    this.name = parts.name
    this.url = parts.url
    this.relayUrl = parts.relayUrl
    this.identity = parts.identity
    this.#root = parts.root
    this.#nodes = parts.nodes
    this.#mint = parts.mint
    this.#ready = parts.ready
  }

  /** @throws MeshError STATE_UNREADABLE, STATE_CORRUPT, LISTEN_FAILED, TOKEN_INVALID, TOKEN_REFUSED, NOT_RUNNING */
  static start(options: ClusterOptions, parentLog: Log, metrics: Metrics): Promise<Cluster> {
    return Lifetime.open(async (life) => {
      const { dir, clock = systemClock, version = '0.0.0', nodeGraceMs = 1_000, startGraceMs = 20_000 } = options
      const store = life.use(ClusterStore.open(dir))
      const { identity, rootUrl } = await openIdentity(options, store, clock, life.signal)
      const name = clusterNameOf(identity, options.name)
      const log = parentLog.child({ part: 'cluster', cluster: name })
      const fingerprint = fingerprintOf(identity.ca)
      const joins = {
        node: new JoinTokens(store.database, { role: 'node', fingerprint, clock }),
        relay: new JoinTokens(store.database, { role: 'relay', fingerprint, clock }),
      }
      const feed = new ChangeLog(store.database, clock)
      const entryCache = new EntryCache(store.database.collection('known'))

      let relayUrl: string | undefined
      const reachOf = (node: NodeId): NodeReach | undefined => {
        const facts = store.nodes.get(nameOf(node))?.facts
        if (facts === undefined) return undefined
        const { addresses, coordinate } = facts
        return {
          id: node,
          addresses,
          relays: relays.of(facts.relays),
          ...(coordinate === undefined ? {} : { coordinate }),
        }
      }
      const isRevoked = (node: NodeId) => (store.revoked.get(node)?.until ?? 0) > clock.wall()
      const revoked = () => store.revoked.keys().filter(isRevoked)

      const nodes: Nodes = new Nodes(
        {
          clock,
          graceMs: nodeGraceMs,
          requests: (node, link) => conversation.requests(node, link),
          notifications: (node) => conversation.notifications(node),
          onLost: (node) => {
            placement.nodeLost(node)
            publisher.flush() // now, not at the end of the turn: new flows must avoid it
            root.summarise()
          },
        },
        log,
        metrics,
      )
      const relays = new Relays({
        kept: store.relays,
        identity,
        own: () => relayUrl,
        revoked: () => [...revoked()],
        onChange: (urls) => nodes.tellRelays(urls),
        clock,
        log,
        metrics,
      })
      const publisher = new Publisher({
        cluster: name,
        feed,
        entryCache,
        assignments: store.assignments,
        nodes,
        reachOf,
      })
      const anchors = new LatencyAnchors({
        assignments: store.assignments,
        entryCache,
        nodes,
        reachOf,
        learn: (key) => root.learn(key),
      })
      const placement: Scheduler = new Scheduler({
        assignments: store.assignments,
        nodes,
        anchors,
        clock,
        onChange: (record) => {
          publisher.touch(record.assignment.spec.id)
          root.changed(record)
          root.summarise()
        },
        onEnded: (record) => root.ended(record),
        giveBack: (record, reason) => root.giveBack(record, reason),
        log,
        metrics,
      })
      const conversation: NodeMessages = new NodeMessages({
        store,
        identity,
        feed,
        entryCache,
        publisher,
        nodes,
        placement,
        root: () => root,
        revoked,
        relays: () => relays.urls(),
        log,
      })
      const revoke = (ids: readonly NodeId[]) => {
        const fresh = ids.filter((node) => !isRevoked(node))
        if (fresh.length === 0) return
        store.database.transaction(() => {
          for (const node of fresh) {
            store.revoked.put(node, { node, until: clock.wall() + REVOKED_MS })
            if (clusterOf(node) === name) store.nodes.delete(nameOf(node))
          }
        })
        log.warn('nodes revoked', { nodes: fresh })
        for (const node of fresh) if (clusterOf(node) === name) nodes.expel(node, 'revoked')
        nodes.tellRevoked([...fresh])
        relays.tellRevoked([...fresh])
        options.onRevoked?.(fresh)
      }

      life.defer(() => placement.close())
      life.defer(() => publisher.close())
      let url = options.publicUrl ?? ''
      const mint: Mint = (role, ttlSeconds) => joins[role].mint(url, '', ttlSeconds)
      const door = life.use(
        await LinkServer.start(
          {
            ...options.listen,
            identity,
            ...(options.handshakesPerSecond === undefined ? {} : { handshakesPerSecond: options.handshakesPerSecond }),
            authenticate: () => {
              throw new MeshError('UNAUTHENTICATED', { reason: 'the API is at the root' })
            },
            upgrades: {
              '/link': linkUpgrade(name, { nodes, relays, store, isRevoked }),
              ...(options.onRelay === undefined ? {} : { '/relay': relayUpgrade(options.onRelay, isRevoked) }),
            },
            routes: (app) =>
              openRoutes(app, { identity, store, nodes, relays, joins, fingerprint, name, clock, isRevoked }),
          },
          log,
        ),
      )
      life.defer(() => nodes.close())
      life.defer(() => relays.close())
      url ||= door.url
      if (options.onRelay !== undefined) relayUrl = `${url.replace(/^http/, 'ws')}/relay`

      const root: RootLink = life.use(
        RootLink.start({
          rootUrl,
          egress: options.egress,
          url,
          version,
          identity,
          assignments: store.assignments,
          entryCache,
          publisher,
          placement,
          reachOf,
          summary: () => {
            for (const state of INSTANCE_STATES) {
              metrics.instances
                .labels(state)
                .set([...store.assignments.all()].filter((work) => work.state === state).length)
            }
            return summarise(name, placement.views())
          },
          revoked: revoke,
          ...rootRequests({ name, version, store, nodes, placement, relays, mint, revoke }),
          clock,
          log,
          metrics,
        }),
      )
      keepRenewed(life, identity, {
        renew: (csr, limit) => root.renew(csr, limit),
        log,
        name: 'cluster certificate renewal',
      })
      const busy = new Set([...store.assignments.all()].flatMap(({ node }) => node ?? []))
      nodes.expect(busy, startGraceMs)
      for (const { assignment } of store.assignments.all()) publisher.touch(assignment.spec.id)
      life.every(RETRY_MS, () => placement.retry(), 'placement retry at the cluster')
      life.every(SWEEP_MS, sweeper({ entryCache, nodes, store, publisher, root }), 'cluster clean-up')
      log.info('cluster started', { address: url })
      const ready = () => ({ store: store.database.isOpen, door: door.isOpen })
      return new Cluster(life, { name, url, relayUrl, identity, root, nodes, mint, ready })
    })
  }

  /** A token with which one node may join, for who runs both in one program. */
  nodeToken(ttlSeconds = 3_600): string {
    return this.#mint('node', ttlSeconds).token
  }

  /** A token with which one relay may join. */
  relayToken(ttlSeconds = 3_600): string {
    return this.#mint('relay', ttlSeconds).token
  }

  /** For `/readyz`: a cluster without a root still serves its nodes. */
  ready(): Record<'store' | 'door', boolean> {
    return this.#ready()
  }

  get isLinked(): boolean {
    return this.#root.isUp
  }

  /** Ids of the nodes whose link is up. */
  get aliveNodes(): NodeId[] {
    return [...this.#nodes.all()].map(({ id }) => id)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}
