import type { NodeId } from '../../../src/core/model/ids.ts'
import { ANY_PATH, type PathRule, type PathKind } from '../../../src/core/model/path-rule.ts'
import { MeshError } from '../../../src/core/errors.ts'
import type { Carrier } from '../carrier/carrier.ts'
import type { CarrierOwner, Pump } from '../carrier/pump.ts'
import type {
  ByteStream,
  ByteStreamEvents,
  DatagramStream,
  DatagramStreamEvents,
  IncomingStream,
  OpeningEvents,
  Route,
  Session,
  SessionReport,
  Withdrawable,
} from '../contract.ts'
import type { TunnelLimits } from '../limits.ts'
import { CarrierSet } from './carrier-set.ts'
import { SessionIdentity, type SessionKey } from './identity.ts'
import { SessionLife } from './life.ts'
import { checkPromise, type Hello } from '../wire/hello.ts'
import { Mux } from './mux.ts'
import type { MuxOwner, StreamIds } from './mux-parts.ts'
import { outranked } from './placement.ts'
import type { SealedLink, SealedEndpoint } from '../sealed/contract.ts'

/** What a session reports to: each method is called once for each event. */
export interface SessionOwner {
  /** The peer has opened a stream. */
  accept(incoming: IncomingStream): void
  /** The peer has sent a signal; `payload` is good during the call only. */
  signalled(session: TunnelSession, payload: Buffer): void
  roundTripMeasured(session: TunnelSession, carrier: Carrier, rttMs: number): void
  frameIgnored(): void
  /** The last carrier is gone, and streams wait for the next one. */
  sessionSuspended(session: TunnelSession): void
  /** Streams go on after `pauseMs` without a carrier. */
  sessionResumed(session: TunnelSession, pauseMs: number): void
  /** Nothing is left of the session; no `reason`: it was closed in good order. */
  sessionEnded(session: TunnelSession, reason: Error | undefined): void
}

export interface SessionOptions {
  peer: NodeId
  key: SessionKey
  owner: SessionOwner
  /** Makes this session's sealed datagrams. */
  sealed?: SealedEndpoint | undefined
  /** Whether our dial made it: that side brings up more carriers. */
  isDialler: boolean
  ids: StreamIds
  limits: TunnelLimits
  now: () => number
}

/** How a carrier joins: `isInstead` drains every carrier on another path or through another relay, as those are slow now. */
export interface Attachment {
  carrier: Carrier
  pump: Pump
  hello: Hello
  isInstead?: boolean
}

/** What meters count and soak tests check. */
export interface SessionFigures {
  bytesIn: number
  bytesOut: number
  /** Streams that changed carriers. */
  moved: number
  /** Datagrams that went in frames, and that were dropped on the way there. */
  frames: { sent: number; dropped: number }
  /** Bytes kept until the peer acknowledges them, now and at most. */
  retainedBytes: number
  retainedPeak: number
  /** How often all carriers had died and streams went on, and the longest that took. */
  resumes: number
  longestPauseMs: number
}

/** Without streams for this long, a session gives its carriers back; the next flow dials again. */
const IDLE_MS = 15 * 60_000
/** A path that is back within `resumeMs` needs this long to be dialled and proven. */
const SETTLE_MS = 2_000

/**
 * Everything shared with one peer: streams (mux.ts) over carriers (carrier-set.ts). life.ts draws the states.
 *
 * When a carrier dies:
 *
 *     Pump.cut ─▶ carrierLost ─▶ Failover.detach: its streams move to other carriers
 *                    └── no carrier is left ─▶ suspended ─▶ SessionOwner.sessionSuspended: somebody dials
 *     a dial succeeds ─▶ attach ─▶ Failover.attach: RESUME, and every stream goes on ─▶ up ─▶ SessionOwner.sessionResumed
 */
export class TunnelSession implements Session, CarrierOwner, MuxOwner {
  readonly peer: NodeId
  readonly identity: SessionIdentity
  readonly carriers: CarrierSet
  readonly #life = new SessionLife()
  readonly #mux: Mux
  readonly #sealed: SealedLink | undefined
  readonly #options: SessionOptions
  /** Kept for the time without a carrier. */
  #path: PathKind = 'direct'
  #rttMs: number | undefined
  #usedAt: number

