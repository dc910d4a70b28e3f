import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { silentLog } from '../../src/core/kit/log.ts'
import { INSTANCE_STATES } from '../../src/core/model/instance.ts'
import { eventsOf } from '../../src/orchestrator/root/events/event-changes.ts'
import { EVENT_WORDS, isAbout, type Event } from '../../src/orchestrator/root/events/event.ts'
import { Events } from '../../src/orchestrator/root/events/events.ts'
import type { InstanceRecord } from '../../src/orchestrator/root/root-store.ts'
import { ManualClock, settle } from '../support/manual-clock.ts'

const CART = 'shop.acme.cart.prod'

function place(t: Tap): string {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-events-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}
type Tap = Pick<typeof t, 'teardown'>

function whats(events: readonly Event[]): string[] {
  return events.map(({ what }) => what)
}

t.test('a change of a record is told in the words of the history', async (t) => {
  const node = (id: string) => ({ id, addresses: [], relays: [] })
  const rows: { why: string; from: Partial<InstanceRecord>; to: Partial<InstanceRecord>; told: string[] }[] = [
    { why: 'nothing that matters', from: { state: 'running' }, to: { state: 'running', detail: 'x' }, told: [] },
    { why: 'a cluster is asked', from: { state: 'requested' }, to: { state: 'placed', cluster: 'edge' }, told: [] },
    { why: 'a node', from: { state: 'placed' }, to: { state: 'placed', node: node('edge/n1') }, told: ['placed'] },
    {
      why: 'several at once, since reports are gathered',
      from: { state: 'placed' },
      to: { state: 'running', node: node('edge/n1') },
      told: ['placed', 'started', 'ready'],
    },
    {
      why: 'another node',
      from: { state: 'lost', node: node('edge/n1') },
      to: { state: 'starting', node: node('edge/n2') },
      told: ['moved', 'started'],
    },
    {
      why: 'another cluster',
      from: { state: 'placed', leftOn: [{ node: 'edge/n1', at: 1 }] },
      to: { state: 'placed', node: node('west/n1') },
      told: ['moved'],
    },
    {
      why: 'another node, after some that did not take it',
      from: { state: 'placed', was: { node: 'edge/n1' } },
      to: { state: 'placed', node: node('edge/n3') },
      told: ['moved'],
    },
    {
      why: 'where it was, as no other has taken it',
      from: { state: 'placed', was: { node: 'edge/n1' } },
      to: { state: 'running', node: node('edge/n1') },
      told: ['started', 'ready'],
    },
    { why: 'its check fails', from: { state: 'running' }, to: { state: 'starting', detail: '503' }, told: ['unready'] },
    {
      why: 'it ended',
      from: { state: 'running' },
      to: { state: 'starting', restarts: 1, detail: 'exit 1' },
      told: ['restarted'],
    },
    {
      why: 'it ended and is ready already',
      from: { state: 'running' },
      to: { state: 'running', restarts: 1 },
      told: ['restarted'],
    },
    {
      why: 'a new document',
      from: { state: 'running', generation: 1 },
      to: { state: 'starting', generation: 2 },
      told: ['updated', 'started'],
    },
    {
      why: 'a newer run beside it',
      from: { state: 'running', generation: 1 },
      to: { state: 'running', generation: 2, successor: { generation: 2, state: 'placed', restarts: 0 } },
      told: ['updated'],
    },
    {
      why: 'the newer run has taken over',
      from: { state: 'running', generation: 2, successor: { generation: 2, state: 'running', restarts: 0 } },
      to: { state: 'running', generation: 2 },
      told: ['ready'],
    },
    {
      why: 'the newer run was given up',
      from: { state: 'running', generation: 2, successor: { generation: 2, state: 'failed', restarts: 0 } },
      to: { state: 'running', generation: 1 },
      told: ['failed'],
    },
    {
      why: 'its update waits',
      from: { state: 'running' },
      to: { state: 'running', waits: 'no room' },
      told: ['stuck'],
    },
    {
      why: 'fits nowhere',
      from: { state: 'requested' },
      to: { state: 'unplaceable', detail: 'full' },
      told: ['unplaceable'],
    },
    {
      why: 'fits nowhere for another reason',
      from: { state: 'unplaceable', detail: 'full' },
      to: { state: 'unplaceable', detail: 'no gpu' },
      told: ['unplaceable'],
    },
    { why: 'lost', from: { state: 'running' }, to: { state: 'lost' }, told: ['lost'] },
    { why: 'drains', from: { state: 'running' }, to: { state: 'stopping' }, told: ['draining'] },
    { why: 'a job is done', from: { state: 'running' }, to: { state: 'stopped' }, told: ['finished'] },
    { why: 'given up', from: { state: 'starting' }, to: { state: 'failed' }, told: ['failed'] },
  ]
  const record = (part: Partial<InstanceRecord>): InstanceRecord => ({
    id: `${CART}.0`,
    service: CART,
    ordinal: 0,
    wanted: true,
    generation: 1,
    state: 'requested',
    restarts: 0,
    changedAt: 0,
    ...part,
  })
  for (const { why, from, to, told } of rows)
    t.same(
      eventsOf(record(from), record(to)).map(({ what }) => what),
      told,
      why,
    )
  const seen = new Set(rows.map(({ to }) => to.state))
  t.same(
    INSTANCE_STATES.filter((state) => !seen.has(state)),
    ['requested'],
    'every state that an instance comes to is in the table',
  )
})

