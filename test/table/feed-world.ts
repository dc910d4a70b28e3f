import { Backoff } from '../../src/core/kit/backoff.ts'
import { silentLog, type Log } from '../../src/core/kit/log.ts'
import type { Change, ResumePoint, Resumed, ServiceEntry } from '../../src/core/model/change.ts'
import { Feed } from '../../src/core/table/feed.ts'
import type { FeedMessage } from '../../src/core/model/change.ts'
import type { FeedSource } from '../../src/core/table/feed-source.ts'
import { Interests, type InterestLimits } from '../../src/core/table/interests.ts'
import { Table, type Answer } from '../../src/core/table/table.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { nameOf, settled } from './world.ts'

export const CART = 'shop.acme.cart.prod'
export const KEY = 'shop.acme.cart'
export const VIP = 0xe0100
export const NAME = nameOf(`${CART}.any.rr`)

export const changed = (seq: number, entry: ServiceEntry): Change => ({ seq, kind: 'service', key: KEY, entry })
export const fullOf = (epoch: string, seq: number, entries: readonly ServiceEntry[] = []): Resumed => {
  return { epoch, seq, full: true, changes: entries.map((entry) => changed(seq, entry)) }
}

/** The control link, in the hands of the test. */
export class Link implements FeedSource {
  readonly asked: Array<{
    key: string
    signal: AbortSignal
    answer: (answer: Answer) => void
    fail: (error: Error) => void
  }> = []
  readonly askedVips: Array<{ vip: number; answer: (key: string | undefined) => void; fail: (error: Error) => void }> =
    []
  readonly forgotten: string[] = []
  /** The resume points this link was opened with, one for each `messages()`. */
  readonly points: ResumePoint[] = []
  #say: ((message: FeedMessage | Error | undefined) => void) | undefined

  ask(key: string, signal: AbortSignal): Promise<Answer> {
    return new Promise((answer, fail) => {
      signal.addEventListener('abort', () => fail(signal.reason as Error))
      this.asked.push({ key, signal, answer, fail })
    })
  }

  askVip(vip: number, signal: AbortSignal): Promise<string | undefined> {
    return new Promise((answer, fail) => {
      signal.addEventListener('abort', () => fail(signal.reason as Error))
      this.askedVips.push({ vip, answer, fail })
    })
  }

  forget(keys: readonly string[]): void {
    this.forgotten.push(...keys)
  }

  async *messages(point: () => ResumePoint, signal: AbortSignal): AsyncGenerator<FeedMessage> {
    const waiting: Array<FeedMessage | Error | undefined> = []
    let wake = () => {}
    this.#say = (message) => {
      waiting.push(message)
      wake()
    }
    signal.addEventListener('abort', () => this.#say?.(undefined))
    this.points.push(point())
    while (true) {
      while (waiting.length === 0) await new Promise<void>((resolve) => (wake = resolve))
      const message = waiting.shift()
      if (message instanceof Error) throw message
      if (message === undefined) return
      yield message
    }
  }

  async say(message: FeedMessage | Error): Promise<void> {
    this.#say?.(message)
    await settled()
  }

  async resumes(resumed: Resumed): Promise<void> {
    await this.say({ kind: 'resumed', resumed })
  }

  async changes(epoch: string, changes: readonly Change[]): Promise<void> {
    await this.say({ kind: 'changes', epoch, changes })
  }
}

export async function world(limits: Partial<InterestLimits> = {}) {
  const clock = new ManualClock()
  const table = new Table({ clock })
  const link = new Link()
  const warnings: string[] = []
  const log: Log = { ...silentLog, warn: (sentence) => warnings.push(sentence), child: () => log }
  const gauges = { services: -1, instances: -1, changes: 0 }
  const metrics = {
    tableServices: { set: (value: number) => (gauges.services = value) },
    tableInstances: { set: (value: number) => (gauges.instances = value) },
    tableChanges: { inc: () => (gauges.changes += 1) },
  }
  const interests = await Interests.start({ table, source: link, clock, limits }, log)
  const backoff = new Backoff({ random: () => 1 })
  const feed = await Feed.start({ table, interests, source: link, clock, backoff }, log, metrics)
  await settled()
  return {
    clock,
    table,
    link,
    interests,
    warnings,
    gauges,
    async [Symbol.asyncDispose]() {
      await feed.close()
      await interests.close()
    },
  }
}
