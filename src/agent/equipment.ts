import { readdirSync, readFileSync, statfsSync } from 'node:fs'

/** What the machine has beside memory and processors. */
export interface Equipment {
  gpus: number
  storageMb: number
  /** Absent where the kernel does not know it: of wireless and most virtual interfaces. */
  bandwidthKbit?: number
}

/** Looked at once, when the agent starts: what instances take later is counted by the scheduler. */
export function equipmentOf(dir: string): Equipment {
  const bandwidthKbit = linkKbit()
  return { gpus: gpus(), storageMb: freeMb(dir), ...(bandwidthKbit === undefined ? {} : { bandwidthKbit }) }
}

function gpus(): number {
  return attempt(() => readdirSync('/proc/driver/nvidia/gpus').length) ?? 0
}

function freeMb(dir: string): number {
  const free = attempt(() => {
    const { bavail, bsize } = statfsSync(dir)
    return Math.floor((bavail * bsize) / 2 ** 20)
  })
  return Number.isFinite(free) ? Math.max(0, free as number) : 0
}

/** The speed of the interface that has the default route. */
function linkKbit(): number | undefined {
  const routes = attempt(() => readFileSync('/proc/net/route', 'utf8')) ?? ''
  const [device] = routes.split('\n').flatMap((line) => {
    const [name = '', destination] = line.split('\t')
    return destination === '00000000' && /^[\w.@-]{1,15}$/.test(name) ? [name] : []
  })
  if (device === undefined) return undefined
  const mbit = Number(attempt(() => readFileSync(`/sys/class/net/${device}/speed`, 'utf8')))
  return Number.isInteger(mbit) && mbit > 0 && mbit < 10_000_000 ? mbit * 1_000 : undefined
}

/** Files of the kernel that are missing or cannot be read say nothing. */
function attempt<T>(read: () => T): T | undefined {
  try {
    return read()
  } catch {
    return undefined
  }
}
