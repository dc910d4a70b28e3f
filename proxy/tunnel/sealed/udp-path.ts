import type { Address } from './contract.ts'
import { MtuSearch } from './mtu.ts'
import { MAX_ADDRESSES, sameAddress } from './offer.ts'
import { FLOOR_BYTES, PROBE_BYTES, SEAL_BYTES } from './packet.ts'

/**
 * Whether packets reach the peer, and at which address: the view of one side. The only proof is the answer to a probe of ours,
 * both of them sealed, and it is renewed while datagrams are sent.
 *
 *                 wanted                     answer
 *       idle ─────────────▶ probing ──────────────────▶ open
 *         ▲                  │   ▲                      │ │
 *         │       no answer  │   │ pause over, wanted   │ │ a probe unanswered for 2.5 s
 *         │       in 2.5 s   ▼   │ (1 s … 60 s)         │ │
 *         │               paused ◀──────────────────────┼─┘
 *         └──────────── nothing sent for 10 s ──────────┘
 *
 *     doubtful: open, but a probe and those repeated every tick since are unanswered for 0.75 s: datagrams go in frames meanwhile
 *
 *     An unproven address gets the shortest probe, as long as its answer, so that we cannot be made to send a third party more than
 *     an attacker sends us. Once it has answered, a probe of 1,200 bytes must get through before the address is used.
 *
 *     hole punching: the first probes expire on the way (few hops). They open our own NAT, and do not reach the other NAT, which
 *     might block their source. An open path is kept open for a while after the last datagram, by a probe now and then.
 *
 *     migration: a packet newer than all before came from another address ─▶ probes there and here
 *                    ├─ answer from there, none from here for a moment ─▶ that becomes the address
 *                    └─ answer from here ─▶ nothing changes: somebody forwards copies, faster than the path itself
 */
export type UdpPathState = 'idle' | 'probing' | 'open' | 'paused'

export interface UdpPathOptions {
  /** Sends a probe in a packet of that size, over `ttl` hops at most; its answer arrives through `answered`. */
  probe: (id: number, size: number, to: Address, ttl?: number) => void
  /** There are NATs between: each must see a packet from its own side before one from the other side. */
  isPunching?: boolean
  mtuTowards: (host: string) => Promise<number>
  /** The kernel's count of IP fragments: it rises when a packet was too long. */
  fragments: (host: string) => number
  random: () => number
}

/** How often the path is proven while datagrams are sent. Larger: a dead path is noticed later; smaller: more probes. */
const PROVE_MS = 1_000
/** A probe that is not answered within this time is followed by another. */
const AGAIN_MS = 250
/**
 * When a probe and those after it are unanswered for this long, datagrams go in frames until one is answered: with PROVE_MS, at
 * most two seconds after the path has died. Smaller: they leave the path whenever three packets are lost.
 */
const DOUBT_MS = 750
/** Or for this many round trips, where those take longer. */
const DOUBT_TRIPS = 3
/** After this long the path is given up. */
const SILENCE_MS = 2_500
/** When nothing was sent for this long, the proof is stale, and the next datagrams go in frames until it is renewed. */
const IDLE_MS = 10_000
/** Pauses between the rounds in which all candidates are probed. */
const TRY_MS = [250, 500, 750, 1_000] as const
const PUNCH_MS = [100, 250, 500, 750, 1_000] as const
/** Enough hops to pass a home router and a carrier-grade NAT, too few to reach the other end. */
const OPENER_TTL = 4
/** Between probes that keep NAT mappings: they live 30 s or more (RFC 4787 §4.3). */
const KEEP_MS = 15_000
/** Mappings are kept for this long after the last datagram. */
const KEEP_FOR_MS = 180_000
const PAUSE_MS = [1_000, 2_000, 5_000, 15_000, 60_000] as const
/** At most one probe to a new address in this time: packets from many addresses must not make us send to all of them. */
const MIGRATION_MS = 250
const MAX_PROBES = 64
const SHORT_BYTES = SEAL_BYTES + PROBE_BYTES

