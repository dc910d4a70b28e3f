import { spawn, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readdirSync } from 'node:fs'
import { extname, join, resolve } from 'node:path'
import { systemClock, type Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import { pipeOwner, type OutputFolders } from './output-files.ts'
import { membersOf, signalGroup, statOf } from './process-group.ts'

/*
 * What instances print is read while the agent is killed (-9) or stopped (-STOP), too:
 *
 *     agent ──starts──▶ guard: a shell, which looks every 2 s ── agent gone or stopped ──▶ stand-in (Node) reads the pipes
 *
 * One shell a node, of less than 1 MiB, in a session of its own. The stand-in runs only then, for all instances together. The
 * next agent ends both and reads on; so does an agent that continues. A letter of /proc/<pid>/stat says how the agent is: T and
 * t stopped, Z and X dead (proc_pid_stat(5)).
 */
const GUARD = `
set -f
letter() {
  stat=
  { read -r stat < "/proc/$pid/stat"; } 2>/dev/null
  set -- \${stat##*) }
  if [ "\${20}" = "$start" ]; then letter=$1; else letter=gone; fi
}
pid=$1 start=$2 dir=$3
shift 3
while [ -d "$dir" ]; do
  letter
  case $letter in
    T | t) "$@" ;;
    Z | X | gone) "$@" && exit ;;
  esac
  sleep 2
done`

/** Of the shell and of the stand-in: what is needed to find `sleep`. */
const PATH = '/usr/local/bin:/usr/bin:/bin'
/** The memory of the stand-in: little garbage, soon collected. */
const FLAGS = ['--max-semi-space-size=1', '--single-threaded-gc']
/** After the guard has ended, which nobody asked it to. */
const AGAIN_MS = 5_000
/** A stand-in that was asked to end writes what it has read. */
const END_MS = 2_000
const LOOK_MS = 20

export interface OutputGuardOptions extends OutputFolders {
  clock?: Clock
}

export class OutputGuard implements AsyncDisposable {
  readonly #folders: OutputFolders
  readonly #clock: Clock
  readonly #log: Log
  /** In the environment of guard and stand-in, so that the next agent finds them. */
  readonly #mark: string
  #state: 'idle' | 'watching' | 'left' = 'idle'
  #child: ChildProcess | undefined
  #cancel = () => undefined as void

  constructor({ runDir, logsDir, clock = systemClock }: OutputGuardOptions, log: Log) {
    this.#folders = { runDir: resolve(runDir), logsDir: resolve(logsDir) }
    this.#clock = clock
    this.#log = log
    this.#mark = `output-${createHash('sha256').update(this.#folders.runDir).digest('hex').slice(0, 16)}`
  }

  /** Resolves when nobody else reads what instances print. */
  async takeOver(): Promise<void> {
    if (!readdirSync(this.#folders.runDir).some((file) => pipeOwner(file) !== undefined)) return
    for (let waited = 0; ; waited += LOOK_MS) {
      const left = await membersOf({ mark: this.#mark })
      if (left.length === 0 || waited > END_MS * 2) return
      if (waited === 0) for (const pid of left) end(pid, 'SIGTERM')
      else if (waited >= END_MS) for (const pid of left) end(pid, 'SIGKILL')
      await this.#clock.sleep(LOOK_MS)
    }
  }

  /** From the first instance on. */
  watch(): void {
    const self = statOf(process.pid)
    if (this.#state !== 'idle' || self === undefined) return // no /proc here
    this.#state = 'watching'
    this.#begin(self)
  }

  /** Stays for what still runs, until the next agent takes over. */
  leave(): void {
    this.#state = 'left'
    this.#cancel()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state === 'left') return
    this.leave()
    if (this.#child?.pid !== undefined) signalGroup(this.#child.pid, 'SIGTERM')
  }

  #begin(self: { pid: number; startTime: number }): void {
    const { runDir, logsDir } = this.#folders
    const known = [String(self.pid), String(self.startTime)]
    const standIn = [...FLAGS, join(import.meta.dirname, `stand-in${extname(import.meta.filename)}`)]
    const argv = [
      '-c',
      GUARD,
      'hedgerow-output',
      ...known,
      runDir,
      process.execPath,
      ...standIn,
      runDir,
      logsDir,
      ...known,
    ]
    const env = { PATH, HEDGEROW_RUN: this.#mark }
    // `detached`: a Ctrl-C or Ctrl-Z of the terminal is not for it
    const child = spawn('/bin/sh', argv, { cwd: '/', env, detached: true, stdio: 'ignore' })
    child.unref()
    this.#child = child
    const again = (error?: unknown) => {
      if (this.#child !== child || this.#state !== 'watching') return
      this.#child = undefined
      this.#log.warn('guard of instance output ended and is started again', { error })
      this.#cancel = this.#clock.after(AGAIN_MS, () => this.#begin(self))
    }
    child.once('error', again)
    child.once('exit', () => again())
  }
}

function end(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {
    // it has ended meanwhile
  }
}
