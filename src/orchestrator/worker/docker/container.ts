import { explain, isMeshError } from '../../../core/errors.ts'
import { usageOf, type Controls } from '../../../core/kit/cgroup-controls.ts'
import type { Clock } from '../../../core/kit/clock.ts'
import type { Ended, Endpoints, InstanceCommand, Running, Trace, Usage } from '../runtime.ts'
import { ContainerOutput } from './container-output.ts'
import { isStatus, type Engine } from './engine.ts'
import { removeContainer } from './own-containers.ts'
import { killInit } from './end-container.ts'
import { execInContainer } from './container-exec.ts'
import { usageIn } from './container-usage.ts'
import { exitReason, healthFault, SIGKILL, type ContainerState } from './exit-reason.ts'

/*
 * One container that was started, until it has ended and is removed.
 *
 *     POST wait ─▶ (answers when it ends) ─▶ state, last lines ─▶ removed ─▶ `ended`
 *        ├─ the engine is being restarted: asked again until it answers
 *        └─ it has been stopped and `wait` still does not answer: its state is asked for again and again
 *     POST stop ─▶ (no answer in time) ─▶ its first process is killed, `ended`, the rest is removed when the engine answers
 */

export interface ContainerParts {
  engine: Engine
  container: string
  trace: Trace
  endpoints: Endpoints
  pid: number
  memoryMb: number
  hasHealthCheck: boolean
  /** A descriptor for what it prints; belongs to the run and is closed at its end. */
  fd: number
  /** Its control groups, where they are of this machine. */
  controls: Controls
  onTrace: (trace: Trace) => void
  /** Its address is free again. */
  onGone: () => void
  /** The engine does not answer, or does not do it: what is left is to be removed later. */
  onLeft: () => void
  clock: Clock
}

/** How often an engine that does not answer is asked again. */
const AGAIN_MS = 500
/** An engine that stays away for this long while a container is to be stopped ends it when it is back. */
const STOP_MS = 10_000

export class Container implements Running {
  readonly endpoints: Endpoints
  readonly pid: number
  readonly isWhole = true
  readonly ended: Promise<Ended>
  readonly check: (() => Promise<string | undefined>) | undefined
  readonly #parts: ContainerParts
  readonly #output: ContainerOutput
  readonly #watching = new AbortController()
  /** Aborted when the engine has answered that it is stopped. */
  readonly #stopped = new AbortController()
  readonly #gaveUp = Promise.withResolvers<Ended>()
  #trace: Trace
  /** Why it is not well, when the engine was there to say. */
  #health: string | undefined = 'the health check of the image has not succeeded yet'
  /** The engine was not there while it was watched. */
  #wasAway = false
  #usage: Usage = { cpuSeconds: 0, memoryBytes: 0, throttledSeconds: 0, oomKills: 0 }
  #isOver = false
  #stopping: Promise<void> | undefined

