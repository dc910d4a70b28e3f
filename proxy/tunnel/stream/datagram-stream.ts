import type { DatagramStream, Withdrawable } from '../contract.ts'
import type { MuxStream } from './mux-stream.ts'

/** A stream as the user of a UDP flow sees it. */
export class MuxDatagramStream implements DatagramStream, Withdrawable {
  readonly #stream: MuxStream

  constructor(stream: MuxStream) {
    this.#stream = stream
  }

  send(payload: Buffer): boolean {
    return this.#stream.sendDatagram(payload)
  }

  end(): void {
    this.#stream.end()
  }

  reset(): void {
    this.#stream.reset()
  }

  withdraw(): void {
    this.#stream.withdraw()
  }
}
