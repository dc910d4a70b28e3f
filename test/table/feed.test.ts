import t from 'tap'
import { MeshError } from '../../src/core/errors.ts'
import { Backoff } from '../../src/core/kit/backoff.ts'
import { silentLog, type Log } from '../../src/core/kit/log.ts'
import type { Change, ResumePoint, Resumed, ServiceEntry } from '../../src/core/model/change.ts'
import { Feed } from '../../src/core/table/feed.ts'
import type { FeedMessage } from '../../src/core/model/change.ts'
import type { FeedSource } from '../../src/core/table/feed-source.ts'
import { Interests, type InterestLimits } from '../../src/core/table/interests.ts'
import { Table, type Answer } from '../../src/core/table/table.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { entryOf, nameOf, settled } from './world.ts'

const CART = 'shop.acme.cart.prod'
const KEY = 'shop.acme.cart'
const VIP = 0xe0100
const NAME = nameOf(`${CART}.any.rr`)

const changed = (seq: number, entry: ServiceEntry): Change => ({ seq, kind: 'service', key: KEY, entry })
const fullOf = (epoch: string, seq: number, entries: readonly ServiceEntry[] = []): Resumed => {
  return { epoch, seq, full: true, changes: entries.map((entry) => changed(seq, entry)) }
}

