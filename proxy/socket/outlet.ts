import type { Socket } from 'node:net'

/*
 * Writes to a socket from memory that belongs to somebody else: whatever is not with the kernel when `write` returns was
 * copied.
 *
 *     small, nothing waits ──copy──▶ socket.write, at once
 *     large ──▶ gathered in a slab ──full, or the turn of the event loop is over──▶ one socket.write
 *                                      └ behind a backup and less than half full: copied, so that no slow reader
 *                                        holds whole slabs for little
 *
 * TLS hands over 16 KiB at a time: gathered, four of them cost one system call.
 */

/** Smaller chunks are not gathered when nothing else waits: a short message leaves at once. */
const GATHER_BYTES = 4 * 1024
/** Written at once. Larger: fewer system calls, colder caches. */
const SLAB_BYTES = 64 * 1024
/** Slabs kept for the next write, and as many that backed-up sockets still write from. More are left to the collector. */
const KEPT_SLABS = 32
const free: Buffer[] = []
const lent: { slab: Buffer; socket: Socket }[] = []
let due: Outlet[] = []

export class Outlet {
  readonly #socket: Socket
  #slab: Buffer | undefined
  #fill = 0

  constructor(socket: Socket) {
    this.#socket = socket
  }

  /** Takes all of the chunk; false when the socket is backed up, and then its `drain` follows. */
  write(chunk: Buffer): boolean {
    if (this.#slab === undefined && chunk.length < GATHER_BYTES) return this.#socket.write(Buffer.from(chunk))
    for (let at = 0; at < chunk.length; ) {
      const slab = (this.#slab ??= this.#gather())
      const step = chunk.copy(slab, this.#fill, at)
      this.#fill += step
      at += step
      if (this.#fill === SLAB_BYTES) this.flush()
    }
    return !this.#socket.writableNeedDrain
  }

  /** What was gathered leaves. */
  flush(): void {
    const slab = this.#slab
    if (slab === undefined) return
    const gathered = slab.subarray(0, this.#fill)
    this.#slab = undefined
    this.#fill = 0
    const socket = this.#socket
    if (socket.destroyed) return give(slab)
    const isWaste = socket.writableLength > 0 && gathered.length < SLAB_BYTES / 2
    socket.write(isWaste ? Buffer.from(gathered) : gathered)
    if (isWaste || socket.writableLength === 0) give(slab)
    else if (lent.length < KEPT_SLABS) lent.push({ slab, socket })
  }

  #gather(): Buffer {
    if (due.push(this) === 1) setImmediate(flushAll)
    return free.pop() ?? takeBack() ?? Buffer.allocUnsafeSlow(SLAB_BYTES)
  }
}

function flushAll(): void {
  const outlets = due
  due = []
  for (const outlet of outlets) outlet.flush()
}

function give(slab: Buffer): void {
  if (free.length < KEPT_SLABS) free.push(slab)
}

/** A slab whose socket has written all of it. */
function takeBack(): Buffer | undefined {
  const at = lent.findIndex(({ socket }) => socket.writableLength === 0 || socket.destroyed)
  return at < 0 ? undefined : lent.splice(at, 1)[0]?.slab
}
