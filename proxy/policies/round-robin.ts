import type { Instance } from '../../src/core/model/instance.ts'
import type { Policy } from './contract.ts'

/**
 * Exact round robin: the next ordinal after the one whose turn it was last, and after the highest the lowest again. It keeps
 * the ordinal and not a count, so that it is fair while instances come and go: between two turns of one instance every other
 * gets exactly one.
 */
export const roundRobin: Policy = (running, { memory, limit }) => {
  if (running.length === 0) return []
  const start = memory.ordinal === undefined ? 0 : placeAfter(running, memory.ordinal) % running.length
  memory.ordinal = (running[start] as Instance).ordinal
  return around(running, start, limit)
}

/** Up to `limit` instances from `start`, around the end. */
function around(running: readonly Instance[], start: number, limit: number): Instance[] {
  const order: Instance[] = []
  const count = Math.min(limit, running.length)
  for (let i = 0; i < count; i++) order.push(running[(start + i) % running.length] as Instance)
  return order
}

/** The first place whose ordinal is greater (binary search); the length when there is none. */
export function placeAfter(running: readonly Instance[], ordinal: number): number {
  let low = 0
  let high = running.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((running[middle] as Instance).ordinal > ordinal) high = middle
    else low = middle + 1
  }
  return low
}
