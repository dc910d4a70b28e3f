import type { SpliceEnd } from './splice.ts'
import type { DatagramStream, DatagramStreamEvents } from '../tunnel/contract.ts'

/*
 * Two streams of datagrams, back to back, as `Splice` is for bytes:
 *
 *        near.datagram ─▶ far.send            whole, in order, or lost: nothing waits here     … and the same back
 *        near.end, reset ─▶ far.end, reset    UDP has no half-close: whichever side ends, ends both
 *
 * The hot path of every datagram: plain callbacks, no promise, no copy. Guarded by
 * `npm run bench -- --only UDP`.
 */
export class DatagramPipe {
  readonly near: DatagramPipeEnd
  readonly far: DatagramPipeEnd
  /** How it ended; `closed` while it is open. */
  end: SpliceEnd = 'closed'
  hasEnded = false
  readonly #onEnd: () => void

  /** `onEnd`: called once, when it has ended. */
  constructor(onEnd: () => void) {
    this.near = new DatagramPipeEnd(this, 'near-reset')
    this.far = new DatagramPipeEnd(this, 'far-reset')
    this.near.other = this.far
    this.far.other = this.near
    this.#onEnd = onEnd
  }

  /** Grows with every datagram, either way: while it grows, the flow is not idle. */
  get activity(): number {
    return this.near.datagrams + this.far.datagrams
  }

  /** Ends both sides: `closed` in an orderly way, anything else as RST does. */
  finish(end: SpliceEnd): void {
    if (this.hasEnded) return
    this.hasEnded = true
    this.end = end
    for (const { stream } of [this.near, this.far]) {
      if (end === 'closed') stream?.end()
      else stream?.reset()
    }
    this.#onEnd()
  }

  /** As `Splice.cut`. */
  cut(): void {
    this.finish('cut')
  }
}

/** One side: takes what its own stream reports and passes it to the other side's stream. */
export class DatagramPipeEnd implements DatagramStreamEvents {
  /** Set before the stream can report anything. */
  stream: DatagramStream | undefined
  other!: DatagramPipeEnd
  /** Came in on this side, including those lost. */
  datagrams = 0
  /** Not taken by the other side's stream. */
  lost = 0
  /** Passed on. */
  bytes = 0
  readonly #pipe: DatagramPipe
  readonly #resetMeans: SpliceEnd

  constructor(pipe: DatagramPipe, resetMeans: SpliceEnd) {
    this.#pipe = pipe
    this.#resetMeans = resetMeans
  }

  datagram(payload: Buffer): void {
    this.datagrams++
    if (this.other.stream?.send(payload) === true) this.bytes += payload.length
    else this.lost++
  }

  /** It was sent to the other side already, before that was open. */
  passed(payload: Buffer): void {
    this.datagrams++
    this.bytes += payload.length
  }

  end(): void {
    this.#pipe.finish('closed')
  }

  reset(because?: 'lost'): void {
    this.#pipe.finish(because === 'lost' && this.#resetMeans === 'far-reset' ? 'far-lost' : this.#resetMeans)
  }
}
