import type { Address } from './contract.ts'
import { MtuSearch } from './mtu.ts'
import { MAX_ADDRESSES, sameAddress } from './offer.ts'
import { FLOOR_BYTES, PROBE_BYTES, SEAL_BYTES } from './packet.ts'

/**
 * Whether packets reach the peer, and where. Nothing is believed but the answer to a probe of ours, both inside the seal, and
 * that only as long as it is renewed while datagrams are sent. One side's view; the other has its own.
 *
 *                  want                      answer
 *       asleep ───────────▶ probing ──────────────────▶ open
 *         ▲                  │   ▲                      │ │
 *         │       no answer  │   │ rested, and wanted   │ │ a probe unanswered for 2.5 s
 *         │       in 2.5 s   ▼   │ (1 s … 60 s)         │ │
 *         │               resting ◀─────────────────────┼─┘
 *         └──────────── nothing sent for 10 s ──────────┘
 *
 *     doubtful: open, and a probe unanswered for 0.75 s, and those sent every tick since: datagrams go as frames until one is
 *
 *     A place that has proven nothing gets the shortest probe, as long as its answer: nobody can make us send more to somebody than
 *     they send to us. Once it has answered, one of 1,200 bytes must come through before it counts.
 *
 *     punching: the first probes die on the way (few hops): they open our own NAT, and cannot make the other's take us for a
 *     stranger. What is open stays so while datagrams were sent lately: a probe now and then, also while asleep.
 *
 *     moving: a packet newer than all before came from another address ─▶ probe there ─answer─▶ that is the address now
 */
export type UdpPathState = 'asleep' | 'probing' | 'open' | 'resting'

export interface UdpPathOptions {
  /** Sends a probe in a packet of that size, over so many hops at most; the answer comes through `answered`. */
  probe: (id: number, size: number, to: Address, ttl?: number) => void
  /** There are NATs on the way: each side's must have seen a packet of its own before it sees the other's. */
  isPunching?: boolean
  mtuTowards: (host: string) => Promise<number>
  /** The kernel's count of IP fragments: when it rises, a packet was too long. */
  fragments: (host: string) => number
  random: () => number
}

/** How often the path is proven while datagrams are sent. */
const PROVE_MS = 1_000
/** A probe that is not answered by then is followed by another. */
const AGAIN_MS = 250
/**
 * A probe unanswered for so long, and those after it too, and datagrams go as frames until one is answered: with PROVE_MS, at most two
 * seconds after the path has died. Smaller: they leave the path whenever three packets are lost.
 */
const DOUBT_MS = 750
/** Or for so many round trips, where one takes long. */
const DOUBT_TRIPS = 3
/** And for so long, and the path is given up. */
const SILENCE_MS = 2_500
/** Nothing sent for so long: the proof is old, and the next datagrams go as frames until it is new. */
const ASLEEP_MS = 10_000
/** All candidates are probed again after each of these. */
const TRY_MS = [250, 500, 750, 1_000] as const
const PUNCH_MS = [100, 250, 500, 750, 1_000] as const
/** Enough to leave a carrier-grade NAT behind the home router, not to reach the other end. */
const OPENER_TTL = 4
/** NATs forget UDP after 30 s and more (RFC 4787 §4.3). */
const KEEP_MS = 15_000
/** So long after the last datagram. */
const KEEP_FOR_MS = 180_000
const REST_MS = [1_000, 2_000, 5_000, 15_000, 60_000] as const
/** One probe towards a new address in so long: packets from many addresses must not make us send to many. */
const MOVE_MS = 250
const MAX_PROBES = 64
const SHORT_BYTES = SEAL_BYTES + PROBE_BYTES

/** To know that the path lives; how long packets may be; whether the peer has moved. */
type Purpose = 'proof' | 'search' | 'move'

interface Probe {
  readonly purpose: Purpose
  readonly size: number
  readonly to: Address
  readonly at: number
}