  constructor(options: SessionOptions) {
    const { peer, limits, now, ids } = options
    this.peer = peer
    this.identity = new SessionIdentity(options.key, options.isDialler)
    this.#options = options
    this.#usedAt = now()
    const deliver = (stream: number, payload: Buffer) => this.#mux.datagram(stream, payload)
    this.#sealed = options.sealed?.link({ peer, deliver })
    this.#mux = new Mux({ peer, owner: this, ids, limits, now, sealed: this.#sealed })
    this.carriers = new CarrierSet({ mux: this.#mux, limit: limits.carriers, now })
  }

  get path(): PathKind {
    return this.carriers.best?.path ?? this.#path
  }

  get rttMs(): number | undefined {
    return this.#mux.rttMs ?? this.#rttMs
  }

  get streams(): number {
    return this.#mux.streams
  }

  get hasEnded(): boolean {
    return this.#life.hasEnded
  }

  /** The peer goes away: what is open may end, the next flow needs another session. */
  get isLeaving(): boolean {
    return this.#mux.isPeerDraining
  }

  isUsableBy(rule: PathRule): boolean {
    return !this.hasEnded && !this.isLeaving && this.route(rule) !== undefined
  }

  /** A stream opened now would get a carrier, and the peer would take it. */
  get isUsable(): boolean {
    return this.isUsableBy(ANY_PATH)
  }

  route(rule: PathRule): Route | undefined {
    return this.#mux.route(rule)
  }

  /** What a stream waits for, while there are carriers that it may not be on. */
  get missing(): PathRule | undefined {
    return this.#mux.failover.missing
  }

  /** Streams are open, and no carrier is surely alive: one must be made at once. */
  get isAtRisk(): boolean {
    return !this.hasEnded && !this.#mux.isVoid && this.#mux.carriers.every(({ isDoubtful }) => isDoubtful)
  }

  /** Every stream has ended, and the peer knows. */
  get isQuiet(): boolean {
    return this.#mux.isQuiet
  }

  /** No bulk stream makes round trips longer now. */
  get isCalm(): boolean {
    return this.#mux.accounting.bulkDetector.bulks === 0
  }

  /** This side brings carriers up, and there are fewer on the path in use than the streams want. */
  get wantsCarrier(): boolean {
    const { path } = this
    return this.identity.isDialler && this.carriers.inUse(path).length < this.carriers.wanted(path)
  }

  report(): SessionReport {
    const { carriers } = this.#mux
    return {
      relay: this.carriers.best?.relay,
      carrierPaths: carriers.map(({ path }) => path),
      pinnedPaths: carriers.filter(({ isPinned }) => isPinned).map(({ path }) => path),
      bytesIn: this.carriers.bytesIn,
      bytesOut: this.carriers.bytesOut,
      datagrams: this.#sealed?.mode ?? 'frames',
      cipher: this.carriers.best?.cipher,
      sealedWith: this.#sealed?.sealedWith,
    }
  }

  figures(): SessionFigures {
    const { bytesIn, bytesOut, frames } = this.carriers
    const { failover, accounting } = this.#mux
    const { keptBytes: retainedBytes, keptPeak: retainedPeak } = accounting
    return { bytesIn, bytesOut, frames, moved: failover.moved, retainedBytes, retainedPeak, ...this.#life.pauses }
  }

  signal(payload: Buffer): boolean {
    return !this.hasEnded && this.#mux.signal(payload)
  }

  open(request: Buffer, events: OpeningEvents & ByteStreamEvents, rule?: PathRule): ByteStream & Withdrawable {
    this.#usedAt = this.#options.now()
    return this.#mux.open(request, events, rule)
  }

  openDatagrams(
    request: Buffer,
    events: OpeningEvents & DatagramStreamEvents,
    rule?: PathRule,
  ): DatagramStream & Withdrawable {
    this.#usedAt = this.#options.now()
    return this.#mux.openDatagrams(request, events, rule)
  }

  // ── carriers come and go ──

  /** Takes a carrier over; carriers on worse paths get no new streams from now on, and are closed when theirs have left. */
  attach({ carrier, pump, hello, isInstead = false }: Attachment): void {
    carrier.attach(this.#mux, hello)
    this.#mux.failover.attach(carrier)
    this.carriers.add(carrier, pump)
    carrier.tick(true) // measures the round trip at once
    this.#path = this.path
    const { carriers } = this.#mux
    const left = isInstead ? carriers.filter((one) => !one.isPinned && isElsewhere(one, carrier)) : outranked(carriers)
    for (const worse of left) worse.drain()
    const pauseMs = this.#life.resume(this.#options.now())
    if (pauseMs !== undefined) this.#options.owner.sessionResumed(this, pauseMs)
  }

  /** The answer on a carrier that was attached before it came. @throws MeshError when the peer has put its streams elsewhere */
  answered(carrier: Carrier, hello: Hello): void {
    checkPromise(hello)
    const key = { id: hello.session, incarnation: hello.incarnation }
    this.identity.agree(key)
    if (!this.identity.is(key)) {
      const reason = new MeshError('SESSION_CLOSED', { reason: 'the peer has given two answers' })
      this.cut(reason)
      throw reason
    }
    carrier.attach(this.#mux, hello)
    this.#mux.answered(carrier)
  }

  /** The connection of a carrier is gone: its streams move to another one, wait for the next, or end with the session. */
  carrierLost(carrier: Carrier, reason: Error | undefined): void {
    if (!this.carriers.delete(carrier)) return
    this.#rttMs = this.#mux.rttMs ?? this.#rttMs
    // a peer that breaks the rules loses everything, not one carrier
    if (reason instanceof MeshError && reason.code === 'FRAME_INVALID') this.cut(reason)
    this.#mux.failover.detach(carrier)
    if (!this.carriers.isEmpty || this.hasEnded) return
    if (this.#mayResume) this.#suspend()
    else this.#end(reason)
  }

  /** Carriers from an address that is gone are dead, although no packet tells us; the others are probed at once. */
  networkChanged(isHere: (address: string) => boolean): void {
    this.carriers.networkChanged(isHere)
  }

  tick(now: number): void {
    if (this.hasEnded) return
    if (!this.#mux.isVoid) this.#usedAt = now
    this.carriers.tick(now, now - this.#usedAt >= IDLE_MS)
    this.#mux.tick(now)
    if (this.identity.isDialler) this.carriers.giveBack(now, this.path)
    const suspendedMs = this.#life.suspendedMs(now)
    if (suspendedMs === undefined) return
    const isLate = suspendedMs > this.#options.limits.resumeMs + SETTLE_MS
    if (isLate || this.#mux.isVoid) this.#end(new MeshError('SESSION_CLOSED', { reason: 'no path came back' }))
  }

  // ── what the mux reports ──

  accept(incoming: IncomingStream): void {
    this.#options.owner.accept(incoming)
  }

  signalled(payload: Buffer): void {
    this.#options.owner.signalled(this, payload)
  }

  roundTripMeasured(carrier: Carrier, rttMs: number): void {
    this.#options.owner.roundTripMeasured(this, carrier, rttMs)
  }

  frameIgnored(): void {
    this.#options.owner.frameIgnored()
  }

  peerLostCarrier(carrier: Carrier): void {
    this.carriers.cut(carrier, 'the peer has lost it')
  }

  peerWentAway(): void {
    this.cut(new MeshError('SESSION_CLOSED', { reason: 'the peer has shut down' }))
  }

  // ── the end ──

  /** No new streams, either way; those that are open go on. */
  drain(): void {
    this.#mux.drain()
  }

  /** Sends GOAWAY on every carrier and closes them; what is still open is reset. */
  finish(): void {
    if (this.hasEnded || this.#life.isFinishing) return
    this.#life.finish()
    this.#mux.goAway()
    this.carriers.finish()
    if (this.carriers.isEmpty) this.#end(undefined)
  }

  /** Ends everything now: nothing more is taken from the peer, and it hears GOAWAY, so that its flows do not wait. */
  cut(reason: Error): void {
    if (this.hasEnded) return
    this.#mux.goAway()
    this.#end(reason)
    this.carriers.stop()
  }

  get #mayResume(): boolean {
    return this.#life.isUp && !this.#mux.isVoid && this.#mux.accounting.isResumable && !this.identity.isPresumed
  }

  #suspend(): void {
    this.#life.suspend(this.#options.now())
    this.#options.owner.sessionSuspended(this)
  }

  #end(reason: Error | undefined): void {
    if (this.hasEnded) return
    this.#life.end()
    this.#mux.end()
    this.#options.owner.sessionEnded(this, reason)
  }
}

function isElsewhere(one: Carrier, other: Carrier): boolean {
  return one.path !== other.path || one.relay !== other.relay
}
