import type { Agent } from 'node:https'
import { MeshError } from '../../core/errors.ts'
import { fingerprints } from '../../core/identity/authorities.ts'
import { renewBy } from '../../core/identity/grace.ts'
import type { HeldIdentity } from '../../core/identity/held.ts'
import { keepRenewed } from '../../core/identity/keep-renewed.ts'
import type { Revocation } from '../../core/identity/contract.ts'
import { systemClock, type Clock } from '../../core/kit/clock.ts'
import { Lifetime } from '../../core/kit/lifetime.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Metrics } from '../../core/metrics.ts'
import type { NodeId } from '../../core/model/ids.ts'
import type { NodeReach } from '../../core/model/node.ts'
import { JoinTokens } from '../link/join-tokens.ts'
import { LinkServer } from '../link/link-server.ts'
import type { Enrolment } from '../link/messages/cluster-root.ts'
import { nodeCandidate } from '../scheduling/candidate.ts'
import { MEASURE_MS } from '../scheduling/compliance.ts'
import { rulesWith } from '../scheduling/schedule.ts'
import type { Strategies } from '../scheduling/strategies.ts'
import { ChangeLog } from './change-log.ts'
import { ClusterStore } from './cluster-store.ts'
import { ConstraintWatch } from './constraint-watch.ts'
import { nodeViews } from './assignments.ts'
import { Cordons } from './cordons.ts'
import { Drains } from './drains.ts'
import { EntryCache } from './entry-cache.ts'
import { Flaps } from './flaps.ts'
import { isBehind } from './issued.ts'
import { joinMesh } from './join.ts'
import { LatencyAnchors } from './latency-anchors.ts'
import { NodeMessages } from './node-messages.ts'
import { nameOf, Nodes } from './nodes.ts'
import { IDLE_CHECK_MS, Publisher } from './publisher.ts'
import { Relays } from './relays.ts'
import { RootLink } from './root-link.ts'
import { RootMessages } from './root-messages.ts'
import { linkUpgrade, openRoutes, relayUpgrade, type AcceptRelayed } from './routes.ts'
import { Scheduler } from './scheduler.ts'

export interface ClusterOptions {
  /** The state directory; created when it does not exist. */
  dir: string
  listen: { host: string; port: number }
  /** Needed at the first start only: the join token that the root made for this cluster. */
  token?: string
  /** Checked against the certificate when given. */
  name?: string
  /** `https://…` of the root, when it has moved since this cluster joined. */
  rootUrl?: string
  /** The HTTP proxy to go through, if any (core/kit/egress.ts). */
  egress?: Agent | undefined
  /** What nodes and relayed agents dial, when it is not the listen address. */
  publicUrl?: string
  /** Accepts `/relay` connections of nodes of the mesh (of any cluster, not revoked). Without it there is no relay here. */
  onRelay?: AcceptRelayed
  /** Limit for new TLS connections of any kind. */
  handshakesPerSecond?: number
  /** Certificates that were revoked: cut what their holders have here. */
  onRevoked?: (added: readonly Revocation[]) => void
  /** How long after its end a certificate of a node or relay may still be renewed; 30 by default. */
  certificateGraceDays?: number
  /** How long a node whose link was closed may take to return before it is lost. */
  nodeGraceMs?: number
  /**
   * How long the instances of a node whose agent ended wait for it to start again before they go to another node (where it announced
   * that it ends) or to another cluster.
   */
  nodeReturnMs?: number
  /** The grace after a restart of the cluster. */
  startGraceMs?: number
  /** Strategies beside those that are built in; the root needs them too. */
  strategies?: Strategies
  /** How often the latency and distance of instances with such constraints are measured. */
  measureMs?: number
  version?: string
  /** Distinguishes this process from another one with a copy of the same state (link/peer-links.ts). */
  process?: string
  clock?: Clock
}

/** Instances without a place are tried again this often, and whenever a node arrives. */
const RETRY_MS = 2_000
/** Smaller looks at the nodes that drain more often; larger lets the next instances wait for longer after those before. */
const DRAIN_MS = 500
/** Longer than a supervisor and a small board take to start an agent; instances that would fit elsewhere wait for no longer than this. */
const RETURN_MS = 15_000