t.test('a name finds what it contains', async (t) => {
  const event: Event = {
    number: 1,
    at: 0,
    what: 'ready',
    by: 'worker',
    service: CART,
    instance: `${CART}.1`,
    node: 'edge/n1',
    cluster: 'edge',
  }
  const names = ['shop.acme', 'shop.acme.cart', CART, `${CART}.1`, 'edge/n1', 'edge']
  for (const name of names) t.ok(isAbout(event, name), name)
  for (const name of [`${CART}.10`, 'shop.acme.car', 'edge/n', 'n1']) t.notOk(isAbout(event, name), name)
})

t.test('what was told is there after a restart, and numbers never go back', async (t) => {
  const dir = place(t)
  const clock = new ManualClock()
  const first = await Events.open({ dir, clock, log: silentLog })
  first.record({ instance: `${CART}.0`, what: 'started', by: 'worker' })
  first.record({ node: 'edge/n1', what: 'lost', by: 'cluster', why: 'silent' })
  await clock.advance(1_000)
  await first[Symbol.asyncDispose]()
  const before = first.list({}, 10)
  t.match(before, [
    { service: CART, what: 'started' },
    { cluster: 'edge', what: 'lost', why: 'silent' },
  ])

  appendFileSync(join(dir, 'events.jsonl'), `{"number":9,"at":1,"what":"no such word","by":"user"}\n{"number":99`) // torn
  await using second = await Events.open({ dir, clock, log: silentLog })
  t.same(second.list({}, 10), before, 'without what cannot be read')
  second.record({ service: CART, what: 'scaled', by: 'user' })
  t.ok((second.list({}, 1)[0]?.number ?? 0) > (before.at(-1)?.number ?? 0), 'the next number is larger')
  await clock.advance(1_000)
  await settle(200)
  await second[Symbol.asyncDispose]()
  await using third = await Events.open({ dir, clock, log: silentLog })
  t.same(whats(third.list({}, 10)), ['started', 'lost', 'scaled'], 'a line after the torn one is whole')
})

t.test('the history is bounded: in total, of each service, and on the disk', async (t) => {
  const dir = place(t)
  const bounds = { most: 100, mostOfEach: 10 }
  await using events = await Events.open({ dir, clock: new ManualClock(), log: silentLog, bounds })
  events.record({ service: 'quiet.a.b.c', what: 'applied', by: 'user' })
  for (let count = 0; count < 1_000; count++)
    events.record({ service: CART, what: 'restarted', by: 'worker', why: `${count}` })
  t.equal(events.list({}, 1_000).length, 11, 'one that crashes all the time does not push out the others')
  t.equal(events.list({ name: CART }, 1_000).at(-1)?.why, '999', 'the newest are kept')
  for (let count = 0; count < 5_000; count++) events.record({ node: `edge/n${count}`, what: 'joined', by: 'cluster' })
  t.equal(events.list({}, 10_000).length, 100)
  t.same(events.list({ name: CART }, 1), [], 'the oldest are forgotten')
  await events[Symbol.asyncDispose]()
  const lines = () => readFileSync(join(dir, 'events.jsonl'), 'utf8').trimEnd().split('\n')
  t.equal(lines().length, 100, 'what was forgotten before it was written is not written')
  for (let round = 0; round < 30; round++) {
    const again = await Events.open({ dir, clock: new ManualClock(), log: silentLog, bounds })
    for (let count = 0; count < 100; count++) again.record({ node: `edge/m${count}`, what: 'joined', by: 'cluster' })
    await again[Symbol.asyncDispose]()
  }
  t.ok(lines().length <= 1_400, `${lines().length} lines`)
  t.equal(statSync(join(dir, 'events.jsonl')).mode & 0o777, 0o600)
})

