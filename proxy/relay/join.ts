import type { Duplex } from 'node:stream'
import { Forward } from './forward.ts'
import type { RateLimit } from './rate-limit.ts'

/** One leg, and the rate limit of the node at its end. */
export interface Leg {
  stream: Duplex
  rateLimit: RateLimit
}

export interface JoinEvents {
  onBytes: (bytes: number) => void
  /** Called once, when both legs are closed. */
  onEnd: () => void
}

/** Joins two legs: nothing is read that the other leg does not take, or while the node has sent more than it may. */
export function join(a: Leg, b: Leg, { onBytes, onEnd }: JoinEvents): void {
  const directions = [
    new Forward(a.stream, b.stream, a.rateLimit, onBytes),
    new Forward(b.stream, a.stream, b.rateLimit, onBytes),
  ] as const
  let hasEnded = false
  const end = () => {
    if (hasEnded) return
    hasEnded = true
    for (const direction of directions) direction.stop()
    a.stream.destroy()
    b.stream.destroy()
    onEnd()
  }
  a.stream.once('close', end)
  b.stream.once('close', end)
  for (const direction of directions) direction.start()
}
