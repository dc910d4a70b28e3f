import { MeshError } from '../../../src/core/errors.ts'
import type { Carrier } from '../carrier/carrier.ts'
import type { PathKind } from '../../../src/core/model/path-rule.ts'
import type { Mux } from './mux.ts'
import { carrierFor, carriersWanted, spare } from './placement.ts'
import type { Pump } from '../carrier/pump.ts'

export interface CarrierSetOptions {
  /** Knows which carriers there are, and what is on them. */
  mux: Pick<Mux, 'carriers' | 'accounting' | 'streams' | 'rttMs' | 'isVoid'>
  /** Carriers of one session. */
  limit: number
  now: () => number
}

/** AES-GCM keys wear out and Node cannot update them: streams leave a carrier after this. */
const CARRIER_BYTES = 64 * 1024 ** 3
const CARRIER_MS = 24 * 3_600_000
/** How long a carrier that is no longer wanted stays, since a new one begins slowly. Smaller: bursts wait; larger: connections idle. */
const SPARE_MS = 30_000
/** The same for a pinned one. */
const PINNED_IDLE_MS = 60_000

/**
 * The carriers of one session with their sockets: how many there are and should be, what went over them, and when one is given up.
 *
 *     add ─▶ active ──idle, worn, not wanted──▶ draining ──empty──▶ finished
 *              └──no sign of life, its address is gone──▶ cut
 */
export class CarrierSet {
  readonly #options: CarrierSetOptions
  readonly #pumps = new Map<Carrier, { pump: Pump; since: number }>()
  readonly #pinnedUsedAt = new WeakMap<Carrier, number>()
  /** When there last were as many as wanted, or fewer. */
  #wantedAt: number
  /** Of carriers that are gone. */
  readonly #past = { bytesIn: 0, bytesOut: 0, framesSent: 0, framesDropped: 0 }

  constructor(options: CarrierSetOptions) {
    this.#options = options
    this.#wantedAt = options.now()
  }

  get isEmpty(): boolean {
    return this.#pumps.size === 0
  }

  get size(): number {
    return this.#options.mux.carriers.length
  }

  /** Where new streams go. */
  get best(): Carrier | undefined {
    return carrierFor(this.#options.mux.carriers)
  }

  get bytesIn(): number {
    return this.#options.mux.carriers.reduce((sum, carrier) => sum + carrier.bytesIn, this.#past.bytesIn)
  }

  get bytesOut(): number {
    return this.#options.mux.carriers.reduce((sum, carrier) => sum + carrier.bytesOut, this.#past.bytesOut)
  }

  get frames(): { sent: number; dropped: number } {
    const sum = { sent: this.#past.framesSent, dropped: this.#past.framesDropped }
    for (const { outbox } of this.#options.mux.carriers) {
      sum.sent += outbox.datagrams.sent
      sum.dropped += outbox.datagrams.dropped
    }
    return sum
  }

  /** Those on a path that take new streams. */
  inUse(path: PathKind): Carrier[] {
    return this.#options.mux.carriers.filter((carrier) => !carrier.isDraining && carrier.path === path)
  }

  /** The shortest round trip of the carriers that take new streams on a path. */
  rttMs(path: PathKind): number | undefined {
    const measured = this.inUse(path).flatMap(({ keepalive }) => keepalive.rttMs ?? [])
    return measured.length === 0 ? undefined : Math.min(...measured)
  }

  /** How many there should be on a path. */
  wanted(path: PathKind): number {
    const { mux, limit } = this.#options
    const calm = mux.carriers.filter(({ bulks }) => bulks === 0)
    return carriersWanted({
      path,
      streams: mux.streams,
      bulks: mux.accounting.bulkDetector.bulks,
      rttMs: mux.rttMs,
      jitterMs: calm.reduce((sum, { keepalive }) => sum + keepalive.jitterMs, 0) / Math.max(calm.length, 1),
      limit,
    })
  }

  add(carrier: Carrier, pump: Pump): void {
    const since = this.#options.now()
    this.#pinnedUsedAt.set(carrier, since)
    this.#pumps.set(carrier, { pump, since })
  }

  /** Forgets a carrier whose connection is gone; false when it is not one of these. */
  delete(carrier: Carrier): boolean {
    if (!this.#pumps.delete(carrier)) return false
    this.#past.bytesIn += carrier.bytesIn
    this.#past.bytesOut += carrier.bytesOut
    this.#past.framesSent += carrier.outbox.datagrams.sent
    this.#past.framesDropped += carrier.outbox.datagrams.dropped
    return true
  }

  cut(carrier: Carrier, reason: string): void {
    this.#pumps.get(carrier)?.pump.cut(new MeshError('SESSION_CLOSED', { reason }))
  }

  /** Gives up a carrier that may be dead, for one that is surely alive; false when all are well. */
  makeRoom(): boolean {
    const { carriers } = this.#options.mux
    const doubtful =
      carriers.find(({ keepalive }) => keepalive.isDoubtful) ?? carriers.find(({ keepalive }) => keepalive.isAwaiting)
    if (doubtful === undefined) return false
    this.cut(doubtful, 'another took its place')
    return true
  }

  networkChanged(isHere: (address: string) => boolean): void {
    for (const carrier of this.#pumps.keys()) {
      const { localAddress } = carrier
      if (localAddress !== undefined && !isHere(localAddress)) this.cut(carrier, 'its local address is gone')
      else {
        carrier.keepalive.pingNow()
        carrier.tick(!this.#options.mux.isVoid)
      }
    }
  }

  /** Pings, and closes what has drained; `isIdle`: the session has not been used for a long while. */
  tick(now: number, isIdle: boolean): void {
    const isBusy = !this.#options.mux.isVoid
    for (const [carrier, { pump, since }] of this.#pumps) {
      const isWorn = now - since > CARRIER_MS || carrier.bytesIn + carrier.bytesOut > CARRIER_BYTES
      if (isIdle || isWorn || this.#isIdlePinned(carrier, now)) carrier.drain()
      if (carrier.isDrained) pump.finish()
      else if (!carrier.tick(isBusy)) this.cut(carrier, 'no sign of life')
    }
  }

  /** The side that brings carriers up takes them down again, one at a time, when they were not wanted for a while. */
  giveBack(now: number, path: PathKind): void {
    if (this.inUse(path).length <= this.wanted(path)) this.#wantedAt = now
    if (now - this.#wantedAt < SPARE_MS) return
    this.#wantedAt = now
    spare(this.#options.mux.carriers)?.drain()
  }

  /** All send what waits, then close. */
  finish(): void {
    for (const { pump } of this.#pumps.values()) pump.finish()
  }

  /** Nothing more is taken from the peer; what waits is still sent. */
  stop(): void {
    for (const [carrier, { pump }] of this.#pumps) {
      carrier.stop()
      pump.finish()
    }
  }

  /** No stream whose rule asks for its path has used it for a while, and the others have better carriers. */
  #isIdlePinned(carrier: Carrier, now: number): boolean {
    if (!carrier.isPinned) return false
    if (carrier.streams > 0 || this.best === carrier) this.#pinnedUsedAt.set(carrier, now)
    return now - (this.#pinnedUsedAt.get(carrier) ?? now) > PINNED_IDLE_MS
  }
}
