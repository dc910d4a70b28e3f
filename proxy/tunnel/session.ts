import type { NodeId } from '../../src/model/ids.ts'
import { MeshError } from '../../src/errors.ts'
import type { SessionKey } from './agree.ts'
import type { Carrier } from './carrier.ts'
import type { PathKind, Session, Stream, StreamEvents } from './contract.ts'
import type { Hello } from './hello.ts'
import { Mux, type MuxOptions } from './mux.ts'
import { carrierFor, outranked } from './placement.ts'
import type { Pump } from './pump.ts'

export interface SessionOptions extends Omit<MuxOptions, 'goneAway' | 'peer'> {
  peer: NodeId
  key: SessionKey
  /** Whether our dial made it: that side brings up more carriers. */
  isDialler: boolean
  /** The last carrier is gone. */
  ended: (reason: Error | undefined) => void
}

/** Without streams for so long, a session gives its carriers back; the next flow dials again. */
const IDLE_MS = 15 * 60_000
/** AES-GCM wears out and Node cannot update keys (TUNNELS.md D23): a carrier takes no new streams after this. */
const CARRIER_BYTES = 64 * 1024 ** 3
const CARRIER_MS = 24 * 3_600_000

/** Everything shared with one peer: the streams (in the mux), the carriers with their sockets, and how they end. */
export class TunnelSession implements Session {
  readonly peer: NodeId
  readonly key: SessionKey
  readonly isDialler: boolean
  readonly #mux: Mux
  readonly #options: SessionOptions
  readonly #pumps = new Map<Carrier, { pump: Pump; since: number }>()
  #path: PathKind = 'direct'
  #rttMs: number | undefined
  #usedAt: number
  #pastBytesIn = 0
  #pastBytesOut = 0
  #hasEnded = false

  constructor(options: SessionOptions) {
    this.peer = options.peer
    this.key = options.key
    this.isDialler = options.isDialler
    this.#options = options
    this.#usedAt = options.now()
    this.#mux = new Mux({ ...options, goneAway: () => this.#wentAway() })
  }

  get path(): PathKind {
    return carrierFor(this.#mux.carriers)?.path ?? this.#path
  }

  get rttMs(): number | undefined {
    return this.#mux.rttMs ?? this.#rttMs
  }

  get carriers(): number {
    return this.#mux.carriers.length
  }

  get streams(): number {
    return this.#mux.streams
  }

  get bytesIn(): number {
    return this.#mux.carriers.reduce((sum, carrier) => sum + carrier.bytesIn, this.#pastBytesIn)
  }

  get bytesOut(): number {
    return this.#mux.carriers.reduce((sum, carrier) => sum + carrier.bytesOut, this.#pastBytesOut)
  }

  get hasEnded(): boolean {
    return this.#hasEnded
  }

  /** A stream opened now would get a carrier. */
  get isUsable(): boolean {
    return !this.#hasEnded && carrierFor(this.#mux.carriers) !== undefined
  }

  /** Carriers that take new streams and are on the best path. */
  get carriersInUse(): number {
    const { path } = this
    return this.#mux.carriers.filter((carrier) => !carrier.isDraining && carrier.path === path).length
  }

  carrierPaths(): PathKind[] {
    return this.#mux.carriers.map((carrier) => carrier.path)
  }

  open(request: Buffer, events: StreamEvents): Stream {
    this.#usedAt = this.#options.now()
    return this.#mux.open(request, events)
  }

  /** Takes a carrier over; carriers on worse paths get no new streams from now on, and are closed when theirs have ended. */
  attach(carrier: Carrier, pump: Pump, hello: Hello): void {
    carrier.attach(this.#mux, hello)
    this.#pumps.set(carrier, { pump, since: this.#options.now() })
    this.#mux.attach(carrier)
    carrier.tick(true) // measures the round trip at once
    this.#path = this.path
    for (const worse of outranked(this.#mux.carriers)) worse.drain()
  }

  /** The connection of a carrier is no more. */
  lost(carrier: Carrier, reason: Error | undefined): void {
    if (!this.#pumps.delete(carrier)) return
    this.#rttMs = this.#mux.rttMs ?? this.#rttMs
    this.#pastBytesIn += carrier.bytesIn
    this.#pastBytesOut += carrier.bytesOut
    this.#mux.detach(carrier)
    const isBroken = reason instanceof MeshError && reason.code === 'FRAME_INVALID'
    if (isBroken) this.cut(reason) // a peer that breaks the rules loses everything, not one carrier
    if (this.#pumps.size > 0 || this.#hasEnded) return
    this.#hasEnded = true
    this.#options.ended(reason)
  }

  tick(now: number): void {
    const isBusy = this.streams > 0
    if (isBusy) this.#usedAt = now
    const isIdle = now - this.#usedAt >= IDLE_MS
    for (const [carrier, { pump, since }] of this.#pumps) {
      const isWorn = now - since > CARRIER_MS || carrier.bytesIn + carrier.bytesOut > CARRIER_BYTES
      if (isIdle || isWorn) carrier.drain()
      if (carrier.isDrained) pump.finish()
      else if (!carrier.tick(isBusy)) pump.cut(new MeshError('SESSION_CLOSED', { reason: 'no sign of life' }))
    }
    this.#mux.tick(now)
  }

  /** No new streams, either way; those that are open go on. */
  drain(): void {
    this.#mux.drain()
  }

  /** Says goodbye on every carrier and closes them; what is still open is reset. */
  finish(): void {
    this.#mux.goAway()
    for (const { pump } of this.#pumps.values()) pump.finish()
  }

  /** Ends everything now. */
  cut(reason: Error): void {
    for (const { pump } of this.#pumps.values()) pump.cut(reason)
  }

  #wentAway(): void {
    this.cut(new MeshError('SESSION_CLOSED', { reason: 'the peer went away' }))
  }
}
