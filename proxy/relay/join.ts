import type { Duplex } from 'node:stream'
import type { Pace } from './pace.ts'

/** One leg, and the pace of the node at its end. */
export interface Leg {
  stream: Duplex
  pace: Pace
}

export interface JoinEvents {
  passed: (bytes: number) => void
  /** Once: both legs are gone. */
  over: () => void
}

/**
 * Joins two legs. The hot path: nothing is read while the other leg is backed up, or while its node has sent more than it may.
 *
 *     read ─▶ counted ─▶ written ─┬─ room, and within the pace ─▶ read on
 *                                 ├─ backed up ─▶ its 'drain' ─┐
 *                                 └─ too fast ──▶ a while ─────┴▶ look again
 *
 * Chunks go on as they are: gathering them in slabs (proxy/socket), which pays between plain sockets, costs twice as much
 * here, where TLS copies whatever is written.
 */
export function join(a: Leg, b: Leg, { passed, over }: JoinEvents): void {
  let isOver = false
  const end = () => {
    if (isOver) return
    isOver = true
    for (const stop of stops) stop()
    a.stream.destroy()
    b.stream.destroy()
    over()
  }
  a.stream.once('close', end)
  b.stream.once('close', end)
  const stops = [carry(a, b.stream, passed), carry(b, a.stream, passed)]
}

/** Returns what ends it before its time. */
function carry({ stream: from, pace }: Leg, to: Duplex, passed: (bytes: number) => void): () => void {
  const goOn = () => {
    if (!pace.isFree) pace.whenFree(goOn)
    else if (!to.writableNeedDrain) from.resume()
  }
  from.on('data', (chunk: Buffer) => {
    passed(chunk.length)
    const hasRoom = to.write(chunk)
    const mayGoOn = pace.spend(chunk.length)
    if (hasRoom && mayGoOn) return
    from.pause()
    if (hasRoom) pace.whenFree(goOn)
  })
  to.on('drain', goOn)
  from.once('end', () => to.end())
  from.resume()
  return () => pace.forget(goOn)
}
