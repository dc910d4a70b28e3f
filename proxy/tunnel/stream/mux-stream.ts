import type { ByteStream, OpeningEvents, Refusal, Withdrawable } from '../contract.ts'
import { allowsPackets, ANY_PATH, type PathRule } from '../../../src/core/model/path-rule.ts'
import type { Carrier } from '../carrier/carrier.ts'
import { EarlyBuffer, mayBeEarly } from './early-buffer.ts'
import { FLAGGED, FRAME, frameInvalid, MAX_DATAGRAM, MAX_EARLY_BYTES } from '../wire/frame.ts'
import { FEATURE } from '../wire/hello.ts'
import type { Turn } from '../carrier/outbox.ts'
import { Receiving } from './receiving.ts'
import type { ResumedStream } from '../wire/resume.ts'
import { Sending } from './sending.ts'
import type { StreamOwner } from './stream-owner.ts'
import type { StreamUser } from './stream-user.ts'

/** A writer is asked to stop here … */
const HIGH_WATER = 256 * 1024
/** … and to go on here. */
const LOW_WATER = 64 * 1024
/** Whoever moves so much is worth a look: it may be bulk. */
const WEIGHED_BYTES = 128 * 1024

/**
 * One flow in a session.
 *
 *     opener:   opening ──OPENED──▶ open            opening ──REFUSED, RESET, no carrier──▶ closed
 *     acceptor: pending ──accept──▶ open            pending ──refuse, RESET, WITHDRAW, time-out──▶ closed
 *
 * Early bytes: what is written while it is opening is sent at once, as far as it may be, and held at the other end while it is
 * pending. Once some are sent, an opening stream waits for a carrier as an open one does: nothing else could tell its end.
 *
 *     open: the two directions end by themselves; END sent and END received ──▶ lingering ──both acknowledged──▶ closed
 *           RESET either way ──▶ closed
 *
 * The carrier is where this side sends; the peer chooses for its direction by itself. Without a carrier (all have died) the
 * stream waits, and takes what is written up to the usual limits.
 *
 * Hot path: a chunk is copied once into what is kept until the peer has consumed it, and once into the carrier's batch.
 */
export class MuxStream implements ByteStream, Withdrawable, Turn {
  readonly id: number
  carrier: Carrier | undefined
  state: 'opening' | 'pending' | 'open' | 'lingering' | 'closed'
  /** Who gets what arrives. */
  user: StreamUser
  nextTurn: Turn | undefined = undefined
  previousTurn: Turn | undefined = undefined
  hasTurn = false
  /** Which carriers it may be on. */
  rule: PathRule = ANY_PATH
  /** What OPEN said, for as long as it may have to be said again. */
  request: Buffer | undefined
  /** Bytes acknowledged, both ways, when it was weighed last. */
  weighedAt = 0
  /** Its bytes may travel before it is open. */
  readonly isEarly: boolean
  /** OPEN went out more than once: REFUSED answers one of them, and proves nothing about the other. */
  wasSaidAgain = false
  readonly sending: Sending
  readonly receiving: Receiving
  readonly #owner: StreamOwner
  /** Who is told the outcome of the open. */
  readonly #opening: OpeningEvents | undefined
  /** What may be sent once it is open. */
  #openWindow: number
  #isBlocked = false
  #mayLeave = true
  #isBulk = false
  #mayHearOpened = false
  #isWithdrawn = false
  /** What came before it was accepted, until that is told. */
  #early: EarlyBuffer | undefined
  /** Datagrams that went before it was open. */
  readonly #ahead = { datagrams: 0, bytes: 0 }

