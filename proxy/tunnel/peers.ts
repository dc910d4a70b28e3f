import { MeshError } from '../../src/errors.ts'
import { systemClock, type Clock } from '../../src/kit/clock.ts'
import { Lifetime } from '../../src/kit/lifetime.ts'
import { silentLog, type Log } from '../../src/kit/log.ts'
import type { Metrics } from '../../src/metrics.ts'
import type { NodeId } from '../../src/model/ids.ts'
import type { NodeReach } from '../../src/model/node.ts'
import { ANY_PATH, isAny, likes, type PathRule } from '../../src/model/path-rule.ts'
import type { Dialer, RawConnection } from '../paths/contract.ts'
import type { SessionKey } from './agree.ts'
import { Asides } from './asides.ts'
import { Climbing } from './climbing.ts'
import { Connector, type Joining, type Secure } from './connect.ts'
import type { IncomingStream, PathKind, Peers, Session } from './contract.ts'
import { unlessAborted } from './deadline.ts'
import { Dialling } from './dialling.ts'
import { FEATURE } from './hello.ts'
import { newlyKnown, sessionsOf, type Known } from './known.ts'
import { TUNNEL_LIMITS, type TunnelLimits } from './limits.ts'
import { Meters } from './meters.ts'
import type { SealedRoom } from './sealed/contract.ts'
import { TunnelSession } from './session.ts'

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
  sealed?: SealedRoom | undefined
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
/** Beyond the limit of a session's carriers, for rules that ask for a path it does not use. */
const ASIDES = 2
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
  readonly #self: NodeId
  readonly #options: PeersOptions
  readonly #limits: TunnelLimits
  readonly #clock: Clock
  readonly #log: Log
  readonly #random: () => number
  readonly #known = new Map<NodeId, Known>()
  readonly #meters: Meters
  readonly #connector: Connector
  readonly #dialling: Dialling
  readonly #asides: Asides
  readonly #climbing: Climbing
  readonly #life = new Lifetime()
  #unproven = 0
  #isClosing = false
  #closing: Promise<void> | undefined
  #idle: (() => void) | undefined

  constructor(options: PeersOptions) {
    this.#self = options.self
    const dialers = options.dialers.filter(({ path }) => options.allows?.(path) !== false)
    this.#options = { ...options, dialers }
    this.#limits = { ...TUNNEL_LIMITS, ...options.limits }
    this.#clock = options.clock ?? systemClock
    this.#log = (options.log ?? silentLog).child({ part: 'tunnel' })
    this.#random = options.random ?? Math.random
    this.#meters = new Meters(
      options.metrics,
      dialers.map(({ path }) => path),
    )
    this.#connector = new Connector({
      self: options.self,
      secure: options.secure,
      clock: this.#clock,
      meters: this.#meters,
      windowBytes: this.#limits.windowBytes,
      features:
        FEATURE.resume |
        FEATURE.early |
        (options.signalled === undefined ? 0 : FEATURE.signals) |
        (options.sealed === undefined ? 0 : FEATURE.sealed) |
        (options.isBeside === true ? FEATURE.beside : 0),
      closing: this.#life.signal,
      know: (node) => this.#know(node),
      join: (known, joining) => this.#join(known, joining),
    })
    this.#dialling = new Dialling({
      dialers,
      connector: this.#connector,
      clock: this.#clock,
      reach: options.reach,
      dials: this.#limits.dials,
      closing: this.#life.signal,
    })
    this.#climbing = new Climbing({
      dialers,
      dialling: this.#dialling,
      reach: options.reach,
      nearer: options.nearer,
      clock: this.#clock,
      random: this.#random,
      prefers: options.prefers,
      log: this.#log,
    })
    this.#asides = new Asides({ dialling: this.#dialling, dialers, clock: this.#clock, random: this.#random })
    this.#life.spawn(
      async (signal) => {
        while (!signal.aborted) {
          await this.#clock.sleep(TICK_MS, signal)
          if (!signal.aborted) this.#tick()
        }
      },
      (error) => this.#log.error('the tunnel clock stopped', { error }),
    )
  }

  async session(node: NodeReach, signal: AbortSignal, rule = ANY_PATH): Promise<Session> {
    const known = this.#know(node.id)
    known.reach = node
    if (this.#serves(known, rule)) return known.session
    const fail = (reason: string, cause: unknown) => new MeshError('NO_PATH', { node: node.id, reason }, { cause })
    if (this.#isClosing) throw fail('this node goes away', undefined)
    if (signal.aborted) throw fail('given up', signal.reason)
    if (known.session?.isUsable === true || rule.allowed.size < ANY_PATH.allowed.size)
      return await unlessAborted(this.#asides.want(known, rule), signal)
    if (known.arriving === undefined && this.#clock.now() < known.restUntil) {
      throw fail('it was tried a moment ago', known.failure)
    }
    const arriving = (known.arriving ?? this.#dialling.start(known)).promise
    return await unlessAborted(arriving, signal).catch((error: unknown) => {
      throw error === signal.reason ? fail('given up', error) : error
    })
  }

  existing(node: NodeId, rule = ANY_PATH): Session | undefined {
    const known = this.#known.get(node)
    return known !== undefined && this.#serves(known, rule) ? known.session : undefined
  }

  /** Where the rule would like another path than there is, that is dialled for the flows that come later. */
  #serves(known: Known, rule: PathRule): known is Known & { session: TunnelSession } {
    const { session } = known
    if (session?.isUsableBy(rule) !== true) return false
    if (!isAny(rule) && !this.#isClosing && !likes(rule, session.pathFor(rule) as PathKind))
      this.#asides.wish(known, rule)
    return true
  }

  all(): Iterable<Session> {
    return this.#sessions()
  }

  rttMs(node: NodeId): number | undefined {
    return this.#known.get(node)?.rttMs
  }

  incoming(raw: RawConnection): void {
    raw.stream.on('error', ignore)
    if (this.#options.allows?.(raw.path) === false) {
      this.#log.info('connection refused, its path is forbidden', { address: raw.via, path: raw.path })
      raw.stream.destroy()
      return
    }
    if (this.#life.signal.aborted || this.#unproven >= this.#limits.unproven) {
      this.#log.warn('connection refused, too many are unproven', { address: raw.via, path: raw.path })
      raw.stream.destroy()
      return
    }
    this.#unproven += 1
    this.#connector
      .accept(raw)
      .catch((error: unknown) => {
        raw.stream.destroy()
        this.#log.info('connection refused', { address: raw.via, path: raw.path, error })
      })
      .finally(() => {
        this.#unproven -= 1
      })
  }

  signal(to: NodeId, payload: Buffer): boolean {
    return this.#known.get(to)?.session?.signal(payload) === true
  }

  cut(node: NodeId): void {
    const known = this.#known.get(node)
    if (known === undefined) return
    known.cuts += 1
    for (const session of sessionsOf(known)) session.cut(new MeshError('PEER_REFUSED', { node, reason: 'cut' }))
  }

  networkChanged(isHere: (address: string) => boolean): void {
    const now = this.#clock.now()
    for (const known of this.#known.values()) {
      this.#dialling.afresh(known)
      this.#climbing.afresh(known, now)
      for (const session of sessionsOf(known)) session.networkChanged(isHere)
    }
  }

  wayBack(): void {
    for (const known of this.#known.values())
      if (sessionsOf(known).some(({ isAtRisk }) => isAtRisk)) this.#dialling.soon(known)
  }

  drain(): void {
    this.#isClosing = true
    for (const session of this.#sessions()) session.drain()
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  // ── sessions ──

  #join(known: Known, joining: Joining): TunnelSession {
    const { agreement, theirs, carrier, pump, isDialler } = joining
    if (this.#options.allows?.(carrier.path) === false)
      throw new MeshError('PEER_REFUSED', {
        node: known.node,
        reason: `paths of kind ${carrier.path} are forbidden here`,
      })
    if (joining.cuts !== known.cuts) throw new MeshError('PEER_REFUSED', { node: known.node })
    if (agreement.cutsCurrent) {
      known.session?.cut(new MeshError('SESSION_CLOSED', { reason: 'the peer has begun a new session' }))
      known.session = undefined
    }
    const key = { id: agreement.id, incarnation: theirs.incarnation }
    const isSame = (one: SessionKey) => one.id === key.id && one.incarnation === key.incarnation
    if (known.session?.isPresumed === true) known.session.agreed(key)
    const held = sessionsOf(known).find((session) => isSame(session.key))
    // whoever goes away takes carriers for what is open; a peer that wants a new session must find the successor
    if (this.#isClosing && (held === undefined || (!isDialler && theirs.session !== agreement.id))) {
      throw new MeshError('PEER_REFUSED', { node: known.node, reason: 'this node goes away' })
    }
    const session = held ?? this.#begin(known, key, isDialler)
    carrier.isAside = joining.role === 'aside'
    const most = this.#limits.carriers + (carrier.isAside ? ASIDES : 0)
    if (session.carriers >= most && !session.makeRoom())
      throw new MeshError('SESSION_CLOSED', { reason: 'too many carriers' })
    const before = held === undefined ? undefined : session.path
    if (joining.role === 'instead' && before !== undefined && before !== carrier.path)
      known.paths.shun(before, this.#clock.now())
    session.attach(carrier, pump, theirs, joining.role === 'instead')
    if (before === undefined) this.#log.info('session open', { peer: known.node, path: carrier.path })
    else if (session.path !== before) this.#log.info('session moved', { peer: known.node, path: session.path })
    if (session.path !== before) this.#climbing.plan(known, 0)
    if (!session.isAtRisk) this.#dialling.safe(known)
    if (session === known.session && !session.isLeaving) {
      known.arriving?.resolve(session)
      known.arriving = undefined
    }
    this.#meters.gauge(this.#sessions())
    return session
  }

  #begin(known: Known, key: SessionKey, isDialler: boolean): TunnelSession {
    const over = (session: TunnelSession) => {
      if (known.session === session) known.session = undefined
      known.past.delete(session)
      known.usedAt = this.#clock.now()
    }
    const session: TunnelSession = new TunnelSession({
      peer: known.node,
      key,
      sealed: this.#options.sealed,
      isDialler,
      ids: known.ids,
      limits: this.#limits,
      now: () => this.#clock.now(),
      accept: this.#options.accept,
      rtt: (carrier, rttMs) => {
        known.rttMs = session.rttMs
        if (session.isCalm) known.paths.measured(carrier.path, carrier.pulse.rttMs ?? rttMs, this.#clock.now())
        this.#meters.rtt(carrier.path, rttMs)
      },
      signalled: (payload) => this.#options.signalled?.(known.node, payload),
      ignored: () => this.#meters.ignored(),
      suspended: () => {
        this.#log.info('session waits for a path', { peer: known.node, streams: session.streams })
        this.#options.atRisk?.(known.node)
        this.#dialling.redial(known)
      },
      resumed: (pauseMs) => {
        this.#log.info('session resumed', { peer: known.node, path: session.path, streams: session.streams, pauseMs })
        this.#meters.resumed(pauseMs)
      },
      ended: (reason) => {
        over(session)
        this.#log.info('session closed', { peer: known.node, ...(reason === undefined ? {} : { error: reason }) })
        this.#meters.count(session)
        this.#meters.gauge(this.#sessions())
        this.#idle?.()
      },
    })
    if (known.session !== undefined) known.past.add(known.session) // it finishes its flows beside the new one
    known.session = session
    return session
  }

  #know(node: NodeId): Known {
    let known = this.#known.get(node)
    if (known === undefined) {
      known = newlyKnown(node, this.#self < node, this.#clock.now(), this.#random)
      this.#known.set(node, known)
    }
    return known
  }

  #sessions(): TunnelSession[] {
    return [...this.#known.values()].flatMap(sessionsOf)
  }

  // ── every so often ──

  #tick(): void {
    const now = this.#clock.now()
    for (const known of this.#known.values()) {
      for (const session of sessionsOf(known)) {
        session.tick(now)
        this.#meters.count(session)
        if (!session.isAtRisk) continue
        this.#options.atRisk?.(known.node)
        this.#dialling.redial(known)
      }
      const { session } = known
      if (session?.missing !== undefined) this.#asides.want(known, session.missing).catch(ignore) // again at the next tick
      if (session?.isUsable === true) {
        if (!this.#isClosing) this.#climbing.look(known, session, now)
      } else if (sessionsOf(known).length === 0 && known.dials === 0 && now - known.usedAt > FORGET_MS)
        this.#known.delete(known.node)
    }
    this.#meters.gauge(this.#sessions())
    this.#idle?.()
  }

  // ── the end ──

  /** Takes no more, lets what is open end (up to `drainMs`), says goodbye. */
  async #close(): Promise<void> {
    this.drain()
    await this.#until(() => this.#sessions().every(({ streams }) => streams === 0), this.#options.drainMs ?? 3_000)
    if (this.#sessions().every(({ streams }) => streams === 0))
      await this.#until(() => this.#sessions().every(({ isQuiet }) => isQuiet), LINGER_MS)
    for (const session of this.#sessions()) session.finish()
    await this.#until(() => this.#sessions().length === 0, 1_500)
    for (const session of this.#sessions())
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

function ignore(): void {
  // an end that was asked for
}
