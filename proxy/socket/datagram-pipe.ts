import type { SpliceEnd } from './splice.ts'
import type { DatagramStream, DatagramStreamEvents } from '../tunnel/contract.ts'

/*
 * Two streams of datagrams, back to back; what `Joint` is for connections:
 *
 *        near.datagram ─▶ far.send            whole, in order, or lost: nothing waits here     … and the same back
 *        near.end, reset ─▶ far.end, reset    UDP has no half-close: whichever side ends, ends both
 *
 * The hot path of every datagram: plain callbacks, no promise, no copy.
 */
export class DatagramPipe {
  readonly near: DatagramPipeEnd
  readonly far: DatagramPipeEnd
  /** Why it is over; `closed` as long as it is not. */
  end: SpliceEnd = 'closed'
  isOver = false
  readonly #told: () => void

  /** `told`: called once, when it is over. */
  constructor(told: () => void) {
    this.near = new DatagramPipeEnd(this, 'near-reset')
    this.far = new DatagramPipeEnd(this, 'far-reset')
    this.near.other = this.far
    this.far.other = this.near
    this.#told = told
  }

  /** Grows with every datagram, either way: as long as it grows, the flow is not idle. */
  get activity(): number {
    return this.near.datagrams + this.far.datagrams
  }

  /** Ends both sides: `closed` in peace, anything else as RST does. */
  finish(end: SpliceEnd): void {
    if (this.isOver) return
    this.isOver = true
    this.end = end
    for (const { stream } of [this.near, this.far]) {
      if (end === 'closed') stream?.end()
      else stream?.reset()
    }
    this.#told()
  }

  /** As `Joint.cut`. */
  cut(): void {
    this.finish('cut')
  }
}

/** One side: takes what its own stream tells and passes it to the other side's stream. */
export class DatagramPipeEnd implements DatagramStreamEvents {
  /** Set before the stream can tell anything. */
  stream: DatagramStream | undefined
  other!: DatagramPipeEnd
  /** Came in on this side, with those lost. */
  datagrams = 0
  /** Not taken by the other side's stream. */
  lost = 0
  /** Passed on. */
  bytes = 0
  readonly #joint: DatagramPipe
  readonly #resetMeans: SpliceEnd

  constructor(joint: DatagramPipe, resetMeans: SpliceEnd) {
    this.#joint = joint
    this.#resetMeans = resetMeans
  }

  datagram(payload: Buffer): void {
    this.datagrams++
    if (this.other.stream?.send(payload) === true) this.bytes += payload.length
    else this.lost++
  }

  /** It went to the other side already, before that was open. */
  passed(payload: Buffer): void {
    this.datagrams++
    this.bytes += payload.length
  }

  end(): void {
    this.#joint.finish('closed')
  }

  reset(): void {
    this.#joint.finish(this.#resetMeans)
  }
}
