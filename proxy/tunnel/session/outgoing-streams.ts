import type { PathRule } from '../../../src/core/model/path-rule.ts'
import type {
  ByteStream,
  ByteStreamEvents,
  DatagramStream,
  DatagramStreamEvents,
  OpeningEvents,
  Refusal,
  Withdrawable,
} from '../contract.ts'
import { FRAME, MAX_OPEN_BYTES } from '../wire/frame.ts'
import type { MuxOptions, MuxParts } from './mux-parts.ts'
import { MuxDatagramStream } from '../stream/datagram-stream.ts'
import { MuxStream } from '../stream/mux-stream.ts'
import type { StreamUser } from '../stream/stream-user.ts'
import type { IncomingStreams } from './incoming-streams.ts'
import { carrierFor } from './placement.ts'

/** Streams that we open, until the peer has answered. */
export class OutgoingStreams {
  readonly #options: MuxOptions
  readonly #parts: MuxParts
  readonly #incoming: IncomingStreams
  /** The peer goes away. */
  isPeerDraining = false

  constructor(options: MuxOptions, parts: MuxParts, incoming: IncomingStreams) {
    this.#options = options
    this.#parts = parts
    this.#incoming = incoming
  }

  open(request: Buffer, events: OpeningEvents & ByteStreamEvents, rule: PathRule): ByteStream & Withdrawable {
    const stream = this.#open({ request, opening: events, rule, user: { takes: 'bytes', events } })
    return stream instanceof MuxStream ? stream : refused(events, stream)
  }

  openDatagrams(
    request: Buffer,
    events: OpeningEvents & DatagramStreamEvents,
    rule: PathRule,
  ): DatagramStream & Withdrawable {
    const stream = this.#open({ request, opening: events, rule, user: { takes: 'datagrams', events } })
    return stream instanceof MuxStream ? new MuxDatagramStream(stream) : refused(events, stream)
  }

  /** Sends OPEN, or refuses without asking the peer. */
  #open({ request, opening, user, rule }: OpenWish): MuxStream | Refusal {
    const { carriers, accounting } = this.#parts
    if (request.length > MAX_OPEN_BYTES) throw new Error(`a request of ${request.length} bytes does not fit in OPEN`)
    const carrier = carrierFor(carriers, 'small', rule)
    if (carrier === undefined) return 'unreachable'
    if (this.#incoming.isDraining || this.isPeerDraining) return 'draining'
    if (accounting.ours >= this.#options.limits.streams || accounting.isCrowded) return 'overloaded'
    const stream = new MuxStream(this.#takeId(), carrier, accounting, { opening: { events: opening, request }, user })
    stream.restrictTo(rule)
    accounting.add(stream)
    carrier.outbox.control(FRAME.OPEN, stream.id, request)
    carrier.keepalive.expectAnswer(this.#options.now())
    return stream
  }

  /** @throws MeshError FRAME_INVALID */
  gotRefused(id: number, refusal: Refusal): void {
    this.#parts.streams.get(id)?.gotRefused(refusal)
  }

  #takeId(): number {
    const { ids } = this.#options
    let id = ids.next
    while (this.#parts.streams.has(id)) id = following(id) // only after two thousand million streams
    ids.next = following(id)
    return id
  }
}

interface OpenWish {
  request: Buffer
  opening: OpeningEvents
  user: StreamUser
  rule: PathRule
}

const DEAD_STREAM: ByteStream & DatagramStream & Withdrawable = {
  write: () => true,
  send: () => false,
  end: () => undefined,
  reset: () => undefined,
  consumed: () => undefined,
  withdraw: () => undefined,
}

function refused(events: OpeningEvents, refusal: Refusal): typeof DEAD_STREAM {
  queueMicrotask(() => events.refused(refusal)) // never before `open` has returned
  return DEAD_STREAM
}

function following(id: number): number {
  return id + 2 > 0xffff_ffff ? 2 - (id & 1) : id + 2
}
