type Release = () => void | Promise<void>

/**
 * What a component started, and how it ends: newest first, every release runs even if one throws. Idempotent.
 *
 *     static start() { return Lifetime.open(async (life) => { …; life.use(await X.start()); return new Self(life) }) }
 */
export class Lifetime {
  readonly #releases: Release[] = []
  readonly #abort = new AbortController()
  #closing: Promise<void> | undefined

  /** Runs `build`; when it throws, what had started is released, newest first. */
  static async open<T>(build: (life: Lifetime) => T | Promise<T>): Promise<T> {
    const life = new Lifetime()
    try {
      return await build(life)
    } catch (error) {
      await life.close().catch(() => undefined) // the first failure is the one to tell
      throw error
    }
  }

  /** Aborted when `close()` begins. */
  get signal(): AbortSignal {
    return this.#abort.signal
  }

  /** Takes over something that is running; it is closed with this lifetime. */
  use<T extends AsyncDisposable | Disposable>(running: T): T {
    this.defer(() =>
      Symbol.asyncDispose in running ? Promise.resolve(running[Symbol.asyncDispose]()) : running[Symbol.dispose](),
    )
    return running
  }

  defer(release: Release): void {
    if (this.#closing !== undefined) throw new Error('this lifetime has ended')
    this.#releases.push(release)
  }

  /** A timer that ends with the lifetime and never keeps the process alive. */
  every(intervalMs: number, tick: () => void): void {
    const timer = setInterval(tick, intervalMs)
    timer.unref()
    this.defer(() => clearInterval(timer))
  }

  /** A background loop: takes the signal, returns soon after it; a failure before closing goes to `onFailure`. */
  spawn(loop: (signal: AbortSignal) => Promise<void>, onFailure: (error: unknown) => void): void {
    const running = loop(this.signal).catch((error: unknown) => {
      if (!this.signal.aborted) onFailure(error)
    })
    this.defer(() => running)
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(): Promise<void> {
    this.#abort.abort()
    const errors: unknown[] = []
    for (let release = this.#releases.pop(); release !== undefined; release = this.#releases.pop()) {
      try {
        await release()
      } catch (error) {
        errors.push(error)
      }
    }
    if (errors.length > 0) throw new AggregateError(errors, 'some parts did not close cleanly')
  }
}
