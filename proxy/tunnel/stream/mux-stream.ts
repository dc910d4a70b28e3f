import { allowsPackets, ANY_PATH, type PathRule } from '../../../src/core/model/path-rule.ts'
import type { Carrier } from '../carrier/carrier.ts'
import type { ByteStream, OpeningEvents, Refusal, Withdrawable } from '../contract.ts'
import { FLAGGED, FRAME, frameInvalid, MAX_DATAGRAM, MAX_EARLY_BYTES } from '../wire/frame.ts'
import { FEATURE } from '../wire/hello.ts'
import type { ResumedStream } from '../wire/resume.ts'
import type { SealedLink } from '../sealed/contract.ts'
import { mayBeEarly } from './early-buffer.ts'
import { Receiver, type ReceivingOwner, type ReceivingStream } from './receiver.ts'
import { Sender, type SendingOwner, type SendingStream } from './sender.ts'
import { CLOSED, isOpen, type Opening, PENDING, type StreamState } from './stream-state.ts'
import type { StreamUser } from './stream-user.ts'

/** A stream that moved this much is given to the bulk detector. Smaller: it looks at streams that turn out small; larger: bulk
 * shares a carrier for longer. */
const WATCHED_BYTES = 128 * 1024

/** How a stream begins: with our OPEN, or with the peer's when `opening` is absent. */
export interface StreamStart {
  opening?: { events: OpeningEvents; request: Buffer }
  user: StreamUser
}

/** What a stream needs of its session. */
export interface StreamOwner extends SendingOwner, ReceivingOwner {
  /** Carries datagrams if it can; otherwise they go in frames. */
  readonly sealed: SealedLink | undefined
  /** Many bytes were acknowledged, either way: the stream may be bulk. */
  watch(stream: MuxStream): void
  /** Both directions have ended; only acknowledgements are awaited. */
  startedLingering(stream: MuxStream): void
  /** RESET was sent, and must reach the peer even if the carrier dies first. */
  sentReset(stream: MuxStream): void
  freed(stream: MuxStream): void
}

/**
 * One flow in a session: its life (stream-state.ts), with what it sends (sender.ts) and what it receives (receiver.ts). Streams of
 * datagrams use the same frames except DATA, so they are this class too, behind `MuxDatagramStream`.
 *
 * The carrier is where this side sends; the peer chooses one for its direction by itself. Without a carrier the stream waits, and
 * takes what is written up to the usual limits.
 */
export class MuxStream implements ByteStream, Withdrawable, SendingStream, ReceivingStream {
  readonly id: number
  readonly allowsEarly: boolean
  readonly sender: Sender
  readonly receiver: Receiver
  readonly #owner: StreamOwner
  #state: StreamState
  #rule: PathRule = ANY_PATH
  /** The rule lets datagrams leave outside the carriers. */
  #maySeal = true
  /** `movedBytes` when the bulk detector looked last. */
  #watchedAt = 0

  constructor(id: number, carrier: Carrier, owner: StreamOwner, { opening, user }: StreamStart) {
    const windowBytes = carrier.peerWindowBytes
    this.id = id
    this.#owner = owner
    this.allowsEarly = owner.isResumable && (carrier.peerFeatures & FEATURE.early) !== 0
    this.#state = opening === undefined ? PENDING : openingState(opening, windowBytes, owner.isResumable)
    const allowed = opening === undefined ? windowBytes : Math.min(windowBytes, MAX_EARLY_BYTES)
    this.sender = new Sender(this, owner, { carrier, allowed })
    this.receiver = new Receiver(this, owner, { carrier, user })
  }

  get state(): StreamState['kind'] {
    return this.#state.kind
  }

  get carrier(): Carrier | undefined {
    return this.sender.carrier
  }

  get isBulk(): boolean {
    return this.sender.isBulk
  }

  /** The carriers it may be on. */
  get rule(): PathRule {
    return this.#rule
  }

  /** Bytes acknowledged, both ways. */
  get movedBytes(): number {
    return this.sender.acked + this.receiver.consumedBytes
  }

