/** Pings while streams are open; less often and a dead peer holds its flows longer. */
const BUSY_MS = 1_000
/** Pings while nothing is open; NAT mappings live 30 s and more (TUNNELS.md D13). */
const IDLE_MS = 15_000
const MISSES = 3
/** An answer later than this, and than four round trips, makes doubt: sooner, and every stall costs a dial. */
const LATE_MS = 500
/** So many round trips say how long the path is now: more, and a path that got longer is noticed later. */
const RECENT = 3

/**
 * Whether the other end of a carrier lives, and how far away it is. Any inbound byte counts as a sign of life, and a miss is
 * counted once per ping sent, so a stalled event loop of our own never condemns a peer.
 *
 *     ping ─(anything heard)─▶ ping     ping ─(silence)─▶ missed 1 ─▶ missed 2 ─▶ missed 3: dead
 */
export class Keepalive {
  #heard = true
  #missed = 0
  #sequence = 0
  #pingedAt = Number.NEGATIVE_INFINITY
  #smoothed: number | undefined
  #least: number | undefined
  readonly #recent: number[] = []
  #jitter = 0
  #isLate = false
  /** Since when an answer is due. */
  #askedAt: number | undefined
  /** Something was heard since the last beat. */
  #spoke = true

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

  /** A ping is late, and nothing else was heard: pings go on at the busy pace until that is settled. */
  get isDoubtful(): boolean {
    return this.#isLate && !this.#heard
  }

  /** A ping is under way, and nothing was heard since. */
  get isAwaiting(): boolean {
    return !this.#heard
  }

  received(): void {
    this.#heard = true
    this.#spoke = true
    this.#askedAt = undefined
  }

  /** Something was sent that the other end answers. */
  expectAnswer(now: number): void {
    this.#askedAt ??= now
  }

  /** How long an answer is due, and nothing at all was heard; 0 when none is. */
  silentMs(now: number): number {
    return this.#askedAt === undefined ? 0 : now - this.#askedAt
  }

  /** A ping is due at once; one that is under way does as well. */
  pingNow(): void {
    if (this.#heard) this.#pingedAt = Number.NEGATIVE_INFINITY
  }

  /** What is due now; after `ping` the caller sends the returned sequence number. */
  tick(now: number, busy: boolean, hasSent = false): { due: 'nothing' | 'dead' } | { due: 'ping'; sequence: number } {
    this.#isLate = !this.#heard && now - this.#pingedAt >= Math.max(LATE_MS, 4 * (this.#smoothed ?? 0))
    const isSuspect = busy && hasSent && !this.#spoke && this.#heard // what was sent got no answer yet: ask at once
    this.#spoke = false
    if (!isSuspect && now - this.#pingedAt < (busy || this.isDoubtful ? BUSY_MS : IDLE_MS)) return { due: 'nothing' }
    this.#missed = this.#heard ? 0 : this.#missed + 1
    if (this.#missed >= MISSES) return { due: 'dead' }
    this.#heard = false
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
