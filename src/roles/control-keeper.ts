import { Lifetime } from '../core/kit/lifetime.ts'
import type { LogLevel } from '../core/kit/log.ts'
import { ControlWorker, type ControlData } from './control-worker.ts'

/**
 * Keeps root and cluster of `hedgerow up` running on their thread. A thread that ends by itself is started again after a
 * backoff; meanwhile names and flows go on, as with a cluster on another machine.
 *
 *     running ──failed──▶ waiting ──backoff──▶ running
 *        │  ▲ resume (the successor is lost)
 *        ▼  │
 *      paused (a successor runs root and cluster)
 */
export class ControlKeeper implements AsyncDisposable {
  readonly #data: ControlData
  readonly #life = new Lifetime()
  #worker: ControlWorker | undefined
  #resumed = Promise.withResolvers<void>()
  #logLevel: LogLevel

  private constructor(data: ControlData, worker: ControlWorker) {
    this.#data = data
    this.#worker = worker
    this.#logLevel = data.config.log
    this.#resumed.resolve()
    this.#life.defer(() => this.#worker?.[Symbol.asyncDispose]())
    this.#life.spawn((signal) => this.#keep(signal), 'root and cluster')
  }

  /** @throws what made root or cluster fail to start */
  static async start(data: ControlData): Promise<ControlKeeper> {
    return new ControlKeeper(data, await ControlWorker.start(data))
  }

  /** @throws MeshError NOT_RUNNING while root and cluster are not running */
  get worker(): ControlWorker {
    if (this.#worker === undefined) throw new Error('root and cluster are not running')
    return this.#worker
  }

  setLogLevel(level: LogLevel): void {
    this.#logLevel = level
    this.#worker?.setLogLevel(level)
  }

  /** Root and cluster end here, since a successor runs them. */
  async pause(): Promise<void> {
    this.#resumed = Promise.withResolvers<void>()
    await this.#worker?.[Symbol.asyncDispose]()
  }

  /** The successor is lost. Resolves when root and cluster run again. */
  async resume(): Promise<void> {
    this.#worker = await this.#startWorker()
    this.#resumed.resolve()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  async #keep(signal: AbortSignal): Promise<void> {
    const aborted = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
    while (!signal.aborted) {
      await Promise.race([this.#resumed.promise, aborted])
      if (signal.aborted) return
      this.#worker ??= await this.#startWorker()
      const reason = await Promise.race([this.#worker.ended, aborted])
      if (signal.aborted) return
      this.#worker = undefined
      if (reason !== undefined) throw reason
    }
  }

  async #startWorker(): Promise<ControlWorker> {
    const { config } = this.#data
    return ControlWorker.start({ ...this.#data, config: { ...config, log: this.#logLevel } })
  }
}