  get maySend(): boolean {
    const { kind } = this.#state
    return kind === 'open' || kind === 'lingering' || (kind === 'opening' && this.allowsEarly)
  }

  /** While it is opening: the other side's user may have got something. Only REFUSED proves that it has not. */
  get hasSentEarly(): boolean {
    return this.sender.hasSent || (this.#state.kind === 'opening' && this.#state.early.datagrams > 0)
  }

  // ── called by the user ──

  write(chunk: Buffer): boolean {
    if (this.#state === CLOSED || this.sender.isEnding || chunk.length === 0) return true
    return this.sender.write(chunk)
  }

  /** What `DatagramStream.send` does. */
  sendDatagram(payload: Buffer): boolean {
    const state = this.#state
    if (state.kind === 'opening') return this.#sendEarly(state, payload)
    if (state.kind !== 'open' || this.sender.isEnding || payload.length > MAX_DATAGRAM) return false
    const sent = this.#maySeal ? this.#owner.sealed?.send(this.id, payload) : undefined
    return sent ?? this.carrier?.outbox.datagram(this.id, payload) ?? false
  }

  end(): void {
    if (this.#state !== CLOSED && !this.sender.isEnding) this.sender.end()
  }

  reset(): void {
    if (this.#state === CLOSED) return
    if (this.#state.kind === 'lingering') return this.consumed(this.receiver.heldBytes) // nobody reads the rest; both have ended
    this.carrier?.outbox.control(FRAME.RESET, this.id)
    this.#owner.sentReset(this)
    this.close()
  }

  withdraw(): void {
    if (this.#state.kind !== 'opening' || !this.allowsEarly) return
    this.#state.isWithdrawn = true
    this.carrier?.outbox.control(FRAME.WITHDRAW, this.id)
  }

  consumed(bytes: number): void {
    if (this.#state === CLOSED) return
    this.receiver.consumed(bytes)
    this.#watch()
  }

  /** Sends a datagram in a frame, which cannot overtake OPEN. */
  #sendEarly({ early }: Opening, payload: Buffer): boolean {
    if (!this.allowsEarly || !mayBeEarly(early, payload)) return false
    if (this.carrier?.outbox.datagram(this.id, payload) !== true) return false
    early.datagrams += 1
    early.bytes += payload.length
    return true
  }

  // ── called by the session ──

  /** To be called before anything is sent. */
  restrictTo(rule: PathRule): void {
    this.#rule = rule
    this.#maySeal = allowsPackets(rule)
  }

  /** Takes what the peer opened; what arrived early is delivered right after this has returned. */
  accept(user: StreamUser): void {
    this.#state = { kind: 'open', mayHearOpened: false }
    this.carrier?.outbox.control(FRAME.OPENED, this.id)
    this.sender.requestTurn()
    this.receiver.accept(user)
  }

  /** Goes on on another carrier, or waits for one. */
  moveTo(carrier: Carrier | undefined): void {
    const state = this.#state
    this.sender.moveTo(carrier)
    if (carrier === undefined) return
    if (state.kind === 'opening') this.#repeatOpen(state, carrier)
    if (state.kind !== 'pending') this.receiver.repeatAck(carrier)
    this.sender.requestTurn()
  }

  /** The peer's HELLO came after our OPEN was sent, and allows more than was presumed. */
  grant(windowBytes: number): void {
    const state = this.#state
    if (state.kind === 'opening') {
      state.windowBytes = Math.max(windowBytes, state.windowBytes)
      this.sender.allow(Math.min(windowBytes, MAX_EARLY_BYTES))
    } else if (state !== CLOSED) this.sender.allow(windowBytes)
  }

  /** The bulk detector has looked at it. */
  watched(): void {
    this.#watchedAt = this.movedBytes
  }

  /** The peer has reset the stream, or it is `lost` with its carrier: frees it and reports that to the user. */
  fail(because: 'reset' | 'lost'): void {
    const state = this.#state
    if (state === CLOSED) return
    if (state.kind === 'opening' && because === 'lost' && !this.hasSentEarly) return this.#refused(state, 'unreachable')
    this.close()
    if (state.kind !== 'lingering') this.receiver.user.events.reset(because === 'lost' ? because : undefined) // else at most an acknowledgement was lost
  }

  abort(): void {
    this.reset()
    this.receiver.user.events.reset()
  }

  /** Frees everything; reports nothing to anybody. */
  close(): void {
    if (this.#state === CLOSED) return
    this.receiver.close()
    this.sender.close()
    this.#owner.freed(this)
    this.#state = CLOSED
  }

  // ── what the peer's frames do to its life; DATA, END and datagrams go to the receiver ──

  /** @throws MeshError FRAME_INVALID */
  gotOpened(): void {
    const state = this.#state
    if (state.kind === 'opening') return this.#opened(state, false)
    if (!isOpen(state) || !state.mayHearOpened) throw frameInvalid('OPENED without OPEN', { stream: this.id })
    state.mayHearOpened = false
  }

  /** @throws MeshError FRAME_INVALID */
  gotRefused(refusal: Refusal): void {
    const state = this.#state
    if (state.kind !== 'opening') throw frameInvalid('REFUSED without OPEN', { stream: this.id })
    if (state.wasRepeated && this.hasSentEarly) this.abort()
    else this.#refused(state, refusal)
  }

  /** The peer's data goes on at this offset, in this run. @throws MeshError FRAME_INVALID */
  gotPosition(carrier: Carrier, run: number, offset: number): void {
    const state = this.#state
    const isNewest = this.receiver.gotPosition(carrier, run, offset)
    if (isNewest && state.kind === 'opening') this.#opened(state, true)
  }

  /** @throws MeshError FRAME_INVALID */
  gotAck(count: number, windowBytes: number): void {
    this.sender.gotAck(count, windowBytes)
    this.#watch()
    if (this.sender.isDone) this.progressed()
  }

  /** The peer's RESUME has an entry for this stream. @throws MeshError FRAME_INVALID */
  gotResume(entry: ResumedStream): void {
    this.sender.gotReceived(entry)
  }

  // ── called by the sender and the receiver ──

  drained(): void {
    const { user } = this.receiver
    if (this.#state !== CLOSED && user.takes === 'bytes') user.events.drain()
  }

  /** Moves on to lingering once both directions have ended, and to closed once both are acknowledged. */
  progressed(): void {
    const { sender, receiver } = this
    const state = this.#state
    if (!receiver.hasEnded) return
    if (state.kind === 'open' && sender.hasSentEnd) {
      this.#state = { kind: 'lingering', mayHearOpened: state.mayHearOpened }
      receiver.leaveUser()
      this.#owner.startedLingering(this)
    }
    if (this.#state.kind !== 'lingering' || !sender.isDone) return
    if (receiver.isDone || !this.#owner.isResumable) this.close()
  }

  #opened({ events, windowBytes }: Opening, mayHearOpened: boolean): void {
    this.#state = { kind: 'open', mayHearOpened }
    this.sender.allow(windowBytes)
    events.opened()
    this.sender.requestTurn()
  }

  #refused({ events }: Opening, refusal: Refusal): void {
    this.close()
    events.refused(refusal)
  }

  #repeatOpen(state: Opening, carrier: Carrier): void {
    this.receiver.expectOn(carrier)
    state.wasRepeated = true
    carrier.outbox.control(FRAME.OPEN | FLAGGED, this.id, state.request)
    if (state.isWithdrawn) carrier.outbox.control(FRAME.WITHDRAW, this.id)
  }

  #watch(): void {
    if (this.movedBytes - this.#watchedAt >= WATCHED_BYTES) this.#owner.watch(this)
  }
}

function openingState(
  { events, request }: { events: OpeningEvents; request: Buffer },
  windowBytes: number,
  isResumable: boolean,
): Opening {
  return {
    kind: 'opening',
    events,
    request: isResumable ? request : undefined,
    windowBytes,
    early: { datagrams: 0, bytes: 0 },
    wasRepeated: false,
    isWithdrawn: false,
  }
}
