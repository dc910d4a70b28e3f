import { Carrier } from '../../proxy/tunnel/carrier/carrier.ts'
import type {
  ByteStream,
  ByteStreamEvents,
  DatagramStreamEvents,
  IncomingStream,
  OpeningEvents,
  Refusal,
  Withdrawable,
} from '../../proxy/tunnel/contract.ts'
import type { PathKind } from '../../src/core/model/path-rule.ts'
import { FEATURE, type Hello } from '../../proxy/tunnel/wire/hello.ts'
import { TUNNEL_LIMITS, type TunnelLimits } from '../../proxy/tunnel/limits.ts'
import { Mux } from '../../proxy/tunnel/session/mux.ts'

export interface SideOptions {
  limits?: Partial<TunnelLimits>
  accept?: (incoming: IncomingStream) => void
  /** What it says it can do; without `resume` streams die with their carrier. */
  features?: number
}

/** What this version can do, as far as streams care. */
export const ALL = FEATURE.resume | FEATURE.early

/** Two ends of a session in memory, without I/O: bytes move when `move` is called, time when `time.now` is set. */
export class MuxPair {
  readonly time = { now: 0 }
  readonly near: Mux
  readonly far: Mux
  readonly links: { near: Carrier; far: Carrier }[] = []
  ignored = 0
  wentAway = 0
  /** How many of the bytes that are due move at a time; random in the tests that want it. */
  chunkBytes: () => number = () => Number.POSITIVE_INFINITY

  #made = 0
  readonly #features: number

  constructor(near: SideOptions = {}, far: SideOptions = {}, paths: readonly PathKind[] = ['direct']) {
    this.#features = near.features ?? FEATURE.resume
    this.near = this.#mux('far', 1, near)
    this.far = this.#mux('near', 2, far)
    for (const path of paths) this.connect(path)
  }

  connect(path: PathKind): { near: Carrier; far: Carrier } {
    const now = () => this.time.now
    this.#made += 1
    const link = { near: new Carrier(path, now), far: new Carrier(path, now) }
    for (const [carrier, mux] of [
      [link.near, this.near],
      [link.far, this.far],
    ] as const) {
      carrier.sendHello(helloOf(mux, this.#made, this.#features))
      carrier.onHello = (hello) => {
        carrier.attach(mux, hello)
        mux.failover.attach(carrier)
      }
    }
    this.links.push(link)
    this.move()
    return link
  }

  /** Moves what is due, once, on every carrier and in both directions; false when nothing was. */
  step(batchBytes = 128 * 1024): boolean {
    let hasMoved = false
    for (const { near, far } of this.links) {
      hasMoved = this.#carry(near, far, batchBytes) || hasMoved
      hasMoved = this.#carry(far, near, batchBytes) || hasMoved
    }
    return hasMoved
  }

  /** Until nothing moves any more. */
  move(batchBytes?: number): void {
    while (this.step(batchBytes));
  }

  /** A quarter of a second passes: what is owed is said. */
  tick(): void {
    this.time.now += 250
    this.near.tick(this.time.now)
    this.far.tick(this.time.now)
    this.move()
  }

  /** The connection breaks: both ends notice. */
  sever(at: number): void {
    const [link] = this.links.splice(at, 1)
    this.near.failover.detach(link!.near)
    this.far.failover.detach(link!.far)
  }

  /** One end has lost the carrier and says so: the other gives it up too. */
  #lostByPeer(carrier: Carrier): void {
    carrier.stop()
    this.near.failover.detach(carrier)
    this.far.failover.detach(carrier)
  }

  #carry(from: Carrier, to: Carrier, batchBytes: number): boolean {
    const batch = Buffer.allocUnsafe(batchBytes)
    const size = from.outbox.fill(batch)
    for (let at = 0; at < size; ) {
      const step = Math.min(size - at, Math.max(1, this.chunkBytes()))
      to.receive(batch.subarray(at, at + step))
      at += step
    }
    return size > 0
  }

  #mux(
    peer: string,
    next: 1 | 2,
    { limits = {}, accept = (incoming) => incoming.refuse('not-here') }: SideOptions,
  ): Mux {
    return new Mux({
      peer,
      ids: { next },
      limits: { ...TUNNEL_LIMITS, ...limits },
      now: () => this.time.now,
      owner: {
        accept,
        signalled: () => undefined,
        roundTripMeasured: () => undefined,
        peerLostCarrier: (carrier) => this.#lostByPeer(carrier),
        peerWentAway: () => {
          this.wentAway += 1
        },
        frameIgnored: () => {
          this.ignored += 1
        },
      },
    })
  }
}

export function helloOf(mux: Mux, carrier = 0, features: number = FEATURE.resume): Hello {
  return {
    version: 1,
    carrier,
    windowBytes: mux.limits.windowBytes,
    features,
    incarnation: '00'.repeat(8),
    session: '00'.repeat(16),
  }
}

/** Writes down what a stream says; consumes at once unless told not to. */
export class Listener implements OpeningEvents, ByteStreamEvents {
  readonly log: string[] = []
  readonly chunks: Buffer[] = []
  stream: ByteStream | undefined
  bytes = 0
  drains = 0
  consumes = true
  refusal: Refusal | undefined

  opened(): void {
    this.log.push('opened')
  }

  refused(refusal: Refusal): void {
    this.refusal = refusal
    this.log.push(`refused ${refusal}`)
  }

  data(chunk: Buffer): void {
    if (this.log.at(-1) !== 'data') this.log.push('data')
    this.bytes += chunk.length
    this.chunks.push(Buffer.from(chunk)) // a chunk is only good during the call
    if (this.consumes) this.stream?.consumed(chunk.length)
  }

  end(): void {
    this.log.push('end')
  }

  reset(): void {
    this.log.push('reset')
  }

  drain(): void {
    this.drains += 1
  }

  text(): string {
    return Buffer.concat(this.chunks).toString()
  }
}

/** Opens a stream and listens at its near end. */
export function listenTo(mux: Mux, request: string): Listener & { stream: ByteStream & Withdrawable } {
  const listener = new Listener()
  listener.stream = mux.open(Buffer.from(request), listener)
  return listener as Listener & { stream: ByteStream & Withdrawable }
}

/** Writes down what a stream of datagrams reports. */
export class DatagramListener implements OpeningEvents, DatagramStreamEvents {
  readonly log: string[] = []
  readonly got: Buffer[] = []

  opened(): void {
    this.log.push('opened')
  }

  refused(refusal: Refusal): void {
    this.log.push(`refused ${refusal}`)
  }

  datagram(payload: Buffer): void {
    this.got.push(Buffer.from(payload)) // a payload is only good during the call
  }

  end(): void {
    this.log.push('end')
  }

  reset(): void {
    this.log.push('reset')
  }
}

/** Opens a stream of datagrams and listens at its near end. */
export function listenToDatagrams(mux: Mux, request: string) {
  const listener = new DatagramListener()
  return Object.assign(listener, { stream: mux.openDatagrams(Buffer.from(request), listener) })
}

/** Accepts whatever comes; `heard` are the far ends in order. */
export function accepting(heard: (Listener & { stream: ByteStream; request: string })[], consumes = true) {
  return (incoming: IncomingStream): void => {
    const listener = Object.assign(new Listener(), { consumes, request: incoming.request.toString() })
    listener.stream = incoming.accept(listener)
    heard.push(listener as Listener & { stream: ByteStream; request: string })
  }
}
