import { MAX_EARLY_BYTES } from '../wire/frame.ts'
import { Retained } from './retained.ts'
import type { StreamUser } from './stream-user.ts'

/** Each costs a buffer, however small it is. */
export const MAX_EARLY_DATAGRAMS = 16

/** Whether one more datagram may travel before OPENED: the same at both ends. */
export function mayBeEarly(before: { datagrams: number; bytes: number }, payload: Buffer): boolean {
  return before.datagrams < MAX_EARLY_DATAGRAMS && before.bytes + payload.length <= MAX_EARLY_BYTES
}

/** What came for a stream before it was accepted, until its user is told. */
export class EarlyBuffer {
  readonly #bytes = new Retained()
  readonly #datagrams: Buffer[] = []
  /** Of datagrams; those of the stream are counted where all of them are (receiving.ts). */
  datagramBytes = 0

  push(chunk: Buffer): void {
    this.#bytes.push(chunk)
  }

  /** False: it is lost, as datagrams may be. */
  pushDatagram(payload: Buffer): boolean {
    if (!mayBeEarly({ datagrams: this.#datagrams.length, bytes: this.datagramBytes }, payload)) return false
    this.#datagrams.push(Buffer.from(payload))
    this.datagramBytes += payload.length
    return true
  }

  /** Passes everything on; false when there are bytes, and the user takes datagrams. */
  deliver(user: StreamUser): boolean {
    if (user.takes === 'datagrams') for (const payload of this.#datagrams) user.events.datagram(payload)
    const { length } = this.#bytes
    if (length === 0) return true
    if (user.takes !== 'bytes') return false
    const bytes = Buffer.allocUnsafe(length)
    this.#bytes.read(bytes, 0, length)
    this.#bytes.clear()
    user.events.data(bytes)
    return true
  }

  clear(): void {
    this.#bytes.clear()
  }
}
