import type { Stream, StreamEvents } from './contract.ts'
import type { Carrier } from './carrier.ts'
import { FRAME, frameInvalid, HEADER_BYTES, MAX_PAYLOAD, writeHeader } from './frame.ts'
import type { TunnelLimits } from './limits.ts'
import type { Turn } from './outbox.ts'
import { Retained } from './retained.ts'
import { Window } from './window.ts'

/** The session a stream belongs to, as the stream sees it. */
export interface StreamOwner {
  readonly limits: TunnelLimits
  readonly rttMs: number | undefined
  now(): number
  /** Bytes that were received and not yet consumed: more (positive) or fewer. */
  held(bytes: number): void
  /** May a stream's window grow by so much? */
  mayGrow(bytes: number): boolean
  /** A stream's window has grown by so much (or shrunk: negative). */
  grew(bytes: number): void
  freed(stream: MuxStream): void
}

/** A writer is asked to stop here … */
const HIGH_WATER = 256 * 1024
/** … and to go on here. */
const LOW_WATER = 64 * 1024
/** With so much waiting on the carrier, each writer is asked to stop after every chunk: a peer that reads nothing costs us this. */
const CROWDED = 32 * 1024 * 1024

/**
 * One flow in a session.
 *
 *     opener:   opening ──OPENED──▶ open            opening ──REFUSED, RESET, no carrier──▶ closed
 *     acceptor: pending ──accept──▶ open            pending ──refuse, RESET, time-out──▶ closed
 *
 *     open: the two directions end by themselves, END sent and END received; both ended, or RESET either way ──▶ closed
 *
 * Both directions are counted in bytes since the start. Sender: sent ≤ allowed = consumed (as ACK said) + window. Receiver:
 * promised = the largest such sum it ever sent; more than that from the peer is FRAME_INVALID.
 *
 * Hot path: a chunk is copied once into what is kept until the peer has consumed it, and once into the carrier's batch.
 */
export class MuxStream implements Stream, Turn {
  readonly id: number
  readonly carrier: Carrier
  state: 'opening' | 'pending' | 'open' | 'closed'
  events: StreamEvents
  nextTurn: Turn | undefined = undefined
  hasTurn = false
  readonly #owner: StreamOwner
  // sending
  readonly #retained = new Retained()
  #forgotten = 0
  #queued = 0
  #sent = 0
  #allowed: number
  #isEnding = false
  #endSent = false
  #isBlocked = false
  // receiving
  #received = 0
  #consumed = 0
  #acked = 0
  readonly #window: Window
  #promised: number
  #endReceived = false

  constructor(id: number, state: 'opening' | 'pending', carrier: Carrier, owner: StreamOwner, events: StreamEvents) {
    this.id = id
    this.state = state
    this.carrier = carrier
    this.events = events
    this.#owner = owner
    this.#allowed = carrier.peerWindowBytes
    const { windowBytes, maxWindowBytes } = owner.limits
    this.#window = new Window({ first: windowBytes, limit: maxWindowBytes, now: owner.now() })
    this.#promised = windowBytes
  }

  /** By how much the window has grown; given back when the stream is freed. */
  get grownBytes(): number {
    return this.#window.grownBytes
  }

  /** Received and not yet consumed. */
  get heldBytes(): number {
    return this.#received - this.#consumed
  }

  get backlog(): number {
    return this.#queued
  }

  get isReady(): boolean {
    if (this.state !== 'open') return false
    return this.#queued > 0 ? this.#sent < this.#allowed : this.#isEnding && !this.#endSent
  }

  // ── what the user calls ──

