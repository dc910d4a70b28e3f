import { setImmediate as nextTurn } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/**
 * Bytes of buffers that somebody in this process holds. V8 frees the memory behind collected buffers in the background and in
 * steps, so one collection also counts garbage: the least of several rounds is what is held.
 */
export async function heldBytes(): Promise<number> {
  let least = Number.POSITIVE_INFINITY
  for (let round = 0; round < 8; round += 1) {
    collect()
    await nextTurn()
    least = Math.min(least, process.memoryUsage().arrayBuffers)
  }
  return least
}
