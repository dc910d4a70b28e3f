import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { constants } from 'node:os'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'

export interface Result {
  code: number
  stdout: string
  stderr: string
}

export interface RunOptions {
  /** Beside those that are there. */
  env?: NodeJS.ProcessEnv | undefined
  cwd?: string | undefined
  /** The command is killed after this long, and its code is -1. */
  timeoutMs?: number
}

/** Runs a command to its end; a failing code is an answer, not an error. */
export function run(argv: readonly string[], { env, cwd, timeoutMs = 15_000 }: RunOptions = {}): Promise<Result> {
  const [file = '', ...args] = argv
  return new Promise((resolve) => {
    const options = { env: { ...process.env, ...env }, cwd, timeout: timeoutMs, maxBuffer: 64 << 20 }
    const child = execFile(file, args, { ...options, killSignal: 'SIGKILL' }, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1
      resolve({ code, stdout, stderr: code === -1 && stderr === '' ? (error?.message ?? '') : stderr })
    })
    child.stdin?.end()
  })
}

/** The output of a command that must succeed. */
export async function text(argv: readonly string[], options?: RunOptions): Promise<string> {
  const { code, stdout, stderr } = await run(argv, options)
  if (code !== 0)
    throw new Error(`${argv.join(' ')}: code ${code}: ${[stderr.trim(), stdout.trim()].join('\n').trim()}`)
  return stdout
}

/** What is killed is gone within this, and collected by whoever has it then. */
const KILLED_MS = 1_000
const LOOK_MS = 5
/** Enough to see why something failed. */
const KEPT_LINES = 2_000

export interface ProgramOptions {
  env?: NodeJS.ProcessEnv | undefined
  cwd?: string | undefined
  /** Every line of stdout and stderr. */
  onLine?: (line: string) => void
  /** Where the program is not a child of this process: signals it, and says whether it was found. */
  passSignal?: (signal: NodeJS.Signals) => boolean
}

/** A long-running process with its own process group; ended, children and all, with its owner. */
export class Program {
  readonly argv: readonly string[]
  /** The last lines of stdout and stderr. */
  readonly lines: string[] = []
  readonly exited: Promise<string>
  readonly #child: ChildProcess
  readonly #passSignal: ProgramOptions['passSignal']
  #exit: string | undefined

  private constructor(argv: readonly string[], child: ChildProcess, { onLine, passSignal }: ProgramOptions) {
    this.argv = argv
    this.#child = child
    this.#passSignal = passSignal
    for (const output of [child.stdout, child.stderr]) {
      if (output === null) continue
      createInterface({ input: output }).on('line', (line) => {
        if (this.lines.push(line) > KEPT_LINES) this.lines.shift()
        onLine?.(line)
      })
    }
    this.exited = new Promise((resolve) => {
      child.on('error', (error) => resolve(error.message))
      child.on('exit', (code, signal) => resolve(signal ?? (passSignal === undefined ? `code ${code}` : howOf(code))))
    }).then((how) => (this.#exit = how as string))
  }

  static start(argv: readonly string[], options: ProgramOptions = {}): Program {
    const [file = '', ...args] = argv
    const { env, cwd } = options
    const how = { env: { ...process.env, ...env }, cwd, detached: true }
    return new Program(argv, spawn(file, args, { ...how, stdio: ['ignore', 'pipe', 'pipe'] }), options)
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  /** How it ended (`code 0`, `SIGKILL`), or `undefined` while it runs. */
  get exit(): string | undefined {
    return this.#exit
  }

  /** Signals the whole process group. */
  signal(signal: NodeJS.Signals): void {
    if (this.#passSignal?.(signal) === true && signal !== 'SIGKILL') return
    try {
      if (this.pid !== 0) process.kill(-this.pid, signal)
    } catch {
      // nobody is left in the group
    }
  }

  /** SIGTERM, and SIGKILL for whatever is still there after the grace, or when the program itself has ended; resolves when nothing is. */
  async stop(graceMs = 5_000): Promise<void> {
    this.signal('SIGTERM')
    const firm = setTimeout(() => this.signal('SIGKILL'), graceMs)
    await this.exited
    clearTimeout(firm)
    this.signal('SIGKILL')
    for (let waited = 0; this.#isAnyLeft() && waited < KILLED_MS; waited += LOOK_MS) await sleep(LOOK_MS)
  }

  #isAnyLeft(): boolean {
    try {
      return this.pid !== 0 && process.kill(-this.pid, 0)
    } catch {
      return false
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }
}

/** A program elsewhere tells the signal that ended it by its code, as shells do. */
function howOf(code: number | null): string {
  const name = Object.entries(constants.signals).find(([, number]) => number + 128 === code)?.[0]
  return name ?? `code ${code}`
}