  constructor(
    id: number,
    carrier: Carrier,
    owner: StreamOwner,
    { opening, user }: { opening?: OpeningEvents; user: StreamUser },
  ) {
    this.id = id
    this.state = opening === undefined ? 'pending' : 'opening'
    this.carrier = carrier
    this.user = user
    this.#opening = opening
    this.#owner = owner
    this.isEarly = owner.isResumable && (carrier.peerFeatures & FEATURE.early) !== 0
    this.#openWindow = carrier.peerWindowBytes
    const early = Math.min(this.#openWindow, MAX_EARLY_BYTES)
    this.sending = new Sending(owner.isResumable, opening !== undefined ? early : this.#openWindow)
    this.receiving = new Receiving(carrier, owner.limits, owner.now())
    carrier.streams += 1
  }

  /** Bytes acknowledged, both ways. */
  get weight(): number {
    return this.sending.acked + this.receiving.consumed
  }

  /** It sends so much that it has a carrier to itself (placement.ts). */
  get isBulk(): boolean {
    return this.#isBulk
  }

  set isBulk(is: boolean) {
    if (is === this.#isBulk) return
    this.#isBulk = is
    if (this.carrier !== undefined) this.carrier.bulks += is ? 1 : -1
  }

  get backlog(): number {
    return this.sending.queued
  }

  get isReady(): boolean {
    return this.#maySend && this.sending.isReady
  }

  /** What it was given may be with the other side's user: REFUSED alone proves that it is not. */
  get hasSpoken(): boolean {
    return this.sending.hasSent || this.#ahead.datagrams > 0
  }

  get #maySend(): boolean {
    return this.#isLive || (this.state === 'opening' && this.isEarly)
  }

  get #isLive(): boolean {
    return this.state === 'open' || this.state === 'lingering'
  }

  /** Bytes that came may be for its user, now or once it is accepted. */
  get #mayHear(): boolean {
    return this.#isLive || (this.state === 'pending' && this.isEarly)
  }

  // ── what the user calls ──

  write(chunk: Buffer): boolean {
    const { sending, carrier } = this
    if (this.state === 'closed' || sending.isEnding || chunk.length === 0) return true
    sending.push(chunk)
    this.#owner.kept(chunk.length)
    if (carrier !== undefined) {
      carrier.backlog += chunk.length
      if (!this.hasTurn && this.isReady) carrier.outbox.join(this)
    }
    const isFull = this.#owner.isFullFor(sending.kept)
    if (sending.queued < HIGH_WATER && !isFull) return true
    this.#isBlocked = true
    if (isFull) this.#owner.waits(this)
    return false
  }

  /** To be called before anything is sent. */
  obey(rule: PathRule): void {
    this.rule = rule
    this.#mayLeave = allowsPackets(rule)
  }

  /** What `DatagramStream.send` does. */
  sendDatagram(payload: Buffer): boolean {
    if (this.state === 'opening') return this.#datagramAhead(payload)
    if (this.state !== 'open' || this.sending.isEnding || payload.length > MAX_DATAGRAM) return false
    const sent = this.#mayLeave ? this.#owner.sealed?.send(this.id, payload) : undefined
    return sent ?? this.carrier?.outbox.datagram(this.id, payload) ?? false
  }

  /** As a frame, which cannot overtake OPEN. */
  #datagramAhead(payload: Buffer): boolean {
    if (!this.isEarly || !mayBeEarly(this.#ahead, payload)) return false
    if (this.carrier?.outbox.datagram(this.id, payload) !== true) return false
    this.#ahead.datagrams += 1
    this.#ahead.bytes += payload.length
    return true
  }

  end(): void {
    if (this.state === 'closed' || this.sending.isEnding) return
    this.sending.isEnding = true
    this.begin()
  }

  reset(): void {
    if (this.state === 'closed') return
    if (this.state === 'lingering') return this.consumed(this.receiving.held) // nobody reads the rest; both have ended
    this.carrier?.outbox.control(FRAME.RESET, this.id)
    this.#owner.mustHear(this)
    this.close()
  }

  withdraw(): void {
    if (this.state !== 'opening' || !this.isEarly) return
    this.#isWithdrawn = true
    this.carrier?.outbox.control(FRAME.WITHDRAW, this.id)
  }

  consumed(bytes: number): void {
    if (this.state === 'closed') return
    const { receiving } = this
    const step = Math.min(bytes, receiving.held)
    receiving.consumed += step
    this.#owner.held(-step)
    if (!receiving.mustAck) return this.#owner.owes(this)
    const now = this.#owner.now()
    if (receiving.window.isRoundOver(receiving.consumed, now)) this.#round(now)
    this.acknowledge()
    this.#weigh()
  }

  #round(now: number): void {
    const at = { consumed: this.receiving.consumed, now, rttMs: this.#owner.recentRttMs }
    this.#owner.grew(this.receiving.window.round(at, (bytes) => this.#owner.mayGrow(bytes)))
  }

  #weigh(): void {
    if (this.weight - this.weighedAt >= WEIGHED_BYTES) this.#owner.weigh(this)
  }

  /** Says how much was consumed, if there is anything to say and a carrier to say it on. */
  acknowledge(): void {
    const { receiving, carrier } = this
    if (this.state === 'closed' || carrier === undefined || !receiving.owesAck) return
    if (receiving.endReceived && !this.#owner.isResumable) return
    this.#sayAck(carrier)
    this.#mayClose()
  }

  #sayAck(carrier: Carrier): void {
    this.receiving.ackSent()
    carrier.outbox.ack(this.id, this.receiving.count, this.receiving.window.bytes)
  }

