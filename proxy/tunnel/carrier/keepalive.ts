/** Between pings while streams are open. Larger: a dead peer holds its flows for longer; smaller: more wake-ups. */
const BUSY_MS = 1_000
/** Between pings while nothing is open. Larger: NATs may forget the mapping, which most keep for 30 s or more. */
const IDLE_MS = 15_000
const MISSES = 3
/** An answer later than this, and than four round trips, makes the carrier doubtful. Smaller: every stall costs a dial. */
const LATE_MS = 500
/** Round trips that tell the current one. Larger: a path that became longer is noticed later; smaller: one slow ping looks like it. */
const RECENT = 3

/**
 * Whether the other end of a carrier is alive, and how far away it is. Any received byte is a sign of life, and a miss is counted
 * once per ping, so a stall of our own event loop never condemns a peer.
 *
 *     ping ─(anything received)─▶ ping     ping ─(silence)─▶ missed 1 ─▶ missed 2 ─▶ missed 3: dead
 */
export class Keepalive {
  #isAnswered = true
  #missed = 0
  #sequence = 0
  #pingedAt = Number.NEGATIVE_INFINITY
  #smoothed: number | undefined
  #least: number | undefined
  readonly #recent: number[] = []
  #jitter = 0
  #isLate = false
  /** Since when an answer has been expected. */
  #expectedSince: number | undefined
  /** Something was received since the last tick. */
  #hasReceived = true

  get rttMs(): number | undefined {
    return this.#smoothed
  }

  /** The shortest round trip seen: what the path can do when nothing queues. */
  get leastRttMs(): number | undefined {
    return this.#least
  }

  /** The shortest of the last few round trips: the path as it is now, without what queues now and then. */
  get recentRttMs(): number | undefined {
    return this.#recent.length === 0 ? undefined : Math.min(...this.#recent)
  }

  /** Mean deviation of round trips (RFC 6298). */
  get jitterMs(): number {
    return this.#jitter
  }

  /** An answer is late, and nothing else was received: pings go on at the busy pace until that is settled. */
  get isDoubtful(): boolean {
    return this.#isLate && !this.#isAnswered
  }

  /** A ping was sent, and nothing was received since. */
  get isAwaiting(): boolean {
    return !this.#isAnswered
  }

  received(): void {
    this.#isAnswered = true
    this.#hasReceived = true
    this.#expectedSince = undefined
  }

  /** Something was sent that the other end answers. */
  expectAnswer(now: number): void {
    this.#expectedSince ??= now
  }

  /** How long an answer has been due, with nothing received at all; 0 when none is due. */
  silentMs(now: number): number {
    return this.#expectedSince === undefined ? 0 : now - this.#expectedSince
  }

  /** Makes a ping due at once, unless one is on its way. */
  pingNow(): void {
    if (this.#isAnswered) this.#pingedAt = Number.NEGATIVE_INFINITY
  }

  /** What is due now; after `ping` the caller sends the returned sequence number. */
  tick(now: number, busy: boolean, hasSent = false): { due: 'nothing' | 'dead' } | { due: 'ping'; sequence: number } {
    this.#isLate = !this.#isAnswered && now - this.#pingedAt >= Math.max(LATE_MS, 4 * (this.#smoothed ?? 0))
    const isSuspect = busy && hasSent && !this.#hasReceived && this.#isAnswered // what was sent got no answer yet: ask at once
    this.#hasReceived = false
    if (!isSuspect && now - this.#pingedAt < (busy || this.isDoubtful ? BUSY_MS : IDLE_MS)) return { due: 'nothing' }
    this.#missed = this.#isAnswered ? 0 : this.#missed + 1
    if (this.#missed >= MISSES) return { due: 'dead' }
    this.#isAnswered = false
    this.#pingedAt = now
    this.expectAnswer(now)
    this.#sequence = (this.#sequence + 1) >>> 0
    return { due: 'ping', sequence: this.#sequence }
  }

  /** The round trip of this pong, if it answers the latest ping. */
  pong(sequence: number, now: number): number | undefined {
    if (sequence !== this.#sequence) return undefined
    const rtt = now - this.#pingedAt
    this.#sequence = (this.#sequence + 1) >>> 0 // a second pong of the same number measures nothing
    if (this.#smoothed !== undefined) this.#jitter += (Math.abs(rtt - this.#smoothed) - this.#jitter) / 4
    this.#smoothed = this.#smoothed === undefined ? rtt : this.#smoothed + (rtt - this.#smoothed) / 8
    this.#least = Math.min(this.#least ?? rtt, rtt)
    this.#recent.push(rtt)
    if (this.#recent.length > RECENT) this.#recent.shift()
    return rtt
  }
}
