import type { Socket } from 'node:net'
import { giveBack, SLAB_BYTES, SlabWriter } from '../../src/core/kit/slab-writer.ts'
import { HandleWriter } from './handle-writer.ts'

/*
 * Writes to a socket from memory that its owner will reuse: whatever the kernel has not taken when `write` returns was copied.
 * Guarded by `npm run bench -- --only 'TCP stream|requests'`.
 *
 *     small, nothing waits ──copy──▶ the socket's handle, at once
 *     large, or the kernel is full ──▶ gathered in slabs (kit/slab-writer.ts) ──▶ the handle, one write at a time
 *                                        └ behind a backup and less than half full: copied, so that a slow reader does not
 *                                          hold whole slabs for a few bytes
 *
 * Behind what was given to the stream, and where there is no handle, `socket.write` does it.
 */

/** Smaller chunks are not gathered when nothing else waits: a short message leaves at once. */
const GATHER_BYTES = 4 * 1024
/** What the next small chunk is copied into. Where the kernel does not take it at once, it is left to the write. */
let scratch = Buffer.allocUnsafeSlow(GATHER_BYTES)

/** What waits to be written, or is being written. `slab`: free once that is done. */
interface Due {
  readonly bytes: Buffer
  readonly slab: Buffer | undefined
}

export class Outlet extends SlabWriter {
  readonly #socket: Socket
  readonly #handle: HandleWriter | undefined
  readonly #drained: () => void
  #underWay: Due | undefined
  readonly #waiting: Due[] = []
  /** The writer was asked to stop. */
  #isFull = false
  #isEnding = false

  /** `drained`: after a `write` that returned false, there is room again. */
  constructor(socket: Socket, drained: () => void) {
    super()
    this.#socket = socket
    this.#drained = drained
    this.#handle = HandleWriter.of(socket, () => this.#written())
    socket.on('drain', drained)
  }

  /** Takes all of the chunk; false when the socket is backed up, and then `drained` follows. */
  write(chunk: Buffer): boolean {
    if (this.isEmpty && this.#underWay === undefined && chunk.length < GATHER_BYTES) this.#writeNow(chunk)
    else this.gather(chunk)
    if (this.#underWay === undefined) return !this.#socket.writableNeedDrain
    this.#isFull = true
    return false
  }

  /** FIN, behind what waits. Nothing may be written any more. */
  end(): void {
    this.flush()
    this.#isEnding = true
    if (this.#underWay === undefined) this.#socket.end()
  }

  protected override emit(bytes: Buffer, slab: Buffer): void {
    const isWaste = this.#underWay !== undefined && bytes.length < SLAB_BYTES / 2
    this.#waiting.push(isWaste ? { bytes: Buffer.from(bytes), slab: undefined } : { bytes, slab })
    if (isWaste) giveBack(slab)
    this.#writeOn()
  }

  #writeNow(chunk: Buffer): void {
    if (this.#handle?.isFree !== true) return this.#writeToStream(chunk)
    const bytes = scratch.subarray(0, chunk.length)
    chunk.copy(bytes)
    if (this.#handle.write(bytes)) return
    this.#underWay = { bytes, slab: undefined }
    scratch = Buffer.allocUnsafeSlow(GATHER_BYTES)
  }

  #writeOn(): void {
    while (this.#underWay === undefined) {
      const due = takeSome(this.#waiting)
      if (due === undefined) return
      if (this.#handle?.isFree !== true) this.#writeToStream(due.bytes)
      else if (!this.#handle.write(due.bytes)) this.#underWay = due
      if (this.#underWay === undefined && due.slab !== undefined) giveBack(due.slab)
    }
  }

  #writeToStream(bytes: Buffer): void {
    if (!this.#socket.destroyed) this.#socket.write(Buffer.from(bytes))
  }

  /** The kernel has all that was under way, or the socket is closed. */
  #written(): void {
    const slab = this.#underWay?.slab
    if (slab !== undefined) giveBack(slab)
    this.#underWay = undefined
    this.#writeOn()
    if (this.#underWay !== undefined || this.#socket.destroyed) return
    if (this.#isFull) {
      this.#isFull = false
      this.#drained()
    }
    if (this.#isEnding) this.#socket.end()
  }
}

/** What comes first; small pieces that follow each other in one. */
function takeSome(waiting: Due[]): Due | undefined {
  const first = waiting.shift()
  if (first === undefined || first.slab !== undefined || waiting[0]?.slab !== undefined) return first
  const pieces = [first.bytes]
  for (let bytes = first.bytes.length; bytes < SLAB_BYTES && waiting[0] !== undefined; ) {
    if (waiting[0].slab !== undefined) break
    bytes += waiting[0].bytes.length
    pieces.push((waiting.shift() as Due).bytes)
  }
  return pieces.length === 1 ? first : { bytes: Buffer.concat(pieces), slab: undefined }
}
