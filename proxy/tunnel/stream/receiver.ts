import type { Carrier } from '../carrier/carrier.ts'
import { frameInvalid, MAX_EARLY_BYTES } from '../wire/frame.ts'
import type { ResumedStream } from '../wire/resume.ts'
import type { TunnelLimits } from '../limits.ts'
import { EarlyBuffer } from './early-buffer.ts'
import { Receiving } from './receiving.ts'
import type { StreamState } from './stream-state.ts'
import type { StreamUser } from './stream-user.ts'

const NOBODY: StreamUser = { takes: 'nothing', events: { reset: () => undefined } }

/** The stream a receiver belongs to. */
export interface ReceivingStream {
  readonly id: number
  readonly state: StreamState['kind']
  /** Its data may travel before it is open. */
  readonly allowsEarly: boolean
  /** Where acknowledgements are sent. */
  readonly carrier: Carrier | undefined
  /** Its direction has ended, or all of it is acknowledged. */
  progressed(): void
  /** Resets the stream, and reports that to the user too. */
  abort(): void
}

/** The session, as far as a receiver needs it. */
export interface ReceivingOwner {
  readonly limits: TunnelLimits
  /** The current round trip of the path. */
  readonly recentRttMs: number | undefined
  readonly isResumable: boolean
  now(): number
  /** More bytes are received and not yet consumed, or fewer (negative). */
  changeHeld(bytes: number): void
  /** An ACK is due within a tick. */
  oweAck(receiver: Receiver): void
  /** Whether the window of a stream may grow by this much. */
  mayGrow(bytes: number): boolean
  /** The window of a stream has grown by this much, or shrunk (negative). */
  changeGrown(bytes: number): void
}

/**
 * What a stream receives and its user gets: joins the positions (receiving.ts) to the user's events, acknowledgements and the
 * session's counters. What arrives early is buffered until the microtask after `accept`.
 *
 * All `got…` throw MeshError FRAME_INVALID when the peer breaks the rules.
 */
export class Receiver {
  readonly #stream: ReceivingStream
  readonly #owner: ReceivingOwner
  readonly #receiving: Receiving
  #user: StreamUser
  /** What arrived early and is not delivered yet. */
  #early: EarlyBuffer | undefined

  constructor(
    stream: ReceivingStream,
    owner: ReceivingOwner,
    { carrier, user }: { carrier: Carrier; user: StreamUser },
  ) {
    this.#stream = stream
    this.#owner = owner
    this.#receiving = new Receiving(carrier, owner.limits, owner.now())
    this.#user = user
  }

  /** That of its stream. */
  get id(): number {
    return this.#stream.id
  }

  get user(): StreamUser {
    return this.#user
  }

  /** The carrier that the peer sends this stream on. */
  get carrier(): Carrier | undefined {
    return this.#receiving.carrier
  }

  /** Bytes that are acknowledged, or will be. */
  get consumedBytes(): number {
    return this.#receiving.consumed
  }

  /** Received and not yet consumed. */
  get heldBytes(): number {
    return this.#receiving.held
  }

  /** By how much its window has grown. */
  get grownBytes(): number {
    return this.#receiving.window.grownBytes
  }

  /** The other side sends no more, and the user knows or will in this turn. */
  get hasEnded(): boolean {
    return this.#receiving.endReceived && this.#early === undefined
  }

  /** All has come, is consumed, and the peer knows. */
  get isDone(): boolean {
    return this.#receiving.isDone
  }

  /** There is a carrier to acknowledge on. */
  get canAcknowledge(): boolean {
    return this.#stream.carrier !== undefined
  }

