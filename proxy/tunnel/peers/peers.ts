import { MeshError } from '../../../src/core/errors.ts'
import { unlessAborted } from '../../../src/core/kit/abort.ts'
import { background } from '../../../src/core/kit/background.ts'
import { systemClock, type Clock } from '../../../src/core/kit/clock.ts'
import { ignore } from '../../../src/core/kit/ignore.ts'
import { Lifetime } from '../../../src/core/kit/lifetime.ts'
import { silentLog, type Log } from '../../../src/core/kit/log.ts'
import type { Metrics } from '../../../src/core/metrics.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { NodeReach } from '../../../src/core/model/node.ts'
import { ANY_PATH, isAny, likes, type PathRule, type PathKind } from '../../../src/core/model/path-rule.ts'
import type { Dialer, RawConnection } from '../../paths/contract.ts'
import type { IncomingStream, Peers, Session } from '../contract.ts'
import { TUNNEL_LIMITS, type TunnelLimits } from '../limits.ts'
import type { SealedEndpoint } from '../sealed/contract.ts'
import type { TunnelSession } from '../session/session.ts'
import { FEATURE } from '../wire/hello.ts'
import { Dialling } from './dialling.ts'
import { Connector, type Secure } from './connector.ts'
import { Duplicates } from './duplicates.ts'
import type { EarlierProcesses, HeldSession } from './earlier-processes.ts'
import { ourHello } from './handshake.ts'
import { TunnelListener } from './listener.ts'
import { TunnelMeters } from './meters.ts'
import { PathUpgrades } from './path-upgrades.ts'
import type { PeerState } from './peer-state.ts'
import { PinnedCarriers } from './pinned-carriers.ts'
import { Proposals } from './proposals.ts'
import { Redialling } from './redialling.ts'
import { PeerRegistry, type RegistryListener } from './registry.ts'

export interface PeersOptions {
  self: NodeId
  dialers: readonly Dialer[]
  secure: Secure
  /** A stream another node opened; answer it within `limits.openTimeoutMs`. */
  accept: (incoming: IncomingStream) => void
  /** A node has sent a signal over its session; `payload` is good during the call only. */
  signalled?: (from: NodeId, payload: Buffer) => void
  /** How to reach a node that dialled us, so that a better path can be tried from this side too. */
  reach?: (node: NodeId) => NodeReach | undefined
  /** The relay by which a node is nearer than by the one in use. */
  nearer?: (node: NodeId, relay: string) => string | undefined
  /** Streams wait for a path, now; called as long as they do: whatever else may be dead should be probed. */
  atRisk?: (node: NodeId) => void
  /** The operator's choice of paths, for what we dial and for what others dial; all of them without it. */
  allows?: (path: PathKind) => boolean
  /** False for a path that is only used where there is no other; without it the faster one is the better. */
  prefers?: (path: PathKind) => boolean
  /** Datagrams straight over UDP; without it they go as frames. */
  sealed?: SealedEndpoint | undefined
  /** This process takes over from another one of the node, which still runs. */
  isBeside?: boolean
  /** Those that it has taken over from, while they finish their flows. */
  earlier?: EarlierProcesses
  limits?: Partial<TunnelLimits>
  clock?: Clock
  log?: Log
  metrics?: Metrics
  random?: () => number
  /** How long `close` waits for open streams. */
  drainMs?: number
}

export interface TunnelPeers extends Peers {
  /** Takes over a connection that a listener or a relay accepted; nothing about it is trusted yet. */
  incoming(raw: RawConnection): void
  /** Sends a signal to a node over its session, at most 2,048 bytes; false when there is none. Nobody learns whether it arrives. */
  signal(to: NodeId, payload: Buffer): boolean
  /** A path is back, for example through a relay: sessions at risk are dialled at once. */
  pathBack(): void
  /** Ends the session with a node, its streams and the connections being made with it (revoked, or gone from the mesh). */
  cut(node: NodeId): void
  /** The machine's network is another one; `isHere`: whether a local address is still ours. Every path is tried anew. */
  networkChanged(isHere: (address: string) => boolean): void
  /**
   * Sends DRAIN to every peer and takes no new streams and no new sessions; what is open goes on, also over new carriers, until the
   * peers are closed. To be called before anybody hears a successor with the same identity.
   */
  drain(): void
  /** The sessions that the peers know of too. */
  held(): HeldSession[]
  /** Whether a second process with the identity of the node was refused a moment ago. */
  hasDuplicate(node: NodeId): boolean
  /** The cluster has accepted another process with the identity of this node: no sessions as long as that is so. */
  identityTaken(isIdentityTaken: boolean): void
}

const TICK_MS = 250
/** After this long without a session, what is known of a node is forgotten. */
const FORGET_MS = 3_600_000
/** For what the peer has not acknowledged when this node shuts down. */
const LINGER_MS = 1_000
/** For GOAWAY to leave. */
const FINISH_MS = 1_500

