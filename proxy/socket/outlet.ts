import type { Socket } from 'node:net'
import { giveBack, SLAB_BYTES, SlabWriter } from '../../src/core/kit/slab-writer.ts'

/*
 * Writes to a socket from memory that its owner will reuse: whatever the kernel has not taken when `write` returns was copied.
 * Guarded by `npm run bench -- --only 'TCP stream|requests'`.
 *
 *     small, nothing waits ──copy──▶ socket.write, at once
 *     large ──▶ gathered in a slab (kit/slab-writer.ts) ──▶ one socket.write
 *                 └ behind a backup and less than half full: copied, so that a slow reader does not hold
 *                   whole slabs for a few bytes
 */

/** Smaller chunks are not gathered when nothing else waits: a short message leaves at once. */
const GATHER_BYTES = 4 * 1024
/** Slabs that backed-up sockets still write from, and that are taken back later. More are left to the collector. */
const LENT_SLABS = 32
const lent: { slab: Buffer; socket: Socket }[] = []

export class Outlet extends SlabWriter {
  readonly #socket: Socket

  constructor(socket: Socket) {
    super()
    this.#socket = socket
  }

  /** Takes all of the chunk; false when the socket is backed up, and then its `drain` follows. */
  write(chunk: Buffer): boolean {
    if (this.isEmpty && chunk.length < GATHER_BYTES) return this.#socket.write(Buffer.from(chunk))
    this.gather(chunk)
    return !this.#socket.writableNeedDrain
  }

  protected override emit(bytes: Buffer, slab: Buffer): void {
    const socket = this.#socket
    if (socket.destroyed) return giveBack(slab)
    const isWaste = socket.writableLength > 0 && bytes.length < SLAB_BYTES / 2
    socket.write(isWaste ? Buffer.from(bytes) : bytes)
    if (isWaste || socket.writableLength === 0) giveBack(slab)
    else if (lent.length < LENT_SLABS) lent.push({ slab, socket })
  }

  /** A slab whose socket has written all of it. */
  protected override reuse(): Buffer | undefined {
    const at = lent.findIndex(({ socket }) => socket.writableLength === 0 || socket.destroyed)
    return at < 0 ? undefined : lent.splice(at, 1)[0]?.slab
  }
}
