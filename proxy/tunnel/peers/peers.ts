import { MeshError } from '../../../src/core/errors.ts'
import { systemClock, type Clock } from '../../../src/core/kit/clock.ts'
import { Lifetime } from '../../../src/core/kit/lifetime.ts'
import { silentLog, type Log } from '../../../src/core/kit/log.ts'
import type { Metrics } from '../../../src/core/metrics.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { NodeReach } from '../../../src/core/model/node.ts'
import { ANY_PATH, isAny, likes, type PathRule, type PathKind } from '../../../src/core/model/path-rule.ts'
import type { Dialer, RawConnection } from '../../paths/contract.ts'
import { PinnedCarriers } from './pinned-carriers.ts'
import { PathUpgrades } from './path-upgrades.ts'
import { Connector, type Secure } from './connector.ts'
import type { IncomingStream, Peers, Session } from '../contract.ts'
import { unlessAborted } from '../../../src/core/kit/abort.ts'
import { Dialling } from './dialling.ts'
import { TunnelListener } from './listener.ts'
import { FEATURE } from '../wire/hello.ts'
import { sessionsOf, type PeerState } from './peer-state.ts'
import { TUNNEL_LIMITS, type TunnelLimits } from '../limits.ts'
import { TunnelMeters } from './meters.ts'
import { PeerRegistry } from './registry.ts'
import type { SealedEndpoint } from '../sealed/contract.ts'
import type { TunnelSession } from '../session/session.ts'
import { ignore } from '../../../src/core/kit/ignore.ts'

export interface PeersOptions {
  self: NodeId
  dialers: readonly Dialer[]
  secure: Secure
  /** A stream another node opened; answer it within `limits.openTimeoutMs`. */
  accept: (incoming: IncomingStream) => void
  /** A node says something over its session; `payload` is good during the call only. */
  signalled?: (from: NodeId, payload: Buffer) => void
  /** How to reach a node that dialled us, so that a better path can be tried from this side too. */
  reach?: (node: NodeId) => NodeReach | undefined
  /** The relay by which a node is nearer than by the one in use. */
  nearer?: (node: NodeId, relay: string) => string | undefined
  /** Streams wait for a path, now; called as long as they do: whatever else may be dead should be looked at. */
  atRisk?: (node: NodeId) => void
  /** The operator's choice of paths, for what we dial and for what others dial; all of them without it. */
  allows?: (path: PathKind) => boolean
  /** False for a path that is only for want of another; without it the faster one is the better. */
  prefers?: (path: PathKind) => boolean
  /** Datagrams straight over UDP; without it they go as frames. */
  sealed?: SealedEndpoint | undefined
  /** This process takes over from another one of the node, which runs still. */
  isBeside?: boolean
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
  /** Says something to a node over its session, at most 2,048 bytes; false when that cannot be. Nobody knows whether it arrives. */
  signal(to: NodeId, payload: Buffer): boolean
  /** There is a way that was not there before, as to a relay that is back: sessions at risk are dialled at once. */
  wayBack(): void
  /** Ends the session with a node, its streams and the connections being made with it (revoked, or gone from the mesh). */
  cut(node: NodeId): void
  /** The machine's network is another one; `isHere`: whether a local address is still ours. Every path is looked at anew. */
  networkChanged(isHere: (address: string) => boolean): void
  /**
   * Says DRAIN to every peer and takes no new streams and no new sessions; what is open goes on, also over new carriers, until the
   * peers are closed. To be said before a successor with the same identity is heard by anybody.
   */
  drain(): void
}

const TICK_MS = 250
/** After this long without a session a node's figures are forgotten. */
const FORGET_MS = 3_600_000
/** For what the peer has not acknowledged when this node goes away. */
const LINGER_MS = 1_000

