import type { MuxStream } from '../stream/mux-stream.ts'

/** What one stream has done so far. */
interface Reading {
  sent: StreamLoad
  received: StreamLoad
  isBulkIn: boolean
}

const NEW = { total: 0, lately: 0, queued: 0, quiet: 0 }

/** Measures the streams that move many bytes, four times a second, and decides which are bulk; the others cost nothing. */
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

/** What one direction of a stream has done. */
export interface StreamLoad {
  /** Bytes acknowledged so far, and since a quarter of a second ago. */
  total: number
  lately: number
  /** Bytes that wait to be sent; 0 for the direction that is received. */
  queued: number
  /** For how many quarters of a second it has moved next to nothing. */
  quiet: number
}

const BULK_BYTES = 512 * 1024
const BULK_LATELY = 128 * 1024
const QUIET_LATELY = 16 * 1024
/** Two seconds: between the bursts of a page that loads, a stream keeps its carrier. */
const QUIET_TICKS = 8

/** Whether a stream is bulk: it has moved much and goes on doing so; it stays bulk until it has rested. */
export function isBulkNow(was: boolean, { total, lately, queued, quiet }: StreamLoad): boolean {
  if (was) return quiet < QUIET_TICKS
  return total >= BULK_BYTES && (lately >= BULK_LATELY || queued >= BULK_LATELY / 2)
}

/** How long it has been quiet, one tick later. */
export function quietFor(quiet: number, { lately, queued }: Pick<StreamLoad, 'lately' | 'queued'>): number {
  return lately < QUIET_LATELY && queued < QUIET_LATELY ? quiet + 1 : 0
}
