import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Program, run, type Result } from '../../src/lab/program.ts'
import { commandThreads, needsProcess } from './command-threads.ts'
import '../support/no-orphans.ts'
import { LAUNCHER } from '../support/launcher.ts'
import { until } from '../support/until.ts'

/** An agent that is killed leaves its instances to the next one, and here none comes. */
const STOP_MS = 20_000
/** A role that is not ready by then never will be; the test says so before its own time is over. */
const START_MS = 100_000
const CLEAN = {
  LC_ALL: 'C.UTF-8',
  HEDGEROW_STATE: undefined,
  HEDGEROW_TOKEN: undefined,
  HEDGEROW_CREDENTIAL: undefined,
}
/** Other suites look for free ports from 7470; where two suites run at once, they keep apart. */
export const FIRST_PORT = 9_600

/** A folder in which each machine of a test has its state directory; `hedgerow` run there as people run it. */
export class Machines implements AsyncDisposable {
  readonly dir: string
  readonly #programs: Program[] = []

  private constructor(dir: string) {
    this.dir = dir
  }

  static async make(): Promise<Machines> {
    return new Machines(await mkdtemp(join(tmpdir(), 'hedgerow-cli-'))) // short: a Unix socket lies in it
  }

  path(...parts: string[]): string {
    return join(this.dir, ...parts)
  }

  /** One command to its end. */
  run(machine: string, ...args: string[]): Promise<Result> {
    if (!needsProcess(args)) return commandThreads.run(['--state', this.path(machine), ...args])
    return this.spawned(machine, ...args)
  }

  /** The same, in any case in a process of its own. */
  spawned(machine: string, ...args: string[]): Promise<Result> {
    return run(this.#argv(machine, args), { env: CLEAN, timeoutMs: 30_000 })
  }

  /** One command that goes on until it is told to stop. */
  background(machine: string, ...args: string[]): Program {
    const started = Program.start(this.#argv(machine, args), { env: CLEAN })
    this.#programs.push(started)
    return started
  }

  /** The first line that a command prints; the pipe is closed behind it. */
  head(machine: string, ...args: string[]): Promise<Result> {
    const argv = ['sh', '-c', '"$@" | head -n 1', 'sh', ...this.#argv(machine, args)]
    return run(argv, { env: CLEAN, timeoutMs: 30_000 })
  }

  /** A command whose standard output goes into a file. */
  pipe(machine: string, file: string, ...args: string[]): Promise<Result> {
    const argv = ['sh', '-c', 'file=$1; shift; "$@" > "$file"', 'sh', file, ...this.#argv(machine, args)]
    return run(argv, { env: CLEAN, timeoutMs: 30_000 })
  }

  /** What a command that must succeed prints as JSON. */
  async json<T = unknown>(machine: string, ...args: string[]): Promise<T> {
    const { code, stdout, stderr } = await this.run(machine, ...args, '-o', 'json')
    if (code !== 0) throw new Error(`hedgerow ${args.join(' ')}: code ${code}: ${stderr}`)
    return JSON.parse(stdout) as T
  }

  /** A role; resolves to what it says of itself when it is ready. */
  async start(machine: string, ...args: string[]): Promise<{ program: Program; says: Record<string, string> }> {
    const ready = Promise.withResolvers<Record<string, string>>()
    const lines: string[] = []
    const onLine = (line: string) => {
      lines.push(line)
      if (line !== '}') return
      const says = JSON.parse(lines.join('\n')) as Record<string, string>
      if (says['error'] === undefined) ready.resolve(says)
      else ready.reject(new Error(`${args[0]}: ${lines.join('\n')}`))
      lines.length = 0 // a successor that it starts itself says the same on the same output
    }
    const argv = this.#argv(machine, ['-o', 'json', ...args, '--log-level', 'silent'])
    const program = Program.start(argv, { env: CLEAN, onLine })
    this.#programs.push(program)
    void program.exited.then((how) => ready.reject(new Error(`${args[0]} ended (${how}): ${lines.join('\n')}`)))
    const limit = setTimeout(
      () => ready.reject(new Error(`${args[0]} is not ready after ${START_MS / 1_000} s: ${lines.join('\n')}`)),
      START_MS,
    )
    try {
      return { program, says: await ready.promise }
    } finally {
      clearTimeout(limit)
    }
  }

  #argv(machine: string, args: readonly string[]): string[] {
    return [process.execPath, LAUNCHER, '--state', this.path(machine), ...args]
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const program of this.#programs.toReversed()) await program.stop(STOP_MS)
    // what stood in for a killed agent may still be writing
    await rm(this.dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 })
  }
}

/** `until` with a command, which takes 30 ms of processor time. */
export async function eventually(claim: () => Promise<boolean>, what: string, limitMs = 60_000): Promise<void> {
  await until(claim, what, undefined, { limitMs, lookMs: 100 })
}
