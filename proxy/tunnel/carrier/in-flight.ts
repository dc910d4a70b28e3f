/** A path with at least this round-trip time is long: the in-flight limit, not the stream windows, bounds what is sent on it. */
export const LONG_RTT_MS = 10

/** What may be under way however slow the path is: less, and turns become small; more, and a slow link queues for longer. */
const LEAST_BYTES = 64 * 1024
/** What may be under way, in what the path holds: less, and a link is not filled; more, and all of it stands in a queue. */
const TIMES = 2
/** The same while small streams speak on a long path: the queue is theirs too. Less, and bulk yields until it starves. */
const SHARED_TIMES = 1.5
/**
 * A queue of so many milliseconds paces no fast link; and while small streams speak beside bulk, a shorter one: both ends read
 * what is under way of all carriers before they come to the keystroke.
 */
const QUEUE_MS = 5
const SHARED_QUEUE_MS = 0.5
/** Of the time in which nothing comes through, so many round trips count: an outage is no reason to hand over more. */
const MOST_STALLS = 4
/** Round trips shorter than this are remembered for so long, twice. */
const REMEMBER_MS = 5_000

/**
 * How many bytes a carrier has handed over that the peer has not read yet, and how many that may be: twice what the path holds
 * (bandwidth × shortest round trip), and on a long path what comes while a lost packet is repaired: everything behind it waits
 * unread. The kernel would take 4 MB, and a keystroke would wait behind all of it.
 *
 * PINGs mark places in the bytes, an eighth of the limit apart; when a PONG is back, all that was before its PING has arrived.
 *
 *     arrived ──▶│ping│──▶│ping│──▶│ping│──▶ handed over         rate = what arrived in a mark's round trip ÷ that round trip
 *     └─ nothing for longer than at that rate: a stall
 */
export class InFlightLimit {
  #sent = 0
  #arrived = 0
  #limit = LEAST_BYTES * 8
  readonly #marks: Mark[] = []
  #markedTo = 0
  #sequence = 0
  #rate = 0
  #least = Number.POSITIVE_INFINITY
  #leastBefore = Number.POSITIVE_INFINITY
  #leastSince = 0
  /** The longest lately, in ms. */
  #stall = 0
  /** The largest limit since `#least` was doubted last, and the round trip under it. */
  #widest = { limit: 0, roundTrip: 0 }
  #answeredAt = Number.NEGATIVE_INFINITY
  /** Small streams of the session speak, here or on other carriers. */
  isShared = false

  get bytes(): number {
    return this.#sent - this.#arrived
  }

  get limit(): number {
    return this.#limit
  }

  /** What may be handed over now. */
  get room(): number {
    return this.#limit - this.bytes
  }

  sent(bytes: number): void {
    this.#sent += bytes
  }

  /** A mark is due behind what was handed over: without one, nobody would learn that it has arrived. */
  get isMarkDue(): boolean {
    const unmarked = this.#sent - this.#markedTo
    return unmarked >= this.#limit >>> 3 || (unmarked > 0 && this.#marks.length === 0 && this.room < this.#limit >>> 1)
  }

  /** The number of the PING to send now, before what is handed over next. */
  mark(now: number): number {
    this.#sequence = (this.#sequence + 1) >>> 0
    this.#marks.push({ at: now, sent: this.#sent, arrived: this.#arrived, sequence: this.#sequence })
    this.#markedTo = this.#sent
    return this.#sequence
  }

  /** A PONG is back; those of older marks are with it. */
  answered(sequence: number, now: number): void {
    const at = this.#marks.findIndex((mark) => mark.sequence === sequence)
    if (at < 0) return
    const mark = this.#marks[at]!
    this.#marks.splice(0, at + 1)
    const roundTrip = Math.max(now - mark.at, 0.01)
    this.#remember(roundTrip, now)
    this.#doubt(roundTrip)
    const rate = (mark.sent - mark.arrived) / roundTrip
    this.#rate = rate > this.#rate ? rate : this.#rate + (rate - this.#rate) / 16
    const least = Math.min(this.#least, this.#leastBefore)
    const nothingFor = Math.min(now - this.#answeredAt, roundTrip - least)
    const stalled = Math.min(nothingFor - (mark.sent - this.#arrived) / this.#rate, MOST_STALLS * least)
    const isLong = least >= LONG_RTT_MS
    this.#stall = isLong ? Math.max(stalled, this.#stall * (15 / 16)) : 0
    this.#answeredAt = now
    this.#arrived = mark.sent
    const times = isLong && this.isShared ? SHARED_TIMES : TIMES
    const shortest = Math.max(least, this.isShared ? SHARED_QUEUE_MS : QUEUE_MS)
    this.#limit = Math.max(LEAST_BYTES, Math.ceil(this.#rate * (times * shortest + this.#stall)))
  }

  /**
   * A queue of our own is shorter when a quarter is under way; where the round trip stays as it was, the path has got longer, and
   * what is remembered of it would hold the rate down until it is forgotten.
   */
  #doubt(roundTrip: number): void {
    if (this.#limit >= this.#widest.limit) this.#widest = { limit: this.#limit, roundTrip }
    if (this.#limit > this.#widest.limit / 4 || roundTrip < this.#widest.roundTrip / 2) return
    this.#least = roundTrip
    this.#leastBefore = Number.POSITIVE_INFINITY
    this.#widest = { limit: this.#limit, roundTrip }
  }

  #remember(roundTrip: number, now: number): void {
    if (now - this.#leastSince > REMEMBER_MS) {
      this.#leastBefore = this.#least
      this.#least = roundTrip
      this.#leastSince = now
    } else this.#least = Math.min(this.#least, roundTrip)
  }
}

interface Mark {
  at: number
  /** Bytes handed over before it, and bytes that had arrived by then. */
  sent: number
  arrived: number
  sequence: number
}
