import { MAX_EARLY_BYTES } from '../wire/frame.ts'
import { Retained } from './retained.ts'
import type { StreamUser } from './stream-user.ts'

/** Early datagrams of one stream. Each takes a buffer of its own, however small it is. */
export const MAX_EARLY_DATAGRAMS = 16

/** Whether one more datagram may be sent before OPENED. Both ends apply the same rule. */
export function mayBeEarly(before: { datagrams: number; bytes: number }, payload: Buffer): boolean {
  return before.datagrams < MAX_EARLY_DATAGRAMS && before.bytes + payload.length <= MAX_EARLY_BYTES
}

/** What arrived on a stream before it was accepted, until its user gets it. */
export class EarlyBuffer {
  readonly #bytes = new Retained()
  readonly #datagrams: Buffer[] = []
  /** Of datagrams; bytes of the stream are counted in receiving.ts, like all others. */
  datagramBytes = 0

  push(chunk: Buffer): void {
    this.#bytes.push(chunk)
  }

  /** False: there is no room, and the datagram is dropped. */
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
