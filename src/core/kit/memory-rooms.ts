import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import { getHeapStatistics } from 'node:v8'
import { ownGroups } from './cgroup.ts'

/*
 * What the kernel leaves this process before it ends one for want of memory (or, at `memory.high`, slows all of them down):
 *
 *     version 2    limit: the smaller of memory.max and memory.high    used: memory.current          ┐ − file cache
 *     version 1    limit: memory.limit_in_bytes                        used: memory.usage_in_bytes   ┘
 *     machine      MemAvailable of /proc/meminfo
 *
 * Every group from that of this process up to the root counts. File cache is given up when memory is wanted, and so are kernel
 * objects that say so; what fits into swap is not lost. `process.availableMemory()` does not do: it takes file cache for used, and
 * asks one group only.
 */

export interface MemoryRoom {
  readonly of: 'heap' | 'control group' | 'machine'
  /** Bytes. */
  readonly limit: number
  readonly left: number
  /** The folder of the group. */
  readonly path?: string
}

export interface KernelMemory {
  /** The machine, and the groups that have a limit. */
  readonly rooms: readonly MemoryRoom[]
  /**
   * Bytes that this process holds beside what V8 knows to be in use: the program itself, and what was freed and neither V8 nor malloc
   * has given back, which is used again before more is taken.
   */
  readonly beside: number
}

/** Read asynchronously, about ten small files. @throws the system's error */
export async function kernelMemory(groups: readonly string[] = limitedGroups()): Promise<KernelMemory> {
  const [rooms, status] = await Promise.all([roomsOf(groups), text('/proc/self/status')])
  const { used_heap_size, external_memory } = getHeapStatistics()
  return { rooms, beside: (valuesIn(status).get('RssAnon') ?? 0) - used_heap_size - external_memory }
}

async function roomsOf(groups: readonly string[]): Promise<MemoryRoom[]> {
  const machine = valuesIn(await text('/proc/meminfo'))
  const swapFree = machine.get('SwapFree') ?? 0
  const rooms = (await Promise.all(groups.map((path) => roomOf(path, swapFree)))).flat()
  const limit = machine.get('MemTotal')
  const available = machine.get('MemAvailable')
  if (limit !== undefined && available !== undefined)
    rooms.push({ of: 'machine', limit: limit + (machine.get('SwapTotal') ?? 0), left: available + swapFree })
  return rooms
}

/** The groups of this process, and those above, that can have a limit of memory. A process is rarely moved to another. */
export function limitedGroups(own = ownGroups()): readonly string[] {
  return own.flatMap((path) => {
    const found: string[] = []
    for (let dir = path; dir.startsWith('/sys/fs/cgroup/'); dir = dirname(dir))
      if (isVersion2(dir) || existsSync(join(dir, 'memory.limit_in_bytes'))) found.push(dir)
    return found
  })
}

function isVersion2(dir: string): boolean {
  return existsSync(join(dir, 'memory.max'))
}

async function roomOf(path: string, swapFree: number): Promise<MemoryRoom[]> {
  const { limit, used, swap } = isVersion2(path) ? await version2(path) : await version1(path)
  if (!(limit < totalmem())) return [] // none, or one that the machine is smaller than
  const stat = valuesIn(await text(join(path, 'memory.stat')))
  const all = (name: string) => stat.get(`total_${name}`) ?? stat.get(name) ?? 0 // `total_`: version 1, with the groups below
  const cache = all('inactive_file') + all('active_file') + all('slab_reclaimable')
  const left = limit - Math.max(0, used - cache) + Math.max(0, Math.min(swap, swapFree))
  return [{ of: 'control group', limit, left, path }]
}

interface Group {
  limit: number
  used: number
  /** What may still be moved to swap. */
  swap: number
}

async function version2(path: string): Promise<Group> {
  const files = ['memory.max', 'memory.high', 'memory.current', 'memory.swap.max', 'memory.swap.current']
  const [max = NONE, high = NONE, used = 0, swapMax = 0, swapped = 0] = await numbers(path, files)
  return { limit: Math.min(max, high), used, swap: swapMax - swapped }
}

/** `memsw` is memory and swap together. */
async function version1(path: string): Promise<Group> {
  const files = ['limit_in_bytes', 'usage_in_bytes', 'memsw.limit_in_bytes', 'memsw.usage_in_bytes']
  const [limit = NONE, used = 0, both = NONE, bothUsed = used] = await numbers(
    path,
    files.map((name) => `memory.${name}`),
  )
  return { limit, used, swap: both - limit - (bothUsed - used) }
}

const NONE = Number.POSITIVE_INFINITY

/** `max` is infinite; `undefined` for a file that is not there. */
function numbers(path: string, files: readonly string[]): Promise<Array<number | undefined>> {
  return Promise.all(
    files.map(async (name) => {
      const value = (await text(join(path, name))).trim()
      return value === '' ? undefined : value === 'max' ? NONE : Number(value)
    }),
  )
}

/** `inactive_file 4096` or `MemTotal:  8192 kB`, in bytes. */
function valuesIn(lines: string): Map<string, number> {
  const found = lines.matchAll(/^(\w+):?\s+(\d+)( kB)?$/gm)
  return new Map(
    Array.from(found, ([, name = '', value, unit]) => [name, Number(value) * (unit === undefined ? 1 : 1024)]),
  )
}

async function text(path: string): Promise<string> {
  try {
    return await readFile(path, 'latin1')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return '' // a group without this controller, another system
    throw error
  }
}
