import { MeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { InstanceId } from '../../core/model/ids.ts'

export interface LogsAsked {
  tail: number
  follow: boolean
  /** Lines from then on only, milliseconds since 1970. */
  since?: number
}

export interface LogSource {
  /** Lines, without their ends. */
  logs(instance: InstanceId, options: LogsAsked, signal: AbortSignal): AsyncIterable<string>
}

interface Stream {
  lines: AsyncIterator<string>
  /** The line that is being waited for. */
  next: Promise<IteratorResult<string>>
  abort: AbortController
  idle: NodeJS.Timeout | undefined
  isRead: boolean
}

const MAX_STREAMS = 64
/** A reader asks again at once; one that does not is gone. */
const IDLE_MS = 30_000
/** An answer without text goes back after this long, so that the reader knows the stream lives. */
const WAIT_MS = 2_000
/** Lines that come within this time travel together. */
const TOGETHER_MS = 5
const MAX_CHARS = 64 * 1024

/** What instances wrote, pulled over the control link: the reader sets the pace, and nothing piles up here. */
export class LogStreams implements Disposable {
  readonly #source: LogSource
  readonly #clock: Clock
  readonly #streams = new Map<string, Stream>()
  #last = 0

  constructor(source: LogSource, clock: Clock) {
    this.#source = source
    this.#clock = clock
  }

  /** @throws MeshError REQUEST_FAILED when too many are open */
  open({ instance, ...asked }: { instance: InstanceId } & LogsAsked): string {
    if (this.#streams.size >= MAX_STREAMS)
      throw new MeshError('REQUEST_FAILED', { reason: 'too many logs are being read' })
    const abort = new AbortController()
    const lines = this.#source.logs(instance, asked, abort.signal)[Symbol.asyncIterator]()
    const stream: Stream = { lines, next: lines.next(), abort, idle: undefined, isRead: false }
    stream.next.catch(() => undefined) // told to whoever reads
    const name = String(++this.#last)
    this.#streams.set(name, stream)
    this.#rest(name, stream)
    return name
  }

  /** @throws MeshError REQUEST_FAILED when there is no such stream, or it cannot be read */
  async next(name: string): Promise<{ text: string; done: boolean }> {
    const stream = this.#streams.get(name)
    if (stream === undefined || stream.isRead) throw new MeshError('REQUEST_FAILED', { reason: 'no such log stream' })
    clearTimeout(stream.idle)
    stream.isRead = true
    try {
      return await this.#gather(name, stream)
    } catch (cause) {
      this.close(name)
      throw new MeshError('REQUEST_FAILED', { reason: 'the log cannot be read' }, { cause })
    } finally {
      stream.isRead = false
      if (this.#streams.has(name)) this.#rest(name, stream)
    }
  }

  close(name: string): void {
    const stream = this.#streams.get(name)
    if (stream === undefined) return
    this.#streams.delete(name)
    clearTimeout(stream.idle)
    stream.abort.abort()
    stream.lines.return?.().catch(() => undefined)
  }

  [Symbol.dispose](): void {
    for (const name of this.#streams.keys()) this.close(name)
  }

  async #gather(name: string, stream: Stream): Promise<{ text: string; done: boolean }> {
    let text = ''
    while (text.length < MAX_CHARS) {
      const line = await this.#within(stream.next, text === '' ? WAIT_MS : TOGETHER_MS, stream.abort.signal)
      if (line === undefined) break
      if (line.done === true) {
        this.close(name)
        return { text, done: true }
      }
      text += `${line.value}\n`
      stream.next = stream.lines.next()
      stream.next.catch(() => undefined)
    }
    return { text, done: false }
  }

  async #within<T>(promise: Promise<T>, ms: number, signal: AbortSignal): Promise<T | undefined> {
    const enough = new AbortController()
    const limit = this.#clock.sleep(ms, AbortSignal.any([signal, enough.signal])).then(() => undefined)
    try {
      return await Promise.race([promise, limit])
    } finally {
      enough.abort()
    }
  }

  #rest(name: string, stream: Stream): void {
    stream.idle = setTimeout(() => this.close(name), IDLE_MS)
    stream.idle.unref()
  }
}
