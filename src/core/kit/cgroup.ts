import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { explain } from '../errors.ts'
import {
  CONTROLLERS,
  isVersion2,
  setLimits,
  usageOf,
  type Controller,
  type Controls,
  type GroupUsage,
  type Limits,
} from './cgroup-controls.ts'

/*
 * Groups of processes that the kernel keeps, cgroups(7). What a process starts belongs to its group, whatever it does to its session or
 * environment; only who may write to `cgroup.procs` can move it.
 *
 *     /proc/self/mountinfo    which hierarchies are mounted, and which part of each      ┐
 *     /proc/self/cgroup       which group of each hierarchy this process is in           ┴─▶ <own group>/<name>/<one for each run>
 *
 * Version 2 is preferred; it is often there beside version 1, without controllers, which is enough to keep processes. Of version 1 any
 * hierarchy does that a group can be made in without settings; `freezer` can hold a group still while it is killed. Limits need the
 * controllers (cgroup-controls.ts), each in whichever hierarchy has it.
 */

const PREFERENCE = ['cgroup2', 'freezer', 'pids', 'devices', 'memory', 'blkio', 'cpu', 'cpuacct', 'perf_event'] as const

/** The folders in which groups are made: of the hierarchy that keeps the processes, and of those that can hold them to limits. */
export class CgroupTree {
  readonly path: string
  readonly controls: Controls
  /** Why a controller is missing. */
  readonly faults: Readonly<Partial<Record<Controller, string>>>

  private constructor(path: string, controls: Controls = {}, faults: CgroupTree['faults'] = {}) {
    this.path = path
    this.controls = controls
    this.faults = faults
  }

  /** The first hierarchy in which groups can be made, with the controllers that are to be had; otherwise why not. */
  static open(name: string, hierarchies: readonly Hierarchy[] = hierarchiesHere()): CgroupTree | { reason: string } {
    let reason = 'no cgroups are mounted'
    for (const hierarchy of hierarchies.filter(({ rank }) => rank >= 0)) {
      const { parent, controllers } = placeOf(hierarchy)
      const path = join(parent, name)
      const fault = faultOf(path)
      if (fault === undefined) {
        const { controls, faults } = controlsOf(name, { path, controllers }, hierarchies)
        return new CgroupTree(path, controls, faults)
      }
      reason = fault
    }
    return { reason }
  }

  /** @throws the system's error */
  make(name: string): Cgroup {
    for (const folder of foldersOf(this)) {
      makeGroup(folder) // it goes with the last group
      if (isVersion2(folder)) delegate(folder)
      makeGroup(join(folder, name))
    }
    return this.#group(name)
  }

  /** The groups that are there. */
  all(): Cgroup[] {
    return [...new Set(foldersOf(this).flatMap(foldersIn))].map((name) => this.#group(name))
  }

  /** Nothing happens while groups are left in it. */
  remove(): void {
    for (const folder of foldersOf(this)) removeGroup(folder)
  }

  #group(name: string): Cgroup {
    const controls = Object.entries(this.controls).map(([controller, folder]) => [controller, join(folder, name)])
    return new Cgroup(join(this.path, name), Object.fromEntries(controls) as Controls)
  }
}

/** One group and those below it. Whatever it is asked, a group that is gone is empty. */
export class Cgroup {
  readonly path: string
  readonly controls: Controls

  constructor(path: string, controls: Controls = {}) {
    this.path = path
    this.controls = controls
  }

  /** @throws the system's error */
  add(pid: number): void {
    for (const folder of foldersOf(this)) writeFileSync(join(folder, 'cgroup.procs'), String(pid))
  }

  /** In place of those that it had. Returns the controllers that did not take theirs. */
  limit(limits: Limits): Controller[] {
    return setLimits(this.controls, limits)
  }

  usage(): GroupUsage | undefined {
    return usageOf({ pressure: this.path, ...this.controls })
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
    const removed = foldersOf(this).map((folder) => subgroupsOf(folder).every(removeGroup) && removeGroup(folder))
    return removed.every((isRemoved) => isRemoved)
  }
}

/** A mounted hierarchy. */
export interface Hierarchy {
  /** `cgroup2`, or the controllers of version 1. */
  names: readonly string[]
  /** The group of this process. */
  own: string
  /** The highest group that can be seen. */
  top: string
  /** Lower is better for keeping processes; below 0: it cannot serve for that. */
  rank: number
}

/** The group of this process in each hierarchy that can serve, the best first. */
export function ownGroups(mountinfo?: string, membership?: string): readonly string[] {
  const hierarchies = hierarchiesHere(mountinfo, membership)
  return hierarchies.filter(({ rank }) => rank >= 0).map(({ own }) => own)
}

/**
 * Where the groups of another process count what it uses, as /proc/<pid>/cgroup has them. `mark` is in the name of the group that counts,
 * which need not be the one that the process is in.
 */