  write(chunk: Buffer): boolean {
    if (this.state === 'closed' || this.#isEnding || chunk.length === 0) return true
    this.#retained.push(chunk)
    this.#queued += chunk.length
    this.carrier.backlog += chunk.length
    if (!this.hasTurn && this.isReady) this.carrier.outbox.join(this)
    if (this.#queued < HIGH_WATER && this.carrier.backlog < CROWDED) return true
    this.#isBlocked = true
    return false
  }

  datagram(payload: Buffer): boolean {
    return this.state === 'open' && !this.#isEnding && this.carrier.outbox.datagram(this.id, payload)
  }

  end(): void {
    if (this.state === 'closed' || this.#isEnding) return
    this.#isEnding = true
    if (!this.hasTurn && this.isReady) this.carrier.outbox.join(this)
  }

  reset(): void {
    if (this.state === 'closed') return
    this.carrier.outbox.control(FRAME.RESET, this.id)
    this.close()
  }

  consumed(bytes: number): void {
    if (this.state === 'closed') return
    const step = Math.min(bytes, this.#received - this.#consumed)
    this.#consumed += step
    this.#owner.held(-step)
    if (this.#endReceived || this.#consumed - this.#acked < this.#window.bytes >>> 2) return
    if (this.#window.isRoundOver(this.#consumed)) this.#round()
    this.#acked = this.#consumed
    this.#promised = Math.max(this.#promised, this.#consumed + this.#window.bytes)
    this.carrier.outbox.ack(this.id, this.#consumed, this.#window.bytes)
  }

  #round(): void {
    const { rttMs } = this.#owner
    const at = { consumed: this.#consumed, now: this.#owner.now(), rttMs }
    this.#owner.grew(this.#window.round(at, (bytes) => this.#owner.mayGrow(bytes)))
  }

  // ── what the outbox calls ──

  take(out: Buffer, at: number, room: number): number {
    if (this.state !== 'open') return 0
    let used = 0
    const size = Math.min(room - HEADER_BYTES, this.#queued, this.#allowed - this.#sent, MAX_PAYLOAD)
    if (size > 0) {
      writeHeader(out, at, FRAME.DATA, this.id, size)
      this.#move(out, at + HEADER_BYTES, size)
      used = HEADER_BYTES + size
    }
    if (this.#queued === 0 && this.#isEnding && !this.#endSent && room - used >= HEADER_BYTES) {
      writeHeader(out, at + used, FRAME.END, this.id, 0)
      used += HEADER_BYTES
      this.#endSent = true
      if (this.#endReceived) this.close()
    }
    if (this.#isBlocked && this.#queued <= LOW_WATER) {
      this.#isBlocked = false
      this.carrier.outbox.tellLater(this)
    }
    return used
  }

  #move(out: Buffer, at: number, size: number): void {
    this.#sent += size
    this.#queued -= size
    this.carrier.backlog -= size
    this.#retained.read(out, at, size)
  }

  drained(): void {
    if (this.state !== 'closed' && !this.#isEnding) this.events.drain()
  }

  // ── what the peer's frames do ──

  gotData(piece: Buffer): void {
    if (this.state !== 'open') throw frameInvalid('data on a stream that is not open', { stream: this.id })
    if (this.#endReceived) throw frameInvalid('data after END', { stream: this.id })
    this.#received += piece.length
    if (this.#received > this.#promised) throw frameInvalid('data beyond the window', { stream: this.id })
    this.#owner.held(piece.length)
    if (this.state === 'open') this.events.data(piece) // holding it may have been too much
  }

  /** What crossed our END, or came before OPENED was heard, is lost as datagrams may be. */
  gotDatagram(payload: Buffer): void {
    if (this.state === 'open') this.events.datagram?.(payload)
  }

  gotEnd(): void {
    if (this.state !== 'open') throw frameInvalid('END on a stream that is not open', { stream: this.id })
    if (this.#endReceived) throw frameInvalid('a second END', { stream: this.id })
    this.#endReceived = true
    const events = this.events
    if (this.#endSent) this.close()
    events.end()
  }

  gotAck(consumed: number, windowBytes: number): void {
    if (consumed > this.#sent) throw frameInvalid('ACK of bytes that were not sent', { stream: this.id })
    this.#allowed = Math.max(this.#allowed, consumed + windowBytes)
    if (consumed > this.#forgotten) {
      this.#retained.drop(consumed - this.#forgotten)
      this.#forgotten = consumed
    }
    if (!this.hasTurn && this.isReady) this.carrier.outbox.join(this)
  }

  gotOpened(): void {
    if (this.state !== 'opening') throw frameInvalid('OPENED without OPEN', { stream: this.id })
    this.state = 'open'
    this.events.opened()
    this.begin()
  }

  /** The stream is open: what was written before goes out. */
  begin(): void {
    if (!this.hasTurn && this.isReady) this.carrier.outbox.join(this)
  }

  /** Frees everything; says nothing to anybody. */
  close(): void {
    if (this.state === 'closed') return
    this.state = 'closed'
    this.#owner.held(this.#consumed - this.#received)
    this.carrier.backlog -= this.#queued
    this.#queued = 0
    this.#retained.clear()
    this.#owner.freed(this)
  }
}
