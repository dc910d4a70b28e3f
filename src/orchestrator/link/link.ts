import Type, { type TSchema } from 'typebox'
import { Compile, type Validator } from 'typebox/compile'
import { ERRORS, isMeshError, MeshError, type ErrorCode } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Channel } from '../../core/kit/websocket.ts'
import type { Metrics } from '../../core/metrics.ts'
import type {
  ResponseBody,
  RequestBody,
  RequestName,
  LinkProtocol,
  NotificationBody,
  NotificationName,
} from './messages.ts'

/*
 *   {"ask": 7, "type": "interest.ask", "body": {…}}      ▶ one answer with the same number
 *   {"answer": 7, "body": {…}}
 *   {"answer": 7, "error": {"code": "NODE_UNKNOWN", "details": {…}}}
 *   {"tell": "reports", "body": {…}}                     ▶ no answer
 *   {"beat": 1}                                          ▶ once a second: I am alive
 *   {"goaway": 1500}                                     ▶ I am closing; come back in so many milliseconds
 *   {"fault": "…"}                                       ▶ your last message made no sense
 */
const Id = Type.Integer({ minimum: 1, maximum: Number.MAX_SAFE_INTEGER })
const Word = Type.String({ maxLength: 64 })
const Body = Type.Object({})
const frame = Compile(
  Type.Union([
    Type.Object({ beat: Type.Literal(1) }),
    Type.Object({ answer: Id, body: Body }),
    Type.Object({
      answer: Id,
      error: Type.Object({
        code: Word,
        details: Type.Optional(Type.Record(Type.String({ maxLength: 64 }), Type.Unknown())),
      }),
    }),
    Type.Object({ ask: Id, type: Word, body: Body }),
    Type.Object({ tell: Word, body: Body }),
    Type.Object({ goaway: Type.Integer({ minimum: 0, maximum: 600_000 }) }),
    Type.Object({ fault: Type.String({ maxLength: 1_000 }) }),
  ]),
)

/** A dead peer is noticed within three seconds: two and a half beats, looked at four times a second. */
const BEAT_MS = 1_000
const SILENCE_MS = 2_700
const LOOK_MS = 250
/** After a change of the network a link must answer within this; a slow path's round trip, and one loss. */
const RECHECK_MS = 1_500
/** Asks that wait for an answer, each way. Smaller refuses bursts, larger lets a stuck peer hold more. */
const MAX_WAITING = 1_024
/** A peer that reads slower than this is cut off: its table would be stale anyway, and it resumes. */
const MAX_BACKLOG_BYTES = 32 * 1024 * 1024
/** After so much nonsense the other side is not worth listening to. */
const MAX_FAULTS = 3

export type RequestHandlers<L extends LinkProtocol> = {
  [N in RequestName<L>]: (
    body: RequestBody<L, N>,
    signal: AbortSignal,
  ) => ResponseBody<L, N> | Promise<ResponseBody<L, N>>
}
export type NotificationHandlers<L extends LinkProtocol> = {
  [N in NotificationName<L>]: (body: NotificationBody<L, N>) => void
}

export interface LinkSides<Out extends LinkProtocol, In extends LinkProtocol> {
  sends: Out
  receives: In
  onRequest: RequestHandlers<In>
  onNotification: NotificationHandlers<In>
}

export interface LinkContext {
  /** Who is at the other end, for the log and the gauge. */
  tier: 'root' | 'cluster' | 'node' | 'relay'
  peer: string
  clock: Clock
  log: Log
  metrics: Metrics
}

interface PendingRequest {
  resolve(body: unknown): void
  reject(error: unknown): void
  schema: TSchema
}

/** Why a link ended. `silent`: the peer was not heard of; `away`: it said when to come back. */
export type LinkEnd = { kind: 'closed'; reason: string } | { kind: 'silent' } | { kind: 'away'; reconnectInMs: number }

/** Asks, answers and notices between two tiers, over one channel. Both sides are checked at this door. */
export class Link<Out extends LinkProtocol, In extends LinkProtocol> {
  readonly #channel: Channel
  readonly #sides: LinkSides<Out, In>
  readonly #parts: LinkContext
  readonly #waiting = new Map<number, PendingRequest>()
  readonly #abort = new AbortController()
  readonly #ended = Promise.withResolvers<LinkEnd>()
  readonly #sent
  readonly #received
  #end: LinkEnd | undefined
  #nextId = 1
  #answering = 0
  #faults = 0
  #heardAt: number

