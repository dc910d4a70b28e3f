import { randomBytes } from 'node:crypto'
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import PQueue from 'p-queue'
import { explain, MeshError } from '../../src/errors.ts'
import { Backoff } from '../../src/kit/backoff.ts'
import { systemClock, type Clock } from '../../src/kit/clock.ts'
import { Lifetime } from '../../src/kit/lifetime.ts'
import { silentLog, type Log } from '../../src/kit/log.ts'
import type { Metrics } from '../../src/metrics.ts'
import type { NodeId } from '../../src/model/ids.ts'
import type { NodeReach } from '../../src/model/node.ts'
import type { Dialer, RawConnection } from '../paths/contract.ts'
import { answerProposal, readAnswer, type Agreement } from './agree.ts'
import type { Carrier } from './carrier.ts'
import type { IncomingStream, PathKind, Peers, Session } from './contract.ts'
import { Deadline, unlessAborted } from './deadline.ts'
import { greet } from './greet.ts'
import { PROTOCOL_VERSION, type Hello } from './hello.ts'
import { TUNNEL_LIMITS, type TunnelLimits } from './limits.ts'
import { carriersWanted, rankOf } from './placement.ts'
import type { Pump } from './pump.ts'
import { race, RaceLost } from './race.ts'
import { TunnelSession } from './session.ts'

/** Proves who is at the other end and encrypts: TLS 1.3 with mesh certificates on both sides, the same on every path. */
export interface Secure {
  /** @throws any error when the other end is not `node`. Honours the signal. */
  connect(raw: RawConnection, node: NodeId, signal: AbortSignal): Promise<Duplex>
  accept(raw: RawConnection): Promise<{ peer: NodeId; stream: Duplex }>
}

export interface PeersOptions {
  self: NodeId
  dialers: readonly Dialer[]
  secure: Secure
  /** A stream another node opened; answer it within `limits.openTimeoutMs`. */
  accept: (incoming: IncomingStream) => void
  /** How to reach a node that dialled us, so that a better path can be tried from this side too. */
  reach?: (node: NodeId) => NodeReach | undefined
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
  /** Ends the session with a node, its streams and the connections being made with it (revoked, or gone from the mesh). */
  cut(node: NodeId): void
}

const TICK_MS = 250
const SECURE_MS = 5_000
const HELLO_MS = 5_000
/** All of one dial, over all paths. */
const DIAL_MS = 10_000
/** After this long without a session a node's figures are forgotten. */
const FORGET_MS = 3_600_000
/** When a better path is tried while traffic flows on a worse one; the last repeats. */
const CLIMB_MS = [5_000, 15_000, 60_000, 300_000]

/** A node we have, had, or want to have a session with. */
interface Known {
  readonly node: NodeId
  reach: NodeReach | undefined
  session: TunnelSession | undefined
  rttMs: number | undefined
  usedAt: number
  /** What our dials propose while there is no session; two dials propose the same. */
  proposal: string | undefined
  dials: number
  carrierNumber: number
  /** What callers of `session` wait for together. */
  arriving: PromiseWithResolvers<TunnelSession> | undefined
  readonly backoff: Backoff
  restUntil: number
  failure: unknown
  growAt: number
  climbAt: number
  climbs: number
  isImproving: boolean
  /** How often it was cut: a connection that began before that must not join after it. */
  cuts: number
}

