import t from 'tap'
import { collectAtRest, watchRest } from '../../src/agent/rest.ts'

t.test('an agent is at rest when no flow is open and none has begun since the last look', async (t) => {
  let carried = { begun: 3, open: 0 }
  const isAtRest = watchRest(() => carried)
  t.ok(isAtRest(), 'flows of earlier do not count')
  carried = { begun: 4, open: 1 }
  t.notOk(isAtRest(), 'one has begun')
  t.notOk(isAtRest(), 'it is open')
  carried = { begun: 4, open: 0 }
  t.ok(isAtRest())
  carried = { begun: 5, open: 0 }
  t.notOk(isAtRest(), 'one has begun and ended')
})

/** What is carried at each look, and how often there was a collection by then. */
const LOOKS = [
  { why: 'the start has left something behind', begun: 0, open: 0, collected: 1 },
  { why: 'nothing was carried since', begun: 0, open: 0, collected: 1 },
  { why: 'flows begin', begun: 999, open: 5, collected: 1 },
  { why: 'they are too few to be worth a stop', begun: 999, open: 0, collected: 1 },
  { why: 'the last of many has begun since the look before', begun: 1_000, open: 0, collected: 1 },
  { why: 'many were carried', begun: 1_000, open: 0, collected: 2 },
  { why: 'many begin', begun: 9_000, open: 7, collected: 2 },
  { why: 'one is still open', begun: 9_000, open: 1, collected: 2 },
  { why: 'rest after them', begun: 9_000, open: 0, collected: 3 },
  { why: 'rest goes on', begun: 9_000, open: 0, collected: 3 },
]

t.test('garbage is collected at rest, after the start and after many flows', async (t) => {
  let carried = { begun: 0, open: 0 }
  let count = 0
  const look = collectAtRest(
    () => carried,
    async () => void (count += 1),
  )
  for (const { why, collected, ...now } of LOOKS) {
    carried = now
    await look()
    t.equal(count, collected, why)
  }
})

t.test('an agent that has carried flows from its start collects when it comes to rest', async (t) => {
  let carried = { begun: 0, open: 0 }
  let count = 0
  const look = collectAtRest(
    () => carried,
    async () => void (count += 1),
  )
  carried = { begun: 10, open: 10 }
  await look()
  t.equal(count, 0)
  carried = { begun: 10, open: 0 }
  await look()
  t.equal(count, 1)
})
