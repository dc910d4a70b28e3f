import { readFileSync } from 'node:fs'
import { totalmem } from 'node:os'
import { join } from 'node:path'
import { getHeapSpaceStatistics, getHeapStatistics } from 'node:v8'
import { limitedGroups, type MemoryRoom } from './memory-rooms.ts'

/*
 * What ends a process for want of memory:
 *
 *     heap             V8 aborts the process when the old objects reach their limit (--max-old-space-size); by default Node sets the
 *                      limit to a part of the machine's memory, or of the control group's
 *     control group    the kernel kills a process of the group, or of a group above it, at its limit (memory-rooms.ts)
 *     machine          as a group: the kernel kills the process that it chooses
 */

/** V8 adds three semi-spaces to the limit that it reports: room for new objects, where old ones cannot be. In MiB, V8's default. */
const SEMI_SPACE = 64
const NEW_OBJECTS = 3 * 2 ** 20 * semiSpace(process.execArgv)

/** What is left for old objects, garbage counted as used; about 20 µs. */
export function heapRoom(): MemoryRoom {
  const all = getHeapStatistics().heap_size_limit
  const limit = Math.max(all - NEW_OBJECTS, all / 4) // the latter for flags that are not read here
  const used = getHeapSpaceStatistics()
    .filter(({ space_name }) => !space_name.startsWith('new_'))
    .reduce((sum, { space_used_size }) => sum + space_used_size, 0)
  return { of: 'heap', limit, left: limit - used }
}

function semiSpace(flags: readonly string[]): number {
  const [, mebibytes] = /--max[-_]semi[-_]space[-_]size=(\d+)/.exec(flags.join(' ')) ?? []
  return Number(mebibytes ?? SEMI_SPACE)
}

/** The memory this process may use, in bytes. */
export function memoryBytes(): number {
  return Math.min(totalmem(), ...limitFiles.map(limitIn))
}

/** The files in which groups of this process, and those above them, have their limit: v2, v1. */
const limitFiles: readonly string[] = limitedGroups().flatMap((dir) => [
  join(dir, 'memory.max'),
  join(dir, 'memory.limit_in_bytes'),
])

/** Infinite where there is none (`max`, or no such file). */
function limitIn(file: string): number {
  try {
    return Number(readFileSync(file, 'latin1')) || Number.POSITIVE_INFINITY
  } catch {
    return Number.POSITIVE_INFINITY
  }
}
