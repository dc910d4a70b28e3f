import type { NodeId } from '../../../src/core/model/ids.ts'
import { ANY_PATH, type PathRule, type PathKind } from '../../../src/core/model/path-rule.ts'
import { MeshError } from '../../../src/core/errors.ts'
import type { SessionKey } from './agreement.ts'
import type { Carrier } from '../carrier/carrier.ts'
import type {
  ByteStream,
  ByteStreamEvents,
  DatagramStream,
  DatagramStreamEvents,
  OpeningEvents,
  Session,
  Withdrawable,
} from '../contract.ts'
import { CarrierSet } from './carrier-set.ts'
import { checkPromise, UNKNOWN_INCARNATION, type Hello } from '../wire/hello.ts'
import { Mux, type MuxOptions } from './mux.ts'
import { carrierFor, outranked } from './placement.ts'
import type { Pump } from '../carrier/pump.ts'
import type { SealedLink, SealedEndpoint } from '../sealed/contract.ts'

export interface SessionOptions extends Omit<MuxOptions, 'goneAway' | 'lostByPeer' | 'peer' | 'sealed'> {
  peer: NodeId
  key: SessionKey
  /** Makes this session's sealed datagrams. */
  sealed?: SealedEndpoint | undefined
  /** Whether our dial made it: that side brings up more carriers. */
  isDialler: boolean
  /** The last carrier is gone, and streams wait for the next. */
  suspended: () => void
  /** Streams go on after so long without a carrier. */
  resumed: (pauseMs: number) => void
  /** Nothing of it is left. */
  ended: (reason: Error | undefined) => void
}

/** Without streams for so long, a session gives its carriers back; the next flow dials again. */
const IDLE_MS = 15 * 60_000
/** A path that is back within `resumeMs` needs so long to be dialled and proven. */
const SETTLE_MS = 2_000

/**
 * Everything shared with one peer: the streams (mux.ts), the carriers with their sockets (fleet.ts), and how it all ends.
 *
 *     live ──last carrier lost──▶ suspended ──a carrier──▶ live
 *      │                              └──resumeMs──▶ ended          (without open streams: ended at once)
 *      └──cut, finished, GOAWAY──▶ ended
 */
export class TunnelSession implements Session {
  readonly peer: NodeId
  #key: SessionKey
  #isDialler: boolean
  /** How often all carriers had died and streams went on, and the longest that took. */
  resumes = 0
  longestPauseMs = 0
  readonly #mux: Mux
  readonly #sealed: SealedLink | undefined
  readonly #options: SessionOptions
  readonly #fleet: CarrierSet
  #path: PathKind = 'direct'
  #rttMs: number | undefined
  #usedAt: number
  #suspendedAt: number | undefined
  #isFinishing = false
  #hasEnded = false

