import t from 'tap'
import { SteadyMap } from '../../src/core/kit/steady-map.ts'

t.test('it is a Map: what is set is there, in the order of its keys, until it is deleted', async (t) => {
  const map = new SteadyMap<string, { n: number }>()
  for (const [n, key] of ['a', 'b', 'c', 'd'].entries()) map.set(key, { n })
  t.equal(map.size, 4)
  t.strictSame([map.delete('b'), map.delete('b')], [true, false], 'what is gone cannot be deleted again')
  map.set('e', { n: 4 })
  map.set('a', { n: 9 })
  t.strictSame([map.has('a'), map.has('b'), map.get('a'), map.get('b')], [true, false, { n: 9 }, undefined])
  t.strictSame(
    Array.from(map.values(), ({ n }) => n),
    [9, 2, 3, 4],
    'a place that was free does not change the order, nor does a new value',
  )
  map.clear()
  t.strictSame([map.size, map.has('a'), [...map.values()]], [0, false, []])
})

t.test('entries may come and go while its values are read', async (t) => {
  const map = new SteadyMap<number, { n: number }>()
  for (const n of [1, 2, 3]) map.set(n, { n })
  const read: number[] = []
  for (const { n } of map.values()) {
    read.push(n)
    map.delete(n)
    map.delete(2)
    if (n === 1) map.set(4, { n: 4 })
  }
  t.strictSame(read, [1, 3, 4])
  t.equal(map.size, 0)
})

t.test('after a burst it is empty, and is used again', async (t) => {
  const map = new SteadyMap<number, { n: number }>()
  for (let n = 0; n < 5_000; n++) map.set(n, { n })
  for (let n = 0; n < 5_000; n++) map.delete(n)
  t.equal(map.size, 0)
  map.set(7, { n: 7 })
  t.strictSame([...map.values()], [{ n: 7 }])
})