/**
 * All sessions of this node.
 *
 *     session(node) ─▶ live? ─▶ that one
 *                      resting after a failure (≤ 1 s) ─▶ NO_PATH at once
 *                      else one dial for all who ask: race of paths ─▶ secure ─▶ HELLO ─┐
 *     incoming(raw) ─▶ secure ─▶ HELLO ────────────────────────────────────────────────┴─▶ agree.ts ─▶ carrier joins session
 *
 *     every 250 ms: pings, more carriers where streams are open, better paths, idle carriers
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
  readonly #incarnation = randomBytes(8).toString('hex')
  readonly #dials: PQueue
  readonly #life = new Lifetime()
  #unproven = 0
  #isClosing = false
  #closing: Promise<void> | undefined
  #idle: (() => void) | undefined

  constructor(options: PeersOptions) {
    this.#self = options.self
    this.#options = options
    this.#limits = { ...TUNNEL_LIMITS, ...options.limits }
    this.#clock = options.clock ?? systemClock
    this.#log = (options.log ?? silentLog).child({ part: 'tunnel' })
    this.#random = options.random ?? Math.random
    this.#dials = new PQueue({ concurrency: this.#limits.dials })
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

  async session(node: NodeReach, signal: AbortSignal): Promise<Session> {
    const known = this.#know(node.id)
    known.reach = node
    if (known.session?.isUsable === true) return known.session
    const fail = (reason: string, cause: unknown) => new MeshError('NO_PATH', { node: node.id, reason }, { cause })
    if (this.#isClosing) throw fail('this node goes away', undefined)
    if (signal.aborted) throw fail('given up', signal.reason)
    if (known.arriving === undefined && this.#clock.now() < known.restUntil) {
      throw fail('it was tried a moment ago', known.failure)
    }
    const arriving = (known.arriving ?? this.#startDial(known)).promise
    return await unlessAborted(arriving, signal).catch((error: unknown) => {
      throw error === signal.reason ? fail('given up', error) : error
    })
  }

  existing(node: NodeId): Session | undefined {
    const session = this.#known.get(node)?.session
    return session?.isUsable === true ? session : undefined
  }

  *all(): Iterable<Session> {
    for (const { session } of this.#known.values()) if (session !== undefined) yield session
  }

  rttMs(node: NodeId): number | undefined {
    return this.#known.get(node)?.rttMs
  }

  incoming(raw: RawConnection): void {
    raw.stream.on('error', ignore)
    if (this.#isClosing || this.#unproven >= this.#limits.unproven) {
      this.#log.warn('connection refused, too many are unproven', { address: raw.via, path: raw.path })
      raw.stream.destroy()
      return
    }
    this.#unproven += 1
    this.#accept(raw)
      .catch((error: unknown) => {
        raw.stream.destroy()
        this.#log.info('connection refused', { address: raw.via, path: raw.path, error })
      })
      .finally(() => {
        this.#unproven -= 1
      })
  }

  cut(node: NodeId): void {
    const known = this.#known.get(node)
    if (known === undefined) return
    known.cuts += 1
    known.session?.cut(new MeshError('PEER_REFUSED', { node, reason: 'cut' }))
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  // ── dialling ──

  #startDial(known: Known): PromiseWithResolvers<TunnelSession> {
    const arriving = Promise.withResolvers<TunnelSession>()
    known.arriving = arriving
    arriving.promise.catch(ignore) // everybody who asked may have given up
    void this.#dial(known, this.#options.dialers).then(
      (session) => {
        known.backoff.reset()
        arriving.resolve(session)
      },
      (error: unknown) => {
        known.failure = error
        known.restUntil = this.#clock.now() + known.backoff.nextMs()
        arriving.reject(error)
        if (known.arriving === arriving) known.arriving = undefined
      },
    )
    return arriving
  }

  /** @throws MeshError NO_PATH */
  async #dial(known: Known, dialers: readonly Dialer[]): Promise<TunnelSession> {
    const { reach } = known
    if (reach === undefined) throw new MeshError('NO_PATH', { node: known.node, reason: 'nothing is known of it' })
    known.dials += 1
    try {
      return await this.#dials.add(async () => {
        using limit = new Deadline(this.#clock, DIAL_MS, this.#life.signal)
        const runners = dialers
          .filter((dialer) => dialer.suits(reach))
          .map((dialer) => ({
            path: dialer.path,
            run: (signal: AbortSignal) => this.#attempt(known, reach, dialer, signal),
          }))
        return await race(runners, this.#clock, limit.signal)
      })
    } catch (cause) {
      const tried =
        cause instanceof RaceLost
          ? cause.failures.map(({ path, error }) => `${path}: ${explain(error)}`)
          : [explain(cause)]
      throw new MeshError(
        'NO_PATH',
        { node: known.node, tried },
        { cause: cause instanceof RaceLost ? cause.cause : cause },
      )
    } finally {
      known.dials -= 1
      if (known.dials === 0) known.proposal = undefined
    }
  }

  async #attempt(known: Known, reach: NodeReach, dialer: Dialer, signal: AbortSignal): Promise<TunnelSession> {
    let raw: RawConnection | undefined
    try {
      const { cuts } = known
      const dialled = dialer.dial(reach, signal)
      raw = await unlessAborted(dialled, signal).catch((error: unknown) => {
        dialled.then(({ stream }) => stream.on('error', ignore).destroy(), ignore) // it may still come
        throw error
      })
      const stream = await this.#secured(raw, (limit) => this.#options.secure.connect(raw!, reach.id, limit), signal)
      signal.throwIfAborted() // the race is over: nobody may hear of this connection
      return await this.#greetAsDialler(known, { stream, path: raw.path, cuts })
    } catch (error) {
      raw?.stream.on('error', ignore).destroy()
      this.#options.metrics?.dials.labels(dialer.path, signal.aborted ? 'outrun' : 'failed').inc()
      throw error
    }
  }

  /** From here on the race does not matter: the peer may put streams on this carrier as soon as it has our HELLO. */
  async #greetAsDialler(known: Known, link: Link): Promise<TunnelSession> {
    using limit = new Deadline(this.#clock, HELLO_MS, this.#life.signal)
    let joined: TunnelSession | undefined
    known.proposal ??= randomBytes(16).toString('hex')
    known.carrierNumber += 2
    const proposal = this.#hello(known.session?.key.id ?? known.proposal, known.carrierNumber)
    await greet(
      {
        ...link,
        now: () => this.#clock.now(),
        proposal,
        meet: (theirs, carrier, pump) => {
          const agreement = readAnswer(keyOf(known.session), theirs)
          const session = this.#join(known, { agreement, theirs, carrier, pump, isDialler: true, cuts: link.cuts })
          joined = session
          return (reason) => session.lost(carrier, reason)
        },
      },
      limit.signal,
    )
    this.#options.metrics?.dials.labels(link.path, 'ok').inc()
    return joined!
  }

  // ── accepting ──

  async #accept(raw: RawConnection): Promise<void> {
    const { peer, stream } = await this.#secured(raw, () => this.#options.secure.accept(raw), this.#life.signal)
    if (peer === this.#self) throw new MeshError('PEER_REFUSED', { node: peer, reason: 'it is ourselves' })
    const known = this.#know(peer)
    const link: Link = { stream, path: raw.path, cuts: known.cuts }
    using limit = new Deadline(this.#clock, HELLO_MS, this.#life.signal)
    await greet(
      {
        ...link,
        now: () => this.#clock.now(),
        meet: (theirs, carrier, pump) => {
          const pending = known.dials > 0 ? known.proposal : undefined
          const mine = { isFirst: this.#self < peer, current: keyOf(known.session), pending }
          const agreement = answerProposal(mine, theirs)
          carrier.greet(this.#hello(agreement.id, theirs.carrier))
          const session = this.#join(known, { agreement, theirs, carrier, pump, isDialler: false, cuts: link.cuts })
          return (reason) => session.lost(carrier, reason)
        },
      },
      limit.signal,
    )
  }

  /** Bounds the proof of identity, and closes the connection when it does not come in time. */
  async #secured<T>(raw: RawConnection, prove: (limit: AbortSignal) => Promise<T>, signal: AbortSignal): Promise<T> {
    using limit = new Deadline(this.#clock, SECURE_MS, signal)
    raw.stream.on('error', ignore)
    if (raw.stream instanceof Socket) raw.stream.setNoDelay(true)
    try {
      return await unlessAborted(prove(limit.signal), limit.signal)
    } catch (error) {
      raw.stream.destroy()
      throw error
    }
  }

  // ── sessions ──

  #join(known: Known, joining: Joining): TunnelSession {
    const { agreement, theirs, carrier, pump, isDialler } = joining
    if (this.#isClosing || joining.cuts !== known.cuts) throw new MeshError('PEER_REFUSED', { node: known.node })
    if (agreement.cutsCurrent) {
      known.session?.cut(new MeshError('SESSION_CLOSED', { reason: 'the peer has begun a new session' }))
      known.session = undefined
    }
    known.session ??= this.#begin(known, { id: agreement.id, incarnation: theirs.incarnation }, isDialler)
    const { session } = known
    if (session.carriers >= this.#limits.carriers)
      throw new MeshError('SESSION_CLOSED', { reason: 'too many carriers' })
    const before = session.carriers === 0 ? undefined : session.path
    session.attach(carrier, pump, theirs)
    if (before === undefined) this.#log.info('session open', { peer: known.node, path: carrier.path })
    else if (session.path !== before) this.#log.info('session moved', { peer: known.node, path: session.path })
    if (session.path !== before) this.#planClimb(known, 0)
    known.arriving?.resolve(session)
    known.arriving = undefined
    this.#gauge()
    return session
  }

  #begin(known: Known, key: { id: string; incarnation: string }, isDialler: boolean): TunnelSession {
    const session: TunnelSession = new TunnelSession({
      peer: known.node,
      key,
      isDialler,
      opens: this.#self < known.node ? 'odd' : 'even',
      limits: this.#limits,
      now: () => this.#clock.now(),
      accept: this.#options.accept,
      rtt: (carrier, rttMs) => {
        known.rttMs = session.rttMs
        this.#options.metrics?.rtt.labels(carrier.path).observe(rttMs / 1000)
      },
      ignored: () => this.#options.metrics?.framesIgnored.inc(),
      ended: (reason) => {
        if (known.session === session) known.session = undefined
        known.usedAt = this.#clock.now()
        this.#log.info('session closed', { peer: known.node, ...(reason === undefined ? {} : { error: reason }) })
        this.#countBytes(session)
        this.#gauge()
        this.#idle?.()
      },
    })
    return session
  }

  #hello(session: string, carrier: number): Hello {
    return {
      version: PROTOCOL_VERSION,
      carrier,
      windowBytes: this.#limits.windowBytes,
      features: 0,
      incarnation: this.#incarnation,
      session,
    }
  }

  #know(node: NodeId): Known {
    let known = this.#known.get(node)
    if (known === undefined) {
      known = {
        node,
        reach: undefined,
        session: undefined,
        rttMs: undefined,
        usedAt: this.#clock.now(),
        proposal: undefined,
        dials: 0,
        carrierNumber: this.#self < node ? 1 : 0,
        arriving: undefined,
        backoff: new Backoff({ firstMs: 100, limitMs: 1_000, random: this.#random }),
        restUntil: 0,
        failure: undefined,
        growAt: 0,
        climbAt: Number.POSITIVE_INFINITY,
        climbs: 0,
        isImproving: false,
        cuts: 0,
      }
      this.#known.set(node, known)
    }
    return known
  }

  // ── every so often ──

  #tick(): void {
    const now = this.#clock.now()
    for (const known of this.#known.values()) {
      known.session?.tick(now)
      const { session } = known
      if (session?.isUsable === true) this.#improve(known, session, now)
      else if (session === undefined && known.dials === 0 && now - known.usedAt > FORGET_MS)
        this.#known.delete(known.node)
      if (session !== undefined) this.#countBytes(session)
    }
    this.#gauge()
    this.#idle?.()
  }

  /** More carriers where streams are open, and better paths. */
  #improve(known: Known, session: TunnelSession, now: number): void {
    if (known.isImproving || this.#isClosing) return
    known.reach ??= this.#options.reach?.(known.node)
    const { reach } = known
    if (reach === undefined) return
    const wanted = carriersWanted({ path: session.path, streams: session.streams })
    if (session.isDialler && session.carriersInUse < wanted && now >= known.growAt) {
      known.growAt = now + CLIMB_MS[0]!
      this.#try(known, (dialer) => dialer.path === session.path)
      return
    }
    if (now < known.climbAt) return
    this.#planClimb(known, known.climbs + 1)
    const isBetter = (dialer: Dialer) => rankOf(dialer.path) < rankOf(session.path) && dialer.suits(reach)
    if (this.#options.dialers.some(isBetter)) this.#try(known, isBetter)
  }

  #try(known: Known, isWanted: (dialer: Dialer) => boolean): void {
    known.isImproving = true
    this.#dial(known, this.#options.dialers.filter(isWanted))
      .catch((error: unknown) => this.#log.debug('no better way yet', { peer: known.node, error }))
      .finally(() => {
        known.isImproving = false
      })
  }

  #planClimb(known: Known, climbs: number): void {
    known.climbs = climbs
    const ms = CLIMB_MS[Math.min(climbs, CLIMB_MS.length - 1)]!
    known.climbAt = this.#clock.now() + ms * (0.75 + this.#random() / 2)
  }

  readonly #counted = new WeakMap<TunnelSession, { bytesIn: number; bytesOut: number }>()

  #countBytes(session: TunnelSession): void {
    const { metrics } = this.#options
    if (metrics === undefined) return
    const { bytesIn, bytesOut } = session
    const before = this.#counted.get(session) ?? { bytesIn: 0, bytesOut: 0 }
    metrics.tunnelBytes.labels('in').inc(bytesIn - before.bytesIn)
    metrics.tunnelBytes.labels('out').inc(bytesOut - before.bytesOut)
    this.#counted.set(session, { bytesIn, bytesOut })
  }

  #gauge(): void {
    const { metrics } = this.#options
    if (metrics === undefined) return
    const sessions = new Map<PathKind, number>()
    const carriers = new Map<PathKind, number>()
    let streams = 0
    for (const { session } of this.#known.values()) {
      if (session === undefined) continue
      streams += session.streams
      sessions.set(session.path, (sessions.get(session.path) ?? 0) + 1)
      for (const path of session.carrierPaths()) carriers.set(path, (carriers.get(path) ?? 0) + 1)
    }
    metrics.streamsOpen.set(streams)
    for (const { path } of this.#options.dialers) {
      metrics.sessionsOpen.labels(path).set(sessions.get(path) ?? 0)
      metrics.carriersOpen.labels(path).set(carriers.get(path) ?? 0)
    }
  }

  // ── the end ──

  /** Takes no more, lets what is open end (up to `drainMs`), says goodbye. */
  async #close(): Promise<void> {
    this.#isClosing = true
    const sessions = () => [...this.#known.values()].flatMap(({ session }) => session ?? [])
    for (const session of sessions()) session.drain()
    await this.#until(() => sessions().every((session) => session.streams === 0), this.#options.drainMs ?? 3_000)
    for (const session of sessions()) session.finish()
    await this.#until(() => sessions().length === 0, 1_500)
    for (const session of sessions()) session.cut(new MeshError('SESSION_CLOSED', { reason: 'this node went away' }))
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

interface Link {
  stream: Duplex
  path: PathKind
  /** Of the node, when this connection began. */
  cuts: number
}

interface Joining {
  agreement: Agreement
  theirs: Hello
  carrier: Carrier
  pump: Pump
  isDialler: boolean
  cuts: number
}

function keyOf(session: TunnelSession | undefined) {
  return session === undefined || session.hasEnded ? undefined : session.key
}

function ignore(): void {
  // an end that was asked for
}
