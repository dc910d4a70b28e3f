import { Backoff } from '../kit/backoff.ts'
import { systemClock, type Clock } from '../kit/clock.ts'
import { Lifetime } from '../kit/lifetime.ts'
import type { Log } from '../kit/log.ts'
import type { Change, ResumePoint, Resumed } from '../model/change.ts'
import type { InterestKey } from '../model/ids.ts'
import type { VipIndex } from '../model/service.ts'
import type { Interests } from './interests.ts'
import type { Answer, Table } from './table.ts'

/**
 * Keeps the table up to date from the cluster's numbered changes.
 *
 *   cluster ──resumed──▶ changes ──▶ changes ──▶ …   link lost   ──resumed (from our number)──▶ changes …
 *
 * Numbers are the cluster's own and count changes of every key, so a node that follows a few keys sees them jump; within
 * one link nothing is lost, and each change is a whole entry. What could be wrong, and what is done:
 *
 *   a link comes up anew          `resumed` brings what was missed since our number, or everything (`full`)
 *   changes before any `resumed`, or of another epoch   not applied; we leave the stream and resume
 *   another epoch, not `full`     not applied; we resume without a number, which brings everything
 *   a number from before ours     skipped: resuming has covered it
 *   a key known, but not among those resumed            asked for again
 *
 * Meanwhile the table keeps serving what it knew, as it does when the cluster is down.
 */
export class Feed implements AsyncDisposable {
  readonly #life: Lifetime
  readonly #table: Table
  readonly #interests: Pick<Interests, 'renew'>
  readonly #source: Pick<FeedSource, 'messages'>
  readonly #clock: Clock
  readonly #backoff: Backoff
  readonly #log: Log
  readonly #metrics: FeedMetrics
  /** The keys of the last resume point that was handed out. */
  #asked: readonly InterestKey[] = []
  /** Whether this stream has begun with a `resumed`. */
  #isResumed = false

  private constructor(life: Lifetime, parts: FeedParts, log: Log, metrics: FeedMetrics) {
    this.#life = life
    this.#table = parts.table
    this.#interests = parts.interests
    this.#source = parts.source
    this.#clock = parts.clock ?? systemClock
    this.#backoff = parts.backoff ?? new Backoff()
    this.#log = log.child({ part: 'feed' })
    this.#metrics = metrics
  }

  static start(parts: FeedParts, log: Log, metrics: FeedMetrics): Promise<Feed> {
    return Lifetime.open((life) => {
      const feed = new Feed(life, parts, log, metrics)
      feed.#count()
      life.defer(
        parts.table.onChange(() => {
          metrics.tableChanges.inc()
          feed.#count()
        }),
      )
      life.spawn((signal) => feed.#run(signal), 'table feed')
      return feed
    })
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        await this.#follow(signal)
      } catch (error) {
        if (!signal.aborted) this.#log.warn('the feed broke off', { error })
      }
      if (!signal.aborted) await this.#clock.sleep(this.#backoff.nextMs(), signal)
    }
  }

  /** Returns when the stream ends, or must not be followed any longer. */
  async #follow(signal: AbortSignal): Promise<void> {
    this.#isResumed = false
    for await (const message of this.#source.messages(() => this.#point(), signal)) {
      if (signal.aborted || !this.#take(message)) return
    }
  }

  #point(): ResumePoint {
    const point = this.#table.point()
    this.#asked = point.keys
    return point
  }

  #take(message: FeedMessage): boolean {
    switch (message.kind) {
      case 'resumed':
        return this.#resume(message.resumed)
      case 'changes':
        return this.#apply(message.epoch, message.changes)
      default:
        throw new Error(`not a message of the feed: ${String(message satisfies never)}`)
    }
  }

  #resume(resumed: Resumed): boolean {
    const before = this.#table.epoch
    const asked = this.#asked
    if (!this.#table.resume(resumed, asked)) {
      this.#table.restart()
      this.#log.warn('the cluster resumed another numbering in part; asking for everything', { epoch: resumed.epoch })
      return false
    }
    this.#isResumed = true
    this.#backoff.reset()
    this.#interests.renew(asked)
    if (before !== '' && before !== resumed.epoch) this.#log.info('the cluster numbers its changes anew', { before })
    this.#log.debug('table resumed', { seq: resumed.seq, full: resumed.full, changes: resumed.changes.length })
    return true
  }

  #apply(epoch: string, changes: readonly Change[]): boolean {
    if (!this.#isResumed || epoch !== this.#table.epoch) {
      this.#log.warn('changes of another numbering; resuming', { epoch, known: this.#table.epoch })
      return false
    }
    for (const change of changes) this.#table.apply(change)
    return true
  }

  #count(): void {
    const { services, instances } = this.#table.counts
    this.#metrics.tableServices.set(services)
    this.#metrics.tableInstances.set(instances)
  }
}

export interface FeedParts {
  table: Table
  interests: Pick<Interests, 'renew'>
  source: Pick<FeedSource, 'messages'>
  clock?: Clock
  backoff?: Backoff
}

/** The node's control link, as the table needs it; the agent hands it over. */
export interface FeedSource {
  /** Subscribes to the key and answers with all there is under it. @throws MeshError REQUEST_TIMEOUT or LINK_CLOSED */
  ask(key: InterestKey, signal: AbortSignal): Promise<Answer>
  /** The key of the service behind a VIP; `undefined` when there is none. Same errors. */
  askVip(vip: VipIndex, signal: AbortSignal): Promise<InterestKey | undefined>
  /** Unsubscribes; nothing is answered. */
  forget(keys: readonly InterestKey[]): void
  /**
   * Each time the link is up (also when this is called and it is up already): sends `point()`, yields the answer as `resumed`, then
   * `changes` as they come, in order. Ends when the signal aborts or the consumer leaves the loop.
   */
  messages(point: () => ResumePoint, signal: AbortSignal): AsyncIterable<FeedMessage>
}

export type FeedMessage =
  | { kind: 'resumed'; resumed: Resumed }
  | { kind: 'changes'; epoch: string; changes: readonly Change[] }

/** The part of the metrics that the feed keeps. */
export interface FeedMetrics {
  tableServices: { set(value: number): void }
  tableInstances: { set(value: number): void }
  tableChanges: { inc(): void }
}
