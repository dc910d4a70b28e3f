import { MeshError, isMeshError } from '../errors.ts'
import { systemClock, type Clock } from '../kit/clock.ts'
import { Lifetime } from '../kit/lifetime.ts'
import type { Log } from '../kit/log.ts'
import type { InterestKey } from '../model/ids.ts'
import type { VipIndex } from '../model/service.ts'
import type { FeedSource } from './feed-source.ts'
import type { Table } from './table.ts'
import type { InterestSource } from './view.ts'

export interface InterestLimits {
  /**
   * How long a caller waits; less than stub resolvers wait before they ask again (musl 2.5 s, glibc 5 s). Smaller: a slow link, or a
   * root behind the cluster, means SERVFAIL. Larger: a dead link hangs programs.
   */
  waitMs: number
  /** How long the question itself may take. A late answer still helps a client that asks again. */
  askMs: number
  /** An interest that is not used for this long is dropped. Smaller: the first question after a quiet night waits again. */
  idleMs: number
  /** Interests kept at most; the control message that resumes them has the same bound. */
  maxKeys: number
  /** Questions under way at most, so that a flood of invented names does not become a flood at the cluster. */
  maxAsking: number
}

const LIMITS: InterestLimits = {
  waitMs: 2_000,
  askMs: 5_000,
  idleMs: 24 * 3_600_000,
  maxKeys: 10_000,
  maxAsking: 256,
}

/** How often unused interests are dropped. */
const SWEEP_MS = 30_000

/** How long "no service has this VIP" is believed. */
const EMPTY_VIP_MS = 5_000

/** What this node wants to know. One question to the cluster serves all who ask at the same time, and the interest is kept. */
export class Interests implements InterestSource, AsyncDisposable {
  readonly #life: Lifetime
  readonly #table: Table
  readonly #source: Pick<FeedSource, 'ask' | 'askVip' | 'forget'>
  readonly #log: Log
  readonly #clock: Clock
  readonly #limits: InterestLimits
  readonly #asking = new Map<InterestKey, Promise<void>>()
  readonly #askingVip = new Map<VipIndex, Promise<void>>()
  readonly #emptyVips = new Map<VipIndex, number>()
  readonly #wishes = new Set<InterestKey>()

  private constructor(life: Lifetime, parts: InterestParts, log: Log) {
    this.#life = life
    this.#table = parts.table
    this.#source = parts.source
    this.#clock = parts.clock ?? systemClock
    this.#limits = { ...LIMITS, ...parts.limits }
    this.#log = log.child({ part: 'interests' })
  }

  static start(parts: InterestParts, log: Log): Promise<Interests> {
    return Lifetime.open((life) => {
      const interests = new Interests(life, parts, log)
      life.every(SWEEP_MS, () => interests.sweep(), 'interest clean-up')
      return interests
    })
  }

  want(key: InterestKey): Promise<void> {
    return this.#within(this.#asking.get(key) ?? this.#ask(key), { key })
  }