  // ── where it is placed ──

  /** Leaves its carrier, and goes on on another one or waits: what the peer has not acknowledged is sent again there. */
  place(carrier: Carrier | undefined): void {
    const { sending } = this
    if (this.carrier !== undefined) {
      if (this.hasTurn) this.carrier.outbox.leave(this)
      this.carrier.streams -= 1
      if (this.#isBulk) this.carrier.bulks -= 1
      this.carrier.backlog -= sending.queued
    }
    sending.goBack()
    this.carrier = carrier
    if (carrier === undefined) return
    carrier.streams += 1
    if (this.#isBulk) carrier.bulks += 1
    carrier.backlog += sending.queued
    if (this.state === 'opening') this.#openAgain(carrier)
    if (this.receiving.count > 0 && this.state !== 'pending') this.#sayAck(carrier) // the last one may be lost
    this.begin()
  }

  #openAgain(carrier: Carrier): void {
    this.receiving.carrier = carrier
    this.wasSaidAgain = true
    carrier.outbox.control(FRAME.OPEN | FLAGGED, this.id, this.request)
    if (this.#isWithdrawn) carrier.outbox.control(FRAME.WITHDRAW, this.id)
  }

  /** What RESUME says of it. */
  get received(): ResumedStream {
    return { stream: this.id, received: this.receiving.received, hasEnd: this.receiving.endReceived }
  }

  /** The peer has received so much: as RESUME says. */
  gotReceived({ received, hasEnd }: ResumedStream): void {
    const before = this.sending.queued
    this.sending.skipTo(received, hasEnd)
    if (this.carrier !== undefined) this.carrier.backlog -= before - this.sending.queued
    this.begin()
  }

  // ── what the outbox calls ──

  take(out: Buffer, at: number, room: number): number {
    if (!this.#maySend) return 0
    const { sending, carrier } = this
    const queued = sending.queued
    const kept = sending.kept
    const used = sending.take(out, at, room, this.id)
    if (carrier !== undefined) carrier.backlog -= queued - sending.queued
    if (kept !== sending.kept) this.#owner.kept(sending.kept - kept)
    if (this.#isBlocked && sending.queued <= LOW_WATER) {
      if (this.#owner.isFullFor(sending.kept)) this.#owner.waits(this)
      else {
        this.#isBlocked = false
        carrier?.outbox.tellLater(this)
      }
    }
    if (sending.endSent) this.#mayClose()
    return used
  }

  drained(): void {
    if (this.state !== 'closed' && !this.sending.isEnding && this.user.takes === 'bytes') this.user.events.drain()
  }

  /** The session is not full any more, or no longer for this stream. */
  roomAgain(): void {
    if (!this.#isBlocked || this.sending.queued > LOW_WATER) return
    this.#isBlocked = false
    this.drained()
  }

  // ── what the peer's frames do ──

  gotPlace(carrier: Carrier, run: number, offset: number): void {
    if (this.state === 'pending' && !this.isEarly) {
      throw frameInvalid('data on a stream that is not open', { stream: this.id })
    }
    const isHere = this.receiving.place(carrier, run, offset)
    if (!isHere || this.state !== 'opening') return
    this.#mayHearOpened = true // it was lost with its carrier, or is late
    this.#isOpen()
  }

  gotData(carrier: Carrier, piece: Buffer): void {
    if (!this.#mayHear) {
      if (carrier !== this.receiving.carrier) return
      throw frameInvalid('data on a stream that is not open', { stream: this.id })
    }
    const fresh = this.receiving.gotData(carrier, piece)
    if (fresh === undefined) return
    const isEarly = this.#early !== undefined || this.state === 'pending'
    if (isEarly) this.#keep(fresh)
    this.#owner.held(fresh.length)
    if (this.state !== 'open' || isEarly) return // holding it may have been too much
    const { user } = this
    if (user.takes === 'bytes') user.events.data(fresh)
    else this.#misused()
  }

  /** @throws MeshError FRAME_INVALID */
  #keep(fresh: Buffer): void {
    if (this.state === 'pending' && this.receiving.received > MAX_EARLY_BYTES) {
      throw frameInvalid('more bytes than a stream that is not open may get', { stream: this.id })
    }
    this.#early ??= new EarlyBuffer()
    this.#early.push(fresh)
  }

  /** What crossed our END, or came before OPENED was heard, is lost as datagrams may be. */
  gotDatagram(payload: Buffer): void {
    if (this.#early !== undefined || this.state === 'pending') this.#keepDatagram(payload)
    else if (this.state === 'open' && this.user.takes === 'datagrams') this.user.events.datagram(payload)
  }

  #keepDatagram(payload: Buffer): void {
    if (!this.isEarly) return
    this.#early ??= new EarlyBuffer()
    if (this.#early.pushDatagram(payload)) this.#owner.held(payload.length)
  }

  gotEnd(carrier: Carrier): void {
    if (!this.#mayHear) {
      if (carrier !== this.receiving.carrier) return
      throw frameInvalid('END on a stream that is not open', { stream: this.id })
    }
    if (!this.receiving.gotEnd(carrier)) return
    if (this.#early === undefined && this.state !== 'pending') this.#tellEnd()
  }

  #tellEnd(): void {
    const { user } = this
    this.#owner.owes(this)
    this.#mayClose()
    if (user.takes !== 'nothing') user.events.end()
  }

  /** The peer's HELLO has come after its OPEN was sent. */
  grant(windowBytes: number): void {
    if (this.state === 'closed' || windowBytes <= this.#openWindow) return
    this.#openWindow = windowBytes
    this.sending.allow(this.state === 'opening' ? Math.min(windowBytes, MAX_EARLY_BYTES) : windowBytes)
    this.begin()
  }

  gotAck(count: number, windowBytes: number): void {
    const { sending, carrier } = this
    const queued = sending.queued
    const kept = sending.kept
    sending.gotAck(count, windowBytes)
    if (carrier !== undefined) carrier.backlog -= queued - sending.queued
    if (kept !== sending.kept) this.#owner.kept(sending.kept - kept)
    if (this.#isBlocked && !this.#owner.isFullFor(sending.kept)) queueMicrotask(() => this.roomAgain())
    this.begin()
    this.#weigh()
    if (sending.isOver) this.#mayClose()
  }

  gotOpened(): void {
    if (this.state === 'opening') return this.#isOpen()
    if (!this.#mayHearOpened) throw frameInvalid('OPENED without OPEN', { stream: this.id })
    this.#mayHearOpened = false
  }

  /** Takes what the peer opened; what it sent before is delivered right after this has returned. */
  accept(user: StreamUser): void {
    this.user = user
    this.state = 'open'
    this.carrier?.outbox.control(FRAME.OPENED, this.id)
    this.begin()
    const { received, endReceived } = this.receiving
    if (received === 0 && !endReceived && this.#early === undefined) return
    this.#early ??= new EarlyBuffer()
    queueMicrotask(() => this.#tellEarly())
  }

  #tellEarly(): void {
    const early = this.#early
    if (early === undefined) return // closed meanwhile
    this.#early = undefined
    this.#owner.held(-early.datagramBytes)
    if (!early.deliver(this.user)) return this.#misused()
    if (this.receiving.endReceived && this.#isLive) this.#tellEnd()
  }

  #isOpen(): void {
    this.state = 'open'
    this.request = undefined
    this.sending.allow(this.#openWindow)
    this.#opening?.opened()
    this.begin()
  }

  /** What may go out gets its turn. */
  begin(): void {
    if (!this.hasTurn && this.isReady) this.carrier?.outbox.join(this)
  }

  #mayClose(): void {
    const { sending, receiving } = this
    if (!receiving.endReceived) return
    if (this.state === 'open' && sending.endSent) {
      this.state = 'lingering'
      this.#owner.lingers(this)
    }
    if (this.state !== 'lingering' || !sending.isOver) return
    if (receiving.isOver || !this.#owner.isResumable) this.close()
  }

  /** The stream is closed because the peer refused it. */
  refused(refusal: Refusal): void {
    this.close()
    this.#opening?.refused(refusal)
  }

  /** Bytes came on a stream of datagrams: the peer and we do not mean the same. */
  #misused(): void {
    this.reset()
    this.user.events.reset()
  }

  /** Frees everything; says nothing to anybody. */
  close(): void {
    if (this.state === 'closed') return
    const { sending, carrier } = this
    this.#owner.held(-this.receiving.held - (this.#early?.datagramBytes ?? 0))
    this.#owner.kept(-sending.kept)
    if (carrier !== undefined) {
      if (this.hasTurn) carrier.outbox.leave(this)
      carrier.streams -= 1
      if (this.#isBulk) carrier.bulks -= 1
      carrier.backlog -= sending.queued
    }
    sending.clear()
    this.#early?.clear()
    this.#early = undefined
    this.#owner.freed(this)
    this.state = 'closed'
  }
}
