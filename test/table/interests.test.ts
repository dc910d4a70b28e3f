import t from 'tap'
import { MeshError } from '../../src/core/errors.ts'
import { CART, changed, fullOf, KEY, NAME, VIP, world } from './feed-world.ts'
import { entryOf, settled } from './world.ts'

t.test('concurrent lookups share one request', async (t) => {
  await using w = await world()
  const wants = [w.interests.want(KEY), w.interests.want(KEY), w.interests.want(KEY)]
  t.same(
    w.link.asked.map(({ key }) => key),
    [KEY],
    'three lookups of one key are one question',
  )
  w.link.asked[0]!.answer({ seq: 1, entries: [entryOf(CART)] })
  await Promise.all(wants)
  t.equal(w.table.find(NAME).kind, 'target', 'the answer is in the table')
  t.same(w.interests.keys(), [KEY], 'the key is followed from now on')
  t.equal(w.clock.sleepers, 0, 'nobody is left waiting')
})

t.test('a key without entries is remembered as unknown', async (t) => {
  await using w = await world()
  const want = w.interests.want(KEY)
  w.link.asked[0]!.answer({ seq: 1, entries: [] })
  await want
  t.match(
    w.table.find(NAME),
    { kind: 'unknown', reason: 'app shop.acme has no service cart' },
    'the table says that there is no such service',
  )
})

t.test('waiting is bounded, and a late answer serves the next lookup', async (t) => {
  await using w = await world()
  const late = t.rejects(
    w.interests.want(KEY),
    { code: 'REQUEST_TIMEOUT', details: { key: KEY, ms: 2_000 } },
    'the first lookup gives up after two seconds',
  )
  await w.clock.advance(1_900)
  const second = w.interests.want(KEY)
  await w.clock.advance(100)
  await late
  t.equal(w.table.find(NAME).kind, 'unasked', 'the table does not pretend to know')
  t.equal(w.link.asked.length, 1, 'the second joined the same question')
  w.link.asked[0]!.answer({ seq: 1, entries: [entryOf(CART)] })
  await second
  t.equal(w.table.find(NAME).kind, 'target', 'the late answer serves the second lookup')
})

t.test('a lookup while the link is down fails, and the next one asks again', async (t) => {
  await using w = await world()
  const first = t.rejects(w.interests.want(KEY), { code: 'LINK_CLOSED' }, 'the lookup fails with the link')
  w.link.asked[0]!.fail(new MeshError('LINK_CLOSED'))
  await first
  t.equal(w.table.find(NAME).kind, 'unasked', 'the table does not pretend to know')
  const second = t.rejects(
    w.interests.want(KEY),
    { code: 'LINK_CLOSED', cause: { message: 'socket hang up' } },
    'the next lookup asks again, and fails with its own cause',
  )
  w.link.asked[1]!.fail(new Error('socket hang up'))
  await second
  t.same(w.interests.keys(), [], 'no key is followed')
})

t.test('a change that overtakes the answer is not lost', async (t) => {
  await using w = await world()
  await w.link.resumes(fullOf('one', 9))
  const want = w.interests.want(KEY)
  w.link.asked[0]!.answer({ seq: 10, entries: [entryOf(CART, { version: 1 })] })
  // the answer's promise has not been read yet when the change is there
  await Promise.all([w.link.changes('one', [changed(11, entryOf(CART, { version: 2 }))]), want])
  t.equal(w.table.entry(CART)?.version, 2, 'the newer entry stays')
})

t.test('a VIP resolves to its service', async (t) => {
  await using w = await world()
  const wants = [w.interests.wantVip(VIP), w.interests.wantVip(VIP)]
  t.equal(w.link.askedVips.length, 1, 'two lookups of one VIP are one question')
  w.link.askedVips[0]!.answer(KEY)
  await settled()
  w.link.asked[0]!.answer({ seq: 1, entries: [entryOf(CART)] })
  await Promise.all(wants)
  t.equal(w.table.byVip(VIP)?.service.id, CART, 'the VIP is that of the service')
})

t.test('an unassigned VIP is not requested again at once', async (t) => {
  await using w = await world()
  const want = w.interests.wantVip(VIP)
  w.link.askedVips[0]!.answer(undefined)
  await want
  await w.interests.wantVip(VIP)
  t.equal(w.link.askedVips.length, 1, 'the answer "nobody" is remembered')
  await w.clock.advance(5_000)
  w.interests.sweep()
  const failing = t.rejects(w.interests.wantVip(VIP), { code: 'LINK_CLOSED' }, 'and fails when the link does')
  t.equal(w.link.askedVips.length, 2, 'after some seconds it is asked again')
  w.link.askedVips[1]!.fail(new Error('gone'))
  await failing
})

t.test('a flood of invented names is bounded', async (t) => {
  await using w = await world({ maxAsking: 3, maxKeys: 5 })
  for (let i = 0; i < 3; i++) w.interests.want(`a.b.c${i}`).catch(() => undefined)
  await t.rejects(
    w.interests.want('a.b.c4'),
    { code: 'REQUEST_TIMEOUT', details: { reason: /too many/ } },
    'the fourth question at one time is refused',
  )
  t.equal(w.link.asked.length, 3, 'and is not put on the link')
  for (let i = 0; i < 20; i++) {
    for (const question of w.link.asked.splice(0)) question.answer({ seq: 1, entries: [] })
    await settled()
    await w.clock.advance(1)
    w.interests.want(`a.b.d${i}`).catch(() => undefined)
  }
  t.ok(w.table.counts.keys <= 5, `no more than five keys are kept: ${w.table.counts.keys}`)
  t.ok(w.link.forgotten.length >= 15, 'the cluster is told of each key that is dropped')
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
  t.same(w.link.forgotten, [], 'for a few seconds each key is kept')
  w.table.byVip(0xe0200) // a flow to stock
  await w.clock.advance(200)
  w.interests.sweep()
  t.same(w.link.forgotten, ['shop.acme.none'], 'a key that holds nothing goes after seconds')
  await w.clock.advance(5_000)
  w.interests.sweep()
  t.same(w.link.forgotten, ['shop.acme.none', KEY], 'a key unused for ten seconds goes, the one with a flow stays')
  t.equal(w.table.entry(CART), undefined, 'with its service')
  t.equal(w.table.byVip(VIP), undefined, 'and its VIP')
  w.table.touch('shop.acme.stock') // a long flow
  await w.clock.advance(9_000)
  w.interests.sweep()
  t.same(w.interests.keys(), ['shop.acme.stock'], 'a long flow keeps its key')
})

t.test('an interest added while the link is down is requested when it is up', async (t) => {
  await using w = await world()
  w.interests.wish([KEY])
  w.link.asked[0]!.fail(new MeshError('LINK_CLOSED'))
  await settled()
  await w.link.resumes(fullOf('one', 1))
  t.equal(w.link.asked.length, 2, 'it is asked again once the link is up')
  w.link.asked[1]!.answer({ seq: 1, entries: [entryOf(CART)] })
  await settled()
  t.equal(w.table.find(NAME).kind, 'target', 'the answer is in the table')
  w.interests.wish([KEY])
  t.equal(w.link.asked.length, 2, 'what is known already is not asked for')
})

t.test('closing ends pending requests', async (t) => {
  const w = await world()
  const want = t.rejects(w.interests.want(KEY), { code: 'REQUEST_TIMEOUT' }, 'a lookup that still waits fails')
  await w[Symbol.asyncDispose]()
  await want
})
