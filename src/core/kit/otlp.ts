import type { Agent as HttpAgent } from 'node:http'
import { request as requestHttps, Agent as HttpsAgent } from 'node:https'
import { Backoff } from './backoff.ts'
import type { Clock } from './clock.ts'
import { Lifetime } from './lifetime.ts'
import type { Log } from './log.ts'
import { Agent, request as requestHttp } from './node-http.ts'

/*
 * Sends spans to an OpenTelemetry collector: OTLP over HTTP, as JSON (opentelemetry.io/docs/specs/otlp). The SDK of OpenTelemetry would cost
 * every agent 23 MB of memory, 0.2 to 0.8 s of its start and 24 µs for a span; this sends the same.
 *
 *     offer ─▶ queue (bounded) ─▶ one request at a time ─▶ 2xx: sent
 *                  └─▶ full: dropped          │ 429, 502, 503, 504, no answer: again after a while, others wait in the queue
 *                                             └ any other answer: failed
 */

export type Attributes = Readonly<Record<string, string | number | boolean | undefined>>

/** One span, with times in milliseconds since 1970. */
export interface Span {
  /** 32 hex digits. */
  traceId: string
  /** 16 hex digits. */
  spanId: string
  parentSpanId?: string
  name: string
  kind: 'server' | 'client'
  startMs: number
  endMs: number
  attributes: Attributes
  events: readonly { name: string; atMs: number; attributes: Attributes }[]
  /** Why it failed. */
  error?: string | undefined
}

export type SpanResult = 'sent' | 'dropped' | 'failed'

export interface OtlpOptions {
  /** Of the collector: `/v1/traces` is added to its path. */
  endpoint: string
  headers?: Readonly<Record<string, string>>
  /** What every span has in common: `service.name` and so on. */
  resource: Attributes
  scope: { name: string; version: string }
}

export interface OtlpParts {
  clock: Clock
  log: Log
  counted: (result: SpanResult, count: number) => void
}

/** Spans that wait. Larger: more memory while the collector is away; smaller: a burst is dropped. */
const QUEUE = 4_096
/** Spans in one request. Larger: their text takes longer than a millisecond of the loop that carries flows. */
const BATCH = 128
/** How long a few spans wait for more. */
const GATHER_MS = 2_000
const ANSWER_MS = 10_000
/** What is read of an answer. */
const ANSWER_BYTES = 4_096
/** When the agent ends. */
const LAST_MS = 1_000
const AGAIN = new Set([429, 502, 503, 504])

export class OtlpExporter implements AsyncDisposable {
  readonly #life: Lifetime
  readonly #options: OtlpOptions
  readonly #parts: OtlpParts
  readonly #target: Target
  readonly #backoff = new Backoff({ firstMs: 1_000, limitMs: 30_000 })
  #queue: Span[] = []
  #wake = Promise.withResolvers<void>()
  #isAway = false

  private constructor(life: Lifetime, options: OtlpOptions, parts: OtlpParts) {
    this.#life = life
    this.#options = options
    this.#parts = parts
    this.#target = targetOf(options)
  }

