import type { Carrier } from '../carrier/carrier.ts'
import type { Turn } from '../carrier/outbox.ts'
import type { ResumedStream } from '../wire/resume.ts'
import { Sending } from './sending.ts'

/** A writer is asked to stop here … */
const HIGH_WATER = 256 * 1024
/** … and to go on here. */
const LOW_WATER = 64 * 1024

/** The stream a sender belongs to. */
export interface SendingStream {
  readonly id: number
  /** Its state allows bytes to leave. */
  readonly maySend: boolean
  /** There is room again after a write that returned false. */
  drained(): void
  /** Everything is sent, END too. */
  progressed(): void
}

/** The session, as far as a sender needs it. */
export interface SendingOwner {
  /** Streams outlive their carriers, so what was sent is kept until it is acknowledged. */
  readonly isResumable: boolean
  /** Too much is kept over all streams, so that a writer of which this much is kept must stop. */
  isFullFor(kept: number): boolean
  /** More bytes are kept for sending, or fewer (negative). */
  changeKept(bytes: number): void
  /** `unblock` is to be called once the session has room again. */
  waitForRoom(sender: Sender): void
}

/**
 * What a stream sends, and the carrier it sends on: joins the positions (sending.ts) to the carrier's outbox, its counters and the
 * session's.
 *
 * Hot path: a chunk is copied once into what is kept until the peer has consumed it, and once into the carrier's batch.
 */
export class Sender implements Turn {
  // for the outbox alone
  nextTurn: Turn | undefined = undefined
  previousTurn: Turn | undefined = undefined
  hasTurn = false
  readonly #stream: SendingStream
  readonly #owner: SendingOwner
  readonly #sending: Sending
  #carrier: Carrier | undefined
  /** The writer was asked to stop. */
  #isBlocked = false
  #isBulk = false

  /** `allowed`: bytes that may be sent before the first ACK. */
  constructor(stream: SendingStream, owner: SendingOwner, { carrier, allowed }: { carrier: Carrier; allowed: number }) {
    this.#stream = stream
    this.#owner = owner
    this.#sending = new Sending(owner.isResumable, allowed)
    this.#carrier = carrier
    carrier.adopt(this)
  }

  /** None while all have died, or while the stream's rule allows none of them. */
  get carrier(): Carrier | undefined {
    return this.#carrier
  }

  /** It sends so much that it gets a carrier to itself (session/placement.ts). */
  get isBulk(): boolean {
    return this.#isBulk
  }

  get isReady(): boolean {
    return this.#stream.maySend && this.#sending.isReady
  }

  /** Bytes not sent yet, or to be sent again. */
  get backlog(): number {
    return this.#sending.queued
  }

  /** Bytes the peer has acknowledged. */
  get acked(): number {
    return this.#sending.acked
  }

  /** Something was sent, if only END. */
  get hasSent(): boolean {
    return this.#sending.hasSent
  }

  /** The user has written everything. */
  get isEnding(): boolean {
    return this.#sending.isEnding
  }

  get hasSentEnd(): boolean {
    return this.#sending.endSent
  }

  /** Nothing of this direction is needed any more. */
  get isDone(): boolean {
    return this.#sending.isDone
  }

  setBulk(isBulk: boolean): void {
    if (isBulk === this.#isBulk) return
    this.#isBulk = isBulk
    this.#carrier?.countBulk(isBulk ? 1 : -1)
  }

  write(chunk: Buffer): boolean {
    const sending = this.#sending
    sending.push(chunk)
    this.#owner.changeKept(chunk.length)
    this.#carrier?.queued(chunk.length)
    this.requestTurn()
    const isFull = this.#owner.isFullFor(sending.kept)
    if (sending.queued < HIGH_WATER && !isFull) return true
    this.#isBlocked = true
    if (isFull) this.#owner.waitForRoom(this)
    return false
  }

  end(): void {
    this.#sending.isEnding = true
    this.requestTurn()
  }

  /** Joins the carrier's ring if there is something to send. */
  requestTurn(): void {
    if (!this.hasTurn && this.isReady) this.#carrier?.outbox.join(this)
  }

  /** The peer lets this much be sent, in all. */
  allow(bytes: number): void {
    this.#sending.allow(bytes)
    this.requestTurn()
  }

  /** @throws MeshError FRAME_INVALID */
  gotAck(count: number, windowBytes: number): void {
    const sending = this.#sending
    const { queued, kept } = sending
    sending.gotAck(count, windowBytes)
    this.#account(queued, kept)
    if (this.#isBlocked && !this.#owner.isFullFor(sending.kept)) queueMicrotask(() => this.unblock())
    this.requestTurn()
  }

  /** RESUME reported what the peer has received: it is not sent again. */
  gotReceived({ received, hasEnd }: ResumedStream): void {
    const { queued, kept } = this.#sending
    this.#sending.skipTo(received, hasEnd)
    this.#account(queued, kept)
    this.requestTurn()
  }

  /** Goes on on another carrier, or waits: what the peer has not acknowledged is sent again there. */
  moveTo(carrier: Carrier | undefined): void {
    this.#leave()
    this.#sending.rewind()
    this.#carrier = carrier
    carrier?.adopt(this)
  }

  /** The session has room again: for all its streams, or for this one. */
  unblock(): void {
    if (!this.#isBlocked || this.#sending.queued > LOW_WATER) return
    this.#isBlocked = false
    this.drained()
  }

  /** Frees what is kept. */
  close(): void {
    this.#leave()
    this.#owner.changeKept(-this.#sending.kept)
    this.#sending.clear()
  }

  // ── called by the outbox ──

  writeFrames(out: Buffer, at: number, room: number): number {
    if (!this.#stream.maySend) return 0
    const sending = this.#sending
    const { queued, kept } = sending
    const used = sending.writeFrames(out, at, room, this.#stream.id)
    this.#account(queued, kept)
    if (this.#isBlocked && sending.queued <= LOW_WATER) {
      if (this.#owner.isFullFor(sending.kept)) this.#owner.waitForRoom(this)
      else {
        this.#isBlocked = false
        this.#carrier?.outbox.drainLater(this)
      }
    }
    if (sending.endSent) this.#stream.progressed()
    return used
  }

  drained(): void {
    if (!this.#sending.isEnding) this.#stream.drained()
  }

  #leave(): void {
    if (this.#carrier === undefined) return
    if (this.hasTurn) this.#carrier.outbox.leave(this)
    this.#carrier.release(this)
  }

  /** Passes on what changed since there were `queued` and `kept` bytes. */
  #account(queued: number, kept: number): void {
    const sending = this.#sending
    if (queued !== sending.queued) this.#carrier?.queued(sending.queued - queued)
    if (kept !== sending.kept) this.#owner.changeKept(sending.kept - kept)
  }
}
