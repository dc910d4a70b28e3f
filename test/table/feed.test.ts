import t from 'tap'
import { CART, changed, fullOf, KEY, world } from './feed-world.ts'
import { entryOf, settled } from './world.ts'

t.test('it resumes, and then follows changes', async (t) => {
  await using w = await world()
  w.table.restore({ epoch: 'one', seq: 5, keys: [{ key: KEY, usedAt: 0 }], entries: [entryOf(CART)] })
  await w.link.say(new Error('the link broke'))
  await w.clock.advance(60_000)
  t.same(
    w.link.points,
    [
      { epoch: '', seq: 0, keys: [] },
      { epoch: 'one', seq: 5, keys: [KEY] },
    ],
    'the second link resumes where the table is, not from nothing',
  )
  await w.link.resumes({ epoch: 'one', seq: 8, full: false, changes: [changed(7, entryOf(CART, { version: 2 }))] })
  t.equal(w.table.entry(CART)?.version, 2, 'what was missed is applied')
  await w.link.changes('one', [changed(12, entryOf(CART, { version: 3 })), changed(40, entryOf(CART, { version: 4 }))])
  t.equal(w.table.entry(CART)?.version, 4, 'numbers may jump: they count changes of other keys too')
  t.equal(w.table.point().seq, 40, 'the next link resumes after the last change')
  t.same(w.gauges, { services: 1, instances: 1, changes: 4 }, 'the metrics count what the table holds, and each change')
})

t.test('changes before a resumption, or of another epoch, are not applied and cause a resumption', async (t) => {
  await using w = await world()
  await w.link.changes('one', [changed(1, entryOf(CART))])
  t.equal(w.table.counts.services, 0, 'a change before the resumption is not applied')
  await w.clock.advance(60_000)
  t.equal(w.link.points.length, 2, 'the feed resumes again')
  await w.link.resumes(fullOf('one', 1))
  const want = w.interests.want(KEY)
  w.link.asked[0]!.answer({ seq: 1, entries: [entryOf(CART)] })
  await want
  await w.link.changes('two', [changed(2, entryOf(CART, { version: 9 }))])
  t.equal(w.table.entry(CART)?.version, 1, 'a change of another epoch is not applied')
  await w.clock.advance(60_000)
  t.same(w.link.points[2], { epoch: 'one', seq: 1, keys: [KEY] }, 'the feed resumes from where the table is')
  t.equal(w.warnings.length, 2, 'each of the two is warned of')
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
  t.same(w.link.points[2], { epoch: '', seq: 0, keys: [KEY] }, 'a full resumption is asked for')
  await w.link.resumes(fullOf('two', 2))
  t.equal(w.table.entry(CART), undefined, 'what a full resumption does not hold is gone')
})

t.test('a key learned while the link reconnected is requested again', async (t) => {
  await using w = await world()
  const want = w.interests.want(KEY)
  w.link.asked[0]!.answer({ seq: 1, entries: [entryOf(CART)] }) // over the old link
  await want
  await w.link.resumes(fullOf('one', 3)) // the point had been sent before
  t.ok(w.table.entry(CART), 'what is known of it stays, although it was not among the keys that were resumed')
  t.equal(w.link.asked.length, 2, 'so it is asked again over the new link')
  w.link.asked[1]!.answer({ seq: 3, entries: [entryOf(CART, { version: 2 })] })
  await settled()
  t.equal(w.table.entry(CART)?.version, 2, 'the new answer is in the table')
})

t.test('a source that fails at once is not called in a tight loop', async (t) => {
  await using w = await world()
  const calls: number[] = []
  for (let i = 0; i < 6; i++) {
    calls.push(w.link.points.length)
    await w.link.say(new Error('refused'))
    await w.clock.advance(1)
  }
  t.same(calls, [1, 1, 1, 1, 1, 1], 'no new attempt within a few milliseconds')
  await w.clock.advance(250)
  t.equal(w.link.points.length, 2, 'one attempt after the pause')
})

t.test('closing ends it, whatever it waits for', async (t) => {
  const following = await world()
  await following[Symbol.asyncDispose]()
  const resting = await world()
  await resting.link.say(new Error('refused'))
  await resting[Symbol.asyncDispose]()
  t.equal(resting.clock.sleepers, 0, 'nothing waits for the next attempt any more')
})
