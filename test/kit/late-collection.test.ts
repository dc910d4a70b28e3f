import t from 'tap'
import type { Collection } from '../../src/core/kit/collection.ts'
import { LateCollection } from '../../src/core/kit/late-collection.ts'
import { ManualClock } from '../support/manual-clock.ts'

function disk() {
  const rows = new Map<string, number>()
  const state = { isFull: false, transactions: 0 }
  const saved = {
    get: (key) => rows.get(key),
    put: (key, value) => void rows.set(key, value),
    delete: (key) => rows.delete(key),
  } as Collection<number>
  const together = (work: () => void) => {
    if (state.isFull) throw new Error('disk full')
    state.transactions++
    work()
  }
  const clock = new ManualClock()
  return { rows, state, clock, late: new LateCollection({ saved, together, clock }) }
}

t.test('what is written is read at once, and on disk a moment later', async (t) => {
  const { rows, clock, late } = disk()
  late.put('a', 1)
  late.put('a', 2)
  t.equal(late.get('a'), 2)
  t.equal(rows.size, 0)
  await clock.advance(100)
  t.same([...rows], [['a', 2]])
  late.delete('a')
  t.equal(late.get('a'), undefined)
  await clock.advance(100)
  t.same([...rows], [])
})

t.test('thousands are written in slices; what changes all the time is not put off for ever', async (t) => {
  const { rows, state, clock, late } = disk()
  for (let count = 0; count < 100; count++) late.put(`${count}`, count)
  await clock.advance(100)
  t.equal(rows.size, 25)
  await clock.advance(1_000)
  t.same([rows.size, state.transactions], [100, 4])
  for (let turn = 0; turn < 200; turn++) {
    late.put('busy', turn)
    await clock.advance(50)
  }
  t.ok(Number(rows.get('busy')) > 40, 'every five seconds')
})

t.test('what a full disk does not take is written when there is room', async (t) => {
  const { rows, state, clock, late } = disk()
  state.isFull = true
  late.put('a', 1)
  await clock.advance(1_000)
  t.equal(late.get('a'), 1)
  state.isFull = false
  await clock.advance(5_000)
  t.equal(rows.get('a'), 1)
})

t.test('the end writes what is late, and nothing after it', async (t) => {
  const { rows, state, clock, late } = disk()
  for (let count = 0; count < 60; count++) late.put(`${count}`, count)
  late[Symbol.dispose]()
  t.equal(rows.size, 60)
  late.put('late', 1)
  await clock.advance(10_000)
  t.equal(rows.size, 60)
  t.equal(clock.sleepers, 0)

  const full = disk()
  full.late.put('a', 1)
  full.state.isFull = true
  full.late[Symbol.dispose]()
  t.equal(full.rows.size, 0, 'a full disk does not keep it from ending')
  t.equal(state.transactions, 3)
})