t.test('a disk that takes nothing stops nothing, and gets all of it later', async (t) => {
  const dir = place(t)
  const clock = new ManualClock()
  const path = join(dir, 'events.jsonl')
  mkdirSync(path) // nothing can be written there
  await using events = await Events.open({ dir, clock, log: silentLog })
  events.record({ service: CART, what: 'applied', by: 'user' })
  await clock.advance(1_000)
  t.same(whats(events.list({}, 10)), ['applied'])
  rmSync(path, { recursive: true })
  events.record({ service: CART, what: 'scaled', by: 'user' })
  for (let turn = 0; turn < 100; turn++) await clock.advance(1_000)
  await events[Symbol.asyncDispose]()
  t.match(readFileSync(path, 'utf8'), /"applied"[^]*"scaled"/)
})

t.test('what fails again and again for the same reason is told once', async (t) => {
  await using events = await Events.open({ dir: place(t), clock: new ManualClock(), log: silentLog })
  const instance = `${CART}.0`
  const refused = (why: string) => events.record({ instance, cluster: 'edge', what: 'refused', by: 'cluster', why })
  for (let count = 0; count < 5; count++) for (const why of ['full', 'no gpu']) refused(why)
  t.same(
    events.list({}, 100).map(({ why }) => why),
    ['full', 'no gpu'],
  )
  events.record({ instance, what: 'placed', by: 'cluster' })
  refused('full')
  t.equal(events.list({}, 100).length, 4, 'something else happened meanwhile')
})

t.test('who follows gets everything once, in order, from where it was', async (t) => {
  const clock = new ManualClock()
  await using events = await Events.open({ dir: place(t), clock, log: silentLog, bounds: { most: 10, mostOfEach: 10 } })
  events.record({ service: CART, what: 'applied', by: 'user' })
  const stop = new AbortController()
  const got: Event[] = []
  let missing = 0
  const after = events.last
  const following = (async () => {
    for await (const { events: some, isMissing } of events.follow({ name: CART, after }, stop.signal)) {
      got.push(...some)
      if (isMissing) missing++
    }
  })()
  await settle()
  events.record({ service: CART, what: 'scaled', by: 'user' })
  events.record({ service: 'other.a.b.c', what: 'applied', by: 'user' })
  await clock.advance(100)
  t.same(whats(got), ['scaled'], 'what came before, and what is about others, is left out')
  for (let count = 0; count < 20; count++)
    events.record({ service: CART, what: 'restarted', by: 'worker', why: `${count}` })
  await clock.advance(100)
  t.same(
    got.slice(1).map(({ why }) => why),
    Array.from({ length: 10 }, (_, index) => `${index + 10}`),
  )
  t.equal(missing, 1, 'a reader that was too slow is told that some have been forgotten')
  stop.abort()
  await following
  t.throws(() => {
    for (let count = 0; count < 100; count++) void iterate(events.follow({}, AbortSignal.timeout(0)))
  }, /read/)
})

t.test('every state and every event is explained', async (t) => {
  const page = (path: string) => readFileSync(join(import.meta.dirname, '../..', path), 'utf8')
  const states = [...page('ARCHITECTURE.md').matchAll(/^\| (\w+) \| .*`.*\|$/gm)].map(([, state]) => state)
  for (const state of INSTANCE_STATES) t.ok(states.includes(state), state)
  const [, events = ''] = page('docs/operations.md').split('| event | meaning |')
  for (const [word, meaning] of Object.entries(EVENT_WORDS)) t.ok(events.includes(`| ${word} | ${meaning} |`), word)
})

async function iterate(source: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of source) return
}
