import type { Ends } from '../src/core/kit/local-users.ts'
import { Lifetime } from '../src/core/kit/lifetime.ts'
import type { Log } from '../src/core/kit/log.ts'
import type { Metrics } from '../src/core/metrics.ts'
import type { Service } from '../src/core/model/service.ts'
import type { InterestSource, TableView, Target } from '../src/core/table/view.ts'
import { answer, unknown, type Answer, type AnswerSettings, type Decision } from './answer.ts'
import { CLASS_IN, CODE, type Code } from './numbers.ts'
import { addressesIn, writeAnswer } from './codec.ts'
import type { Query } from './query.ts'
import { QueryCounts, type Source } from './query-counts.ts'
import type { Transport, Upstream } from './upstream.ts'
import { codeOf, questionOf, readQuery, stamp, TCP_SIZE, udpSize, writeFault } from './wire.ts'
import type { Client } from './tcp-listener.ts'
import { WaitingQuestions } from './waiting.ts'

/*
 *   packet ─▶ readQuery ─▶ remembered? ─▶ stamp ─▶ reply
 *                       └▶ answer() ─▶ written, remembered, stamped
 *                                   ├▶ ask the cluster ─▶ answer() again
 *                                   └▶ forward upstream
 *
 * Replies from the table leave without a promise; only asking and forwarding wait, and their number is bounded (waiting.ts).
 */

export interface ResponderParts {
  table: TableView
  interests: InterestSource
  upstream: Upstream
  settings: ResponderSettings
}

export interface ResponderSettings extends AnswerSettings {
  ttlSeconds: number
  negativeTtlSeconds: number
  underWay: number
  /** Whether any program of this machine may ask from this address. */
  isHere?: ((address: string) => boolean | undefined) | undefined
  /**
   * Called before a name is answered with an address, so that the connection that follows finds a listener. A text says why
   * it would not, and the name is answered with SERVFAIL.
   */
  prepare?: Prepare
  maySee?: MaySee
  beforeForwarded?: BeforeForwarded
}

/**
 * Called before a name outside the mesh is answered; `undefined`: nothing waits for the answer. Else it is given the addresses, and the answer
 * leaves after it.
 */
export type BeforeForwarded = (
  from: Client,
  name: string,
) => ((found: readonly { address: string; ttlSeconds: number }[]) => Promise<void>) | undefined

/** Whether who asks may see any of these services of organisations; absent: everybody may. */
export type MaySee = (from: Client, services: readonly Service[]) => boolean | Promise<boolean>

export type Prepare = (target: Target) => string | undefined | Promise<string | undefined>

/** Replies kept. More than the names a node uses, times the record types that are asked. */
const MEMORY_LIMIT = 8_192
/** A name in use is looked up in the table at least this often, so that the table sees that it is in use. */
const FORGET_MS = 60_000
/** Log lines a second about names that do not exist; the rest is counted. */
const REASONS_A_SECOND = 5

export class Responder {
  readonly #parts: ResponderParts
  readonly #log: Log
  readonly #life: Lifetime
  readonly #counts: QueryCounts
  /** Type, then name: whole replies that hold until the table changes. */
  readonly #memory = new Map<number, Map<string, Buffer>>()
  #remembered = 0
  /** Apart from each other: a dead upstream must not keep mesh names from being asked for. */
  readonly #waiting: Record<'asked' | 'upstream', WaitingQuestions>
  #reasons = 0
  #silenced = 0

  static start(parts: ResponderParts, log: Log, metrics: Metrics): Promise<Responder> {
    return Lifetime.open((life) => new Responder(parts, log, metrics, life))
  }

