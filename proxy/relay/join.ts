import type { Duplex } from 'node:stream'
import { Forward } from './forward.ts'
import type { RateLimit } from './rate-limit.ts'

/** One leg, and the pace of the node at its end. */
export interface Leg {
  stream: Duplex
  pace: RateLimit
}

export interface JoinEvents {
  passed: (bytes: number) => void
  /** Once: both legs are gone. */
  over: () => void
}

/** Joins two legs: nothing is read that the other leg does not take, or while the node has sent more than it may. */
export function join(a: Leg, b: Leg, { passed, over }: JoinEvents): void {
  const ways = [
    new Forward(a.stream, b.stream, a.pace, passed),
    new Forward(b.stream, a.stream, b.pace, passed),
  ] as const
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
