/** Memory that bytes wait in, a link in the chain of its owner. `end`: filled up to here. */
export interface Segment {
  readonly bytes: Buffer
  readonly kind: number
  end: number
  next: Segment | undefined
}

/** What one allocation takes from the system: small enough to be cheap to hold, large enough for a DATA frame. */
const SLAB_BYTES = 64 * 1024
/** A stream that sends little holds little: 10,000 of them must not hold 64 KiB each. */
const SIZES = [1024, 8 * 1024, SLAB_BYTES] as const
/** Free slabs kept for the next writer. Smaller: bursts allocate, and cause garbage collection; larger: memory stays after a burst. */
const KEPT_SLABS = 256

const free: (Segment | undefined)[] = SIZES.map(() => undefined)
let keptSlabs = 0
let inUse = 0

/** Bytes of all segments in use. */
export function segmentBytesInUse(): number {
  return inUse
}

/** An empty segment for about `bytes`, at least one size up from `above`; used again after `giveSegment`. */
export function takeSegment(bytes: number, above = -1): Segment {
  let kind = Math.min(above + 1, SIZES.length - 1)
  while (kind < SIZES.length - 1 && SIZES[kind]! < bytes) kind += 1
  const segment = free[kind] ?? carve(kind)
  free[kind] = segment.next
  if (kind === SIZES.length - 1) keptSlabs -= 1
  segment.next = undefined
  segment.end = 0
  inUse += segment.bytes.length
  return segment
}

export function freeSegment(segment: Segment): void {
  const { kind } = segment
  inUse -= segment.bytes.length
  segment.next = undefined
  if (kind === SIZES.length - 1) {
    if (keptSlabs >= KEPT_SLABS) return
    keptSlabs += 1
  }
  segment.next = free[kind]
  free[kind] = segment
}

/** Cuts a new slab into segments of one kind. Slabs of small segments are never returned to the system. */
function carve(kind: number): Segment {
  const slab = Buffer.allocUnsafeSlow(SLAB_BYTES)
  const size = SIZES[kind]!
  let first: Segment | undefined
  for (let at = SLAB_BYTES - size; at >= 0; at -= size) {
    const bytes = size === SLAB_BYTES ? slab : slab.subarray(at, at + size)
    first = { bytes, kind, end: 0, next: first }
  }
  if (kind === SIZES.length - 1) keptSlabs += 1
  return first!
}
