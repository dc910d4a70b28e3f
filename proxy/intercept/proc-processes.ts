import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import type { InstanceId } from '../../src/core/model/ids.ts'

/*
 * Processes as /proc shows them, and the sockets that each has open (/proc/<pid>/fd/<n> links to `socket:[inode]`). /proc is
 * read synchronously, in slices: 3 µs a link, against 30 µs for a promise.
 */

/**
 * An instance on this node: with the user that nothing else runs as, with an address that nothing else has (a container), or with its first processes; what these started counts as theirs.
 * `isWhole`: these are all, and none need be looked for.
 */
export type InstanceProcesses = { instance: InstanceId } & (
  | { uid: number }
  | { address: string }
  | { pids: readonly number[]; isWhole?: boolean }
)

/** Links read in one turn of the event loop: under 1 ms. */
const SLICE = 256

/** Lets the event loop go on after each slice. */
class Slices {
  #left = SLICE

  next(): Promise<void> | undefined {
    if (--this.#left > 0) return undefined
    this.#left = SLICE
    return turn(undefined)
  }
}

export interface SocketOwners {
  /** The instance that has each socket, by inode. */
  readonly owners: ReadonlyMap<string, InstanceId>
  /** Some process of an instance could not be looked into: a socket without an owner may be its. */
  readonly isPartial: boolean
}

/** Which instance has each of these sockets open. */
export async function socketOwners(
  wanted: ReadonlySet<string>,
  processes: readonly InstanceProcesses[],
): Promise<SocketOwners> {
  const owners = new Map<string, InstanceId>()
  const slices = new Slices()
  let isPartial = false
  const isNeeded = wanted.size > 0 && processes.some((each) => 'pids' in each)
  for (const [pid, instance] of isNeeded ? await processesOf(processes) : []) {
    try {
      for (const fd of readdirSync(`/proc/${pid}/fd`)) {
        await slices.next()
        const inode = inodeAt(`/proc/${pid}/fd/${fd}`)
        if (inode !== undefined && wanted.has(inode)) owners.set(inode, instance)
      }
    } catch (error) {
      // Where /proc hides the processes of others (hidepid), what is hidden looks as if it had ended.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || isRunning(pid)) isPartial = true
    }
    if (owners.size === wanted.size) break
  }
  return { owners, isPartial }
}

/** This agent's own sockets. Rarely asked for: thousands of links are read in one go. */
export function ownInodes(): Set<string> {
  const inodes = readdirSync('/proc/self/fd').map((fd) => inodeAt(`/proc/self/fd/${fd}`))
  return new Set(inodes.filter((inode) => inode !== undefined))
}

/** The program that has a socket open, for people: `nginx (pid 812)`; `undefined` where /proc does not show it. */
export async function programWith(inode: string): Promise<string | undefined> {
  const slices = new Slices()
  for (const pid of readdirSync('/proc').filter(isPid)) {
    try {
      for (const fd of readdirSync(`/proc/${pid}/fd`)) {
        await slices.next()
        if (inodeAt(`/proc/${pid}/fd/${fd}`) !== inode) continue
        return `${readFileSync(`/proc/${pid}/comm`, 'latin1').trim()} (pid ${pid})`
      }
    } catch {} // another user's, or it has ended
  }
  return undefined
}

/** The processes of each instance: its first ones, their groups and sessions, and whatever any of these started. */
async function processesOf(processes: readonly InstanceProcesses[]): Promise<Map<number, InstanceId>> {
  const listed = processes.flatMap((each) => ('pids' in each ? [each] : []))
  const found = new Map(listed.flatMap(({ instance, pids }) => pids.map((pid) => [pid, instance] as const)))
  const partly = listed.filter(({ isWhole }) => isWhole !== true)
  if (partly.length === 0) return found
  const first = new Map(partly.flatMap(({ instance, pids }) => pids.map((pid) => [pid, instance] as const)))
  const others: { pid: number; parent: number }[] = []
  const slices = new Slices()
  for (const name of readdirSync('/proc').filter(isPid)) {
    await slices.next()
    const stat = statOf(Number(name))
    if (stat === undefined) continue
    if (found.has(stat.pid)) continue
    const instance = first.get(stat.group) ?? first.get(stat.session)
    if (instance !== undefined) found.set(stat.pid, instance)
    else others.push(stat)
  }
  for (let grew = true; grew; ) {
    grew = false
    for (const { pid, parent } of others) {
      const instance = found.get(parent)
      if (instance === undefined || found.has(pid)) continue
      found.set(pid, instance)
      grew = true
    }
  }
  return found
}

function isPid(name: string): boolean {
  return name.charCodeAt(0) <= 57
}

/** proc(5): `pid (name) state parent group session …`; the name may hold anything. */
function statOf(pid: number): { pid: number; parent: number; group: number; session: number } | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ', 4)
    return { pid, parent: Number(fields[1]), group: Number(fields[2]), session: Number(fields[3]) }
  } catch {
    return undefined
  }
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH'
  }
}

function inodeAt(link: string): string | undefined {
  try {
    return /^socket:\[(\d+)\]$/.exec(readlinkSync(link))?.[1]
  } catch {
    return undefined // it was closed meanwhile
  }
}