  wantVip(vip: VipIndex): Promise<void> {
    const emptyUntil = this.#emptyVips.get(vip)
    if (emptyUntil !== undefined && this.#clock.now() < emptyUntil) return Promise.resolve()
    return this.#within(this.#askingVip.get(vip) ?? this.#askVip(vip), { vip })
  }

  /** Asks now, or as soon as the link is up. For services that an SLA says will be called. */
  wish(keys: Iterable<InterestKey>): void {
    for (const key of keys) {
      if (this.#table.isKnown(key) || this.#wishes.size >= this.#limits.maxKeys) continue
      this.#wishes.add(key)
      this.want(key).catch(() => undefined) // renewed when the link comes up
    }
  }

  /** The link is up again, and the cluster has resumed these keys: asks for those it cannot know of. */
  renew(resumed: readonly InterestKey[]): void {
    const covered = new Set(resumed)
    for (const key of new Set([...this.#wishes, ...this.#table.keys()])) {
      if (!covered.has(key)) this.want(key).catch(() => undefined) // the next resumption tries again
    }
  }

  keys(): readonly InterestKey[] {
    return this.#table.keys()
  }

  /** Drops what nobody has used for long, and keys under which there was nothing. */
  sweep(): void {
    this.#forget(this.#table.idle(this.#limits.idleMs))
    const now = this.#clock.now()
    for (const [vip, until] of this.#emptyVips) if (until <= now) this.#emptyVips.delete(vip)
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #ask(key: InterestKey): Promise<void> {
    if (this.#asking.size >= this.#limits.maxAsking) return Promise.reject(tooMany({ key }))
    this.#makeRoom()
    this.#table.expect(key)
    const asking = this.#asked(key).finally(() => this.#asking.delete(key))
    asking.catch(() => undefined) // the caller may have stopped waiting
    this.#asking.set(key, asking)
    return asking
  }

  async #asked(key: InterestKey): Promise<void> {
    try {
      this.#table.learn(key, await this.#source.ask(key, this.#deadline()))
      this.#wishes.delete(key)
    } catch (error) {
      this.#table.unexpect(key)
      throw asLinkFault(error, { key })
    }
  }

  #askVip(vip: VipIndex): Promise<void> {
    if (this.#askingVip.size >= this.#limits.maxAsking) return Promise.reject(tooMany({ vip }))
    const asking = this.#askedVip(vip).finally(() => this.#askingVip.delete(vip))
    asking.catch(() => undefined)
    this.#askingVip.set(vip, asking)
    return asking
  }

  async #askedVip(vip: VipIndex): Promise<void> {
    let key: InterestKey | undefined
    try {
      key = await this.#source.askVip(vip, this.#deadline())
    } catch (error) {
      throw asLinkFault(error, { vip })
    }
    if (key !== undefined) return this.#asking.get(key) ?? this.#ask(key)
    if (this.#emptyVips.size >= this.#limits.maxKeys) this.#emptyVips.clear()
    this.#emptyVips.set(vip, this.#clock.now() + EMPTY_VIP_MS)
    return undefined
  }

  /** Waits for an answer, for which others may be waiting too, but no longer than `waitMs`. */
  async #within(asking: Promise<void>, details: Record<string, unknown>): Promise<void> {
    const { waitMs } = this.#limits
    const answered = new AbortController()
    const late = this.#clock.sleep(waitMs, answered.signal).then(() => {
      if (!answered.signal.aborted) throw new MeshError('REQUEST_TIMEOUT', { ...details, ms: waitMs })
    })
    try {
      await Promise.race([asking, late])
    } finally {
      answered.abort()
    }
  }

  #deadline(): AbortSignal {
    return AbortSignal.any([this.#life.signal, AbortSignal.timeout(this.#limits.askMs)])
  }

  /** At the limit, the interest that has been unused for longest makes room. */
  #makeRoom(): void {
    if (this.#table.counts.keys < this.#limits.maxKeys) return
    const [oldest] = this.#table.idle(Number.NEGATIVE_INFINITY)
    if (oldest !== undefined) this.#forget([oldest])
  }

  #forget(keys: readonly InterestKey[]): void {
    const idle = keys.filter((key) => !this.#asking.has(key))
    if (idle.length === 0) return
    this.#table.forget(idle)
    this.#source.forget(idle)
    this.#log.debug('interests dropped', { keys: idle.length })
  }
}

export interface InterestParts {
  table: Table
  source: Pick<FeedSource, 'ask' | 'askVip' | 'forget'>
  limits?: Partial<InterestLimits>
  clock?: Clock
}

function tooMany(details: Record<string, unknown>): MeshError {
  return new MeshError('REQUEST_TIMEOUT', { ...details, reason: 'too many questions to the cluster are unanswered' })
}

/** What the source threw, as one of our errors: an aborted question has timed out; anything else is a fault of the link. */
function asLinkFault(error: unknown, details: Record<string, unknown>): MeshError {
  if (isMeshError(error)) return error
  const isAbort = error instanceof Error && (error.name === 'AbortError' || error.name === 'TimeoutError')
  return new MeshError(isAbort ? 'REQUEST_TIMEOUT' : 'LINK_CLOSED', details, { cause: error })
}
