import type { Duplex } from 'node:stream'
import { Inlet } from '../socket/inlet.ts'
import { Outlet } from '../socket/outlet.ts'
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
 * Joins two legs. The hot path: bytes are read into one buffer and written from slabs that are used again; nothing is read
 * while the other leg is backed up, or while its node has sent more than it may.
 *
 *     read ─▶ counted ─▶ written ─┬─ room, and within the pace ─▶ read on
 *                                 ├─ backed up ─▶ its 'drain' ─┐
 *                                 └─ too fast ──▶ a while ─────┴▶ look again
 */
export function join(a: Leg, b: Leg, { passed, over }: JoinEvents): void {
  const ways = [carry(a, b.stream, passed), carry(b, a.stream, passed)]
  let isOver = false
  const end = () => {
    if (isOver) return
    isOver = true
    for (const way of ways) way.stop()
    a.stream.destroy()
    b.stream.destroy()
    over()
  }
  a.stream.once('close', end)
  b.stream.once('close', end)
  for (const way of ways) way.start()
}

function carry({ stream: from, pace }: Leg, to: Duplex, passed: (bytes: number) => void) {
  const outlet = new Outlet(to)
  const inlet = new Inlet(from, (chunk) => {
    passed(chunk.length)
    const hasRoom = outlet.write(chunk)
    const mayGoOn = pace.spend(chunk.length)
    if (hasRoom && !mayGoOn) pace.whenFree(goOn)
    return hasRoom && mayGoOn
  })
  const goOn = () => {
    if (pace.isFree) inlet.start()
    else pace.whenFree(goOn)
  }
  to.on('drain', goOn)
  from.once('end', () => {
    outlet.flush()
    to.end()
  })
  return { start: goOn, stop: () => pace.forget(goOn) }
}
