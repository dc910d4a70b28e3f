import { spawn, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { extname, join, resolve } from 'node:path'
import { systemClock, type Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import { LEASES_FILE } from './leases.ts'
import { membersOf } from './process-group.ts'

/*
 * Ends what is past its lease (leases.ts), whatever has become of the agent. One shell a node, of less than 1 MiB, in a session of its own,
 * as long as there are leases; it starts Node (lease-end.ts) only when one has run out. It outlives the agent. The next agent begins
 * another one and then ends this.
 */
const GUARD = `
set -f
file=$1
shift
while [ -e "$file" ]; do
  due=
  read -r up _ < /proc/uptime
  while read -r until _; do
    [ "\${up%%.*}" -ge "$until" ] && due=1
  done < "$file"
  [ -n "$due" ] && "$@"
  sleep 1
done`

/** Of the shell and of what it starts: what is needed to find `sleep`. */
const PATH = '/usr/local/bin:/usr/bin:/bin'
/** Little garbage, soon collected. */
const FLAGS = ['--max-semi-space-size=1', '--single-threaded-gc']
/** After the guard has ended, which nobody asked it to. */
const AGAIN_MS = 1_000

export interface LeaseGuardOptions {
  /** The folder of instance records. */
  runDir: string
  clock?: Clock
}

export class LeaseGuard implements Disposable {
  readonly #dir: string
  readonly #clock: Clock
  readonly #log: Log
  /** In the environment, so that the next agent finds it. */
  readonly #mark: string
  #child: ChildProcess | undefined
  #isClosed = false
  #hasReplaced = false
  #cancel = () => undefined as void

  constructor({ runDir, clock = systemClock }: LeaseGuardOptions, log: Log) {
    this.#dir = resolve(runDir)
    this.#clock = clock
    this.#log = log
    this.#mark = `leases-${createHash('sha256').update(this.#dir).digest('hex').slice(0, 16)}`
  }

  /** There are leases on disk. */
  watch(): void {
    if (this.#child !== undefined || this.#isClosed) return
    this.#cancel()
    const program = join(import.meta.dirname, `lease-end${extname(import.meta.filename)}`)
    const file = join(this.#dir, LEASES_FILE)
    const argv = ['-c', GUARD, 'hedgerow-leases', file]
    const env = { PATH, HEDGEROW_RUN: this.#mark }
    // `detached`: a Ctrl-C or Ctrl-Z of the terminal is not for it
    const child = spawn('/bin/sh', [...argv, process.execPath, ...FLAGS, program, this.#dir], {
      cwd: '/',
      env,
      detached: true,
      stdio: 'ignore',
    })
    child.unref()
    this.#child = child
    const ended = (error?: unknown) => {
      if (this.#child !== child) return
      this.#child = undefined
      if (this.#isClosed) return
      if (error !== undefined) this.#log.warn('guard of leases cannot be started', { error })
      if (existsSync(file)) this.#cancel = this.#clock.after(AGAIN_MS, () => this.watch())
    }
    child.once('error', ended)
    child.once('exit', () => ended())
    if (!this.#hasReplaced) void this.#replace(child.pid)
  }

  /** The agent ends; what it leaves running stays guarded. */
  [Symbol.dispose](): void {
    this.#isClosed = true
    this.#cancel()
  }

  /** That of an earlier agent, or of one from which this takes over. */
  async #replace(own: number | undefined): Promise<void> {
    this.#hasReplaced = true
    for (const pid of await membersOf({ mark: this.#mark })) {
      if (pid === own || pid === this.#child?.pid) continue
      try {
        process.kill(pid, 'SIGTERM')
      } catch {
        // it has ended meanwhile
      }
    }
  }
}
