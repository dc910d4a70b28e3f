import { onAbort, unlessAborted } from './abort.ts'
import type { Clock } from './clock.ts'
import { Backoff } from './backoff.ts'
import { Lifetime } from './lifetime.ts'
import type { Log } from './log.ts'
import type { SendResult } from './otlp.ts'
import { openWire, type SyslogLine, type Wire } from './syslog-wires.ts'
import type { TlsFiles } from './tls-files.ts'

/*
 * Sends lines to a syslog daemon. What offers a line never waits:
 *
 *     offer ─▶ queue (bounded) ─▶ one line at a time ─▶ wire: sent
 *                  └─▶ full: dropped          └ no wire, or it failed: again after a while, others wait in the queue
 *
 * No syslog daemon acknowledges a line, so `sent` means given to the kernel (RFC 5426 §5.1, RFC 6587 §3).
 */

export interface SyslogParts {
  clock: Clock
  log: Log
  counted: (result: SendResult, count: number) => void
  /** For `tls:`. */
  tls: TlsFiles
}

/** Lines that wait. Larger: more memory while the daemon is away; smaller: a burst is dropped. */
const QUEUE = 4_096
/** When the agent ends. */
const LAST_MS = 1_000

export class SyslogSender implements AsyncDisposable {
  readonly #life: Lifetime
  readonly #endpoint: URL
  readonly #parts: SyslogParts
  readonly #backoff = new Backoff({ firstMs: 1_000, limitMs: 30_000 })
  readonly #queue: SyslogLine[] = []
  #wake = Promise.withResolvers<void>()
  #isAway = false

  private constructor(life: Lifetime, endpoint: URL, parts: SyslogParts) {
    this.#life = life
    this.#endpoint = endpoint
    this.#parts = parts
  }

  /** `unix:///dev/log`, `udp://host:514`, `tcp://host:601` or `tls://host:6514` */
  static start(endpoint: URL, parts: SyslogParts): Promise<SyslogSender> {
    return Lifetime.open((life) => {
      const sender = new SyslogSender(life, endpoint, parts)
      life.spawn((signal) => sender.#run(signal), 'lines to syslog')
      return sender
    })
  }

  offer(line: SyslogLine): void {
    if (this.#queue.length >= QUEUE) return this.#parts.counted('dropped', 1)
    this.#queue.push(line)
    this.#wake.resolve()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  async #run(signal: AbortSignal): Promise<void> {
    const { clock, counted } = this.#parts
    using late = new Late(signal, clock)
    using _end = onAbort(signal, () => this.#wake.resolve())
    while (!signal.aborted) {
      try {
        await this.#filled(signal)
        if (this.#queue.length === 0) break
        using wire = await late.limits(openWire(this.#endpoint, this.#parts.tls))
        await this.#sendAll(wire, signal, late)
      } catch (error) {
        if (!this.#isAway) this.#parts.log.warn('syslog cannot be reached', { endpoint: this.#endpoint.href, error })
        this.#isAway = true
        await clock.sleep(this.#backoff.nextMs(), signal)
      }
    }
    if (this.#queue.length > 0) counted('dropped', this.#queue.length)
    this.#queue.length = 0
  }

  /** Until it is to end and nothing waits. @throws when the wire has failed: the line stays in the queue */
  async #sendAll(wire: Wire, signal: AbortSignal, late: Late): Promise<void> {
    using _lost = onAbort(wire.failure, () => this.#wake.resolve())
    for (;;) {
      const [line] = this.#queue
      if (line === undefined) {
        if (signal.aborted) return
        await this.#filled(signal, wire.failure)
        wire.failure.throwIfAborted()
        continue
      }
      await late.limits(wire.send(line))
      this.#queue.shift()
      this.#parts.counted('sent', 1)
      this.#backoff.reset()
      if (this.#isAway) this.#parts.log.info('syslog is reached again', { endpoint: this.#endpoint.href })
      this.#isAway = false
    }
  }

  /** Resolves when a line waits, or one of these has aborted, which wakes it. */
  async #filled(...ends: AbortSignal[]): Promise<void> {
    while (this.#queue.length === 0 && !ends.some(({ aborted }) => aborted)) {
      this.#wake = Promise.withResolvers()
      await this.#wake.promise
    }
  }
}

/** Nothing is waited for longer than a moment after the end has begun. */
class Late implements Disposable {
  readonly #over = new AbortController()
  #cancel = () => undefined as void

  constructor(signal: AbortSignal, clock: Clock) {
    const begin = () => {
      this.#cancel = clock.after(LAST_MS, () => this.#over.abort(new Error('not sent in time')))
    }
    signal.addEventListener('abort', begin, { once: true })
  }

  limits<T>(work: Promise<T>): Promise<T> {
    return unlessAborted(work, this.#over.signal)
  }

  [Symbol.dispose](): void {
    this.#cancel()
  }
}