export class UdpPath {
  readonly #options: UdpPathOptions
  readonly #mtu = new MtuSearch()
  readonly #probes = new Map<number, Probe>()
  #state: UdpPathState = 'asleep'
  #address: Address | undefined
  #candidates: Address[] = []
  #wantedAt = Number.NEGATIVE_INFINITY
  #unansweredSince: number | undefined
  /** The last answer. */
  #tookMs = 0
  #provedAt = 0
  #tries = 0
  #nextTryAt = 0
  #rests = 0
  #restUntil = 0
  #movedAt = Number.NEGATIVE_INFINITY
  #keptAt = Number.NEGATIVE_INFINITY

  constructor(options: UdpPathOptions) {
    this.#options = options
  }

  get state(): UdpPathState {
    return this.#state
  }

  /** It was tried, and nothing came back. */
  get isBlocked(): boolean {
    return this.#rests > 0
  }

  /** It was open a moment ago, and says nothing any more. */
  isDoubtful(now: number): boolean {
    return (
      this.#state === 'open' &&
      this.#unansweredSince !== undefined &&
      now - this.#unansweredSince >= Math.max(DOUBT_MS, DOUBT_TRIPS * this.#tookMs)
    )
  }

  /** Where packets go while the way is open. */
  get address(): Address | undefined {
    return this.#address
  }

  get packetBytes(): number {
    return this.#mtu.bytes
  }

  get candidates(): readonly Address[] {
    return this.#candidates
  }

