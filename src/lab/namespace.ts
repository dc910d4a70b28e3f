import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { hasTool } from './system-tools.ts'
import { removeRecorded } from './docker/engine.ts'
import { run } from './program.ts'

/**
 * Network namespaces as hosts. A name says whose it is, so that what a crash left behind is found and removed:
 *
 *     hedgerow-<pid>-<start>-<n>-<label>       start: when the process began, because pids come back
 *
 * The root namespace gets no address and no route: both ends of every cable are born inside namespaces.
 */
const PREFIX = 'hedgerow'
const NAMESPACES = '/var/run/netns'
const CONFIG = '/etc/netns'

let created = 0
const mine = new Set<string>()

/** Why namespaces cannot be made here, in words for a skip; `undefined` when they can. */
export async function lacking(): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return 'needs root'
  for (const tool of ['ip', 'nft']) if (!hasTool(tool)) return `needs ${tool}`
  const name = nameFor('probe')
  const { code, stderr } = await run(['ip', 'netns', 'add', name])
  destroy([name])
  return code === 0 ? undefined : `needs CAP_NET_ADMIN and CAP_SYS_ADMIN (${stderr.trim()})`
}

/** A name of this process's; it is removed at the latest when the process exits. */
export function nameFor(label: string): string {
  if (mine.size === 0) process.on('exit', removeMine)
  const name = `${PREFIX}-${process.pid}-${startOf(process.pid)}-${created++}-${label}`
  mine.add(name)
  return name
}

/** Where what programs of a namespace find in /etc is; `ip netns exec` puts it there. */
export function configOf(name: string): string {
  return `${CONFIG}/${name}`
}

/** What programs in the namespace find as /etc/resolv.conf. */
export function setResolver(name: string, nameserver: string): void {
  mkdirSync(configOf(name), { recursive: true })
  writeFileSync(`${configOf(name)}/resolv.conf`, `nameserver ${nameserver}\noptions timeout:2 attempts:2\n`)
}

/** What programs in the namespace find as /etc/hosts: names, and the addresses of each. */
export function setHosts(name: string, hosts: Readonly<Record<string, readonly string[]>>): void {
  const lines = Object.entries(hosts).flatMap(([host, addresses]) => addresses.map((address) => `${address} ${host}\n`))
  mkdirSync(configOf(name), { recursive: true })
  writeFileSync(`${configOf(name)}/hosts`, `127.0.0.1 localhost\n::1 localhost\n${lines.join('')}`)
}

/** Removes what crashed processes left behind; returns the names. */
export function sweep(): string[] {
  if (process.getuid?.() !== 0) return []
  const stale = [...new Set([...namesIn(NAMESPACES), ...namesIn(CONFIG)])].filter(isStale)
  destroy(stale)
  return stale
}

/** Ends every process inside, then removes containers that are there, and the namespaces themselves. Synchronous, so that it also works while exiting. */
export function destroy(names: readonly string[]): void {
  for (const name of names) killInside(name)
  removeRecorded(names.map(configOf))
  for (const name of names) {
    quietly(['netns', 'del', name])
    rmSync(configOf(name), { recursive: true, force: true })
    mine.delete(name)
  }
  try {
    rmdirSync(CONFIG) // ours if empty
  } catch {
    // not there, or somebody else's files are in it
  }
  if (mine.size === 0) process.off('exit', removeMine)
}

/** SIGKILL for everything that runs inside; again, because a process may start another meanwhile. */
export function killInside(name: string): void {
  for (let round = 0; round < 10; round += 1) {
    const pids = quietly(['netns', 'pids', name]).split('\n').filter(Boolean).map(Number)
    if (pids.length === 0) return
    for (const pid of pids) kill(pid)
  }
}

function removeMine(): void {
  destroy([...mine])
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder).filter((name) => name.startsWith(`${PREFIX}-`))
  } catch {
    return []
  }
}

/** Whether the process that made it is gone. */
export function isStale(name: string): boolean {
  const [, pid = '', start] = name.split('-')
  return startOf(Number(pid)) !== start
}

/**
 * When a process began, in clock ticks since boot (proc(5), field 22, counted after the name in brackets); `undefined` when it
 * has ended, also when nobody asked how yet.
 */
export function startOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return fields[0] === 'Z' ? undefined : fields[19]
  } catch {
    return undefined
  }
}

function quietly(args: readonly string[]): string {
  try {
    return execFileSync('ip', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  } catch {
    return ''
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // it ended by itself
  }
}
