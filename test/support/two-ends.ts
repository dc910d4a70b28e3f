import { Carrier } from '../../proxy/tunnel/carrier/carrier.ts'
import type { ByteStream, ByteStreamEvents, IncomingStream, OpeningEvents } from '../../proxy/tunnel/contract.ts'
import { FEATURE } from '../../proxy/tunnel/wire/hello.ts'
import { TUNNEL_LIMITS, type TunnelLimits } from '../../proxy/tunnel/limits.ts'
import { Mux } from '../../proxy/tunnel/session/mux.ts'
import { isMeshError } from '../../src/core/errors.ts'

export type SideName = 'near' | 'far'
const otherOf = (side: SideName): SideName => (side === 'near' ? 'far' : 'near')

/** One byte of a flow, known from where it is: whoever reads checks every one. */
const byteAt = (flow: number, from: SideName, offset: number) =>
  (offset * 31 + (offset >>> 8) + flow * 7 + (from === 'near' ? 0 : 128)) & 0xff

/** One end of a flow: writes numbered bytes, and checks those it reads. */
export class FlowEnd implements OpeningEvents, ByteStreamEvents {
  readonly flow: number
  readonly side: SideName
  stream: ByteStream | undefined
  written = 0
  read = 0
  unconsumed = 0
  ends = 0
  hasEnded = false
  isDead = false
  isOpen = false

  constructor(flow: number, side: SideName) {
    this.flow = flow
    this.side = side
  }

  write(size: number): void {
    if (this.stream === undefined || this.hasEnded || this.isDead) return
    const chunk = Buffer.allocUnsafe(size)
    for (let i = 0; i < size; i++) chunk[i] = byteAt(this.flow, this.side, this.written + i)
    this.written += size
    this.stream.write(chunk)
    chunk.fill(0xee) // whoever kept it, has garbage
  }

  finish(): void {
    if (this.stream === undefined || this.hasEnded || this.isDead) return
    this.hasEnded = true
    this.stream.end()
  }

  abort(): void {
    if (this.stream === undefined) return
    this.isDead = true
    this.stream.reset()
  }

  consume(bytes: number): void {
    const step = Math.min(bytes, this.unconsumed)
    this.unconsumed -= step
    this.stream?.consumed(step)
  }

  opened(): void {
    if (this.isOpen) throw new Error(`flow ${this.flow} is opened twice`)
    this.isOpen = true
  }

  refused(): void {
    this.isDead = true
  }

  data(chunk: Buffer): void {
    if (this.isDead || this.ends > 0) throw new Error(`flow ${this.flow}: data after its end`)
    for (const [i, byte] of chunk.entries()) {
      if (byte !== byteAt(this.flow, otherOf(this.side), this.read + i)) {
        throw new Error(`flow ${this.flow} at ${this.side}: byte ${this.read + i} is wrong`)
      }
    }
    this.read += chunk.length
    this.unconsumed += chunk.length
  }

  end(): void {
    this.ends += 1
  }

  reset(): void {
    this.isDead = true
  }

  drain(): void {
    // these writers do not wait
  }
}

interface Half {
  carrier: Carrier
  /** On their way to this half. */
  inbox: Buffer[]
  isAttached: boolean
  isDead: boolean
}

export type Link = Record<SideName, Half>

/**
 * Two ends of a session with every byte on its way in the hands of the test: it is delivered in any pieces, late, or never, and
 * each side notices the death of a carrier by itself.
 */
export class TwoEnds {
  readonly time = { now: 0 }
  readonly mux: Record<SideName, Mux>
  readonly links: Link[] = []
  readonly flows: Record<SideName, FlowEnd>[] = []
  deaths = 0
  #made = 0

  /** What becomes of an OPEN; without it, the other end of its flow takes it at once. */
  readonly #answer: ((incoming: IncomingStream) => void) | undefined

