import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, readlinkSync } from 'node:fs'
import { constants } from 'node:os'
import { explain, MeshError } from '../../core/errors.ts'
import { besideOwnTmp, hasOwnMounts, type MountTools } from './own-mounts.ts'
import { signalGroup } from './process-group.ts'
import type { Program } from './program.ts'
import type { InstanceCommand } from './runtime.ts'
import type { Own } from './separation.ts'
import { filesLimit, spawnWrapped, withoutPrivileges } from './start-process.ts'

/*
 * A command beside the program of an instance: as its user, in its control group, with its environment and in its folder. It belongs to the run and ends with it; by its mark also where the run has neither.
 */

/** Waits until it is in the control group, as a program does; the rest of its standard input is the command's. */
const STARTED = 'read -r go || exit 125; ulimit $0 2>/dev/null; exec "$@"'
/** After SIGTERM. */
const GRACE_MS = 5_000

/** What a program was started with. */
export type Circumstances = Pick<Program, 'environment' | 'cwd'>

export interface ExecutedIn {
  pid: number
  /** Absent: another agent has started it. */
  known: Circumstances | undefined
  own: Own
  setpriv: string | undefined
  mountTools: MountTools | undefined
  openFiles: number | undefined
}

/** @throws MeshError REQUEST_FAILED */
export async function execBeside(
  { pid, known, own: { uid, cgroup }, setpriv, mountTools, openFiles }: ExecutedIn,
  cmd: readonly string[],
): Promise<InstanceCommand> {
  try {
    const { environment, cwd } = known ?? circumstancesOf(pid)
    const files = filesLimit(openFiles)
    const child = (
      uid !== undefined && mountTools !== undefined && hasOwnMounts(pid)
        ? spawnWrapped(besideOwnTmp(mountTools, { pid, uid, files, cmd }, { cwd, environment }), ['pipe', 'pipe'])
        : spawn('/bin/sh', ['-c', STARTED, files, ...withoutPrivileges(cmd, uid, setpriv)], {
            cwd,
            env: environment,
            detached: true,
            stdio: 'pipe',
            ...(uid === undefined ? {} : { uid, gid: uid }),
          })
    ) as ChildProcessWithoutNullStreams
    const ended = once(child, 'exit').then(([code, signal]) => exitCodeOf(code, signal))
    ended.catch(() => undefined) // told by the wait for its start
    child.stdin.on('error', () => undefined) // it reads no more
    await once(child, 'spawn')
    cgroup?.add(child.pid as number)
    child.stdin.write('\n')
    const kill = () => {
      const leader = child.pid as number
      if (child.exitCode !== null || child.signalCode !== null) return
      signalGroup(leader, 'SIGTERM')
      const insist = setTimeout(() => signalGroup(leader, 'SIGKILL'), GRACE_MS).unref()
      child.once('exit', () => clearTimeout(insist))
    }
    return { stdin: child.stdin, stdout: child.stdout, stderr: child.stderr, ended, kill }
  } catch (cause) {
    throw new MeshError('REQUEST_FAILED', { reason: `the command cannot be run: ${explain(cause)}` }, { cause })
  }
}

/** As the program has them now, unless it has written over them. @throws the system's error */
function circumstancesOf(pid: number): Circumstances {
  const entries = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0').filter(Boolean)
  const pairs = entries.map((entry) => [entry.slice(0, entry.indexOf('=')), entry.slice(entry.indexOf('=') + 1)])
  return { environment: Object.fromEntries(pairs) as Record<string, string>, cwd: readlinkSync(`/proc/${pid}/cwd`) }
}

/** As a shell tells it. */
function exitCodeOf(code: unknown, signal: unknown): number {
  if (typeof code === 'number') return code
  return 128 + (constants.signals[signal as NodeJS.Signals] ?? 0)
}
