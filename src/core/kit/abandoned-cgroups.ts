import { readdirSync, readFileSync, rmdirSync } from 'node:fs'
import { join } from 'node:path'
import { hierarchiesHere, type Hierarchy } from './cgroup.ts'

/*
 * Agents that are gone for good leave their groups behind, `hedgerow-<digest of their directory>/<run>`: nobody starts them again to
 * tidy up. The kernel refuses to remove a group with processes, so what is alive is safe, but for the moment in which a run has a group
 * and no process yet. Hence groups are looked at twice: a run is never that slow.
 */

const NAME = /^hedgerow-[0-9a-f]{12}$/

/** Groups of other agents than `own` without a process, the deepest first. */
export function emptyGroups(own: string, hierarchies: readonly Hierarchy[] = hierarchiesHere()): string[] {
  const parents = new Set(hierarchies.flatMap((hierarchy) => [hierarchy.own, hierarchy.top]))
  return [...parents].flatMap((parent) =>
    foldersIn(parent)
      .filter((name) => NAME.test(name) && name !== own)
      .flatMap((name) => withSubgroups(join(parent, name)))
      .filter(isEmpty),
  )
}

/** Those that were empty `before` and still are; what holds others stays. */
export function removeAbandoned(before: readonly string[], now: readonly string[]): void {
  for (const path of now.filter((each) => before.includes(each))) {
    try {
      rmdirSync(path)
    } catch {
      // it is in use, or gone
    }
  }
}

function withSubgroups(path: string): string[] {
  return [...foldersIn(path).flatMap((name) => withSubgroups(join(path, name))), path]
}

function foldersIn(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? [entry.name] : []))
  } catch {
    return []
  }
}

function isEmpty(path: string): boolean {
  try {
    return readFileSync(join(path, 'cgroup.procs'), 'latin1') === ''
  } catch {
    return false
  }
}