  private constructor(parts: ContainerParts) {
    const { engine, container, trace, fd, clock } = parts
    this.#parts = parts
    this.#trace = trace
    this.endpoints = parts.endpoints
    this.pid = parts.pid
    this.check = parts.hasHealthCheck ? () => this.#checkHealth() : undefined
    const since = typeof trace['printedUntil'] === 'string' ? trace['printedUntil'] : undefined
    const onProgress = (until: string) => this.#remember(until)
    this.#output = ContainerOutput.follow({ engine, container, fd, since, onProgress, clock })
    this.ended = Promise.race([this.#watch(), this.#gaveUp.promise])
  }

  static follow(parts: ContainerParts): Container {
    return new Container(parts)
  }

  pids(): number[] {
    return this.#isOver ? [] : [this.pid]
  }

  /** An engine takes a second for what the kernel says at once. */
  async usage(): Promise<Usage | undefined> {
    const { engine, container, controls } = this.#parts
    if (this.#isOver) return undefined
    const counted = controls.memory === undefined || controls.cpu === undefined ? undefined : usageOf(controls)
    if (counted !== undefined) return (this.#usage = counted)
    const query = { stream: false, 'one-shot': true }
    const usage = usageIn(await engine.ask({ method: 'GET', path: `/containers/${container}/stats`, query }))
    if (usage !== undefined) this.#usage = usage
    return usage
  }

  exec(cmd: readonly string[]): Promise<InstanceCommand> {
    return execInContainer(this.#parts.engine, this.#parts.container, cmd)
  }

  async stop(graceMs: number): Promise<void> {
    this.#stopping ??= this.#stop(graceMs)
    await this.#stopping
    await this.ended
  }

  kill(): void {
    const { engine, container } = this.#parts
    if (!this.#isOver) void engine.ask({ method: 'POST', path: `/containers/${container}/kill` }).catch(() => undefined)
  }

  letGo(): void {
    const { since } = this.#output
    if (since !== undefined) this.#remember(since)
    this.#isOver = true
    this.#watching.abort()
    this.#output.close()
  }

  /** Asks it to end as its image says, and insists after `graceMs`; the engine does both. */
  async #stop(graceMs: number): Promise<void> {
    const { engine, container, clock } = this.#parts
    const since = clock.now()
    const query = { t: Math.ceil(graceMs / 1_000) }
    const timeoutMs = query.t * 1_000 + engine.answerMs
    while (!this.#isOver) {
      try {
        await engine.ask({ method: 'POST', path: `/containers/${container}/stop`, query, timeoutMs })
        break
      } catch (error) {
        if (isStatus(error, 404, 409)) break // it is gone, or being removed
        if (clock.now() - since > STOP_MS) return this.#giveUp(error)
        await clock.sleep(AGAIN_MS)
      }
    }
    void clock.sleep(AGAIN_MS, this.#watching.signal).then(() => this.#stopped.abort())
  }

  #giveUp(error: unknown): void {
    this.#isOver = true
    this.#watching.abort()
    this.#output.close()
    killInit(this.#trace)
    this.#parts.onLeft()
    const detail = isMeshError(error, 'NOT_RUNNING')
      ? 'the container engine does not answer; what is left is removed when it does'
      : `the container engine does not stop it: ${explain(error)}; what is left is removed later`
    this.#gaveUp.resolve({ detail })
  }

  /** Never settles when it is let go: then another agent watches. */
  async #watch(): Promise<Ended> {
    const { engine, container, memoryMb, onGone, onLeft } = this.#parts
    const { signal } = this.#watching
    const state = await this.#lastState(signal)
    if (state === 'left') return new Promise(() => undefined)
    this.#isOver = true
    await this.#output.ended()
    await removeContainer(engine, container).then(onGone, onLeft)
    if (state === undefined) return { detail: 'somebody has removed its container' }
    return {
      ...exitReason(state, memoryMb, this.#wasAway),
      usage: { ...this.#usage, oomKills: Math.max(this.#usage.oomKills, state.OOMKilled === true ? 1 : 0) },
    }
  }

  /** When it no longer runs; `undefined`: it is not there at all. */
  async #lastState(signal: AbortSignal): Promise<ContainerState | 'left' | undefined> {
    const { engine, container, clock } = this.#parts
    while (!signal.aborted) {
      try {
        await this.#answerToWait(signal)
        const state = await stateOf(engine, container)
        if (state?.Running !== true) {
          const last = await this.#surely(state, signal)
          return signal.aborted ? 'left' : last
        }
      } catch (error) {
        if (isStatus(error, 404)) return undefined
        this.#wasAway ||= isMeshError(error, 'NOT_RUNNING')
      }
      await clock.sleep(AGAIN_MS, signal)
    }
    return 'left'
  }

  /** Docker may hear of the end of a container before it hears that its memory was the reason: where that is in doubt it is asked again. */
  async #surely(state: ContainerState | undefined, signal: AbortSignal): Promise<ContainerState | undefined> {
    const { engine, container, memoryMb, clock } = this.#parts
    if (state === undefined || memoryMb === 0 || this.#stopping !== undefined) return state
    if (state.OOMKilled === true || state.ExitCode !== SIGKILL) return state
    await clock.sleep(AGAIN_MS, signal)
    return (await stateOf(engine, container).catch(() => undefined)) ?? state
  }

  /** Given up once it has been stopped: an engine may answer `stop` and never `wait`. */
  async #answerToWait(watching: AbortSignal): Promise<void> {
    const { engine, container } = this.#parts
    const stopped = this.#stopped.signal
    if (stopped.aborted) return
    const signal = AbortSignal.any([watching, stopped])
    try {
      await engine.ask({ method: 'POST', path: `/containers/${container}/wait`, signal, timeoutMs: undefined })
    } catch (error) {
      if (!stopped.aborted) throw error
    }
  }

  /** While the engine is away nobody runs the check, and what it said last counts: the container goes on. */
  async #checkHealth(): Promise<string | undefined> {
    const { engine, container } = this.#parts
    try {
      const state = await stateOf(engine, container)
      if (state !== undefined) this.#health = healthFault(state)
    } catch {
      // who watches it tells whether it is there
    }
    return this.#health
  }

  #remember(printedUntil: string): void {
    if (this.#isOver) return
    this.#trace = { ...this.#trace, printedUntil }
    this.#parts.onTrace(this.#trace)
  }
}

/** @throws MeshError REQUEST_FAILED, NOT_RUNNING */
export async function stateOf(engine: Engine, container: string): Promise<ContainerState | undefined> {
  const { State } = (await engine.ask({ method: 'GET', path: `/containers/${container}/json` })) as {
    State?: ContainerState
  }
  return State
}