  constructor(limits: Partial<TunnelLimits> = {}, answer?: (incoming: IncomingStream) => void) {
    this.#answer = answer
    const all = { ...TUNNEL_LIMITS, openTimeoutMs: 1e9, ...limits }
    this.mux = { near: this.#mux('near', all), far: this.#mux('far', all) }
  }

  connect(): Link {
    const number = ++this.#made
    const half = (): Half => ({
      carrier: new Carrier('direct', () => this.time.now),
      inbox: [],
      isAttached: false,
      isDead: false,
    })
    const link: Link = { near: half(), far: half() }
    for (const side of ['near', 'far'] as const) {
      const { carrier } = link[side]
      const hello = {
        version: 1,
        carrier: number,
        windowBytes: this.mux[side].limits.windowBytes,
        features: FEATURE.resume | FEATURE.early,
        incarnation: '00'.repeat(8),
        session: '00'.repeat(16),
      }
      if (side === 'near') carrier.sendHello(hello)
      carrier.onHello = (theirs) => {
        if (side === 'far') carrier.sendHello(hello)
        carrier.attach(this.mux[side], theirs)
        this.mux[side].failover.attach(carrier)
        link[side].isAttached = true
      }
    }
    this.links.push(link)
    return link
  }

  open(from: SideName): void {
    const flow = this.flows.length
    const ends = { near: new FlowEnd(flow, 'near'), far: new FlowEnd(flow, 'far') }
    this.flows.push(ends)
    ends[from].stream = this.mux[from].open(Buffer.from(String(flow)), ends[from])
  }

  /** Bytes leave one side's outbox. */
  send(link: Link, from: SideName, batchBytes: number): boolean {
    const half = link[from]
    if (half.isDead) return false
    const batch = Buffer.allocUnsafe(Math.max(batchBytes, 600))
    const size = half.carrier.outbox.fill(batch)
    if (size > 0) link[otherOf(from)].inbox.push(batch.subarray(0, size))
    return size > 0
  }

  /** Some of the bytes on their way arrive. */
  deliver(link: Link, to: SideName, bytes: number): boolean {
    const half = link[to]
    let left = bytes
    let hasMoved = false
    while (left > 0 && half.inbox.length > 0 && !half.isDead) {
      const first = half.inbox[0]!
      const step = Math.min(left, first.length)
      const chunk = Buffer.from(first.subarray(0, step))
      if (step === first.length) half.inbox.shift()
      else half.inbox[0] = first.subarray(step)
      left -= step
      hasMoved = true
      half.carrier.receive(chunk)
      chunk.fill(0xdd) // buffers that were read into are used again
    }
    return hasMoved
  }

  /** One side notices that the carrier is gone; the other may still read what is on its way to it. */
  die(link: Link, side: SideName): void {
    const half = link[side]
    if (half.isDead) return
    half.isDead = true
    half.inbox.length = 0
    half.carrier.stop()
    this.deaths += 1
    if (half.isAttached) this.mux[side].failover.detach(half.carrier)
  }

  tick(): void {
    this.time.now += 250
    for (const side of ['near', 'far'] as const) this.mux[side].tick(this.time.now)
  }

  /** Everything arrives, and readers read, until nothing moves any more. */
  settle(): void {
    for (const link of this.links) {
      // a connection has two ends: when one is gone the other hears of it at last
      if (link.near.isDead !== link.far.isDead) for (const side of ['near', 'far'] as const) this.die(link, side)
    }
    this.connect()
    for (let idle = 0; idle < 3; ) {
      let hasMoved = false
      for (const link of this.links) {
        for (const side of ['near', 'far'] as const) {
          hasMoved = this.send(link, side, 128 * 1024) || hasMoved
          hasMoved = this.deliver(link, side, Number.POSITIVE_INFINITY) || hasMoved
        }
      }
      for (const ends of this.flows) for (const side of ['near', 'far'] as const) ends[side].consume(1e9)
      if (hasMoved) continue
      idle += 1
      this.tick()
    }
  }

  #mux(side: SideName, limits: TunnelLimits): Mux {
    return new Mux({
      peer: otherOf(side),
      ids: { next: side === 'near' ? 1 : 2 },
      limits,
      now: () => this.time.now,
      owner: {
        accept: (incoming) => this.#accept(side, incoming),
        signalled: () => undefined,
        roundTripMeasured: () => undefined,
        peerLostCarrier: (carrier) => {
          for (const link of this.links) if (link[side].carrier === carrier) this.die(link, side)
        },
        peerWentAway: () => undefined,
        frameIgnored: () => undefined,
      },
    })
  }

  #accept(side: SideName, incoming: IncomingStream): void {
    if (this.#answer !== undefined) return this.#answer(incoming)
    const end = this.flows[Number(incoming.request.toString())]![side]
    if (end.stream !== undefined) throw new Error(`flow ${end.flow} came twice`)
    end.stream = incoming.accept(end)
  }
}

/** What a test may not see: a frame that breaks the rules between two honest sides. */
export function told(error: unknown): string {
  return isMeshError(error, 'FRAME_INVALID') ? `FRAME_INVALID: ${String(error.details['reason'])}` : String(error)
}