/** The control link, in the hands of the test. */
class Link implements FeedSource {
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

async function world(limits: Partial<InterestLimits> = {}) {
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

t.test('interests are requested once, and released when unused', async (t) => {
  t.test('concurrent lookups share one request', async (t) => {
    await using w = await world()
    const wants = [w.interests.want(KEY), w.interests.want(KEY), w.interests.want(KEY)]
    t.same(
      w.link.asked.map(({ key }) => key),
      [KEY],
    )
    w.link.asked[0]!.answer({ seq: 1, entries: [entryOf(CART)] })
    await Promise.all(wants)
    t.equal(w.table.find(NAME).kind, 'target')
    t.same(w.interests.keys(), [KEY])
    t.equal(w.clock.sleepers, 0, 'nobody is left waiting')
  })

  t.test('a key without entries is remembered as unknown', async (t) => {
    await using w = await world()
    const want = w.interests.want(KEY)
    w.link.asked[0]!.answer({ seq: 1, entries: [] })
    await want
    t.match(w.table.find(NAME), { kind: 'unknown', reason: 'app shop.acme has no service cart' })
  })

  t.test('waiting is bounded, and a late answer serves the next lookup', async (t) => {
    await using w = await world()
    const late = t.rejects(w.interests.want(KEY), { code: 'REQUEST_TIMEOUT', details: { key: KEY, ms: 2_000 } })
    await w.clock.advance(1_900)
    const second = w.interests.want(KEY)
    await w.clock.advance(100)
    await late
    t.equal(w.table.find(NAME).kind, 'unasked')
    t.equal(w.link.asked.length, 1, 'the second joined the same question')
    w.link.asked[0]!.answer({ seq: 1, entries: [entryOf(CART)] })
    await second
    t.equal(w.table.find(NAME).kind, 'target')
  })

  t.test('a lookup while the link is down fails, and the next one asks again', async (t) => {
    await using w = await world()
    const first = t.rejects(w.interests.want(KEY), { code: 'LINK_CLOSED' })
    w.link.asked[0]!.fail(new MeshError('LINK_CLOSED'))
    await first
    t.equal(w.table.find(NAME).kind, 'unasked')
    const second = t.rejects(w.interests.want(KEY), { code: 'LINK_CLOSED', cause: { message: 'socket hang up' } })
    w.link.asked[1]!.fail(new Error('socket hang up'))
    await second
    t.same(w.interests.keys(), [])
  })

  t.test('a change that overtakes the answer is not lost', async (t) => {
    await using w = await world()
    await w.link.resumes(fullOf('one', 9))
    const want = w.interests.want(KEY)
    w.link.asked[0]!.answer({ seq: 10, entries: [entryOf(CART, { version: 1 })] })
    // the answer's promise has not been read yet when the change is there
    await Promise.all([w.link.changes('one', [changed(11, entryOf(CART, { version: 2 }))]), want])
    t.equal(w.table.entry(CART)?.version, 2)
  })

  t.test('a VIP resolves to its service', async (t) => {
    await using w = await world()
    const wants = [w.interests.wantVip(VIP), w.interests.wantVip(VIP)]
    t.equal(w.link.askedVips.length, 1)
    w.link.askedVips[0]!.answer(KEY)
    await settled()
    w.link.asked[0]!.answer({ seq: 1, entries: [entryOf(CART)] })
    await Promise.all(wants)
    t.equal(w.table.byVip(VIP)?.service.id, CART)
  })

  t.test('an unassigned VIP is not requested again at once', async (t) => {
    await using w = await world()
    const want = w.interests.wantVip(VIP)
    w.link.askedVips[0]!.answer(undefined)
    await want
    await w.interests.wantVip(VIP)
    t.equal(w.link.askedVips.length, 1)
    await w.clock.advance(5_000)
    w.interests.sweep()
    const failing = t.rejects(w.interests.wantVip(VIP), { code: 'LINK_CLOSED' })
    t.equal(w.link.askedVips.length, 2)
    w.link.askedVips[1]!.fail(new Error('gone'))
    await failing
  })

  t.test('a flood of invented names is bounded', async (t) => {
    await using w = await world({ maxAsking: 3, maxKeys: 5 })
    for (let i = 0; i < 3; i++) w.interests.want(`a.b.c${i}`).catch(() => undefined)
    await t.rejects(w.interests.want('a.b.c4'), { code: 'REQUEST_TIMEOUT', details: { reason: /too many/ } })
    t.equal(w.link.asked.length, 3)
    for (let i = 0; i < 20; i++) {
      for (const question of w.link.asked.splice(0)) question.answer({ seq: 1, entries: [] })
      await settled()
      await w.clock.advance(1)
      w.interests.want(`a.b.d${i}`).catch(() => undefined)
    }
    t.ok(w.table.counts.keys <= 5, `${w.table.counts.keys} keys`)
    t.ok(w.link.forgotten.length >= 15, 'and the cluster was notified')
  })

  t.test('an interest unused for long is dropped, and one in use is kept', async (t) => {
    await using w = await world({ idleMs: 10_000 })
    const stock = entryOf('shop.acme.stock.prod', { vip: 0xe0200 })
    for (const [key, entries] of [
      [KEY, [entryOf(CART)]],
      ['shop.acme.stock', [stock]],
      ['shop.acme.none', []],
    ] as const) {
      const want = w.interests.want(key)
      w.link.asked.pop()!.answer({ seq: 1, entries })
      await want
    }
    await w.clock.advance(4_900)
    w.interests.sweep()
    t.same(w.link.forgotten, [])
    w.table.byVip(0xe0200) // a flow to stock
    await w.clock.advance(200)
    w.interests.sweep()
    t.same(w.link.forgotten, ['shop.acme.none'], 'a key that holds nothing goes after seconds')
    await w.clock.advance(5_000)
    w.interests.sweep()
    t.same(w.link.forgotten, ['shop.acme.none', KEY])
    t.equal(w.table.entry(CART), undefined)
    t.equal(w.table.byVip(VIP), undefined)
    w.table.touch('shop.acme.stock') // a long flow
    await w.clock.advance(9_000)
    w.interests.sweep()
    t.same(w.interests.keys(), ['shop.acme.stock'])
  })

  t.test('an interest added while the link is down is requested when it is up', async (t) => {
    await using w = await world()
    w.interests.wish([KEY])
    w.link.asked[0]!.fail(new MeshError('LINK_CLOSED'))
    await settled()
    await w.link.resumes(fullOf('one', 1))
    t.equal(w.link.asked.length, 2)
    w.link.asked[1]!.answer({ seq: 1, entries: [entryOf(CART)] })
    await settled()
    t.equal(w.table.find(NAME).kind, 'target')
    w.interests.wish([KEY])
    t.equal(w.link.asked.length, 2, 'known already')
  })

  t.test('closing ends pending requests', async (t) => {
    const w = await world()
    const want = t.rejects(w.interests.want(KEY), { code: 'REQUEST_TIMEOUT' })
    await w[Symbol.asyncDispose]()
    await want
  })
})

t.test('the feed resumes and follows changes', async (t) => {
  t.test('it resumes, and then follows changes', async (t) => {
    await using w = await world()
    w.table.restore({ epoch: 'one', seq: 5, keys: [{ key: KEY, usedAt: 0 }], entries: [entryOf(CART)] })
    await w.link.say(new Error('the link broke'))
    await w.clock.advance(60_000)
    t.same(w.link.points, [
      { epoch: '', seq: 0, keys: [] },
      { epoch: 'one', seq: 5, keys: [KEY] },
    ])
    await w.link.resumes({ epoch: 'one', seq: 8, full: false, changes: [changed(7, entryOf(CART, { version: 2 }))] })
    t.equal(w.table.entry(CART)?.version, 2)
    await w.link.changes('one', [
      changed(12, entryOf(CART, { version: 3 })),
      changed(40, entryOf(CART, { version: 4 })),
    ])
    t.equal(w.table.entry(CART)?.version, 4, 'numbers may jump: they count changes of other keys too')
    t.equal(w.table.point().seq, 40)
    t.same(w.gauges, { services: 1, instances: 1, changes: 4 })
  })

  t.test('changes before a resumption, or of another epoch, are not applied and cause a resumption', async (t) => {
    await using w = await world()
    await w.link.changes('one', [changed(1, entryOf(CART))])
    t.equal(w.table.counts.services, 0)
    await w.clock.advance(60_000)
    t.equal(w.link.points.length, 2, 'asked again')
    await w.link.resumes(fullOf('one', 1))
    const want = w.interests.want(KEY)
    w.link.asked[0]!.answer({ seq: 1, entries: [entryOf(CART)] })
    await want
    await w.link.changes('two', [changed(2, entryOf(CART, { version: 9 }))])
    t.equal(w.table.entry(CART)?.version, 1)
    await w.clock.advance(60_000)
    t.same(w.link.points[2], { epoch: 'one', seq: 1, keys: [KEY] })
    t.equal(w.warnings.length, 2)
    await w.link.resumes(fullOf('two', 2, [entryOf(CART, { version: 1, nodes: ['edge/n9'] })]))
    t.equal(w.table.entry(CART)?.instances[0]?.node, 'edge/n9', 'a new epoch’s word counts whatever its version')
  })

  t.test('a partial resumption in another epoch is refused, and a full one is requested', async (t) => {
    await using w = await world()
    w.table.restore({ epoch: 'one', seq: 5, keys: [{ key: KEY, usedAt: 0 }], entries: [entryOf(CART)] })
    await w.link.say(new Error('the link broke'))
    await w.clock.advance(60_000)
    await w.link.resumes({ epoch: 'two', seq: 2, full: false, changes: [] })
    t.ok(w.table.entry(CART), 'what was known is served meanwhile')
    await w.clock.advance(60_000)
    t.same(w.link.points[2], { epoch: '', seq: 0, keys: [KEY] })
    await w.link.resumes(fullOf('two', 2))
    t.equal(w.table.entry(CART), undefined)
  })

  t.test('a key learned while the link reconnected is requested again', async (t) => {
    await using w = await world()
    const want = w.interests.want(KEY)
    w.link.asked[0]!.answer({ seq: 1, entries: [entryOf(CART)] }) // over the old link
    await want
    await w.link.resumes(fullOf('one', 3)) // the point had been sent before
    t.ok(w.table.entry(CART), 'it was not among the keys that were resumed')
    t.equal(w.link.asked.length, 2)
    w.link.asked[1]!.answer({ seq: 3, entries: [entryOf(CART, { version: 2 })] })
    await settled()
    t.equal(w.table.entry(CART)?.version, 2)
  })

  t.test('a source that fails at once is not called in a tight loop', async (t) => {
    await using w = await world()
    const calls: number[] = []
    for (let i = 0; i < 6; i++) {
      calls.push(w.link.points.length)
      await w.link.say(new Error('refused'))
      await w.clock.advance(1)
    }
    t.same(calls, [1, 1, 1, 1, 1, 1])
    await w.clock.advance(250)
    t.equal(w.link.points.length, 2)
  })

  t.test('closing ends it, whatever it waits for', async (t) => {
    const following = await world()
    await following[Symbol.asyncDispose]()
    const resting = await world()
    await resting.link.say(new Error('refused'))
    await resting[Symbol.asyncDispose]()
    t.equal(resting.clock.sleepers, 0)
  })
})
