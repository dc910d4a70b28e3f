import { Backoff } from '../kit/backoff.ts'
import { systemClock, type Clock } from '../kit/clock.ts'
import { Lifetime } from '../kit/lifetime.ts'
import type { Log } from '../kit/log.ts'
import type { Change, FeedMessage, ResumePoint, Resumed } from '../model/change.ts'
import type { InterestKey } from '../model/ids.ts'
import type { FeedSource } from './feed-source.ts'
import type { Interests } from './interests.ts'
import type { Table } from './table.ts'

/**
 * Keeps the table up to date from the cluster's numbered changes.
 *
 *   cluster ──resumed──▶ changes ──▶ changes ──▶ …   link lost   ──resumed (from our number)──▶ changes …
 *
 * The numbers are the cluster's own and count changes of every key, so a node that follows a few keys sees gaps; within one
 * link nothing is lost, and each change is a whole entry. What can go wrong, and what is done about it:
 *
 *   the link comes up again       `resumed` brings what was missed since our number, or everything (`full`)
 *   changes before any `resumed`, or of another epoch   they are not applied; we leave the stream and resume
 *   another epoch, not `full`     it is not applied; we resume without a number, which brings everything
 *   a number below ours           skipped, since resuming has covered it
 *   a known key that was not among those resumed        it is asked for again
 *
 * Meanwhile the table serves what it knows, as it does while the cluster is down.
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
  /** The keys of the last resume point. */
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
        if (!signal.aborted) this.#log.warn('the feed was interrupted', { error })
      }
      if (!signal.aborted) await this.#clock.sleep(this.#backoff.nextMs(), signal)
    }
  }

  /** Returns when the stream ends or must not be followed any further. */
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
        throw new Error(`not a feed message: ${String(message satisfies never)}`)
    }
  }

  #resume(resumed: Resumed): boolean {
    const before = this.#table.epoch
    const asked = this.#asked
    if (!this.#table.resume(resumed, asked)) {
      this.#table.restart()
      this.#log.warn('the cluster resumed with another numbering, and not in full; asking for everything', {
        epoch: resumed.epoch,
      })
      return false
    }
    this.#isResumed = true
    this.#backoff.reset()
    this.#interests.renew(asked)
    if (before !== '' && before !== resumed.epoch) this.#log.info('the cluster has started a new numbering', { before })
    this.#log.debug('table resumed', { seq: resumed.seq, full: resumed.full, changes: resumed.changes.length })
    return true
  }

  #apply(epoch: string, changes: readonly Change[]): boolean {
    if (!this.#isResumed || epoch !== this.#table.epoch) {
      this.#log.warn('changes with another numbering; resuming', { epoch, known: this.#table.epoch })
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

/** The metrics that the feed maintains. */
export interface FeedMetrics {
  tableServices: { set(value: number): void }
  tableInstances: { set(value: number): void }
  tableChanges: { inc(): void }
}