/**
 * All sessions of this node.
 *
 *     session(node) ─▶ live? ─▶ that one
 *                      resting after a failure (≤ 1 s) ─▶ NO_PATH at once
 *                      else one dial for all who ask: race of paths ─▶ secure ─▶ HELLO ─┐
 *     a session at risk ─▶ dialled anew until one carrier is sure ──────────────────────┤
 *     incoming(raw) ─▶ secure ─▶ HELLO ────────────────────────────────────────────────┴─▶ agree.ts ─▶ carrier joins session
 *
 *     every 250 ms: pings, dials for sessions at risk, more carriers and better paths (climbing.ts), idle carriers
 */
export function openPeers(options: PeersOptions): TunnelPeers {
  return new AllPeers(options)
}

class AllPeers implements TunnelPeers {
  readonly #options: PeersOptions
  readonly #clock: Clock
  readonly #roster: PeerRegistry
  readonly #meters: TunnelMeters
  readonly #door: TunnelListener
  readonly #dialling: Dialling
  readonly #asides: PinnedCarriers
  readonly #climbing: PathUpgrades
  readonly #life = new Lifetime()
  #closing: Promise<void> | undefined
  #idle: (() => void) | undefined

  constructor(options: PeersOptions) {
    const dialers = options.dialers.filter(({ path }) => options.allows?.(path) !== false)
    this.#options = { ...options, dialers }
    const limits = { ...TUNNEL_LIMITS, ...options.limits }
    const { clock = systemClock, random = Math.random, reach } = options
    const log = (options.log ?? silentLog).child({ part: 'tunnel' })
    const closing = this.#life.signal
    this.#clock = clock
    this.#meters = new TunnelMeters(
      options.metrics,
      dialers.map(({ path }) => path),
    )
    this.#roster = new PeerRegistry({
      peers: this.#options,
      limits,
      clock,
      log,
      random,
      meters: this.#meters,
      moved: (known) => this.#climbing.plan(known, 0),
      safe: (known) => this.#dialling.safe(known),
      suspended: (known) => this.#hurry(known),
      ended: () => this.#idle?.(),
    })
    const connector = new Connector({
      self: options.self,
      secure: options.secure,
      clock,
      meters: this.#meters,
      windowBytes: limits.windowBytes,
      features:
        FEATURE.resume |
        FEATURE.early |
        (options.signalled === undefined ? 0 : FEATURE.signals) |
        (options.sealed === undefined ? 0 : FEATURE.sealed) |
        (options.isBeside === true ? FEATURE.beside : 0),
      closing,
      know: (node) => this.#roster.know(node),
      join: (known, joining) => this.#roster.join(known, joining),
    })
    this.#door = new TunnelListener({ connector, limits, allows: options.allows, log, closing })
    this.#dialling = new Dialling({ dialers, connector, clock, reach, dials: limits.dials, closing })
    this.#climbing = new PathUpgrades({
      dialers,
      dialling: this.#dialling,
      reach,
      nearer: options.nearer,
      clock,
      random,
      prefers: options.prefers,
      log,
    })
    this.#asides = new PinnedCarriers({ dialling: this.#dialling, dialers, clock, random })
    this.#life.spawn(async (signal) => {
      while (!signal.aborted) {
        await this.#clock.sleep(TICK_MS, signal)
        if (!signal.aborted) this.#tick()
      }
    }, 'tunnel upkeep')
  }

  async session(node: NodeReach, signal: AbortSignal, rule = ANY_PATH): Promise<Session> {
    const known = this.#roster.know(node.id)
    known.reach = node
    if (this.#serves(known, rule)) return known.session
    const fail = (reason: string, cause: unknown) => new MeshError('NO_PATH', { node: node.id, reason }, { cause })
    if (this.#roster.isClosing) throw fail('this node goes away', undefined)
    if (signal.aborted) throw fail('given up', signal.reason)
    if (known.session?.isUsable === true || rule.allowed.size < ANY_PATH.allowed.size)
      return await unlessAborted(this.#asides.want(known, rule), signal)
    if (known.arriving === undefined && this.#clock.now() < known.restUntil) {
      throw fail('it was tried a moment ago', known.lastError)
    }
    const arriving = (known.arriving ?? this.#dialling.start(known)).promise
    return await unlessAborted(arriving, signal).catch((error: unknown) => {
      throw error === signal.reason ? fail('given up', error) : error
    })
  }

  existing(node: NodeId, rule = ANY_PATH): Session | undefined {
    const known = this.#roster.get(node)
    return known !== undefined && this.#serves(known, rule) ? known.session : undefined
  }

  /** Where the rule would like another path than there is, that is dialled for the flows that come later. */
  #serves(known: PeerState, rule: PathRule): known is PeerState & { session: TunnelSession } {
    const { session } = known
    if (session?.isUsableBy(rule) !== true) return false
    if (!isAny(rule) && !this.#roster.isClosing && !likes(rule, session.pathFor(rule) as PathKind))
      this.#asides.wish(known, rule)
    return true
  }

  all(): Iterable<Session> {
    return this.#roster.sessions()
  }

  rttMs(node: NodeId): number | undefined {
    return this.#roster.get(node)?.rttMs
  }

  incoming(raw: RawConnection): void {
    this.#door.take(raw)
  }

  signal(to: NodeId, payload: Buffer): boolean {
    return this.#roster.get(to)?.session?.signal(payload) === true
  }

  cut(node: NodeId): void {
    const known = this.#roster.get(node)
    if (known === undefined) return
    known.cuts += 1
    for (const session of sessionsOf(known)) session.cut(new MeshError('PEER_REFUSED', { node, reason: 'cut' }))
  }

  networkChanged(isHere: (address: string) => boolean): void {
    const now = this.#clock.now()
    for (const known of this.#roster.all()) {
      this.#dialling.afresh(known)
      this.#climbing.afresh(known, now)
      for (const session of sessionsOf(known)) session.networkChanged(isHere)
    }
  }

  wayBack(): void {
    for (const known of this.#roster.all())
      if (sessionsOf(known).some(({ isAtRisk }) => isAtRisk)) this.#dialling.soon(known)
  }

  drain(): void {
    this.#roster.drain()
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  // ── every so often ──

  #tick(): void {
    const now = this.#clock.now()
    for (const known of this.#roster.all()) {
      for (const session of sessionsOf(known)) {
        session.tick(now)
        this.#meters.count(session)
        if (session.isAtRisk) this.#hurry(known)
      }
      const { session } = known
      if (session?.missing !== undefined) this.#asides.want(known, session.missing).catch(ignore) // again at the next tick
      if (session?.isUsable === true) {
        if (!this.#roster.isClosing) this.#climbing.look(known, session, now)
      } else if (sessionsOf(known).length === 0 && known.dials === 0 && now - known.usedAt > FORGET_MS)
        this.#roster.forget(known)
    }
    this.#meters.gauge(this.#roster.sessions())
    this.#idle?.()
  }

  #hurry(known: PeerState): void {
    this.#options.atRisk?.(known.node)
    this.#dialling.redial(known)
  }

  // ── the end ──

  /** Takes no more, lets what is open end (up to `drainMs`), says goodbye. */
  async #close(): Promise<void> {
    this.drain()
    await this.#until(
      () => this.#roster.sessions().every(({ streams }) => streams === 0),
      this.#options.drainMs ?? 3_000,
    )
    if (this.#roster.sessions().every(({ streams }) => streams === 0))
      await this.#until(() => this.#roster.sessions().every(({ isQuiet }) => isQuiet), LINGER_MS)
    for (const session of this.#roster.sessions()) session.finish()
    await this.#until(() => this.#roster.sessions().length === 0, 1_500)
    for (const session of this.#roster.sessions())
      session.cut(new MeshError('SESSION_CLOSED', { reason: 'this node went away' }))
    await this.#life.close()
  }

  async #until(isSo: () => boolean, ms: number): Promise<void> {
    if (isSo()) return
    const reached = new AbortController()
    this.#idle = () => {
      if (isSo()) reached.abort()
    }
    await this.#clock.sleep(ms, reached.signal)
    this.#idle = undefined
  }
}
