import type { TSchema } from 'typebox'
import { isMeshError, MeshError, type ErrorCode } from '../../core/errors.ts'
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
} from './messages/protocol.ts'
import { HeldBack } from './held-back.ts'
import { errorFrom } from './outcomes.ts'
import { Pace } from './pace.ts'
import { isFrame, problemOf, readJson, validator } from './wire.ts'

/** Heartbeats and silence (pace.ts) are looked at this often: a silent peer is noticed within three seconds. */
const CHECK_MS = 250
/** A heartbeat may be sent so much before its time rather than at the next look. */
const EARLY_MS = 50
/** Of a peer in use. */
const USUAL_SILENCE_MS = 2_700
/** Whoever is asked to show that it lives has this long. */
const PROOF_MS = 2_700
/** After a change of the network a link must answer within this time: the round trip of a slow path, and one loss. */
const RECHECK_MS = 1_500
/** Requests without a response, in each direction. Smaller refuses bursts; larger lets a stuck peer make us hold more. */
const MAX_PENDING = 1_024
/** A peer that leaves this much unread is cut off: its table would be stale anyway, and it resumes when it is back. */
const MAX_BACKLOG_BYTES = 32 * 1024 * 1024
/** With more than this unread, what can wait does: heartbeats and answers would come late behind it. */
const CONGESTED_BYTES = 256 * 1024
const CONGESTION_CHECK_MS = 10
/** After this many malformed messages the link is closed. */
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
  /** The tier of the peer, for the metric. */
  tier: 'root' | 'cluster' | 'node' | 'relay'
  peer: string
  clock: Clock
  log: Log
  metrics: Metrics
  /** See pace.ts. */
  isAtRest?: (() => boolean) | undefined
  /** Of a tier that writes down what it does, see held-back.ts; absent for one whose messages follow from nothing that is on disk. */
  pending?: (() => Promise<void> | undefined) | undefined
}

interface PendingRequest {
  resolve(body: unknown): void
  reject(error: unknown): void
  schema: TSchema
}

/** With this reason a process closes a link that it gives up for its successor, who was to replace it. */
export const HANDED_OVER = 'another process takes over'

/** Why a link ended. `silent`: no heartbeat came, or the kernel's probes had no answer; `away`: the peer asked us to reconnect later. */
export type LinkEnd = { kind: 'closed'; reason: string } | { kind: 'silent' } | { kind: 'away'; reconnectInMs: number }

/** Requests, responses and notifications between two tiers over one channel. Whatever arrives is checked here. */
export class Link<Out extends LinkProtocol, In extends LinkProtocol> {
  readonly #channel: Channel
  readonly #sides: LinkSides<Out, In>
  readonly #parts: LinkContext
  readonly #pending = new Map<number, PendingRequest>()
  readonly #abort = new AbortController()
  readonly #onNextMessage = new Set<() => void>()
  readonly #ended = Promise.withResolvers<LinkEnd>()
  readonly #sent
  readonly #received
  readonly #pace: Pace
  readonly #held: HeldBack
  #beatAt = 0
  /** When our last heartbeat said that the next one comes. */
  #announced: number | undefined
  #end: LinkEnd | undefined
  #nextId = 1
  #inProgress = 0
  #faults = 0
  #receivedAt: number