/**
 * The middle tier: which node runs what, and what each node's table contains.
 *
 *     root link ─▶ scheduler ─▶ node links ─▶ reports ─▶ publisher ─▶ change log (numbered) ─▶ nodes that asked
 *                                                └─────▶ root link ─▶ root
 *
 * All of it goes on while the root is away.
 */
export class Cluster implements AsyncDisposable {
  readonly name: string
  readonly url: string
  readonly relayUrl: string | undefined
  readonly identity: HeldIdentity
  readonly #life: Lifetime
  readonly #parts: Running

  private constructor(life: Lifetime, parts: Running) {
    this.#life = life
    this.#parts = parts
    this.name = parts.name
    this.url = parts.server.url
    this.relayUrl = parts.relays.ownUrl
    this.identity = parts.identity
  }

  /** @throws MeshError STATE_UNREADABLE, STATE_CORRUPT, LISTEN_FAILED, TOKEN_INVALID, TOKEN_REFUSED, NOT_RUNNING */
  static start(options: ClusterOptions, log: Log, metrics: Metrics): Promise<Cluster> {
    return Lifetime.open(async (life) => {
      const member = await openMember(life, options, log, metrics)
      const state = openState(life, member, options)
      const scheduling = startScheduling(life, member, state, options)
      const server = await startServer(life, { ...member, ...state, ...scheduling }, options)
      const running = { ...member, ...state, ...scheduling, server }
      connectRoot(life, running, options)
      startTimers(life, running, options)
      member.log.info('cluster started', { address: server.url })
      return new Cluster(life, running)
    })
  }

  /** A token with which one node may join, for programs that run cluster and nodes together. */
  nodeToken(ttlSeconds = 3_600): string {
    return this.#parts.joinTokens.node.mint(this.url, '', ttlSeconds).token
  }

  /** A token with which one relay may join. */
  relayToken(ttlSeconds = 3_600): string {
    return this.#parts.joinTokens.relay.mint(this.url, '', ttlSeconds).token
  }

