import type { MuxStream } from '../stream/mux-stream.ts'
import { isBulkNow, quietFor, type StreamLoad } from './placement.ts'

/** What one stream has shown so far. */
interface Reading {
  sent: StreamLoad
  received: StreamLoad
  isBulkIn: boolean
}

const NEW = { total: 0, lately: 0, queued: 0, quiet: 0 }

/** Weighs the streams that move many bytes, four times a second, and says which are bulk; the others are never looked at. */
export class BulkDetector {
  readonly #readings = new Map<MuxStream, Reading>()
  /** Streams that are bulk in either direction. */
  bulks = 0

  /** Many bytes were acknowledged lately. */
  watch(stream: MuxStream): void {
    if (!this.#readings.has(stream)) {
      this.#readings.set(stream, { sent: { ...NEW }, received: { ...NEW }, isBulkIn: false })
    }
  }

  remove(stream: MuxStream): void {
    this.#readings.delete(stream)
  }

  measure(): void {
    let bulks = 0
    for (const [stream, reading] of this.#readings) {
      reading.sent = next(reading.sent, stream.sender.acked, stream.sender.backlog)
      reading.received = next(reading.received, stream.receiver.consumedBytes, 0)
      stream.sender.setBulk(isBulkNow(stream.sender.isBulk, reading.sent))
      reading.isBulkIn = isBulkNow(reading.isBulkIn, reading.received)
      if (stream.sender.isBulk || reading.isBulkIn) bulks += 1
      else if (reading.sent.quiet > 0 && reading.received.quiet > 0) {
        this.#readings.delete(stream)
        stream.watched()
      }
    }
    this.bulks = bulks
  }
}

function next({ total, quiet }: StreamLoad, now: number, queued: number): StreamLoad {
  const lately = now - total
  return { total: now, lately, queued, quiet: quietFor(quiet, { lately, queued }) }
}