  constructor(channel: Channel, sides: LinkSides<Out, In>, parts: LinkContext) {
    this.#channel = channel
    this.#sides = sides
    this.#parts = parts
    this.#receivedAt = parts.clock.now()
    this.#sent = parts.metrics.linkMessages.labels('sent')
    this.#received = parts.metrics.linkMessages.labels('received')
    parts.metrics.linksOpen.labels(parts.tier).inc()
    this.#pace = new Pace({ isAtRest: parts.isAtRest, now: () => parts.clock.now() })
    this.#held = new HeldBack({
      pending: parts.pending ?? (() => undefined),
      send: (text) => channel.send(text),
      onFailure: (error) => {
        parts.log.error('control link closed: what it is to say cannot be saved', { peer: parts.peer, error })
        this.close('the state cannot be saved')
      },
    })
    channel.watched?.({ probes: parts.isAtRest === undefined }) // of two ends one must notice first that the other's machine is gone (pace.ts)
    let checkedAt = parts.clock.now()
    const check = setInterval(() => {
      const now = parts.clock.now()
      const wasHeldUp = now - checkedAt > 3 * CHECK_MS // we stood still ourselves: what arrived meanwhile is read first
      checkedAt = now
      if (!wasHeldUp && now - this.#receivedAt > this.#pace.silenceMs) return this.#finish({ kind: 'silent' })
      this.#beat(now)
    }, CHECK_MS)
    check.unref()
    void this.#ended.promise.then(() => clearInterval(check))
    channel.onClose((reason, isSilent) =>
      this.#finish(isSilent === true ? { kind: 'silent' } : { kind: 'closed', reason }),
    )
    channel.onText((text) => this.#receive(text))
  }

  get peer(): string {
    return this.#parts.peer
  }

  /** Settles when the link is down, whatever the reason. Never rejects. */
  get ended(): Promise<LinkEnd> {
    return this.#ended.promise
  }

  /** True when a message arrives within the time after which a peer counts as silent; false when none does, or the link ends. */
  provesAlive(): Promise<boolean> {
    const { promise, resolve } = Promise.withResolvers<boolean>()
    const timer = setTimeout(() => resolve(false), PROOF_MS)
    const arrived = () => resolve(true)
    this.#channel.measure().then(arrived, () => undefined) // a peer at rest says little by itself
    this.#onNextMessage.add(arrived)
    void this.#ended.promise.then(() => resolve(false))
    return promise.finally(() => {
      clearTimeout(timer)
      this.#onNextMessage.delete(arrived)
    })
  }

  /** How long ago the last message came, beyond what the peer announced: heartbeats come every second, or as it says. */
  get silentMs(): number {
    const expectedMs = Math.max(0, this.#pace.silenceMs - USUAL_SILENCE_MS)
    return Math.max(0, this.#parts.clock.now() - this.#receivedAt - expectedMs)
  }

  get isOpen(): boolean {
    return this.#end === undefined
  }

  /** @throws MeshError LINK_CLOSED, REQUEST_TIMEOUT, or the error with which the peer refused */
  request<N extends RequestName<Out>>(
    type: N,
    body: RequestBody<Out, N>,
    signal?: AbortSignal,
  ): Promise<ResponseBody<Out, N>> {
    const { response, withinMs } = this.#sides.sends.requests[type] as Out['requests'][N]
    const { promise, resolve, reject } = Promise.withResolvers<unknown>()
    if (this.#end !== undefined) return Promise.reject(this.#closed())
    if (this.#pending.size >= MAX_PENDING) {
      return Promise.reject(
        new MeshError('REQUEST_FAILED', { peer: this.peer, reason: `${MAX_PENDING} requests to it are unanswered` }),
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
    this.#pending.set(id, { resolve, reject, schema: response })
    this.#send({ ask: id, type, body })
    return promise.finally(() => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', aborted)
      this.#pending.delete(id)
    }) as Promise<ResponseBody<Out, N>>
  }

  notify<N extends NotificationName<Out>>(type: N, body: NotificationBody<Out, N>): void {
    this.#send({ tell: type, body })
  }

  /** The peer has much to read: whoever sends much waits for `uncongested`. */
  get isCongested(): boolean {
    return this.isOpen && this.#backlog > CONGESTED_BYTES
  }

  /** Resolves when the peer has read most of what was sent, or the link has ended. */
  async uncongested(): Promise<void> {
    while (this.isCongested) await this.#parts.clock.sleep(CONGESTION_CHECK_MS, this.#abort.signal)
  }

  /**
   * Runs what follows from a request once its response is on its way. Not after the link has ended: whoever closed it may have closed
   * what the task needs, and the next hello brings the same again.
   */
  afterResponse(request: RequestName<In>, task: () => void): void {
    setImmediate(() => {
      if (this.#end !== undefined) return
      try {
        task()
      } catch (error) {
        this.#parts.log.error('request handler failed', { peer: this.peer, request, error })
      }
    })
  }

  /** Closes, and asks the peer to reconnect later: a thousand peers should not return in the same moment. */
  goAway(reconnectInMs: number): void {
    this.#sendAtOnce({ goaway: Math.round(reconnectInMs) })
    this.close('going away')
  }

  close(reason: string): void {
    this.#finish({ kind: 'closed', reason })
  }

  /** The network has changed: the link ends unless the peer answers soon. */
  recheck(isHere: (address: string) => boolean): void {
    this.#channel.recheck?.(isHere, RECHECK_MS)
  }

  /** Says that we live, when it is time, and at once when the pace changes: until it is told, the peer expects the one before. */
  #beat(now: number): void {
    const next = this.#pace.nextMs()
    if (next === this.#announced && (this.#pace.isAnswering || now - this.#beatAt + EARLY_MS < next)) return
    this.#sendBeat(now, next)
  }

  /** A peer at rest hears from us when we hear from it. */
  #takeBeat(next: number | undefined): void {
    this.#pace.heard(next)
    const now = this.#receivedAt
    if (this.#pace.isAnswering && now - this.#beatAt >= CHECK_MS) this.#sendBeat(now, this.#pace.nextMs())
  }

  #sendBeat(now: number, next: number): void {
    this.#announced = next
    this.#beatAt = now
    this.#sendAtOnce({ beat: 1, next })
  }

  get #backlog(): number {
    return this.#channel.backlog + this.#held.length
  }

  #send(message: Readonly<Record<string, unknown>>): void {
    if (this.#end !== undefined) return
    if (this.#backlog > MAX_BACKLOG_BYTES) return this.close('the peer reads too slowly')
    this.#sent.inc()
    this.#held.send(JSON.stringify(message))
  }

  /** What follows from nothing that was written. */
  #sendAtOnce(message: Readonly<Record<string, unknown>>): void {
    if (this.#end !== undefined) return
    this.#sent.inc()
    this.#channel.send(JSON.stringify(message))
  }

  #receive(text: string): void {
    if (this.#end !== undefined) return
    this.#receivedAt = this.#parts.clock.now()
    this.#received.inc()
    if (this.#onNextMessage.size > 0) for (const arrived of this.#onNextMessage) arrived()
    const message = readJson(text)
    if (!isFrame(message)) return this.#fault('not a message of the control protocol')
    if ('beat' in message) return this.#takeBeat(message.next)
    if ('answer' in message) return this.#takeResponse(message.answer, message)
    if ('ask' in message) return this.#takeRequest(message.ask, message.type, message.body)
    if ('tell' in message) return this.#takeNotification(message.tell, message.body)
    if ('goaway' in message) return this.#finish({ kind: 'away', reconnectInMs: message.goaway })
    this.#parts.log.warn('peer reported a malformed message', { peer: this.peer, reason: message.fault })
  }

  #takeResponse(
    id: number,
    message: { body: object } | { error: { code: string; details?: Record<string, unknown> } },
  ): void {
    const pending = this.#pending.get(id)
    if (pending === undefined) return // it has timed out
    if ('error' in message) {
      pending.reject(errorFrom(message.error))
    } else if (validator(pending.schema).Check(message.body)) pending.resolve(message.body)
    else {
      pending.reject(
        new MeshError('MESSAGE_INVALID', { peer: this.peer, problem: problemOf(pending.schema, message.body) }),
      )
      this.#fault('a response of the wrong form')
    }
  }

  #takeRequest(id: number, type: string, body: object): void {
    const known = Object.hasOwn(this.#sides.receives.requests, type) ? this.#sides.receives.requests[type] : undefined
    const refuse = (code: ErrorCode, details: Readonly<Record<string, unknown>>) =>
      this.#send({ answer: id, error: { code, details } })
    if (known === undefined) return refuse('MESSAGE_INVALID', { problem: `unknown request ${type}` })
    if (!validator(known.request).Check(body)) {
      refuse('MESSAGE_INVALID', { request: type, problem: problemOf(known.request, body) })
      return this.#fault(`a malformed ${type}`)
    }
    if (this.#inProgress >= MAX_PENDING)
      return refuse('REQUEST_FAILED', { reason: `more than ${MAX_PENDING} requests at once` })
    this.#inProgress++
    const answer = this.#sides.onRequest[type as RequestName<In>] as (body: object, signal: AbortSignal) => unknown
    Promise.try(answer, body, this.#abort.signal)
      .then((answered) => this.#send({ answer: id, body: answered }))
      .catch((error: unknown) => {
        if (isMeshError(error)) return refuse(error.code, error.details)
        this.#parts.log.error('request handler failed', { peer: this.peer, request: type, error })
        refuse('REQUEST_FAILED', { request: type })
      })
      .finally(() => this.#inProgress--)
  }

  #takeNotification(type: string, body: object): void {
    const schema = Object.hasOwn(this.#sides.receives.notifications, type)
      ? this.#sides.receives.notifications[type]
      : undefined
    if (schema === undefined) return // from a peer of a newer version
    if (!validator(schema).Check(body)) return this.#fault(`a malformed ${type}: ${problemOf(schema, body)}`)
    try {
      ;(this.#sides.onNotification[type as NotificationName<In>] as (body: object) => void)(body)
    } catch (error) {
      this.#parts.log.error('notification handler failed', { peer: this.peer, request: type, error })
    }
  }

  #fault(problem: string): void {
    this.#faults++
    this.#parts.log.warn('malformed message from peer', { peer: this.peer, reason: problem })
    this.#send({ fault: problem.slice(0, 1_000) })
    if (this.#faults >= MAX_FAULTS) this.close('too many malformed messages')
  }

  #finish(end: LinkEnd): void {
    if (this.#end !== undefined) return
    this.#end = end
    this.#held.close()
    this.#parts.metrics.linksOpen.labels(this.#parts.tier).dec()
    this.#channel.close(end.kind === 'closed' ? end.reason : end.kind)
    this.#abort.abort()
    for (const pending of this.#pending.values()) pending.reject(this.#closed())
    this.#ended.resolve(end)
  }

  #closed(): MeshError {
    return new MeshError('LINK_CLOSED', { peer: this.peer, ...this.#end })
  }
}