/** Whether the path works; how long packets may be; whether the peer has another address now. */
type Purpose = 'proof' | 'search' | 'migration'

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
  #state: UdpPathState = 'idle'
  #address: Address | undefined
  #candidates: Address[] = []
  #wantedAt = Number.NEGATIVE_INFINITY
  #unansweredSince: number | undefined
  /** Round trip of the last answer. */
  #answerMs = 0
  #provedAt = 0
  #tries = 0
  #nextTryAt = 0
  #failures = 0
  #pausedUntil = 0
  #suspendedUntil = Number.NEGATIVE_INFINITY
  #migratedAt = Number.NEGATIVE_INFINITY
  /** An address that has answered while it is open whether the present one still does. */
  #mayMoveTo: Address | undefined
  #keptAt = Number.NEGATIVE_INFINITY

  constructor(options: UdpPathOptions) {
    this.#options = options
  }

  get state(): UdpPathState {
    return this.#state
  }

  /** It was tried, and nothing came back. */
  get isBlocked(): boolean {
    return this.#failures > 0
  }

  /** It is open, but the last probes are unanswered. */
  isDoubtful(now: number): boolean {
    return (
      this.#state === 'open' &&
      this.#unansweredSince !== undefined &&
      now - this.#unansweredSince >= Math.max(DOUBT_MS, DOUBT_TRIPS * this.#answerMs)
    )
  }

  /** Where packets are sent while the path is open. */
  get address(): Address | undefined {
    return this.#address
  }

  get packetBytes(): number {
    return this.#mtu.bytes
  }

  get candidates(): readonly Address[] {
    return this.#candidates
  }

  /** Addresses the peer may have, the most likely ones first. */
  addCandidates(addresses: readonly Address[]): void {
    for (const address of addresses) {
      if (this.#candidates.length >= MAX_ADDRESSES) return
      if (!this.#candidates.some((known) => sameAddress(known, address))) this.#candidates.push(address)
    }
  }

  /** The path is not used, and not probed, until then. */
  suspend(until: number): void {
    this.#suspendedUntil = until
    this.#pausedUntil = until
    this.#state = 'paused'
    this.#probes.clear()
    this.#unansweredSince = undefined
  }

  /** A datagram is to be sent. */
  wanted(now: number): void {
    this.#wantedAt = now
    if (this.#state === 'idle' || (this.#state === 'paused' && now >= this.#pausedUntil)) this.#begin(now)
  }

  /** The newest packet so far came from there. It is authentic, but its source address is only a hint: packets can be forwarded. */
  receivedFrom(from: Address, now: number): void {
    if (this.#state === 'open' && sameAddress(from, this.#address)) return
    if (now - this.#migratedAt < MIGRATION_MS) return
    this.#migratedAt = now
    this.#candidates = [from, ...this.#candidates.filter((known) => !sameAddress(known, from))].slice(0, MAX_ADDRESSES)
    if (this.#state === 'paused' && this.#isWanted(now)) this.#begin(now)
    else if (this.#state === 'probing') this.#probe(SHORT_BYTES, from, now)
    else if (this.#state === 'open') {
      this.#mayMoveTo = undefined
      this.#probe(SHORT_BYTES, from, now, 'migration')
      this.#probe(SHORT_BYTES, this.#address!, now)
    }
  }

  /** The peer has answered a probe. */
  answered(id: number, now: number): void {
    const probe = this.#probes.get(id)
    if (probe === undefined) return
    this.#probes.delete(id)
    this.#answerMs = now - probe.at
    if (this.#state === 'idle') return
    const isHere = this.#state === 'open' && sameAddress(probe.to, this.#address)
    if (!isHere) {
      if (this.#state === 'open' && probe.purpose !== 'migration') return // a second address answers too
      if (probe.size < FLOOR_BYTES) return this.#probe(FLOOR_BYTES, probe.to, now, probe.purpose)
      if (this.#state === 'open') {
        this.#mayMoveTo = probe.to
        return this.#move(now)
      }
      this.#settle(probe.to, now)
    }
    this.#mayMoveTo = undefined
    this.#unansweredSince = undefined
    this.#failures = 0
    this.#mtu.answered(probe.size)
    if (probe.size === FLOOR_BYTES) this.#countLost(probe, now)
    this.#search(now)
  }

  tick(now: number): void {
    switch (this.#state) {
      case 'idle':
        return this.#keep(now)
      case 'paused':
        if (!this.#isWanted(now)) this.#state = 'idle'
        else if (now >= this.#pausedUntil) this.#begin(now)
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
    if (now < this.#suspendedUntil) return
    this.#state = 'probing'
    this.#tries = 0
    this.#tryAll(now)
  }

  #tryAll(now: number): void {
    const pause = (this.#options.isPunching === true ? PUNCH_MS : TRY_MS)[this.#tries]
    const ttl = this.#options.isPunching === true && this.#tries === 0 ? OPENER_TTL : undefined
    if (pause === undefined || this.#candidates.length === 0) return this.#pause(now)
    this.#tries += 1
    this.#nextTryAt = now + pause
    for (const candidate of this.#candidates) this.#probe(SHORT_BYTES, candidate, now, 'proof', ttl)
  }

  /** Keeps the NAT mappings of a path that was open. */
  #keep(now: number): void {
    if (this.#options.isPunching !== true || this.#address === undefined) return
    if (now - this.#wantedAt > KEEP_FOR_MS || now - this.#keptAt < KEEP_MS) return
    this.#keptAt = now
    this.#probes.clear() // the answers do not matter
    this.#probe(SHORT_BYTES, this.#address, now)
  }

  #pause(now: number): void {
    this.#state = 'paused'
    const ms = PAUSE_MS[Math.min(this.#failures, PAUSE_MS.length - 1)]!
    this.#failures += 1
    this.#pausedUntil = now + ms * (0.75 + this.#options.random() / 2)
    this.#probes.clear()
    this.#unansweredSince = undefined
  }

  // ── open ──

  #settle(address: Address, now: number): void {
    this.#state = 'open'
    this.#mayMoveTo = undefined
    this.#address = address
    this.#candidates = [address, ...this.#candidates.filter((known) => !sameAddress(known, address))]
    this.#provedAt = now
    this.#mtu.reset(address.host, undefined)
    void this.#options.mtuTowards(address.host).then((mtu) => {
      if (this.#address === address) this.#mtu.reset(address.host, mtu)
    })
  }

  /** Follows the peer to the address that has answered, once the present one has been asked and is silent. */
  #move(now: number): void {
    const to = this.#mayMoveTo
    const since = this.#unansweredSince
    if (to === undefined || since === undefined) return
    if (now - since < Math.max(AGAIN_MS, DOUBT_TRIPS * this.#answerMs)) return
    this.#settle(to, now)
    this.#unansweredSince = undefined
    this.#failures = 0
  }

  #prove(now: number): void {
    this.#move(now)
    if (now - this.#wantedAt > IDLE_MS) {
      this.#state = 'idle'
      this.#probes.clear()
      this.#unansweredSince = undefined
      return
    }
    if (this.#unansweredSince !== undefined && now - this.#unansweredSince >= SILENCE_MS) return this.#pause(now)
    const address = this.#address!
    const isLate = this.#unansweredSince !== undefined && now - this.#provedAt >= AGAIN_MS
    if ((now - this.#provedAt >= PROVE_MS || isLate) && now - this.#wantedAt <= PROVE_MS * 2) {
      this.#provedAt = now
      this.#probe(this.#mtu.bytes, address, now)
      // tells whether the path is dead, or only packets of that length are lost
      if (this.#unansweredSince !== now && this.#mtu.bytes > FLOOR_BYTES) this.#probe(FLOOR_BYTES, address, now)
    }
    this.#search(now)
  }

  #search(now: number): void {
    if (this.#state !== 'open') return
    const size = this.#mtu.next(now)
    if (size !== undefined) this.#probe(size, this.#address!, now, 'search')
  }

  /** A small probe was answered: longer ones sent before it to the same address, and not answered, are lost. */
  #countLost(answered: Probe, now: number): void {
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
    return now - this.#wantedAt <= IDLE_MS
  }
}
