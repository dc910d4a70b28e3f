/** A path with at least this round-trip time is long: the in-flight limit, not the stream windows, bounds what is sent on it. */
export const LONG_RTT_MS = 10

/** What may be in flight however slow the path is. Smaller: writes become small; larger: a slow link queues for longer. */
const MIN_BYTES = 64 * 1024
/** The limit in multiples of the bandwidth-delay product. Smaller: a link is not filled; larger: the rest waits in a queue. */
const TIMES = 2
/** The same on a long path while small streams are active, which wait in that queue too. Smaller: bulk starves. */
const SHARED_TIMES = 1.5
/**
 * A queue this long is allowed on any path, so that a short round trip does not throttle a fast link. Shorter while small streams
 * are active beside bulk: both ends read what is in flight on all carriers before they come to a keystroke.
 */
const QUEUE_MS = 5
const SHARED_QUEUE_MS = 0.5
/** A stall counts for this many round trips at most: an outage is no reason to send more. */
const MAX_STALL_TRIPS = 4
/** The shortest round trip is remembered over two periods of this length. Larger: a path that got longer is noticed later. */
const PERIOD_MS = 5_000

/**
 * How many bytes of a carrier the peer has not read yet, and how many that may be: twice the bandwidth-delay product (bandwidth ×
 * shortest round trip), and on a long path what arrives while a lost packet is repaired, since everything behind it waits unread.
 * The kernel would take 4 MB, and a keystroke would wait behind all of it.
 *
 * PINGs mark positions in the bytes, an eighth of the limit apart; a PONG proves that everything before its PING has arrived.
 *
 *     arrived ──▶│ping│──▶│ping│──▶│ping│──▶ sent         rate = what arrived in a mark's round trip ÷ that round trip
 *     └─ nothing for longer than at that rate: a stall
 */
export class InFlightLimit {
  #sent = 0
  #arrived = 0
  #limit = MIN_BYTES * 8
  readonly #marks: Mark[] = []
  #markedTo = 0
  #sequence = 0
  #rate = 0
  #least = Number.POSITIVE_INFINITY
  #leastBefore = Number.POSITIVE_INFINITY
  #leastSince = 0
  /** The longest recent stall, in ms. */
  #stall = 0
  /** The largest limit since `#least` was discarded last, and the round trip under it. */
  #widest = { limit: 0, roundTrip: 0 }
  #answeredAt = Number.NEGATIVE_INFINITY
  /** Small streams of the session are active, here or on other carriers. Set by the session. */
  isShared = false

  get bytes(): number {
    return this.#sent - this.#arrived
  }

  get limit(): number {
    return this.#limit
  }

  /** What may be sent now. */
  get room(): number {
    return this.#limit - this.bytes
  }

  sent(bytes: number): void {
    this.#sent += bytes
  }

  /** A mark is due behind what was sent: without one, its arrival would go unnoticed. */
  get isMarkDue(): boolean {
    const unmarked = this.#sent - this.#markedTo
    return unmarked >= this.#limit >>> 3 || (unmarked > 0 && this.#marks.length === 0 && this.room < this.#limit >>> 1)
  }

  /** The number of the PING to send now, before anything else. */
  mark(now: number): number {
    this.#sequence = (this.#sequence + 1) >>> 0
    this.#marks.push({ at: now, sent: this.#sent, arrived: this.#arrived, sequence: this.#sequence })
    this.#markedTo = this.#sent
    return this.#sequence
  }

  /** A PONG has arrived; it answers older marks as well. */
  answered(sequence: number, now: number): void {
    const at = this.#marks.findIndex((mark) => mark.sequence === sequence)
    if (at < 0) return
    const mark = this.#marks[at]!
    this.#marks.splice(0, at + 1)
    const roundTrip = Math.max(now - mark.at, 0.01)
    this.#noteRoundTrip(roundTrip, now)
    this.#checkShortest(roundTrip)
    const rate = (mark.sent - mark.arrived) / roundTrip
    this.#rate = rate > this.#rate ? rate : this.#rate + (rate - this.#rate) / 16
    const least = Math.min(this.#least, this.#leastBefore)
    const silentMs = Math.min(now - this.#answeredAt, roundTrip - least)
    const stalled = Math.min(silentMs - (mark.sent - this.#arrived) / this.#rate, MAX_STALL_TRIPS * least)
    const isLong = least >= LONG_RTT_MS
    this.#stall = isLong ? Math.max(stalled, this.#stall * (15 / 16)) : 0
    this.#answeredAt = now
    this.#arrived = mark.sent
    const times = isLong && this.isShared ? SHARED_TIMES : TIMES
    const shortest = Math.max(least, this.isShared ? SHARED_QUEUE_MS : QUEUE_MS)
    this.#limit = Math.max(MIN_BYTES, Math.ceil(this.#rate * (times * shortest + this.#stall)))
  }

  /**
   * Our own queue is shorter when a quarter is in flight. If the round trip stays the same then, the path has become longer, and
   * the remembered shortest round trip, which would hold the rate down, is discarded.
   */
  #checkShortest(roundTrip: number): void {
    if (this.#limit >= this.#widest.limit) this.#widest = { limit: this.#limit, roundTrip }
    if (this.#limit > this.#widest.limit / 4 || roundTrip < this.#widest.roundTrip / 2) return
    this.#least = roundTrip
    this.#leastBefore = Number.POSITIVE_INFINITY
    this.#widest = { limit: this.#limit, roundTrip }
  }

  #noteRoundTrip(roundTrip: number, now: number): void {
    if (now - this.#leastSince > PERIOD_MS) {
      this.#leastBefore = this.#least
      this.#least = roundTrip
      this.#leastSince = now
    } else this.#least = Math.min(this.#least, roundTrip)
  }
}

interface Mark {
  at: number
  /** Bytes sent before it, and bytes that had arrived by then. */
  sent: number
  arrived: number
  sequence: number
}
