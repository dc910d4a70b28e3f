import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { realpathSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { MeshError } from '../../core/errors.ts'

/*
 * Whether a user with no groups but its own may use a file: by the mode bits of the file and of every directory on the way, which costs a
 * few calls and names what is in the way. Where they say no, an access control list may still say yes: then a process of that user asks.
 */

const READ = 4
const EXECUTE = 1

/** The first directory on the way to `path`, or `path` itself, that its mode keeps this user out of. */
export function barrierFor(uid: number, path: string, wanted = EXECUTE): string | undefined {
  const onTheWay = [...parentsOf(path), ...parentsOf(realpathSync(path))]
  const closed = onTheWay.find((each) => !permits(each, uid, EXECUTE))
  if (closed !== undefined) return closed
  return permits(path, uid, wanted) ? undefined : path
}

/**
 * What an instance is to run from or to read.
 * @throws MeshError RUNTIME_FAILED that names what is in the way
 */
export async function checkAccess(uid: number, path: string, kind: 'enter' | 'execute' | 'read'): Promise<void> {
  const barrier = barrierFor(uid, path, kind === 'read' ? READ : EXECUTE)
  if (barrier === undefined || (await mayInFact(uid, path, kind === 'read' ? '-r' : '-x'))) return
  const where =
    barrier === path ? `${path} may not be ${PAST[kind]}` : `${path} lies in ${barrier}, which may not be entered`
  const bit = kind === 'read' && barrier === path ? 'r' : 'x'
  throw new MeshError('RUNTIME_FAILED', {
    reason: `${where} by other users, and an instance runs as a user of its own (move it, for example to /opt, or chmod o+${bit} ${barrier}, or set agent.instanceUsers: agent on this node)`,
  })
}

const PAST = { enter: 'entered', execute: 'executed', read: 'read' } as const

async function mayInFact(uid: number, path: string, test: '-r' | '-x'): Promise<boolean> {
  const asking = spawn('/bin/sh', ['-c', 'test "$0" "$1"', test, path], { uid, gid: uid, cwd: '/', stdio: 'ignore' })
  const [code] = await once(asking, 'exit').catch(() => [1])
  return code === 0
}

function permits(path: string, uid: number, wanted: number): boolean {
  const { mode, uid: owner, gid: group } = statSync(path)
  const shift = owner === uid ? 6 : group === uid ? 3 : 0
  return ((mode >> shift) & wanted) === wanted
}

function parentsOf(path: string): string[] {
  const parent = dirname(path)
  return parent === path ? [] : [...parentsOf(parent), parent]
}
