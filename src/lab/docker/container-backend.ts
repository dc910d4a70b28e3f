import { randomUUID } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import type { HostBackend } from '../host-backend.ts'
import { Program, run, type ProgramOptions, type Result, type RunOptions } from '../program.ts'
import { docker, dockerArgv } from './engine.ts'

/**
 * Commands in a running container, as the image's user and with its environment. `docker exec` passes no signal on and leaves the
 * command running when it is itself ended, so every command carries a mark in its environment, which its children inherit: by that
 * it is found among this machine's processes.
 */
const MARK = 'HEDGEROW_LAB_RUN'

export class ContainerBackend implements HostBackend {
  readonly container: string
  #isLost = false

  constructor(container: string) {
    this.container = container
  }

  get enter(): string[] {
    return [...dockerArgv(), 'exec', '--interactive', this.container]
  }

  async exec(argv: readonly string[], options: RunOptions = {}): Promise<Result> {
    const { env, cwd, ...rest } = options
    const mark = randomUUID()
    const result = await run([...dockerArgv(), ...execOf(this.container, mark, { env, cwd }), ...argv], rest)
    if (result.code === -1) signalMarked(mark, 'SIGKILL')
    return result
  }

  async text(argv: readonly string[], options?: RunOptions): Promise<string> {
    const { code, stdout, stderr } = await this.exec(argv, options)
    if (code !== 0) throw new Error(`${argv.join(' ')}: code ${code}: ${`${stderr.trim()}\n${stdout.trim()}`.trim()}`)
    return stdout
  }

  /** The pid is that of `docker exec`; signals go to the command and its children. */
  spawn(argv: readonly string[], options: ProgramOptions = {}): Program {
    const { env, cwd, ...rest } = options
    const mark = randomUUID()
    return Program.start([...dockerArgv(), ...execOf(this.container, mark, { env, cwd }), ...argv], {
      ...rest,
      passSignal: (signal) => signalMarked(mark, signal),
    })
  }

  async lose(): Promise<void> {
    if (this.#isLost) return
    this.#isLost = true
    await docker(['kill', this.container])
  }

  /** The container starts again, with the files it had. */
  async boot(): Promise<void> {
    if (!this.#isLost) return
    await docker(['start', this.container])
    this.#isLost = false
  }
}

/** `docker exec …`, so that what runs there can be found by `mark`. */
export function execOf(container: string, mark: string, { env = {}, cwd }: Pick<RunOptions, 'env' | 'cwd'>): string[] {
  const given = Object.entries(env).flatMap(([key, value]) => (value === undefined ? [] : ['--env', `${key}=${value}`]))
  return ['exec', '--env', `${MARK}=${mark}`, ...given, ...(cwd === undefined ? [] : ['--workdir', cwd]), container]
}

/** Signals the command that carries the mark, and its children; returns whether there was one. */
export function signalMarked(mark: string, signal: NodeJS.Signals): boolean {
  const text = `${MARK}=${mark}`
  let isFound = false
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      if (!readFileSync(`/proc/${pid}/environ`, 'latin1').includes(text)) continue
      process.kill(Number(pid), signal)
      isFound = true
    } catch {
      // it ended meanwhile
    }
  }
  return isFound
}