  constructor(options: SessionOptions) {
    this.peer = options.peer
    this.#key = options.key
    this.#isDialler = options.isDialler
    this.#options = options
    this.#usedAt = options.now()
    const deliver = (stream: number, payload: Buffer) => this.#mux.datagram(stream, payload)
    this.#sealed = options.sealed?.link({ peer: options.peer, deliver })
    this.#mux = new Mux({
      ...options,
      sealed: this.#sealed,
      goneAway: () => this.cut(new MeshError('SESSION_CLOSED', { reason: 'the peer went away' })),
      lostByPeer: (carrier) => this.#fleet.cut(carrier, 'the peer has lost it'),
    })
    this.#fleet = new CarrierSet({ mux: this.#mux, limit: options.limits.carriers, now: options.now })
  }

  get key(): SessionKey {
    return this.#key
  }

  get isDialler(): boolean {
    return this.#isDialler
  }

  /** The peer has not answered yet; until then nothing but our own proposal says that it will be this session. */
  get isPresumed(): boolean {
    return this.#key.incarnation === UNKNOWN_INCARNATION
  }

  get path(): PathKind {
    return this.#fleet.best?.path ?? this.#path
  }

  /** Through which relay new streams would go. */
  get relay(): string | undefined {
    return this.#fleet.best?.relay
  }

  get rttMs(): number | undefined {
    return this.#mux.rttMs ?? this.#rttMs
  }

  get takesEarly(): boolean {
    return this.#mux.takesEarly
  }

  get silentMs(): number {
    return this.#mux.silentMs
  }

  get carriers(): number {
    return this.#mux.carriers.length
  }

  get streams(): number {
    return this.#mux.streams
  }

  /** Streams that changed carriers. */
  get moved(): number {
    return this.#mux.moved
  }

  /** Bytes kept until the peer acknowledges them, now and at most. */
  get retainedBytes(): number {
    return this.#mux.shares.keptBytes
  }

  get retainedPeak(): number {
    return this.#mux.shares.keptPeak
  }

  /** How datagrams go now. */
  get datagrams(): 'sealed' | 'frames' | 'blocked' {
    return this.#sealed?.mode ?? 'frames'
  }

  get bytesIn(): number {
    return this.#fleet.bytesIn
  }

  get bytesOut(): number {
    return this.#fleet.bytesOut
  }

  /** Datagrams that went in frames, and that were dropped on the way there. */
  get frames(): { sent: number; dropped: number } {
    return this.#fleet.frames
  }

  get hasEnded(): boolean {
    return this.#hasEnded
  }

  /** The peer goes away: what is open may end, the next flow needs another session. */
  get isLeaving(): boolean {
    return this.#mux.isPeerDraining
  }

  get isSuspended(): boolean {
    return this.#suspendedAt !== undefined && !this.#hasEnded
  }

  /** A stream opened now would get a carrier, and the peer would take it. */
  get isUsable(): boolean {
    return this.isUsableBy(ANY_PATH)
  }

  isUsableBy(rule: PathRule): boolean {
    return !this.#hasEnded && !this.isLeaving && this.pathFor(rule) !== undefined
  }

  pathFor(rule: PathRule): PathKind | undefined {
    return carrierFor(this.#mux.carriers, 'small', rule)?.path
  }

  /** What a stream waits for, while there are carriers that it may not be on. */
  get missing(): PathRule | undefined {
    return this.#mux.missing
  }

  /** Streams are open, and no carrier is surely alive: one must be made at once. */
  get isAtRisk(): boolean {
    return !this.#hasEnded && !this.#mux.isVoid && this.#mux.carriers.every(({ isDoubtful }) => isDoubtful)
  }

  /** Every stream has ended, and the peer knows. */
  get isQuiet(): boolean {
    return this.#mux.isQuiet
  }

  /** Carriers that take new streams and are on the best path. */
  get carriersInUse(): number {
    return this.#fleet.inUse(this.path).length
  }

  /** Nothing big is under way that would make every round trip longer. */
  get isCalm(): boolean {
    return this.#mux.shares.bulkDetector.bulks === 0
  }

  /** The least of the carriers in use. */
  get pathRttMs(): number | undefined {
    const known = this.#fleet.inUse(this.path).flatMap(({ keepalive }) => keepalive.rttMs ?? [])
    return known.length === 0 ? undefined : Math.min(...known)
  }

  get carriersWanted(): number {
    return this.#fleet.wanted(this.path)
  }

  carrierPaths(): PathKind[] {
    return this.#mux.carriers.map((carrier) => carrier.path)
  }

  pinnedPaths(): PathKind[] {
    return this.#mux.carriers.filter(({ isAside }) => isAside).map(({ path }) => path)
  }

  signal(payload: Buffer): boolean {
    return !this.#hasEnded && this.#mux.signal(payload)
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

  /** Takes a carrier over; carriers on worse paths get no new streams from now on, and are closed when theirs have left. `isInstead`: those on
   * all other paths and through other relays are, as they are slow now. */
  attach(carrier: Carrier, pump: Pump, hello: Hello, isInstead = false): void {
    carrier.attach(this.#mux, hello)
    this.#mux.attach(carrier)
    this.#fleet.add(carrier, pump)
    carrier.tick(true) // measures the round trip at once
    this.#path = this.path
    const left = isInstead
      ? this.#mux.carriers.filter((one) => (one.path !== carrier.path || one.relay !== carrier.relay) && !one.isAside)
      : outranked(this.#mux.carriers)
    for (const worse of left) worse.drain()
    if (this.#suspendedAt === undefined) return
    const pauseMs = this.#options.now() - this.#suspendedAt
    this.#suspendedAt = undefined
    this.resumes += 1
    this.longestPauseMs = Math.max(this.longestPauseMs, pauseMs)
    this.#options.resumed(pauseMs)
  }

  /** What was presumed is agreed on. Stream ids are of the two nodes, whatever the session is called. */
  agreed(key: SessionKey): void {
    if (!this.isPresumed) return
    this.#isDialler = key.id === this.#key.id
    this.#key = key
  }

  /** The answer on a carrier that was taken before it. @throws MeshError when the peer has put its streams elsewhere */
  answered(carrier: Carrier, hello: Hello): void {
    checkPromise(hello)
    this.agreed({ id: hello.session, incarnation: hello.incarnation })
    const { id, incarnation } = this.#key
    if (id !== hello.session || incarnation !== hello.incarnation) {
      const reason = new MeshError('SESSION_CLOSED', { reason: 'the peer has two answers' })
      this.cut(reason)
      throw reason
    }
    carrier.attach(this.#mux, hello)
    this.#mux.answered(carrier)
  }

  /** The connection of a carrier is no more. */
  lost(carrier: Carrier, reason: Error | undefined): void {
    if (!this.#fleet.delete(carrier)) return
    this.#rttMs = this.#mux.rttMs ?? this.#rttMs
    // a peer that breaks the rules loses everything, not one carrier
    if (reason instanceof MeshError && reason.code === 'FRAME_INVALID') this.cut(reason)
    this.#mux.detach(carrier)
    if (!this.#fleet.isEmpty || this.#hasEnded) return
    const mayGoOn = !this.#isFinishing && !this.#mux.isVoid && this.#mux.shares.isResumable && !this.isPresumed
    if (!mayGoOn) return this.#end(reason)
    this.#suspendedAt = this.#options.now()
    this.#options.suspended()
  }

  /** Gives up a carrier that may be dead for one that is surely alive; false when all are well. */
  makeRoom(): boolean {
    return this.#fleet.makeRoom()
  }

  /** Carriers from an address that is gone are dead, and nobody says so; the others are asked at once. */
  networkChanged(isHere: (address: string) => boolean): void {
    this.#fleet.networkChanged(isHere)
  }

  tick(now: number): void {
    if (this.#hasEnded) return
    const isBusy = !this.#mux.isVoid
    if (isBusy) this.#usedAt = now
    this.#fleet.tick(now, now - this.#usedAt >= IDLE_MS)
    this.#mux.tick(now)
    if (this.isDialler) this.#fleet.giveBack(now, this.path)
    if (this.#suspendedAt === undefined) return
    const isOver = now - this.#suspendedAt > this.#options.limits.resumeMs + SETTLE_MS
    if (isOver || this.#mux.isVoid) this.#end(new MeshError('SESSION_CLOSED', { reason: 'no path came back' }))
  }

  /** No new streams, either way; those that are open go on. */
  drain(): void {
    this.#mux.drain()
  }

  /** Says goodbye on every carrier and closes them; what is still open is reset. */
  finish(): void {
    this.#isFinishing = true
    this.#mux.goAway()
    this.#fleet.finish()
    if (this.#fleet.isEmpty) this.#end(undefined)
  }

  /** Ends everything now: nothing more is heard from the peer, and it is told, so that its flows do not wait. */
  cut(reason: Error): void {
    if (this.#hasEnded) return
    this.#mux.goAway()
    this.#end(reason)
    this.#fleet.stop()
  }

  #end(reason: Error | undefined): void {
    if (this.#hasEnded) return
    this.#hasEnded = true
    this.#mux.end()
    this.#options.ended(reason)
  }
}