  /** For `/readyz`. A cluster without a root is ready: it serves its nodes. */
  ready(): Record<'store' | 'listener', boolean> {
    return { store: this.#parts.store.database.isOpen, listener: this.#parts.server.isOpen }
  }

  get isLinked(): boolean {
    return this.#parts.root.isUp
  }

  /** Why the root refused the last attempt to link, while the link is down. */
  get refusal(): MeshError | undefined {
    return this.#parts.root.refusal
  }

  /** A copy of the store under a path that does not exist. @throws MeshError DISK_FULL, STATE_UNREADABLE */
  copyStore(path: string): Promise<void> {
    return this.#parts.store.database.copyTo(path)
  }

  /** Ids of the nodes whose link is up. */
  get aliveNodes(): NodeId[] {
    return Array.from(this.#parts.nodes.all(), ({ id }) => id)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}

type Member = Awaited<ReturnType<typeof openMember>>
type State = ReturnType<typeof openState>
type Scheduling = ReturnType<typeof startScheduling>
type Running = Member & State & Scheduling & { server: LinkServer }

/** The store, and who this cluster is. */
async function openMember(life: Lifetime, options: ClusterOptions, parentLog: Log, metrics: Metrics) {
  const { clock = systemClock, version = '0.0.0', process } = options
  const store = life.use(ClusterStore.open(options.dir))
  const { identity, rootUrl, name } = await joinMesh(options, store, clock, life.signal)
  const log = parentLog.child({ part: 'cluster', cluster: name })
  const pending = () => store.database.pending
  return { store, identity, rootUrl, egress: options.egress, name, clock, version, process, pending, log, metrics }
}

/** What the cluster knows: saved state, and nodes and relays as their links show them. */
function openState(life: Lifetime, member: Member, options: ClusterOptions) {
  const { store, identity, name, clock, pending, log, metrics } = member
  const { nodeGraceMs: graceMs = 1_000, nodeReturnMs: returnMs = RETURN_MS } = options
  const { database, assignments } = store
  const pins = () => fingerprints(identity.ca, identity.trust.presents)
  const joinTokens = {
    node: new JoinTokens(database, { role: 'node', fingerprints: pins, clock }),
    relay: new JoinTokens(database, { role: 'relay', fingerprints: pins, clock }),
  }
  const cordons = new Cordons(name, store.nodes)
  const isCordoned = (node: NodeId) => cordons.of(node) !== undefined
  const together = (work: () => void) => database.transaction(work)
  const flaps = life.use(new Flaps({ saved: store.downs, together, clock }))
  const nodes = new Nodes({ clock, graceMs, returnMs, isCordoned, flaps, pending }, log, metrics)
  const countLost = async () => {
    const lost = store.nodes.list().filter((record) => nodes.alive(`${name}/${record.name}`) === undefined)
    metrics.nodes.labels('lost').set(lost.length)
  }
  metrics.beforeScrape.add(countLost)
  const relays = new Relays({ saved: store.relays, identity, nodes, clock, pending, log, metrics })
  const changeLog = new ChangeLog(database, clock)
  const entryCache = new EntryCache(database.collection('known'))
  const reachOf = (node: NodeId): NodeReach | undefined => {
    const facts = store.nodes.get(nameOf(node))?.facts
    if (facts === undefined) return undefined
    const { addresses, coordinate, area } = facts
    return {
      id: node,
      addresses,
      relays: relays.listenedAt(facts.relays),
      ...(coordinate === undefined ? {} : { coordinate }),
      ...(area === undefined ? {} : { area }),
    }
  }
  const publisher = new Publisher({ cluster: name, changeLog, entryCache, assignments, nodes, reachOf, clock })
  return { joinTokens, nodes, flaps, cordons, relays, changeLog, entryCache, reachOf, publisher }
}

/** What decides: the scheduler, the link by which it gets work, and what it does when nodes report. */
function startScheduling(life: Lifetime, member: Member, state: State, { strategies }: ClusterOptions) {
  const rules = rulesWith(strategies)
  const { assignments } = member.store
  const enrolments = () => enrolmentsOf(member.store)
  const root = new RootLink({ ...member, ...state, assignments, enrolments })
  const anchors = new LatencyAnchors({ ...state, name: member.name, assignments, root })
  const isEnrolled = (node: NodeId) => member.store.nodes.get(nameOf(node)) !== undefined
  const scheduler = new Scheduler({ ...member, ...state, assignments, anchors, root, isEnrolled, rules })
  life.defer(() => scheduler.close())
  life.defer(() => state.publisher.close())
  const messages = new NodeMessages({ ...member, ...state, scheduler, root })
  life.defer(() => messages.close())
  state.nodes.listen(messages)
  const watch = new ConstraintWatch({
    ...member,
    ...state,
    assignments,
    anchors,
    rules,
    candidates: () => nodeViews(state.nodes, assignments).map(nodeCandidate),
    move: (instance, node, why) => scheduler.replace(instance, { where: { node }, cause: { by: 'cluster', why } }),
    moveAway: (instance, why) => root.relocate(instance, { cause: { by: 'cluster', why }, isViolation: true }),
    moved: (instance, moves) => scheduler.tellConstraintMoves(instance, moves),
    report: (instance, node, violation) => scheduler.tellViolation(instance, node, violation),
  })
  const drains = new Drains({ ...member, ...state, assignments, scheduler, root })
  return { root, scheduler, watch, drains }
}

/** Records without an enrolment are of an earlier version: their next renewal brings none, so they cannot be revoked by it. */
function enrolmentsOf({ nodes, relays }: ClusterStore): Enrolment[] {
  const of = (role: Enrolment['role'], records: { name: string; enrolment?: string }[]) =>
    records.flatMap(({ name, enrolment }) => (enrolment === undefined ? [] : { role, name, enrolment }))
  return [...of('node', nodes.list()), ...of('relay', relays.list())]
}

/** The one port of the cluster: links of nodes and relays, relayed connections, joining. */
async function startServer(
  life: Lifetime,
  parts: Member & State & Scheduling,
  options: ClusterOptions,
): Promise<LinkServer> {
  const { identity, nodes, relays, root, name, pending, log } = parts
  const { listen, publicUrl, handshakesPerSecond, onRelay, certificateGraceDays: graceDays } = options
  const server = life.use(
    await LinkServer.start(
      {
        ...listen,
        identity,
        pending,
        ...(publicUrl === undefined ? {} : { publicUrl }),
        ...(handshakesPerSecond === undefined ? {} : { handshakesPerSecond }),
        authenticate: () => {
          throw new MeshError('UNAUTHENTICATED', { reason: 'a cluster has no API; the API is at the root' })
        },
        upgrades: {
          '/link': linkUpgrade(name, parts),
          ...(onRelay === undefined ? {} : { '/relay': relayUpgrade(onRelay) }),
        },
        routes: (app) => openRoutes(app, { ...parts, graceDays, onEnrolled: (enrolment) => root.enrolled(enrolment) }),
      },
      log,
    ),
  )
  life.defer(() => nodes.close())
  life.defer(() => relays.close())
  if (onRelay !== undefined) relays.ownUrl = `${server.url.replace(/^http/, 'ws')}/relay`
  return server
}

function connectRoot(life: Lifetime, running: Running, { onRevoked }: ClusterOptions): void {
  const { root, server, joinTokens, identity, rootUrl, egress, log } = running
  life.defer(identity.revocations.onChanged((added) => applyRevocations(added, running, onRevoked)))
  life.defer(identity.onRenewed(() => trustChanged(running)))
  const messages = new RootMessages({
    ...running,
    mint: (role, ttlSeconds) => joinTokens[role].mint(server.url, '', ttlSeconds),
  })
  root.connect(server.url, messages)
  life.use(root)
  const overLink = (csr: string, limit: AbortSignal) => root.renew(csr, limit)
  const renew = renewBy({ link: root, overLink, url: () => rootUrl, identity, egress })
  keepRenewed(life, identity, { renew, log, name: 'cluster certificate renewal' })
}

/** The root is told; nodes and relays whose certificates are by another authority than ours now is are to ask for others. */
function trustChanged({ identity, store, nodes, relays, root }: Running): void {
  root.trustChanged()
  const { trust } = identity
  nodes.notifyRenew((node) => isBehind(store.nodes.get(nameOf(node)) ?? {}, trust))
  relays.askToRenew()
}

/** A newer list of revoked certificates: our nodes and relays on it are cut off and forgotten, and the list is passed on. */
function applyRevocations(
  added: readonly Revocation[],
  { identity, store, nodes, flaps, cordons, relays, name, log }: Running,
  onRevoked: ClusterOptions['onRevoked'],
): void {
  const { revocations } = identity
  const isRevoked = ({ enrolment }: { enrolment?: string }) =>
    enrolment !== undefined && revocations.hasEnrolment(enrolment)
  const lostNodes = store.nodes.list().filter(isRevoked)
  const lostRelays = store.relays.list().filter(isRevoked)
  for (const { name: node } of lostNodes) {
    store.nodes.delete(node)
    cordons.forget(`${name}/${node}`)
    flaps.forget(`${name}/${node}`)
  }
  if (added.length > 0) log.warn('certificates revoked', { principals: added.map(({ principal }) => principal) })
  for (const node of lostNodes) nodes.expel(`${name}/${node.name}`, 'revoked')
  for (const relay of lostRelays) relays.expel(relay.name)
  if (revocations.text !== undefined) {
    nodes.notifyRevocations(revocations.text)
    relays.notifyRevocations(revocations.text)
  }
  onRevoked?.(added)
}

function startTimers(life: Lifetime, running: Running, options: ClusterOptions): void {
  const { startGraceMs = 20_000, measureMs = MEASURE_MS } = options
  const { store, nodes, publisher, scheduler, drains, root, watch } = running
  const records = [...store.assignments.all()]
  nodes.expect(new Set(records.flatMap(({ node }) => node ?? [])), startGraceMs)
  for (const { assignment } of records) publisher.touch(assignment.spec.id)
  life.every(RETRY_MS, () => scheduler.retry(), 'placement retry at the cluster')
  life.every(measureMs, () => watch.measure(life.signal), 'measuring of latency and distance')
  life.every(DRAIN_MS, () => drains.step(), 'moving of what is on nodes that drain')
  life.every(IDLE_CHECK_MS, () => root.forget(publisher.dropIdle()), 'forgetting of idle services')
}