  constructor(channel: Channel, sides: LinkSides<Out, In>, parts: LinkContext) {
    this.#channel = channel
    this.#sides = sides
    this.#parts = parts
    this.#heardAt = parts.clock.now()
    this.#sent = parts.metrics.linkMessages.labels('sent')
    this.#received = parts.metrics.linkMessages.labels('received')
    parts.metrics.linksOpen.labels(parts.tier).inc()
    const beat = setInterval(() => this.#send({ beat: 1 }), BEAT_MS)
    let lookedAt = parts.clock.now()
    const look = setInterval(() => {
      const now = parts.clock.now()
      const wasHeldUp = now - lookedAt > 3 * LOOK_MS // we were asleep ourselves: what arrived meanwhile is read first
      lookedAt = now
      if (!wasHeldUp && now - this.#heardAt > SILENCE_MS) this.#finish({ kind: 'silent' })
    }, LOOK_MS)
    beat.unref()
    look.unref()
    void this.#ended.promise.then(() => {
      clearInterval(beat)
      clearInterval(look)
    })
    channel.onClose((reason) => this.#finish({ kind: 'closed', reason }))
    channel.onText((text) => this.#hear(text))
  }

  get peer(): string {
    return this.#parts.peer
  }

  /** Settles when the link is down, whatever the reason. Never rejects. */
  get ended(): Promise<LinkEnd> {
    return this.#ended.promise
  }

  get isOpen(): boolean {
    return this.#end === undefined
  }

  /** @throws MeshError LINK_CLOSED, REQUEST_TIMEOUT, or what the other side answered. */
  request<N extends RequestName<Out>>(
    type: N,
    body: RequestBody<Out, N>,
    signal?: AbortSignal,
  ): Promise<ResponseBody<Out, N>> {
    const { response, withinMs } = this.#sides.sends.requests[type] as Out['requests'][N]
    const { promise, resolve, reject } = Promise.withResolvers<unknown>()
    if (this.#end !== undefined) return Promise.reject(this.#closed())
    if (this.#waiting.size >= MAX_WAITING) {
      return Promise.reject(
        new MeshError('REQUEST_FAILED', { peer: this.peer, reason: 'too many requests wait already' }),
      )
    }
    const id = this.#nextId++
    const timer = setTimeout(
      () => reject(new MeshError('REQUEST_TIMEOUT', { peer: this.peer, request: type })),
      withinMs,
    )
    const aborted = () =>
      reject(new MeshError('REQUEST_TIMEOUT', { peer: this.peer, request: type }, { cause: signal?.reason }))
    if (signal?.aborted) aborted()
    signal?.addEventListener('abort', aborted, { once: true })
    this.#waiting.set(id, { resolve, reject, schema: response })
    this.#send({ ask: id, type, body })
    return promise.finally(() => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', aborted)
      this.#waiting.delete(id)
    }) as Promise<ResponseBody<Out, N>>
  }

  notify<N extends NotificationName<Out>>(type: N, body: NotificationBody<Out, N>): void {
    this.#send({ tell: type, body })
  }

  /** Says when to come back, so that a thousand peers do not return in the same moment. */
  goAway(reconnectInMs: number): void {
    this.#send({ goaway: Math.round(reconnectInMs) })
    this.close('going away')
  }

  close(reason: string): void {
    this.#finish({ kind: 'closed', reason })
  }

  /** The network has changed: ends unless it shows soon that it lives. */
  recheck(isHere: (address: string) => boolean): void {
    this.#channel.recheck?.(isHere, RECHECK_MS)
  }

  #send(message: Readonly<Record<string, unknown>>): void {
    if (this.#end !== undefined) return
    if (this.#channel.backlog > MAX_BACKLOG_BYTES) return this.close('the other side reads too slowly')
    this.#sent.inc()
    this.#channel.send(JSON.stringify(message))
  }

  #hear(text: string): void {
    if (this.#end !== undefined) return
    this.#heardAt = this.#parts.clock.now()
    this.#received.inc()
    const message = readJson(text)
    if (!frame.Check(message)) return this.#fault('not a message of this protocol')
    if ('beat' in message) return
    if ('answer' in message) return this.#answered(message.answer, message)
    if ('ask' in message) return this.#asked(message.ask, message.type, message.body)
    if ('tell' in message) return this.#told(message.tell, message.body)
    if ('goaway' in message) return this.#finish({ kind: 'away', reconnectInMs: message.goaway })
    this.#parts.log.warn('the other side did not understand us', { peer: this.peer, reason: message.fault })
  }

  #answered(
    id: number,
    message: { body: object } | { error: { code: string; details?: Record<string, unknown> } },
  ): void {
    const waiting = this.#waiting.get(id)
    if (waiting === undefined) return // too late: the deadline has answered
    if ('error' in message) {
      const { code, details } = message.error
      const isKnown = Object.hasOwn(ERRORS, code)
      waiting.reject(
        new MeshError(isKnown ? (code as ErrorCode) : 'REQUEST_FAILED', { ...details, ...(isKnown ? {} : { code }) }),
      )
    } else if (validator(waiting.schema).Check(message.body)) waiting.resolve(message.body)
    else {
      waiting.reject(
        new MeshError('MESSAGE_INVALID', { peer: this.peer, problem: problemOf(waiting.schema, message.body) }),
      )
      this.#fault('an answer of the wrong form')
    }
  }

  #asked(id: number, type: string, body: object): void {
    const known = Object.hasOwn(this.#sides.receives.requests, type) ? this.#sides.receives.requests[type] : undefined
    const refuse = (code: ErrorCode, details: Readonly<Record<string, unknown>>) =>
      this.#send({ answer: id, error: { code, details } })
    if (known === undefined) return refuse('MESSAGE_INVALID', { problem: `unknown request ${type}` })
    if (!validator(known.request).Check(body)) {
      refuse('MESSAGE_INVALID', { request: type, problem: problemOf(known.request, body) })
      return this.#fault(`a malformed ${type}`)
    }
    if (this.#answering >= MAX_WAITING) return refuse('REQUEST_FAILED', { reason: 'too many requests at once' })
    this.#answering++
    const answer = this.#sides.onRequest[type as RequestName<In>] as (body: object, signal: AbortSignal) => unknown
    Promise.try(answer, body, this.#abort.signal)
      .then((answered) => this.#send({ answer: id, body: answered }))
      .catch((error: unknown) => {
        if (isMeshError(error)) return refuse(error.code, error.details)
        this.#parts.log.error('a request could not be answered', { peer: this.peer, request: type, error })
        refuse('REQUEST_FAILED', { request: type })
      })
      .finally(() => this.#answering--)
  }

  #told(type: string, body: object): void {
    const schema = Object.hasOwn(this.#sides.receives.notifications, type)
      ? this.#sides.receives.notifications[type]
      : undefined
    if (schema === undefined) return // a newer peer knows more words
    if (!validator(schema).Check(body)) return this.#fault(`a malformed ${type}: ${problemOf(schema, body)}`)
    try {
      ;(this.#sides.onNotification[type as NotificationName<In>] as (body: object) => void)(body)
    } catch (error) {
      this.#parts.log.error('a notice could not be taken', { peer: this.peer, request: type, error })
    }
  }

  #fault(problem: string): void {
    this.#faults++
    this.#parts.log.warn('the other side sent a malformed message', { peer: this.peer, reason: problem })
    this.#send({ fault: problem.slice(0, 1_000) })
    if (this.#faults >= MAX_FAULTS) this.close('too many malformed messages')
  }

  #finish(end: LinkEnd): void {
    if (this.#end !== undefined) return
    this.#end = end
    this.#parts.metrics.linksOpen.labels(this.#parts.tier).dec()
    this.#channel.close(end.kind === 'closed' ? end.reason : end.kind)
    this.#abort.abort()
    for (const waiting of this.#waiting.values()) waiting.reject(this.#closed())
    this.#ended.resolve(end)
  }

  #closed(): MeshError {
    return new MeshError('LINK_CLOSED', { peer: this.peer, ...this.#end })
  }
}

const validators = new WeakMap<TSchema, Validator>()

function validator(schema: TSchema): Validator {
  const known = validators.get(schema)
  if (known !== undefined) return known
  const made = Compile(schema)
  validators.set(schema, made)
  return made
}

function problemOf(schema: TSchema, body: unknown): string {
  const [fault] = validator(schema).Errors(body)
  return fault === undefined ? 'malformed' : `${fault.instancePath || '/'} ${fault.message}`.slice(0, 500)
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
