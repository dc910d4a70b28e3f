import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import type { Result } from '../../src/lab/program.ts'

/** Those that become something else, or stay: each gets a process of its own. */
const OWN_PROCESS = new Set(['up', 'root', 'cluster', 'relay', 'agent', 'exec', 'with-proxy', 'lab', 'netcheck'])
const THREADS = 3

export function needsProcess(args: readonly string[]): boolean {
  return args.some((arg) => OWN_PROCESS.has(arg))
}

/**
 * Command lines, done in threads of the test: a process for each costs half a second of processor time, and tests that ask again and
 * again until something is so would leave none for what they wait for.
 */
class CommandThreads {
  readonly #idle: Worker[] = []
  readonly #waiting: Array<(thread: Worker) => void> = []
  #started = 0

  async run(args: readonly string[]): Promise<Result> {
    const thread = await this.#free()
    try {
      thread.postMessage(args)
      const [result] = (await once(thread, 'message')) as [Result]
      return result
    } finally {
      const next = this.#waiting.shift()
      if (next === undefined) this.#idle.push(thread)
      else next(thread)
    }
  }

  #free(): Promise<Worker> | Worker {
    const idle = this.#idle.pop()
    if (idle !== undefined) return idle
    if (this.#started === THREADS) return new Promise((resolve) => this.#waiting.push(resolve))
    this.#started += 1
    const env: NodeJS.ProcessEnv = { ...process.env, LC_ALL: 'C.UTF-8' }
    for (const name of ['HEDGEROW_STATE', 'HEDGEROW_TOKEN', 'HEDGEROW_CREDENTIAL']) delete env[name]
    const thread = new Worker(new URL('./command-thread.ts', import.meta.url), { env })
    thread.unref()
    return thread
  }
}

export const commandThreads = new CommandThreads()