export function controlsAt(mark: string, membership: string, mountinfo?: string): Controls {
  const controls: { -readonly [name in keyof Controls]: string } = {}
  for (const { names, own } of hierarchiesHere(mountinfo, membership)) {
    const at = own.indexOf(mark)
    if (at < 0) continue
    const end = own.indexOf('/', at)
    const folder = end < 0 ? own : own.slice(0, end)
    if (names.includes('cgroup2')) controls.pressure = folder
    const has = names.includes('cgroup2') ? read(join(folder, 'cgroup.controllers')).trim().split(' ') : names
    for (const controller of CONTROLLERS) if (has.includes(controller)) controls[controller] ??= folder
  }
  return controls
}

/** Those that this process sees, the best first. */
export function hierarchiesHere(
  mountinfo = read('/proc/self/mountinfo'),
  membership = read('/proc/self/cgroup'),
): readonly Hierarchy[] {
  const mounts = mountinfo.split('\n').flatMap(mountOf)
  const found = membership.split('\n').flatMap((line): Hierarchy[] => {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? []
    if (controllers === undefined || path === undefined || path.includes('/..')) return []
    const names = controllers === '' ? ['cgroup2'] : controllers.split(',')
    const rank = Math.min(...names.map((name) => PREFERENCE.indexOf(name as never)))
    const mount = mounts.find((each) => names.every((name) => each.names.includes(name)) && path.startsWith(each.root))
    if (mount === undefined) return []
    return [{ names, rank, own: resolve(mount.at, `.${path.slice(mount.root.length)}`), top: mount.at }]
  })
  return found.sort((a, b) => a.rank - b.rank)
}

/**
 * Where groups go. In version 2 a group with processes cannot have controllers for the groups in it, the root excepted; and the agent is in
 * its own. So the groups are made at the root then, as container engines do.
 */
function placeOf({ names, own, top }: Hierarchy): { parent: string; controllers: Controller[] } {
  if (!names.includes('cgroup2')) return { parent: own, controllers: [] }
  for (const parent of new Set([own, top])) {
    const isRoot = !existsSync(join(parent, 'cgroup.type'))
    if (!isRoot && read(join(parent, 'cgroup.procs')) !== '') continue
    const controllers = delegate(parent)
    if (controllers.length > 0) return { parent, controllers }
  }
  return { parent: own, controllers: [] }
}

/** Version 2: gives the groups in this one the controllers that it has, all at once. Returns those that they have then. */
function delegate(path: string): Controller[] {
  const words = (file: string) => read(join(path, file)).trim().split(' ')
  const has = words('cgroup.controllers')
  const wanted = CONTROLLERS.filter((name) => has.includes(name))
  if (wanted.some((name) => !words('cgroup.subtree_control').includes(name)))
    write(join(path, 'cgroup.subtree_control'), wanted.map((name) => `+${name}`).join(' '))
  const given = words('cgroup.subtree_control')
  return CONTROLLERS.filter((name) => given.includes(name))
}

/** The folder of each controller: in the hierarchy that keeps the processes, or in one of version 1. */
function controlsOf(
  name: string,
  kept: { path: string; controllers: readonly Controller[] },
  hierarchies: readonly Hierarchy[],
): { controls: Controls; faults: CgroupTree['faults'] } {
  const controls: Partial<Record<Controller, string>> = {}
  const faults: Partial<Record<Controller, string>> = {}
  const isInVersion2 = hierarchies.some(({ names, top }) => names.includes('cgroup2') && hasMemory(top))
  for (const controller of CONTROLLERS) {
    const hierarchy = hierarchies.find(({ names }) => names.includes(controller))
    const path = hierarchy && join(hierarchy.own, name)
    const fault = path === undefined ? (isInVersion2 ? POPULATED : 'the kernel does not offer it') : faultOf(path)
    if (kept.controllers.includes(controller)) controls[controller] = kept.path
    else if (path !== undefined && fault === undefined) controls[controller] = path
    else if (fault !== undefined && controller !== 'cpuacct') faults[controller] = fault // part of cpu in version 2
  }
  return { controls, faults }
}

const POPULATED = 'the control group of the agent holds processes, and none above it is to be had'

function hasMemory(top: string): boolean {
  return read(join(top, 'cgroup.controllers')).split(/\s/).includes('memory')
}

/** Why no groups can be made in a folder of this name. */
function faultOf(path: string): string | undefined {
  const probe = join(path, 'probe')
  try {
    makeGroup(path)
    makeGroup(probe)
    const isGroup = existsSync(join(probe, 'cgroup.procs')) // else something is mounted over it
    return isGroup ? undefined : 'it is no control group'
  } catch (error) {
    return explain(error)
  } finally {
    removeGroup(probe)
    removeGroup(path)
  }
}

/** Each once: several controllers may share a hierarchy. */
function foldersOf({ path, controls }: { path: string; controls: Controls }): string[] {
  return [...new Set([path, ...Object.values(controls)])]
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
