import type { NodeId } from '../../../src/core/model/ids.ts'
import type { PathRule, PathKind } from '../../../src/core/model/path-rule.ts'
import {
  REFUSALS,
  type ByteStream,
  type ByteStreamEvents,
  type DatagramStream,
  type DatagramStreamEvents,
  type IncomingStream,
  type Refusal,
} from '../contract.ts'
import { FRAME } from '../wire/frame.ts'
import { MuxDatagramStream } from '../stream/datagram-stream.ts'
import type { MuxStream } from '../stream/mux-stream.ts'
import type { StreamUser } from '../stream/stream-user.ts'

const nothing = () => undefined

/** A stream that the peer has opened, until it is accepted, refused, or given up. */
export class Incoming implements IncomingStream {
  readonly peer: NodeId
  readonly path: PathKind
  readonly request: Buffer
  readonly since: number
  readonly #stream: MuxStream
  readonly #settled: (incoming: Incoming) => void
  #onGone: () => void = nothing
  #isGone = false

  constructor(
    { peer, path, request, since }: { peer: NodeId; path: PathKind; request: Buffer; since: number },
    stream: MuxStream,
    settled: (incoming: Incoming) => void,
  ) {
    this.peer = peer
    this.path = path
    this.request = request
    this.since = since
    this.#stream = stream
    this.#settled = settled
  }

  accept(events: ByteStreamEvents): ByteStream {
    this.#accept({ takes: 'bytes', events })
    return this.#stream
  }

  acceptDatagrams(events: DatagramStreamEvents): DatagramStream {
    this.#accept({ takes: 'datagrams', events })
    return new MuxDatagramStream(this.#stream)
  }

  #accept(user: StreamUser): void {
    if (this.#stream.state === 'pending') {
      this.#settled(this)
      this.#stream.accept(user)
    } else queueMicrotask(() => user.events.reset()) // it is dead; never reported before `accept` has returned
  }

  restrictTo(rule: PathRule): void {
    this.#stream.restrictTo(rule)
  }

  refuse(refusal: Refusal): void {
    if (this.#stream.state !== 'pending') return
    this.#settled(this)
    const { id, carrier } = this.#stream
    carrier?.outbox.control(FRAME.REFUSED, id, Buffer.of(REFUSALS.indexOf(refusal)))
    this.#stream.close()
  }

  /** It was not answered in time, or the opener wants to try elsewhere. */
  giveUp(): void {
    this.refuse('timeout')
    this.gone()
  }

  onGone(listener: () => void): void {
    if (this.#isGone) listener()
    else this.#onGone = listener
  }

  gone(): void {
    if (this.#isGone) return
    this.#isGone = true
    this.#settled(this)
    this.#onGone()
  }
}
