import { SteadyMap } from '../../../src/core/kit/steady-map.ts'
import type { TunnelLimits } from '../limits.ts'
import type { Holder } from '../node-budget.ts'
import type { MuxStream } from '../stream/mux-stream.ts'
import type { SealedLink } from '../sealed/contract.ts'
import type { PendingResets, Tombstones } from './closed-streams.ts'
import { BulkDetector } from './bulk-detector.ts'
import type { Receiver } from '../stream/receiver.ts'
import type { Sender } from '../stream/sender.ts'
import type { StreamOwner } from '../stream/mux-stream.ts'

export interface AccountingOptions {
  limits: TunnelLimits
  now: () => number
  recentRttMs: () => number | undefined
  /** The session's streams, by id. */
  streams: SteadyMap<number, MuxStream>
  /** The lowest bit of ids of streams that this side opened. */
  ownBit: 0 | 1
  pendingResets: PendingResets
  tombstones: Tombstones
  sealed: SealedLink | undefined
}

/**
 * Streams that have ended, and wait only until the peer knows. Larger: more of them, and what belongs to them, outlive two collections,
 * and then only a collection of everything frees them. Smaller: more writes.
 */
const LAST_OWED = 16

/** What the streams of a session share: how many there are, how many bytes they hold, and what they owe the peer. */
export class Accounting implements StreamOwner, Holder {
  readonly limits: TunnelLimits
  isResumable = false
  /** Open streams by who opened them. */
  ours = 0
  theirs = 0
  heldBytes = 0
  keptBytes = 0
  /** The most that was ever kept. */
  keptPeak = 0
  readonly bulkDetector = new BulkDetector()
  readonly #options: AccountingOptions
  /** By the ids of their streams. */
  readonly #owing = new SteadyMap<number, Receiver>()
  readonly #waiting = new Set<Sender>()
  /** Acknowledgements of ends among those owed. */
  #lastOwed = 0
  #grownBytes = 0
  #willUnblock = false

  constructor(options: AccountingOptions) {
    this.#options = options
    this.limits = options.limits
  }

  get recentRttMs(): number | undefined {
    return this.#options.recentRttMs()
  }

  get sealed(): SealedLink | undefined {
    return this.#options.sealed
  }

  get isFull(): boolean {
    return this.keptBytes > this.limits.retainedBytes
  }

  /** A stream that keeps less than half an equal share may write on: streams that nobody reads must not hold up those that are read. */
  isFullFor(kept: number): boolean {
    return this.isFull && 2 * kept * this.#options.streams.size > this.limits.retainedBytes
  }

  /** The streams that wait for the peer to acknowledge their end are as many as may be open. */
  get isCrowded(): boolean {
    return this.#options.streams.size - this.ours - this.theirs >= this.limits.streams
  }

  now(): number {
    return this.#options.now()
  }

  add(stream: MuxStream): void {
    if (this.#options.streams.size === 0) this.limits.budget?.join(this)
    this.#options.streams.set(stream.id, stream)
    this.#count(stream, 1)
  }

  freed(stream: MuxStream): void {
    this.#options.streams.delete(stream.id)
    if (stream.allowsEarly && (stream.id & 1) !== this.#options.ownBit) this.#options.tombstones.add(stream.id)
    if (this.#options.streams.size === 0) this.limits.budget?.leave(this)
    this.#grownBytes -= stream.receiver.grownBytes
    this.#owing.delete(stream.id)
    this.#waiting.delete(stream.sender)
    this.bulkDetector.remove(stream)
    if (stream.state !== 'lingering') this.#count(stream, -1)
  }

  startedLingering(stream: MuxStream): void {
    this.#count(stream, -1)
  }

  sentReset(stream: MuxStream): void {
    if (this.isResumable) this.#options.pendingResets.add(stream.id, stream.carrier, this.now())
  }

  changeHeld(bytes: number): void {
    this.heldBytes += bytes
    this.limits.budget?.changeHeld(bytes)
    if (bytes > 0 && this.heldBytes > this.limits.bufferedBytes) this.shed()
  }

  changeKept(bytes: number): void {
    this.keptBytes += bytes
    if (this.keptBytes > this.keptPeak) this.keptPeak = this.keptBytes
    if (bytes > 0 || this.#willUnblock || this.#waiting.size === 0 || this.isFull) return
    this.#willUnblock = true
    queueMicrotask(() => this.#unblockWaiting())
  }

  waitForRoom(sender: Sender): void {
    this.#waiting.add(sender)
  }

  oweAck(receiver: Receiver): void {
    if (!this.isResumable) return
    this.#owing.set(receiver.id, receiver)
    if (receiver.hasEnded && ++this.#lastOwed >= LAST_OWED) this.settle()
  }

  watch(stream: MuxStream): void {
    this.bulkDetector.watch(stream)
  }

  mayGrow(bytes: number): boolean {
    return this.#grownBytes + bytes <= this.limits.windowGrowthBytes
  }

  changeGrown(bytes: number): void {
    this.#grownBytes += bytes
  }

  /** Acknowledges what was consumed and is too little to be acknowledged at once, so that the peer keeps nothing for idle streams. */
  settle(): void {
    this.#lastOwed = 0
    for (const receiver of this.#owing.values()) {
      if (!receiver.canAcknowledge) continue
      this.#owing.delete(receiver.id)
      receiver.acknowledge()
    }
  }

  #unblockWaiting(): void {
    this.#willUnblock = false
    for (const sender of this.#waiting) {
      if (this.isFull) return
      this.#waiting.delete(sender)
      sender.unblock()
    }
  }

  #count({ id }: MuxStream, by: 1 | -1): void {
    if ((id & 1) === this.#options.ownBit) this.ours += by
    else this.theirs += by
  }

  /** Too much is held for readers that do not read: resets the stream that holds most. */
  shed(): void {
    let most: MuxStream | undefined
    for (const stream of this.#options.streams.values()) {
      if (most === undefined || stream.receiver.heldBytes > most.receiver.heldBytes) most = stream
    }
    most?.abort()
  }
}
