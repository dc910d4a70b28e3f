/**
 * Says once that something is no longer wanted, to the one who works on it now. It is to a flow what an AbortSignal is to a
 * request: that is an EventTarget, and its listener, its Event and its removal cost each new flow 25 µs and 1.5 KB.
 */
export class Cancellation {
  #isCancelled = false
  #listener: (() => void) | undefined

  /** Cancels when the signal aborts. */
  static from(signal: AbortSignal): Cancellation {
    const cancellation = new Cancellation()
    if (signal.aborted) cancellation.cancel()
    else signal.addEventListener('abort', () => cancellation.cancel(), { once: true })
    return cancellation
  }

  get isCancelled(): boolean {
    return this.#isCancelled
  }

  cancel(): void {
    if (this.#isCancelled) return
    this.#isCancelled = true
    const listener = this.#listener
    this.#listener = undefined
    listener?.()
  }

  /** Calls the listener once, when this is cancelled: now, if it has been. It takes the place of an earlier one. */
  listen(listener: () => void): void {
    if (this.#isCancelled) listener()
    else this.#listener = listener
  }

  /** Nobody listens any longer. */
  leave(): void {
    this.#listener = undefined
  }
}