/**
 * All sessions of this node.
 *
 *     session(node) ─▶ live? ─▶ that one
 *                      resting after a failure (≤ 1 s) ─▶ NO_PATH at once
 *                      else one dial for all who ask: race of paths ─▶ secure ─▶ HELLO ─┐
 *     a session at risk ─▶ dialled anew until one carrier is sure ──────────────────────┤
 *     incoming(raw) ─▶ secure ─▶ HELLO ─────────────────────────────────────────────────┴─▶ registry.ts: joins a session
 *
 *     every 250 ms: pings, dials for sessions at risk, more carriers and better paths (path-upgrades.ts), idle carriers
 */
export function openPeers(options: PeersOptions): TunnelPeers {
  const dialers = options.dialers.filter(({ path }) => options.allows?.(path) !== false)
  return AllPeers.open({ ...options, dialers })
}

/** The parts, each of which keeps its own record of every peer. */
interface Parts {
  registry: PeerRegistry
  duplicates: Duplicates
  listener: TunnelListener
  dialling: Dialling
  redialling: Redialling
  pinned: PinnedCarriers
  upgrades: PathUpgrades
  meters: TunnelMeters
}

class AllPeers implements TunnelPeers, RegistryListener {
  readonly #options: PeersOptions
  readonly #clock: Clock
  readonly #parts: Parts
  readonly #life: Lifetime
  #closing: Promise<void> | undefined
  /** Called whenever streams or sessions may have ended, while `close` waits for that. */
  #onProgress: (() => void) | undefined

  private constructor(options: PeersOptions, parts: Parts, life: Lifetime) {
    this.#options = options
    this.#clock = options.clock ?? systemClock
    this.#parts = parts
    this.#life = life
  }

  static open(options: PeersOptions): AllPeers {
    const life = new Lifetime()
    const parts = build(options, life.signal)
    const peers = new AllPeers(options, parts, life)
    parts.registry.listen(peers)
    life.spawn((signal) => peers.#upkeep(signal), 'tunnel upkeep')
    return peers
  }

  async session(node: NodeReach, signal: AbortSignal, rule = ANY_PATH): Promise<Session> {
    const { registry, dialling, pinned } = this.#parts
    const peer = registry.peer(node.id)
    dialling.learn(peer, node)
    const session = this.#sessionFor(peer, rule)
    if (session !== undefined) return session
    const fail = (reason: string, cause: unknown) => new MeshError('NO_PATH', { node: node.id, reason }, { cause })
    if (registry.isDraining) throw fail('this node is shutting down', undefined)
    if (registry.isIdentityTaken) throw fail('another process uses the identity of this node', undefined)
    if (signal.aborted) throw fail('given up', signal.reason)
    if (peer.session?.isUsable === true || rule.allowed.size < ANY_PATH.allowed.size)
      return await unlessAborted(pinned.require(peer, rule), signal)
    return await unlessAborted(dialling.connect(peer), signal).catch((error: unknown) => {
      throw error === signal.reason ? fail('given up', error) : error
    })
  }

  existing(node: NodeId, rule = ANY_PATH): Session | undefined {
    const peer = this.#parts.registry.get(node)
    return peer === undefined ? undefined : this.#sessionFor(peer, rule)
  }

  /** The session, if it has a carrier that the rule allows; where the rule would like another path, that is dialled for later flows. */
  #sessionFor(peer: PeerState, rule: PathRule): TunnelSession | undefined {
    const { session } = peer
    if (session === undefined || session.hasEnded || session.isLeaving) return undefined
    const route = session.route(rule)
    if (route === undefined) return undefined
    const { registry, pinned } = this.#parts
    if (!isAny(rule) && !registry.isDraining && !likes(rule, route.path)) pinned.prepare(peer, rule)
    return session
  }

  all(): Iterable<Session> {
    return this.#parts.registry.sessions()
  }

  rttMs(node: NodeId): number | undefined {
    return this.#parts.registry.get(node)?.rttMs
  }

  incoming(raw: RawConnection): void {
    this.#parts.listener.take(raw)
  }

  signal(to: NodeId, payload: Buffer): boolean {
    return this.#parts.registry.get(to)?.session?.signal(payload) === true
  }

  cut(node: NodeId): void {
    this.#parts.registry.cut(node)
  }

  networkChanged(isHere: (address: string) => boolean): void {
    const { registry, dialling, redialling, upgrades } = this.#parts
    const now = this.#clock.now()
    for (const peer of registry.all()) {
      dialling.networkChanged(peer)
      redialling.networkChanged(peer)
      upgrades.networkChanged(peer, now)
      for (const session of peer.sessions()) session.networkChanged(isHere)
    }
  }

