import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { explain } from '../errors.ts'

/*
 * Groups of processes that the kernel keeps, cgroups(7). What a process starts belongs to its group, whatever it does to its session or
 * environment; only who may write to `cgroup.procs` can move it.
 *
 *     /proc/self/mountinfo    which hierarchies are mounted, and which part of each      ┐
 *     /proc/self/cgroup       which group of each hierarchy this process is in           ┴─▶ <own group>/<name>/<one for each run>
 *
 * Version 2 is preferred; it is often there beside version 1, without controllers, which is enough. Of version 1 any hierarchy does that a
 * group can be made in without settings; `freezer` can hold a group still while it is killed.
 */

const PREFERENCE = ['cgroup2', 'freezer', 'pids', 'devices', 'memory', 'blkio', 'cpu', 'cpuacct', 'perf_event'] as const

/** The folder in which groups are made, inside the group of this process. */
export class CgroupTree {
  readonly path: string

  private constructor(path: string) {
    this.path = path
  }

  /** The first hierarchy in which groups can be made; otherwise why not. */
  static open(name: string, groups = ownGroups()): CgroupTree | { reason: string } {
    let reason = 'no cgroups are mounted'
    for (const own of groups) {
      try {
        const tree = new CgroupTree(join(own, name))
        const probe = tree.make('probe')
        const isGroup = existsSync(join(probe.path, 'cgroup.procs')) // else something is mounted over it
        probe.remove()
        tree.remove()
        if (isGroup) return tree
      } catch (error) {
        reason = explain(error)
      }
    }
    return { reason }
  }

  /** @throws the system's error */
  make(name: string): Cgroup {
    const group = new Cgroup(join(this.path, name))
    makeGroup(this.path) // it goes with the last group
    makeGroup(group.path)
    return group
  }

  /** The groups that are there. */
  all(): Cgroup[] {
    return foldersIn(this.path).map((name) => new Cgroup(join(this.path, name)))
  }

  /** Nothing happens while groups are left in it. */
  remove(): void {
    removeGroup(this.path)
  }
}

/** One group and those below it. Whatever it is asked, a group that is gone is empty. */
export class Cgroup {
  readonly path: string

  constructor(path: string) {
    this.path = path
  }

  /** @throws the system's error */
  add(pid: number): void {
    writeFileSync(join(this.path, 'cgroup.procs'), String(pid))
  }

  pids(): number[] {
    return [this.path, ...subgroupsOf(this.path)].flatMap((path) => {
      const text = read(join(path, 'cgroup.procs')).trim()
      return text
        .split('\n')
        .map(Number)
        .filter((pid) => pid > 0) // 0: a process of another pid namespace
    })
  }

  /** SIGKILL to all at once where the kernel can do that; elsewhere a process that forks at this moment may be left. */
  kill(): void {
    if (write(join(this.path, 'cgroup.kill'), '1')) return
    const isHeld = write(join(this.path, 'freezer.state'), 'FROZEN')
    for (const pid of this.pids()) {
      try {
        process.kill(pid, 'SIGKILL')
      } catch {} // it has ended
    }
    if (isHeld) write(join(this.path, 'freezer.state'), 'THAWED')
  }

  /** False while processes are left in it. */
  remove(): boolean {
    return subgroupsOf(this.path).every(removeGroup) && removeGroup(this.path)
  }
}

/** The group of this process in each hierarchy that can serve, the best first. */
export function ownGroups(
  mountinfo = read('/proc/self/mountinfo'),
  membership = read('/proc/self/cgroup'),
): readonly string[] {
  const mounts = mountinfo.split('\n').flatMap(mountOf)
  const found = membership.split('\n').flatMap((line) => {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? []
    if (controllers === undefined || path === undefined || path.includes('/..')) return []
    const names = controllers === '' ? ['cgroup2'] : controllers.split(',')
    const rank = Math.min(...names.map((name) => PREFERENCE.indexOf(name as never)))
    const mount = mounts.find((each) => names.every((name) => each.names.includes(name)) && path.startsWith(each.root))
    if (mount === undefined || rank < 0) return []
    return [{ rank, path: resolve(mount.at, `.${path.slice(mount.root.length)}`) }]
  })
  return found.sort((a, b) => a.rank - b.rank).map(({ path }) => path)
}

/** proc_pid_mountinfo(5): `id parent major:minor root mountpoint options … - type source options` */
function mountOf(line: string): { root: string; at: string; names: string[] }[] {
  const [left = '', right = ''] = line.split(' - ')
  const [, , , root, at] = left.split(' ')
  const [type, , options = ''] = right.split(' ')
  if (root === undefined || at === undefined || (type !== 'cgroup' && type !== 'cgroup2')) return []
  return [{ root: root === '/' ? '' : root, at, names: type === 'cgroup2' ? ['cgroup2'] : options.split(',') }]
}

function makeGroup(path: string): void {
  try {
    mkdirSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
}

function removeGroup(path: string): boolean {
  try {
    rmdirSync(path)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT'
  }
}

/** All below, the deepest first. */
function subgroupsOf(path: string): string[] {
  return foldersIn(path).flatMap((name) => [...subgroupsOf(join(path, name)), join(path, name)])
}

function foldersIn(path: string): string[] {
  try {
    const entries = readdirSync(path, { withFileTypes: true })
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name)
  } catch {
    return []
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

/** False where there is no such file: it is never created. */
function write(path: string, text: string): boolean {
  try {
    writeFileSync(path, text, { flag: 'r+' })
    return true
  } catch {
    return false
  }
}