  /** Addresses the peer may have; known ones first. */
  addCandidates(addresses: readonly Address[]): void {
    for (const address of addresses) {
      if (this.#candidates.length >= MAX_ADDRESSES) return
      if (!this.#candidates.some((known) => sameAddress(known, address))) this.#candidates.push(address)
    }
  }

  /** A datagram is to be sent. */
  wanted(now: number): void {
    this.#wantedAt = now
    if (this.#state === 'asleep' || (this.#state === 'resting' && now >= this.#restUntil)) this.#begin(now)
  }

  /** The newest packet so far came from there: authentic, but the address is only a hint (it may have been sent on). */
  receivedFrom(from: Address, now: number): void {
    if (this.#state === 'open' && sameAddress(from, this.#address)) return
    if (now - this.#movedAt < MOVE_MS) return
    this.#movedAt = now
    this.#candidates = [from, ...this.#candidates.filter((known) => !sameAddress(known, from))].slice(0, MAX_ADDRESSES)
    if (this.#state === 'resting' && this.#isWanted(now)) this.#begin(now)
    else if (this.#state === 'probing') this.#probe(SHORT_BYTES, from, now)
    else if (this.#state === 'open') this.#probe(SHORT_BYTES, from, now, 'move')
  }

  /** The peer has answered a probe. */
  answered(id: number, now: number): void {
    const probe = this.#probes.get(id)
    if (probe === undefined) return
    this.#probes.delete(id)
    this.#tookMs = now - probe.at
    if (this.#state === 'asleep') return
    const isHere = this.#state === 'open' && sameAddress(probe.to, this.#address)
    if (!isHere) {
      if (this.#state === 'open' && probe.purpose !== 'move') return // a second address answers too
      if (probe.size < FLOOR_BYTES) return this.#probe(FLOOR_BYTES, probe.to, now, probe.purpose)
      this.#settle(probe.to, now)
    }
    this.#unansweredSince = undefined
    this.#rests = 0
    this.#mtu.answered(probe.size)
    if (probe.size === FLOOR_BYTES) this.#lose(probe, now)
    this.#search(now)
  }

  tick(now: number): void {
    switch (this.#state) {
      case 'asleep':
        return this.#keep(now)
      case 'resting':
        if (!this.#isWanted(now)) this.#state = 'asleep'
        else if (now >= this.#restUntil) this.#begin(now)
        return
      case 'probing':
        if (now >= this.#nextTryAt) this.#tryAll(now)
        return
      case 'open':
        return this.#prove(now)
      default:
        this.#state satisfies never
    }
  }

  // ── probing ──

  #begin(now: number): void {
    this.#state = 'probing'
    this.#tries = 0
    this.#tryAll(now)
  }

  #tryAll(now: number): void {
    const pause = (this.#options.isPunching === true ? PUNCH_MS : TRY_MS)[this.#tries]
    const ttl = this.#options.isPunching === true && this.#tries === 0 ? OPENER_TTL : undefined
    if (pause === undefined || this.#candidates.length === 0) return this.#rest(now)
    this.#tries += 1
    this.#nextTryAt = now + pause
    for (const candidate of this.#candidates) this.#probe(SHORT_BYTES, candidate, now, 'proof', ttl)
  }

  /** What was open is kept open for a while. */
  #keep(now: number): void {
    if (this.#options.isPunching !== true || this.#address === undefined) return
    if (now - this.#wantedAt > KEEP_FOR_MS || now - this.#keptAt < KEEP_MS) return
    this.#keptAt = now
    this.#probes.clear() // nobody waits for the answer
    this.#probe(SHORT_BYTES, this.#address, now)
  }

  #rest(now: number): void {
    this.#state = 'resting'
    const ms = REST_MS[Math.min(this.#rests, REST_MS.length - 1)]!
    this.#rests += 1
    this.#restUntil = now + ms * (0.75 + this.#options.random() / 2)
    this.#probes.clear()
    this.#unansweredSince = undefined
  }

  // ── open ──

  #settle(address: Address, now: number): void {
    this.#state = 'open'
    this.#address = address
    this.#candidates = [address, ...this.#candidates.filter((known) => !sameAddress(known, address))]
    this.#provedAt = now
    this.#mtu.reset(address.host, undefined)
    void this.#options.mtuTowards(address.host).then((mtu) => {
      if (this.#address === address) this.#mtu.reset(address.host, mtu)
    })
  }

  #prove(now: number): void {
    if (now - this.#wantedAt > ASLEEP_MS) {
      this.#state = 'asleep'
      this.#probes.clear()
      this.#unansweredSince = undefined
      return
    }
    if (this.#unansweredSince !== undefined && now - this.#unansweredSince >= SILENCE_MS) return this.#rest(now)
    const address = this.#address!
    const isLate = this.#unansweredSince !== undefined && now - this.#provedAt >= AGAIN_MS
    if ((now - this.#provedAt >= PROVE_MS || isLate) && now - this.#wantedAt <= PROVE_MS * 2) {
      this.#provedAt = now
      this.#probe(this.#mtu.bytes, address, now)
      // is it the path that died, or only packets of that length?
      if (this.#unansweredSince !== now && this.#mtu.bytes > FLOOR_BYTES) this.#probe(FLOOR_BYTES, address, now)
    }
    this.#search(now)
  }

  #search(now: number): void {
    if (this.#state !== 'open') return
    const size = this.#mtu.next(now)
    if (size !== undefined) this.#probe(size, this.#address!, now, 'search')
  }

  /** A small probe was answered: longer ones sent before it to the same place, and not answered, are lost. */
  #lose(answered: Probe, now: number): void {
    for (const [id, probe] of this.#probes) {
      if (probe.at >= answered.at || !sameAddress(probe.to, answered.to)) continue
      this.#probes.delete(id)
      this.#mtu.lost(probe.size, now)
    }
  }

  #probe(size: number, to: Address, now: number, purpose: Purpose = 'proof', ttl?: number): void {
    const id = Math.floor(this.#options.random() * 0x1_0000_0000) >>> 0
    if (this.#probes.size >= MAX_PROBES) this.#probes.delete(this.#probes.keys().next().value!)
    this.#probes.set(id, { purpose, size, to, at: now })
    if (purpose === 'proof' && this.#state === 'open') this.#unansweredSince ??= now
    if (size <= FLOOR_BYTES) return this.#options.probe(id, size, to, ttl)
    const before = this.#options.fragments(to.host)
    this.#options.probe(id, size, to)
    if (this.#options.fragments(to.host) === before) return
    this.#mtu.fragmented(size, now)
    this.#probes.delete(id) // its answer proves nothing about that size
    if (purpose === 'proof') this.#probe(FLOOR_BYTES, to, now)
  }

  #isWanted(now: number): boolean {
    return now - this.#wantedAt <= ASLEEP_MS
  }
}