  private constructor(parts: ResponderParts, log: Log, metrics: Metrics, life: Lifetime) {
    this.#parts = parts
    this.#log = log
    this.#life = life
    this.#counts = new QueryCounts(metrics)
    const { underWay: limit, isHere } = parts.settings
    this.#waiting = {
      asked: new WaitingQuestions({ limit, isHere }),
      upstream: new WaitingQuestions({ limit, isHere }),
    }
    life.defer(parts.table.onChange(() => this.#forget()))
    life.every(FORGET_MS, () => this.#forget(), 'resolver cache clean-up')
    life.every(1_000, () => this.#summarise(), 'resolver log summary')
    life.defer(() => this.#counts.flush())
  }

  /** The reply to a packet, at once or later; `undefined`: no reply. Neither throws nor rejects. */
  respond(packet: Buffer, transport: Transport, from: Client): Buffer | undefined | Promise<Buffer | undefined> {
    const read = readQuery(packet)
    if (read.kind === 'query') return this.#recall(read.query, transport) ?? this.#decide(read.query, transport, from)
    if (read.kind === 'drop') return undefined
    this.#counts.count(CODE[read.code], 'table', performance.now())
    return writeFault(packet, read.end, read.code, read.hasEdns)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  #recall(query: Query, transport: Transport): Buffer | undefined {
    const whole = query.class === CLASS_IN ? this.#memory.get(query.type)?.get(query.key) : undefined
    if (whole === undefined) return undefined
    this.#counts.countRemembered()
    return stamp(whole, query, transport === 'tcp' ? TCP_SIZE : udpSize(query))
  }

  #decide(query: Query, transport: Transport, from: Client): Buffer | Promise<Buffer | undefined> {
    const limit = transport === 'tcp' ? TCP_SIZE : udpSize(query)
    const asked = { query, limit, transport, from, startedMs: performance.now() }
    try {
      const decision = this.#answer(asked.query)
      if (decision.kind === 'answer') return this.#shown(asked, decision, 'table')
      const source = decision.kind === 'forward' ? 'upstream' : 'asked'
      return this.#waiting[source]
        .wait(endsOf(from), (signal) =>
          decision.kind === 'forward' ? this.#forward(asked, signal) : this.#askOrGiveUp(asked, decision, signal),
        )
        .catch((error: unknown) => this.#broken(asked, error))
    } catch (error) {
      return this.#broken(asked, error)
    }
  }

  #answer(query: Query): Decision {
    return answer(questionOf(query), this.#parts.table, this.#parts.settings)
  }

  /** To who may not see the services that it tells of, they do not exist. */
  #shown(asked: Asked, answer: Answer, source: Source): Buffer | Promise<Buffer> {
    const sees = answer.tellsOf === undefined || this.#parts.settings.maySee?.(asked.from, answer.tellsOf)
    if (sees === true || sees === undefined) return this.#prepared(asked, answer, source)
    if (sees === false) return this.#reply(asked, this.#hidden(asked), source)
    return sees.then(
      (found) => (found ? this.#prepared(asked, answer, source) : this.#reply(asked, this.#hidden(asked), source)),
      (error: unknown) => this.#broken(asked, error),
    )
  }

  #hidden({ query }: Asked): Answer {
    return unknown(questionOf(query).name, this.#parts.settings, HIDDEN)
  }

  /** At once, unless a listener of the name has to be waited for. */
  #prepared(asked: Asked, answer: Answer, source: Source): Buffer | Promise<Buffer> {
    const { prepare } = this.#parts.settings
    if (answer.target === undefined || prepare === undefined) return this.#reply(asked, answer, source)
    const obstacle = prepare(answer.target)
    if (obstacle === undefined) return this.#reply(asked, answer, source)
    if (typeof obstacle === 'string') return this.#fail(asked, 'SERVFAIL', obstacle, source)
    return obstacle.then(
      (found) =>
        found === undefined ? this.#reply(asked, answer, source) : this.#fail(asked, 'SERVFAIL', found, source),
      (error: unknown) => this.#broken(asked, error),
    )
  }

  #askOrGiveUp(asked: Asked, missing: Missing, signal: AbortSignal): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      signal.addEventListener('abort', () => resolve(this.#fail(asked, 'SERVFAIL', TOO_MANY, 'asked')), { once: true })
      this.#ask(asked, missing).then(resolve, reject)
    })
  }