  /** The stream's entry in RESUME. */
  get entry(): ResumedStream {
    return { stream: this.#stream.id, received: this.#receiving.received, hasEnd: this.#receiving.endReceived }
  }

  consumed(bytes: number): void {
    const receiving = this.#receiving
    const step = Math.min(bytes, receiving.held)
    receiving.consumed += step
    this.#owner.changeHeld(-step)
    if (!receiving.mustAck) return this.#owner.oweAck(this)
    const now = this.#owner.now()
    if (receiving.window.hasRoundEnded(receiving.consumed, now)) this.#endRound(now)
    this.acknowledge()
  }

  /** Sends how much was consumed, if that is news and there is a carrier. */
  acknowledge(): void {
    const receiving = this.#receiving
    const { carrier } = this.#stream
    if (carrier === undefined || !receiving.owesAck) return
    if (receiving.endReceived && !this.#owner.isResumable) return
    this.#sendAck(carrier)
    this.#stream.progressed()
  }

  /** On a new carrier: the last ACK may be lost. */
  repeatAck(carrier: Carrier): void {
    if (this.#receiving.count > 0) this.#sendAck(carrier)
  }

  /** OPEN was sent again on this carrier, so the peer's answer and data come there. */
  expectOn(carrier: Carrier): void {
    this.#receiving.carrier = carrier
  }

  /** The stream is accepted: what arrived early is delivered in a microtask. */
  accept(user: StreamUser): void {
    this.#user = user
    if (this.#receiving.endReceived) this.#early ??= new EarlyBuffer()
    if (this.#early !== undefined) queueMicrotask(() => this.#deliverEarly())
  }

  /** Nothing more comes, and all that came was taken: the user, with its sockets, need not be kept until the peer knows that. */
  leaveUser(): void {
    if (this.heldBytes === 0) this.#user = NOBODY
  }

  /** Frees what is held. */
  close(): void {
    this.#owner.changeHeld(-this.#receiving.held - (this.#early?.datagramBytes ?? 0))
    this.#early?.clear()
    this.#early = undefined
  }

  /** The peer's data goes on at this offset, in this run. False when a later run has overtaken it. */
  gotPosition(carrier: Carrier, run: number, offset: number): boolean {
    if (this.#stream.state === 'pending' && !this.#stream.allowsEarly) throw this.#notOpen('data')
    return this.#receiving.moveTo(carrier, run, offset)
  }

  gotData(carrier: Carrier, piece: Buffer): void {
    if (!this.#isExpected(carrier, 'data')) return
    const fresh = this.#receiving.gotData(carrier, piece)
    if (fresh === undefined) return
    const isEarly = this.#stream.state === 'pending' || this.#early !== undefined
    if (isEarly) this.#keepEarly(fresh)
    this.#owner.changeHeld(fresh.length)
    if (isEarly || this.#stream.state !== 'open') return // counting it may have been too much, and closed the stream
    if (this.#user.takes === 'bytes') this.#user.events.data(fresh)
    else this.#stream.abort() // bytes on a stream of datagrams: the peer and we do not mean the same
  }

  /** What crossed our END, or came before OPENED, is lost as datagrams may be. */
  gotDatagram(payload: Buffer): void {
    const { state, allowsEarly } = this.#stream
    if (state === 'pending' || this.#early !== undefined) {
      if (!allowsEarly) return
      this.#early ??= new EarlyBuffer()
      if (this.#early.pushDatagram(payload)) this.#owner.changeHeld(payload.length)
    } else if (state === 'open' && this.#user.takes === 'datagrams') this.#user.events.datagram(payload)
  }

  gotEnd(carrier: Carrier): void {
    if (!this.#isExpected(carrier, 'END') || !this.#receiving.gotEnd(carrier)) return
    if (this.#early === undefined && this.#stream.state !== 'pending') this.#reportEnd()
  }

  /** False: it was on its way when the stream moved elsewhere. */
  #isExpected(carrier: Carrier, what: 'data' | 'END'): boolean {
    const { state, allowsEarly } = this.#stream
    if (state === 'open' || state === 'lingering' || (state === 'pending' && allowsEarly)) return true
    if (carrier !== this.#receiving.carrier) return false
    throw this.#notOpen(what)
  }

  #notOpen(what: 'data' | 'END'): Error {
    return frameInvalid(`${what} on a stream that is not open`, { stream: this.#stream.id })
  }

  #keepEarly(fresh: Buffer): void {
    if (this.#stream.state === 'pending' && this.#receiving.received > MAX_EARLY_BYTES) {
      this.#owner.changeHeld(fresh.length) // `close` gives it back
      throw frameInvalid('more bytes than a stream that is not open may get', { stream: this.#stream.id })
    }
    this.#early ??= new EarlyBuffer()
    this.#early.push(fresh)
  }

  #deliverEarly(): void {
    const early = this.#early
    if (early === undefined) return // closed meanwhile
    this.#early = undefined
    this.#owner.changeHeld(-early.datagramBytes)
    if (!early.deliver(this.#user)) this.#stream.abort()
    else if (this.#receiving.endReceived && this.#stream.state === 'open') this.#reportEnd()
  }

  #reportEnd(): void {
    const user = this.#user
    this.#owner.oweAck(this)
    this.#stream.progressed()
    if (user.takes !== 'nothing') user.events.end()
  }

  #endRound(now: number): void {
    const { window, consumed } = this.#receiving
    const at = { consumed, now, rttMs: this.#owner.recentRttMs }
    this.#owner.changeGrown(window.round(at, (bytes) => this.#owner.mayGrow(bytes)))
  }

  #sendAck(carrier: Carrier): void {
    const receiving = this.#receiving
    receiving.ackSent()
    carrier.outbox.ack(this.#stream.id, receiving.count, receiving.window.bytes)
  }
}
