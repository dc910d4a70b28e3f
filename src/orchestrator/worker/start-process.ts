import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, close, constants, fchownSync, fstatSync, statSync } from 'node:fs'
import { delimiter, resolve } from 'node:path'
import type { Duplex } from 'node:stream'
import { explain, MeshError } from '../../core/errors.ts'
import { withOwnTmp, type Wrapped } from './own-mounts.ts'
import { bootId, statOf } from './process-group.ts'
import type { Program } from './program.ts'
import type { Ended, Launch, Trace } from './runtime.ts'
import type { Own } from './separation.ts'
import { barrierFor, checkAccess } from './user-access.ts'

/*
 *     spawn: setsid, chdir, setgroups, setgid, setuid ─▶ /bin/sh, which waits ─▶ its control group ─▶ ulimit ─▶ setpriv ─▶ the program
 *
 * From the first instruction on it runs as the instance's user: the environment is the document's, and may tell the loader to run anything.
 * One with a /tmp of its own: own-mounts.ts.
 */

export function traceOf(run: string, { uid, cgroup, secrets, files, volumes }: Own): Trace {
  return {
    run,
    boot: bootId(),
    ...(uid === undefined ? {} : { uid }),
    ...(secrets === undefined ? {} : { secrets: secrets.path }),
    ...(files === undefined ? {} : { files: files.path }),
    ...(volumes === undefined ? {} : { volumes: JSON.stringify(volumes) }),
    ...(cgroup === undefined ? {} : { cgroup: cgroup.path, controls: JSON.stringify(cgroup.controls) }),
  }
}

/**
 * Node raises its soft limit of open files to the hard one, and children inherit that. Programs get the usual limit: some close every
 * descriptor they may have, and select(2) breaks beyond 1,024.
 */
const OPEN_FILES = 1_024
/** Waits until it is in its control group, and does nothing if the agent ends before. */
const STARTED = 'read -r go || exit 125; ulimit $0 2>/dev/null; exec "$@" < /dev/null'

/** Where the program is, as the shell looks for it; `undefined` where it is not, and then spawn says so. */
function fileOf(file: string, { cwd, path }: { cwd: string; path: string }, uid: number | undefined) {
  const candidates = file.includes('/')
    ? [resolve(cwd, file)]
    : path.split(delimiter).map((dir) => resolve(cwd, dir, file))
  const found = candidates.filter((candidate) => {
    try {
      accessSync(candidate, constants.X_OK)
      return statSync(candidate).isFile()
    } catch {
      return false
    }
  })
  return found.find((candidate) => uid === undefined || barrierFor(uid, candidate) === undefined) ?? found[0]
}

export interface Started {
  pid: number
  startTime: number
  exited: Promise<Ended>
  unref: () => void
}

interface Start {
  run: string
  own: Own
  setpriv: string | undefined
}

export async function begin(
  { argv: [file, ...args], cwd, environment, openFiles }: Program,
  { output, onTrace, signal }: Launch,
  { run, own, setpriv }: Start,
): Promise<Started> {
  const { uid, cgroup, mounts } = own
  const found = fileOf(file, { cwd, path: environment['PATH'] ?? '' }, uid)
  if (found !== undefined && uid !== undefined) await checkAccess(uid, found, 'execute')
  const fd = await output()
  try {
    const cmd = [file, ...args]
    if (uid !== undefined) giveOutput(fd, uid)
    signal.throwIfAborted() // from here to its trace in one turn: a program that no record names would run for ever
    const files = filesLimit(openFiles)
    const child =
      found !== undefined && uid !== undefined && mounts !== undefined
        ? spawnWrapped(withOwnTmp(mounts.tools, { home: mounts.home, uid, files, cmd }, { cwd, environment }), [fd, fd])
        : spawnHere(
            found === undefined ? cmd : ['/bin/sh', '-c', STARTED, files, ...withoutPrivileges(cmd, uid, setpriv)],
            {
              cwd,
              environment,
              fd,
              uid,
            },
          )
    const exited = new Promise<Ended>((resolve) => child.once('exit', (code, signal) => resolve(endedBy(code, signal))))
    const { pid } = child
    const startTime = pid === undefined ? 0 : (statOf(pid)?.startTime ?? 0)
    if (pid !== undefined) {
      try {
        onTrace({ ...traceOf(run, own), pid, startTime })
        cgroup?.add(pid)
      } catch (error) {
        child.kill('SIGKILL') // it still waits, as root where it has mounts of its own
        throw error
      }
    }
    child.stdin?.on('error', () => undefined) // it has ended already
    child.stdin?.end('\n')
    await once(child, 'spawn')
    return { pid: pid as number, startTime, exited, unref: () => child.unref() }
  } catch (error) {
    const reason = whyNot(error, file)
    throw new MeshError(
      'RUNTIME_FAILED',
      { reason: reason ?? explain(error), program: file },
      reason === undefined ? { cause: error } : {},
    )
  } finally {
    close(fd, () => undefined)
  }
}

/** `detached` is setsid(2): a session and group of its own. With a uid Node also drops all other groups (setgroups). */
function spawnHere(
  [program = '', ...argv]: readonly string[],
  { cwd, environment, fd, uid }: Pick<Program, 'cwd' | 'environment'> & { fd: number; uid: number | undefined },
): ChildProcess {
  const user = uid === undefined ? {} : { uid, gid: uid }
  return spawn(program, argv, { cwd, env: environment, detached: true, stdio: ['pipe', fd, fd], ...user })
}

/** With its environment on descriptor 3. */
export function spawnWrapped(
  { file, args, cwd, env, environment }: Wrapped,
  [out, err]: readonly [number | 'pipe', number | 'pipe'],
): ChildProcess {
  const child = spawn(file, args, { cwd, env, detached: true, stdio: ['pipe', out, err, 'pipe'] })
  const given = child.stdio[3] as Duplex
  given.on('error', () => undefined) // it has ended already
  given.resume() // else that it is closed is not noticed
  given.end(environment)
  return child
}

/** So that no program gets the rights of another user (setuid). */
export function withoutPrivileges(cmd: readonly string[], uid: number | undefined, setpriv: string | undefined) {
  return uid === undefined || setpriv === undefined ? cmd : [setpriv, '--no-new-privs', ...cmd]
}

/** What the document says, no program raises again: the hard limit, too. A shell splits it into words. */
export function filesLimit(openFiles: number | undefined): string {
  return openFiles === undefined ? `-Sn ${OPEN_FILES}` : `-n ${openFiles}`
}

/** Programs open /dev/stdout anew: that is permitted to the owner of the pipe. */
function giveOutput(fd: number, uid: number): void {
  if (fstatSync(fd).isFIFO()) fchownSync(fd, uid, uid)
}

/** In words that the cause has nothing to add to. */
function whyNot(error: unknown, file: string): string | undefined {
  const { code } = error as NodeJS.ErrnoException
  if (code === 'ENOENT') return `${file} is not on this node`
  return code === 'EACCES' ? `${file} may not be executed` : undefined
}

function endedBy(code: number | null, signal: NodeJS.Signals | null): Ended {
  if (code !== null) return { code, detail: `exited with code ${code}` }
  return { ...(signal === null ? {} : { signal }), detail: `ended by ${signal ?? 'a signal'}` }
}
