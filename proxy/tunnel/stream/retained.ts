import { freeSegment, takeSegment, type Segment } from './segments.ts'

/**
 * What one direction of a stream keeps: written by its user, and not yet acknowledged by the peer. The cursor is what is sent
 * next; when a carrier dies it goes back to the head.
 *
 *       dropped │ sent, may be sent again │ not sent yet │
 *               head ──────────────────▶ cursor ───────▶ tail      (a chain of segments, copied into once)
 */
export class Retained {
  /** Bytes from head to tail. */
  length = 0
  #head: Segment | undefined
  #headAt = 0
  #tail: Segment | undefined
  #cursor: Segment | undefined
  #cursorAt = 0

  /** Copies the chunk to the tail. */
  push(chunk: Buffer): void {
    const size = chunk.length
    let at = 0
    while (at < size) {
      let tail = this.#tail
      if (tail === undefined || tail.end === tail.bytes.length) tail = this.#extend(size - at)
      const step = Math.min(size - at, tail.bytes.length - tail.end)
      chunk.copy(tail.bytes, tail.end, at, at + step)
      tail.end += step
      at += step
    }
    this.length += size
  }

  /** Copies the next `size` bytes at the cursor to `out`, and moves the cursor. There must be that many. */
  read(out: Buffer, at: number, size: number): void {
    const until = at + size
    while (at < until) {
      const segment = this.#atCursor()
      const step = Math.min(segment.end - this.#cursorAt, until - at)
      segment.bytes.copy(out, at, this.#cursorAt, this.#cursorAt + step)
      this.#cursorAt += step
      at += step
    }
  }

  /** Moves the cursor past bytes that need not be sent. */
  skip(size: number): void {
    while (size > 0) {
      const segment = this.#atCursor()
      const step = Math.min(segment.end - this.#cursorAt, size)
      this.#cursorAt += step
      size -= step
    }
  }

  /** Everything that is kept will be sent again. */
  rewind(): void {
    this.#cursor = this.#head
    this.#cursorAt = this.#headAt
  }

  /** Forgets `size` bytes at the head; the cursor must be past them. */
  drop(size: number): void {
    this.length -= size
    if (this.length === 0) return this.clear()
    while (size > 0) {
      const head = this.#head!
      const step = Math.min(head.end - this.#headAt, size)
      this.#headAt += step
      size -= step
      if (this.#headAt === head.bytes.length) this.#behead(head)
    }
  }

  clear(): void {
    this.length = 0
    for (let segment = this.#head; segment !== undefined; ) {
      const { next } = segment
      freeSegment(segment)
      segment = next
    }
    this.#head = this.#tail = this.#cursor = undefined
    this.#headAt = this.#cursorAt = 0
  }

  #behead(head: Segment): void {
    this.#head = head.next
    this.#headAt = 0
    if (this.#cursor === head) {
      this.#cursor = this.#head
      this.#cursorAt = 0
    }
    freeSegment(head)
  }

  #atCursor(): Segment {
    let segment = this.#cursor!
    if (this.#cursorAt === segment.end) {
      segment = this.#cursor = segment.next!
      this.#cursorAt = 0
    }
    return segment
  }

  /** The first segment is small; a stream that goes on writing gets larger ones. */
  #extend(size: number): Segment {
    const segment = takeSegment(size, this.#tail?.kind)
    if (this.#tail === undefined) this.#head = this.#cursor = segment
    else this.#tail.next = segment
    this.#tail = segment
    return segment
  }
}
