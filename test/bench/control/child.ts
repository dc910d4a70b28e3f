import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'

/** What a process of the benchmark can be asked to do. */
export type Calls = Readonly<Record<string, (...args: never[]) => unknown>>

export interface Asked {
  id: number
  name: string
  args: unknown[]
}

export interface Answered {
  id: number
  value?: unknown
  error?: string
}

/** As the launcher has them, so that memory and pauses are those of the program. */
const FLAGS = ['--max-semi-space-size=2', '--single-threaded-gc']
const CONTROL_FLAGS = ['--max-semi-space-size=8', '--no-parallel-scavenge']

/** A process of the benchmark (program.ts) that is asked over its channel; it ends with this process. */
export class Child<C extends Calls> implements AsyncDisposable {
  readonly #process: ChildProcess
  readonly #waiting = new Map<number, PromiseWithResolvers<unknown>>()
  #nextId = 1

  private constructor(child: ChildProcess, what: string) {
    this.#process = child
    child.on('message', (message) => {
      const { id, value, error } = message as Answered
      const waiting = this.#waiting.get(id)
      this.#waiting.delete(id)
      if (error === undefined) waiting?.resolve(value)
      else waiting?.reject(new Error(`${what}: ${error}`))
    })
    child.once('exit', (code, signal) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`${what} ended: ${signal ?? code}`))
    })
  }

  /** Of `program` (built.ts). With `profile` the process writes a CPU profile into that folder when it ends. */
  static start<C extends Calls>(role: string, program: string, profile?: string): Child<C> {
    const own = role === 'root' || role === 'cluster' ? CONTROL_FLAGS : FLAGS
    const flags = profile === undefined ? own : [...own, '--cpu-prof', `--cpu-prof-dir=${join(profile, role)}`]
    const child = fork(program, [role], { execArgv: flags, serialization: 'advanced' })
    return new Child(child, role)
  }

  get pid(): number {
    return this.#process.pid as number
  }

  call<N extends keyof C & string>(name: N, ...args: Parameters<C[N]>): Promise<Awaited<ReturnType<C[N]>>> {
    const id = this.#nextId++
    const answer = Promise.withResolvers<unknown>()
    this.#waiting.set(id, answer)
    this.#process.send({ id, name, args } satisfies Asked)
    return answer.promise as Promise<Awaited<ReturnType<C[N]>>>
  }

  /** As `kill -9` does. */
  async kill(): Promise<void> {
    const ended = once(this.#process, 'exit')
    this.#process.kill('SIGKILL')
    await ended
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return
    const ended = once(this.#process, 'exit')
    if (this.#process.connected) this.#process.disconnect()
    const insist = setTimeout(() => this.#process.kill('SIGKILL'), 10_000)
    await ended
    clearTimeout(insist)
  }
}