  async #ask(asked: Asked, missing: Missing): Promise<Buffer> {
    const { interests, settings } = this.#parts
    try {
      await (missing.kind === 'ask' ? interests.want(missing.key) : interests.wantVip(missing.vip))
    } catch (error) {
      this.#logReason(asked, 'the cluster does not answer', error)
      return this.#fail(asked, 'SERVFAIL', undefined, 'asked')
    }
    const decision = this.#answer(asked.query)
    const { name } = questionOf(asked.query)
    const answered = decision.kind === 'answer' ? decision : unknown(name, settings, 'the cluster does not know it')
    return this.#shown(asked, answered, 'asked')
  }

  async #forward(asked: Asked, signal: AbortSignal): Promise<Buffer> {
    const { query, transport, from } = asked
    // The reply is passed through, so its limit is what the client takes, not what we would send ourselves.
    const limit = transport === 'udp' ? Math.max(asked.limit, query.edns?.size ?? 0) : asked.limit
    if (this.#parts.upstream.isOurs(from)) {
      return this.#fail(asked, 'REFUSED', 'a loop: the upstream server forwards to this resolver', 'upstream')
    }
    const forwarded = await this.#parts.upstream.forward(query, { transport, limit, signal })
    if (typeof forwarded === 'string')
      return this.#fail(asked, forwarded, signal.aborted ? TOO_MANY : undefined, 'upstream')
    const { name } = questionOf(query)
    await this.#parts.settings.beforeForwarded?.(from, name.toLowerCase())?.(addressesIn(forwarded))
    this.#counts.count(codeOf(forwarded), 'upstream', asked.startedMs)
    return forwarded
  }

  #reply({ query, limit, startedMs }: Asked, answer: Answer, source: Source): Buffer {
    const { ttlSeconds, negativeTtlSeconds } = this.#parts.settings
    const whole = writeAnswer(query, answer, { seconds: ttlSeconds, negativeSeconds: negativeTtlSeconds })
    if (answer.isLasting) this.#remember(query, whole)
    if (answer.reason !== undefined) this.#logReason({ query }, answer.reason)
    this.#counts.count(CODE[answer.code], source, startedMs)
    return stamp(whole, query, limit)
  }

  #fail({ query, startedMs }: Asked, code: Code, reason: string | undefined, source: Source): Buffer {
    if (reason !== undefined) this.#logReason({ query }, reason)
    this.#counts.count(CODE[code], source, startedMs)
    return writeFault(query.packet, query.end, code, query.edns !== undefined)
  }

  /** A bug here costs one answer, not the agent. */
  #broken(asked: Asked, error: unknown): Buffer {
    this.#log.error('cannot answer a question', { name: questionOf(asked.query).name, error })
    return this.#fail(asked, 'SERVFAIL', undefined, 'table')
  }

  #remember(query: Query, whole: Buffer): void {
    if (this.#remembered >= MEMORY_LIMIT) this.#forget()
    const ofType = this.#memory.get(query.type) ?? new Map<string, Buffer>()
    this.#memory.set(query.type, ofType.set(query.key, whole))
    this.#remembered++
  }

  #forget(): void {
    this.#memory.clear()
    this.#remembered = 0
  }

  #logReason({ query }: Pick<Asked, 'query'>, reason: string, error?: unknown): void {
    if (this.#reasons++ >= REASONS_A_SECOND) {
      this.#silenced++
      return
    }
    const { name } = questionOf(query)
    this.#log.info('question not answered', { name, reason, ...(error === undefined ? {} : { error }) })
  }

  #summarise(): void {
    this.#counts.flush()
    if (this.#silenced > 0) this.#log.info('more questions not answered', { count: this.#silenced })
    this.#reasons = 0
    this.#silenced = 0
  }
}

type Missing = { kind: 'ask'; key: string } | { kind: 'ask-vip'; vip: number }

/** For the log. */
const HIDDEN =
  'who asks may not see this service of an organisation: it is in no `allow` (programs of the node are `node`)'
const TOO_MANY = 'too many questions wait for an answer'

interface Asked {
  query: Query
  /** Bytes that the client takes. */
  limit: number
  transport: Transport
  from: Client
  startedMs: number
}

function endsOf({ address, port, connection }: Client): Ends {
  return connection ?? { protocol: 'udp', remoteAddress: address, remotePort: port }
}
