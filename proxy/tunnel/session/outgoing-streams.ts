import type { PathRule } from '../../../src/core/model/path-rule.ts'
import type { Refusal, Stream, StreamEvents } from '../contract.ts'
import { FRAME, frameInvalid, MAX_OPEN_BYTES } from '../wire/frame.ts'
import type { MuxOptions, MuxParts } from './mux.ts'
import { MuxStream } from '../stream/mux-stream.ts'
import type { IncomingStreams } from './incoming-streams.ts'
import { carrierFor } from './placement.ts'

/** The ids of streams this node opens towards a peer: never used again while both run, so that late frames hit nobody. */
export interface StreamIds {
  /** The node with the smaller id opens odd streams, the other even ones. */
  next: number
}

/** What we open, until the peer has said yes or no. */
export class OutgoingStreams {
  readonly #options: MuxOptions
  readonly #parts: MuxParts
  readonly #theirs: IncomingStreams
  /** The peer goes away. */
  isPeerDraining = false

  constructor(options: MuxOptions, parts: MuxParts, theirs: IncomingStreams) {
    this.#options = options
    this.#parts = parts
    this.#theirs = theirs
  }

  open(request: Buffer, events: StreamEvents, rule: PathRule): Stream {
    const { carriers, shares } = this.#parts
    if (request.length > MAX_OPEN_BYTES) throw new Error(`a request of ${request.length} bytes does not fit in OPEN`)
    const carrier = carrierFor(carriers, 'small', rule)
    if (carrier === undefined) return refused(events, 'unreachable')
    if (this.#theirs.isDraining || this.isPeerDraining) return refused(events, 'draining')
    if (shares.ours >= this.#options.limits.streams || shares.isCrowded) return refused(events, 'overloaded')
    const stream = new MuxStream(this.#takeId(), 'opening', carrier, shares, events)
    stream.obey(rule)
    shares.add(stream)
    if (shares.isResumable) stream.request = request
    carrier.outbox.control(FRAME.OPEN, stream.id, request)
    carrier.pulse.asked(this.#options.now())
    return stream
  }

  /** @throws MeshError FRAME_INVALID */
  gotRefused(id: number, refusal: Refusal): void {
    const stream = this.#parts.streams.get(id)
    if (stream === undefined) return
    if (stream.state !== 'opening') throw frameInvalid('REFUSED without OPEN', { stream: id })
    if (stream.wasSaidAgain && stream.hasSpoken) {
      stream.reset()
      return stream.events.reset()
    }
    stream.close()
    stream.events.refused(refusal)
  }

  #takeId(): number {
    const { ids } = this.#options
    let id = ids.next
    while (this.#parts.streams.has(id)) id = following(id) // only after two thousand million streams
    ids.next = following(id)
    return id
  }
}

const DEAD_STREAM: Stream = {
  write: () => true,
  datagram: () => false,
  end: () => undefined,
  reset: () => undefined,
  consumed: () => undefined,
}

function refused(events: StreamEvents, refusal: Refusal): Stream {
  queueMicrotask(() => events.refused(refusal)) // never before `open` has returned
  return DEAD_STREAM
}

function following(id: number): number {
  return id + 2 > 0xffff_ffff ? 2 - (id & 1) : id + 2
}