  pathBack(): void {
    for (const peer of this.#parts.registry.all())
      if (peer.sessions().some(({ isAtRisk }) => isAtRisk)) this.#parts.redialling.soon(peer)
  }

  drain(): void {
    this.#parts.registry.drain()
  }

  hasDuplicate(node: NodeId): boolean {
    const { registry, duplicates } = this.#parts
    const peer = registry.get(node)
    return peer !== undefined && duplicates.has(peer)
  }

  identityTaken(isIdentityTaken: boolean): void {
    this.#parts.registry.identityTaken(isIdentityTaken)
  }

  held(): HeldSession[] {
    const known = this.#parts.registry.sessions().filter(({ identity }) => !identity.isPresumed)
    return known.map(({ peer, identity }) => ({ peer, ...identity.key }))
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  // ── what becomes of sessions ──

  carrierJoined(peer: PeerState, session: TunnelSession, hasMoved: boolean): void {
    const { upgrades, redialling, dialling } = this.#parts
    if (hasMoved) upgrades.sessionMoved(peer)
    if (!peer.sessions().some(({ isAtRisk }) => isAtRisk)) redialling.stop(peer)
    if (session === peer.session && !session.isLeaving) dialling.arrived(peer, session)
  }

  sessionSuspended(peer: PeerState): void {
    this.#options.atRisk?.(peer.node)
    this.#parts.redialling.next(peer)
  }

  sessionEnded(): void {
    this.#onProgress?.()
  }

  // ── every 250 ms ──

  async #upkeep(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#clock.sleep(TICK_MS, signal)
      if (!signal.aborted) this.#tick(this.#clock.now())
    }
  }

  #tick(now: number): void {
    const { registry, meters } = this.#parts
    for (const peer of registry.all()) {
      try {
        this.#tickPeer(peer, now)
      } catch (error) {
        background.failed('tunnel upkeep of a peer', error) // the other peers must not miss theirs
      }
    }
    meters.gauge(registry.sessions())
    this.#onProgress?.()
  }

  #tickPeer(peer: PeerState, now: number): void {
    const { registry, dialling, pinned, upgrades, meters } = this.#parts
    const sessions = peer.sessions()
    for (const session of sessions) {
      session.tick(now)
      meters.count(session)
      if (session.isAtRisk) this.sessionSuspended(peer)
    }
    const { session } = peer
    if (session?.missing !== undefined) pinned.require(peer, session.missing).catch(ignore) // again at the next tick
    if (session?.isUsable === true) {
      if (!registry.isDraining) upgrades.tick(peer, session, now)
    } else if (sessions.length === 0 && !dialling.isDialling(peer) && now - peer.usedAt > FORGET_MS) {
      registry.forget(peer)
    }
  }

  // ── the end ──

  /** Takes no more, lets what is open end (up to `drainMs`), sends GOAWAY. */
  async #close(): Promise<void> {
    this.drain()
    const { registry } = this.#parts
    const hasNoStreams = () => registry.sessions().every(({ streams }) => streams === 0)
    await this.#until(hasNoStreams, this.#options.drainMs ?? 3_000)
    if (hasNoStreams()) await this.#until(() => registry.sessions().every(({ isQuiet }) => isQuiet), LINGER_MS)
    for (const session of registry.sessions()) session.finish()
    await this.#until(() => registry.sessions().length === 0, FINISH_MS)
    for (const session of registry.sessions())
      session.cut(new MeshError('SESSION_CLOSED', { reason: 'this node has shut down' }))
    await this.#life.close()
  }

  async #until(isSo: () => boolean, ms: number): Promise<void> {
    if (isSo()) return
    const reached = new AbortController()
    this.#onProgress = () => {
      if (isSo()) reached.abort()
    }
    await this.#clock.sleep(ms, reached.signal)
    this.#onProgress = undefined
  }
}

/** In the order of what needs what. */
function build(options: PeersOptions, closing: AbortSignal): Parts {
  const { self, dialers, secure, accept, signalled, reach, nearer, allows, prefers, sealed, earlier } = options
  const { clock = systemClock, random = Math.random } = options
  const limits = { ...TUNNEL_LIMITS, ...options.limits }
  const log = (options.log ?? silentLog).child({ part: 'tunnel' })
  const now = () => clock.now()
  const meters = new TunnelMeters(
    options.metrics,
    dialers.map(({ path }) => path),
  )
  const duplicates = new Duplicates({ clock, log, meters })
  const common = { self, clock, meters, duplicates }
  const registry = new PeerRegistry({ ...common, accept, signalled, allows, sealed, limits, log })
  const proposals = new Proposals({ self, now })
  const hello = ourHello(featuresOf(options), limits.windowBytes)
  const connector = new Connector({ ...common, secure, now, hello, proposals, earlier, directory: registry, closing })
  const { dials } = limits
  const dialling = new Dialling({ dialers, connector, proposals, clock, random, reach, dials, closing })
  return {
    registry,
    duplicates,
    meters,
    dialling,
    listener: new TunnelListener({ connector, limits, allows, log, now, closing }),
    redialling: new Redialling({ dialling, dialers, clock, random, dials, closing }),
    pinned: new PinnedCarriers({ dialling, dialers, clock, random }),
    upgrades: new PathUpgrades({ dialers, dialling, nearer, prefers, clock, random, log }),
  }
}

function featuresOf({ signalled, sealed, isBeside }: PeersOptions): number {
  const signals = signalled === undefined ? 0 : FEATURE.signals
  const datagrams = sealed === undefined ? 0 : FEATURE.sealed | FEATURE.chacha20
  const beside = isBeside === true ? FEATURE.beside : 0
  return FEATURE.resume | FEATURE.early | signals | datagrams | beside
}