  static start(options: OtlpOptions, parts: OtlpParts): Promise<OtlpExporter> {
    return Lifetime.open((life) => {
      const exporter = new OtlpExporter(life, options, parts)
      life.defer(() => exporter.#last())
      life.spawn((signal) => exporter.#run(signal), 'export of spans')
      return exporter
    })
  }

  offer(span: Span): void {
    if (this.#queue.length >= QUEUE) return this.#parts.counted('dropped', 1)
    this.#queue.push(span)
    if (this.#queue.length === 1 || this.#queue.length === BATCH) this.#wake.resolve()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  async #run(signal: AbortSignal): Promise<void> {
    const { clock } = this.#parts
    const stopped = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
    while (!signal.aborted) {
      await Promise.race([this.#filled(1), stopped])
      using gathering = new Gathering(clock, GATHER_MS)
      await Promise.race([this.#filled(BATCH), gathering.over, stopped])
      while (!signal.aborted && this.#queue.length > 0) {
        const waitMs = await this.#sendSome(signal, ANSWER_MS)
        if (waitMs !== undefined) await clock.sleep(waitMs, signal)
        else if (this.#queue.length < BATCH) break
      }
    }
  }

  /** Resolves when so many wait. */
  async #filled(count: number): Promise<void> {
    while (this.#queue.length < count) {
      this.#wake = Promise.withResolvers()
      await this.#wake.promise
    }
  }

  /** How long to wait before they are sent again; `undefined` when that is settled. */
  async #sendSome(signal: AbortSignal, timeoutMs: number): Promise<number | undefined> {
    const { counted, log } = this.#parts
    const batch = this.#queue.slice(0, BATCH)
    const answer = await post(
      this.#target,
      JSON.stringify(this.#body(batch)),
      AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]),
    )
    if (signal.aborted) return 0 // they wait for `#last`
    if (answer.kind === 'none' || AGAIN.has(answer.status)) {
      const reason = answer.kind === 'none' ? answer.reason : `status ${answer.status}`
      if (!this.#isAway) log.warn('spans cannot be sent', { endpoint: this.#target.url.href, reason })
      this.#isAway = true
      const askedMs = answer.kind === 'none' ? 0 : answer.retryAfterMs
      return Math.max(this.#backoff.nextMs(), askedMs)
    }
    this.#queue = this.#queue.slice(batch.length)
    this.#backoff.reset()
    if (answer.status >= 300) {
      counted('failed', batch.length)
      if (!this.#isAway)
        log.warn('spans refused', { endpoint: this.#target.url.href, status: answer.status, reason: answer.text })
      this.#isAway = true
      return undefined
    }
    const rejected = Math.min(batch.length, rejectedIn(answer.text))
    counted('sent', batch.length - rejected)
    if (rejected > 0) counted('failed', rejected)
    if (this.#isAway) log.info('spans are sent again', { endpoint: this.#target.url.href })
    this.#isAway = false
    return undefined
  }

  /** What still waits when the agent ends. */
  async #last(): Promise<void> {
    const until = AbortSignal.timeout(LAST_MS)
    while (this.#queue.length > 0 && !until.aborted) if ((await this.#sendSome(until, LAST_MS)) !== undefined) break
    if (this.#queue.length > 0) this.#parts.counted('dropped', this.#queue.length)
    this.#target.agent.destroy()
  }

  #body(spans: readonly Span[]): object {
    const { resource, scope } = this.#options
    return {
      resourceSpans: [
        { resource: { attributes: attributesOf(resource) }, scopeSpans: [{ scope, spans: spans.map(spanOf) }] },
      ],
    }
  }
}

/** A timer that is given up when it is no longer waited for. */
class Gathering implements Disposable {
  readonly over: Promise<void>
  readonly #cancel: () => void

  constructor(clock: Clock, ms: number) {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.over = promise
    this.#cancel = clock.after(ms, resolve)
  }

  [Symbol.dispose](): void {
    this.#cancel()
  }
}

/** As OTLP has it in JSON: ids in hex, times in nanoseconds and integers as text. */
function spanOf({
  traceId,
  spanId,
  parentSpanId,
  name,
  kind,
  startMs,
  endMs,
  attributes,
  events,
  error,
}: Span): object {
  return {
    traceId,
    spanId,
    ...(parentSpanId === undefined ? {} : { parentSpanId }),
    name,
    kind: kind === 'server' ? 2 : 3,
    startTimeUnixNano: nanosecondsOf(startMs),
    endTimeUnixNano: nanosecondsOf(endMs),
    attributes: attributesOf(attributes),
    events: events.map((event) => ({
      name: event.name,
      timeUnixNano: nanosecondsOf(event.atMs),
      attributes: attributesOf(event.attributes),
    })),
    status: error === undefined ? {} : { code: 2, message: error },
  }
}

/** A number of them is larger than a double holds; microseconds are not. */
function nanosecondsOf(ms: number): string {
  return `${Math.round(ms * 1_000)}000`
}

function attributesOf(attributes: Attributes): object[] {
  return Object.entries(attributes).flatMap(([key, value]) =>
    value === undefined ? [] : { key, value: valueOf(value) },
  )
}

function valueOf(value: string | number | boolean): object {
  if (typeof value === 'string') return { stringValue: value }
  if (typeof value === 'boolean') return { boolValue: value }
  return Number.isSafeInteger(value) ? { intValue: `${value}` } : { doubleValue: value }
}

/** `{"partialSuccess":{"rejectedSpans":"3"}}` */
function rejectedIn(text: string): number {
  try {
    const { partialSuccess } = JSON.parse(text) as { partialSuccess?: { rejectedSpans?: unknown } }
    const count = Number(partialSuccess?.rejectedSpans ?? 0)
    return Number.isSafeInteger(count) && count > 0 ? count : 0
  } catch {
    return 0 // some answer with nothing
  }
}

interface Target {
  url: URL
  headers: Readonly<Record<string, string>>
  agent: HttpAgent
}

function targetOf({ endpoint, headers = {}, scope }: OtlpOptions): Target {
  const url = new URL(endpoint)
  url.pathname = `${url.pathname.replace(/\/$/, '')}/v1/traces`
  const options = { keepAlive: true, maxSockets: 1 }
  const agent = url.protocol === 'https:' ? new HttpsAgent(options) : new Agent(options)
  return { url, agent, headers: { 'user-agent': `${scope.name}/${scope.version}`, ...headers } }
}

type Answer = { kind: 'answer'; status: number; retryAfterMs: number; text: string } | { kind: 'none'; reason: string }

function post({ url, headers, agent }: Target, body: string, signal: AbortSignal): Promise<Answer> {
  return new Promise((resolve) => {
    const none = (error: Error) =>
      resolve({ kind: 'none', reason: signal.aborted ? 'no answer in time' : error.message })
    const request = url.protocol === 'https:' ? requestHttps : requestHttp
    const asked = request(url, {
      method: 'POST',
      agent,
      signal,
      headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body), ...headers },
    })
    asked.on('error', none)
    asked.on('response', (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (chunk: string) => {
        if (text.length < ANSWER_BYTES) text += chunk.slice(0, ANSWER_BYTES)
      })
      response.on('error', none)
      response.on('end', () => {
        const seconds = Number(response.headers['retry-after'] ?? 0) // a date is not followed
        const retryAfterMs = seconds > 0 ? Math.min(seconds, 60) * 1_000 : 0
        resolve({ kind: 'answer', status: response.statusCode ?? 0, retryAfterMs, text })
      })
    })
    asked.end(body)
  })
}
