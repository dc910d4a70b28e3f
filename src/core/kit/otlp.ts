import type { Agent as HttpAgent } from 'node:http'
import { request as requestHttps, Agent as HttpsAgent } from 'node:https'
import { MeshError } from '../errors.ts'
import { onAbort } from './abort.ts'
import { Backoff } from './backoff.ts'
import type { Clock } from './clock.ts'
import { Lifetime } from './lifetime.ts'
import type { Log } from './log.ts'
import { Agent, request as requestHttp } from './node-http.ts'
import type { Attributes, Scope, Signal } from './otlp-signals.ts'

/*
 * Sends spans or log records to an OpenTelemetry collector: OTLP over HTTP, as JSON (opentelemetry.io/docs/specs/otlp). The SDK of
 * OpenTelemetry would cost every agent 23 MB of memory, 0.2 to 0.8 s of its start and 24 µs for a span; this sends the same.
 *
 *     offer ─▶ queue (bounded) ─▶ one request at a time ─▶ 2xx: sent
 *                  └─▶ full: dropped          │ 429, 502, 503, 504, no answer: again after a while, others wait in the queue
 *                                             └ any other answer: failed
 */

export type SendResult = 'sent' | 'dropped' | 'failed'

export interface OtlpOptions<Item> {
  signal: Signal<Item>
  /** Of the collector: the path of the signal is added, `/v1/traces` or `/v1/logs`. */
  endpoint: string
  headers?: Readonly<Record<string, string>>
  /** What all that is sent has in common: `service.name` and so on. */
  resource: Attributes
  scope: Scope
  /** HTTPS_PROXY, HTTP_PROXY and NO_PROXY count, in upper or lower case. */
  environment?: Readonly<Record<string, string | undefined>>
}

export interface OtlpParts {
  clock: Clock
  log: Log
  counted: (result: SendResult, count: number) => void
}

/** How many wait. Larger: more memory while the collector is away; smaller: a burst is dropped. */
const QUEUE = 4_096
/** How many are in one request. Larger: their text takes longer than a millisecond of the loop that carries flows. */
const BATCH = 128
/** How long a few wait for more. */
const GATHER_MS = 2_000
const ANSWER_MS = 10_000
/** What is read of an answer. */
const ANSWER_BYTES = 4_096
/** When the agent ends. */
const LAST_MS = 1_000
const AGAIN = new Set([429, 502, 503, 504])

export class OtlpExporter<Item> implements AsyncDisposable {
  readonly #life: Lifetime
  readonly #options: OtlpOptions<Item>
  readonly #parts: OtlpParts
  readonly #target: Target
  readonly #backoff = new Backoff({ firstMs: 1_000, limitMs: 30_000 })
  #queue: Item[] = []
  #wake = Promise.withResolvers<void>()
  #isAway = false

  private constructor(life: Lifetime, options: OtlpOptions<Item>, parts: OtlpParts) {
    this.#life = life
    this.#options = options
    this.#parts = parts
    this.#target = targetOf(options)
  }

  /** @throws MeshError CONFIG_INVALID when the endpoint is no URL */
  static start<Item>(options: OtlpOptions<Item>, parts: OtlpParts): Promise<OtlpExporter<Item>> {
    return Lifetime.open((life) => {
      const exporter = new OtlpExporter(life, options, parts)
      life.defer(() => exporter.#last())
      life.spawn((signal) => exporter.#run(signal), 'export to a collector')
      return exporter
    })
  }

  offer(item: Item): void {
    if (this.#queue.length >= QUEUE) return this.#parts.counted('dropped', 1)
    this.#queue.push(item)
    if (this.#queue.length === 1 || this.#queue.length === BATCH) this.#wake.resolve()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  async #run(signal: AbortSignal): Promise<void> {
    const { clock } = this.#parts
    using _stopped = onAbort(signal, () => this.#wake.resolve())
    while (!signal.aborted) {
      await this.#filled(1, signal)
      using gathering = new Gathering(clock, GATHER_MS)
      await Promise.race([this.#filled(BATCH, signal), gathering.over])
      while (!signal.aborted && this.#queue.length > 0) {
        const waitMs = await this.#sendSome(signal, ANSWER_MS)
        if (waitMs !== undefined) await clock.sleep(waitMs, signal)
        else if (this.#queue.length < BATCH) break
      }
    }
  }

  /** Resolves when so many wait, or the signal has aborted, which wakes it. */
  async #filled(count: number, signal: AbortSignal): Promise<void> {
    while (this.#queue.length < count && !signal.aborted) {
      this.#wake = Promise.withResolvers()
      await this.#wake.promise
    }
  }

  /** How long to wait before they are sent again; `undefined` when that is settled. */
  async #sendSome(signal: AbortSignal, timeoutMs: number): Promise<number | undefined> {
    const { counted, log } = this.#parts
    const { resource, scope, signal: kind } = this.#options
    const batch = this.#queue.slice(0, BATCH)
    const answer = await post(
      this.#target,
      JSON.stringify(kind.body(resource, scope, batch)),
      AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]),
    )
    if (signal.aborted) return 0 // they wait for `#last`
    if (answer.kind === 'none' || AGAIN.has(answer.status)) {
      const reason = answer.kind === 'none' ? answer.reason : `status ${answer.status}`
      if (!this.#isAway) log.warn('telemetry cannot be sent', { endpoint: this.#target.url.href, reason })
      this.#isAway = true
      const askedMs = answer.kind === 'none' ? 0 : answer.retryAfterMs
      return Math.max(this.#backoff.nextMs(), askedMs)
    }
    this.#queue = this.#queue.slice(batch.length)
    this.#backoff.reset()
    if (answer.status >= 300) {
      counted('failed', batch.length)
      if (!this.#isAway)
        log.warn('telemetry refused', { endpoint: this.#target.url.href, status: answer.status, reason: answer.text })
      this.#isAway = true
      return undefined
    }
    const rejected = Math.min(batch.length, rejectedIn(answer.text, this.#options.signal.rejected))
    counted('sent', batch.length - rejected)
    if (rejected > 0) counted('failed', rejected)
    if (this.#isAway) log.info('telemetry is sent again', { endpoint: this.#target.url.href })
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

/** `{"partialSuccess":{"rejectedSpans":"3"}}` */
function rejectedIn(text: string, key: string): number {
  try {
    const { partialSuccess } = JSON.parse(text) as { partialSuccess?: Record<string, unknown> }
    const count = Number(partialSuccess?.[key] ?? 0)
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

function targetOf<Item>({ signal, endpoint, headers = {}, scope, environment = {} }: OtlpOptions<Item>): Target {
  if (!URL.canParse(endpoint)) throw new MeshError('CONFIG_INVALID', { problem: `${endpoint} is no URL` })
  const url = new URL(endpoint)
  url.pathname = `${url.pathname.replace(/\/$/, '')}${signal.path}`
  const options = { keepAlive: true, maxSockets: 1, proxyEnv: proxiesIn(environment) }
  const agent = url.protocol === 'https:' ? new HttpsAgent(options) : new Agent(options)
  return { url, agent, headers: { 'user-agent': `${scope.name}/${scope.version}`, ...headers } }
}

/** Node reads them itself; where both are set, the lower case counts. */
function proxiesIn(environment: NonNullable<OtlpOptions<never>['environment']>): Record<string, string> {
  const names = ['http_proxy', 'https_proxy', 'no_proxy'].flatMap((name) => [name, name.toUpperCase()])
  return Object.fromEntries(
    names.flatMap((name) => {
      const value = environment[name]
      return value === undefined || value === '' ? [] : [[name, value]]
    }),
  )
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
