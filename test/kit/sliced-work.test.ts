import t from 'tap'
import { SlicedWork } from '../../src/core/kit/sliced-work.ts'
import { inSlices, Slices } from '../../src/core/kit/slices.ts'

const turn = () => new Promise<void>((resolve) => void setImmediate(resolve))

t.test('of one key one at a time and in order, of others side by side', async (t) => {
  const work = new SlicedWork()
  const told: string[] = []
  const gate = Promise.withResolvers<void>()
  const first = work.add('a', async () => {
    told.push('a1 begins')
    await gate.promise
    told.push('a1 ends')
  })
  const second = work.add('a', async () => void told.push('a2'))
  await work.add('b', async () => void told.push('b'))
  t.same(told, ['a1 begins', 'b'])
  gate.resolve()
  await Promise.all([first, second])
  t.same(told, ['a1 begins', 'b', 'a1 ends', 'a2'])
})

t.test('the beginnings of a slice are together, and what is too much for one turn begins in a later one', async (t) => {
  let [now, slices] = [0, 0]
  const begun: number[] = []
  const work = new SlicedWork({
    sliceMs: 5,
    now: () => now,
    together: (slice) => {
      slices += 1
      slice()
    },
  })
  const all = Array.from({ length: 6 }, (_, i) =>
    work.add(`k${i}`, async () => {
      now += 3
      begun.push(slices)
    }),
  )
  const begunAt: number[] = []
  setImmediate(() => setImmediate(() => begunAt.push(begun.length)))
  await Promise.all(all)
  t.same(begun, [1, 1, 2, 2, 3, 3])
  t.ok((begunAt[0] ?? 6) < 6, 'something else had its turn before all had begun')
})

t.test('what is under way goes on however much of it there is', async (t) => {
  const work = new SlicedWork({ atOnce: 3 })
  const told: number[] = []
  const add = (i: number) => work.add(`k${i}`, () => turn().then(() => work.continued(async () => void told.push(i))))
  await Promise.all(Array.from({ length: 10 }, (_, i) => add(i)))
  t.same(new Set(told), new Set([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]))
  const gone = work.add('a', () => work.continued(async () => void told.push(99)))
  await turn()
  work.clear()
  await t.rejects(gone, { code: 'NOT_RUNNING' }, 'forgotten when the work is')
})

t.test('no more is under way than may be', async (t) => {
  const work = new SlicedWork({ atOnce: 3 })
  let [now, most] = [0, 0]
  await Promise.all(
    Array.from({ length: 10 }, (_, i) =>
      work.add(`k${i}`, async () => {
        most = Math.max(most, ++now)
        await turn()
        now -= 1
      }),
    ),
  )
  t.equal(most, 3)
})

t.test('a failure is that of its own work; one of what they share is told once', async (t) => {
  const failures: unknown[] = []
  let isFull = false
  const work = new SlicedWork({
    together: (slice) => {
      slice()
      if (isFull) throw new Error('the disk is full')
    },
    onFailure: (error) => failures.push(error),
  })
  const refused = work.add('a', () => Promise.reject(new Error('no')))
  const accepted = work.add('b', async () => 7)
  await t.rejects(refused, { message: 'no' })
  t.equal(await accepted, 7)
  isFull = true
  const step = work.continued(async () => undefined)
  await t.rejects(
    work.add('c', async () => undefined),
    { message: 'the disk is full' },
  )
  await t.rejects(step, { message: 'the disk is full' })
  t.match(failures, [{ message: 'the disk is full' }])
  isFull = false
  t.equal(await work.add('c', async () => 8), 8, 'it goes on')
})

t.test('what is cleared does not begin, and what is under way is waited for', async (t) => {
  const work = new SlicedWork()
  const gate = Promise.withResolvers<void>()
  const begun: string[] = []
  void work.add('a', async () => {
    begun.push('a')
    await gate.promise
  })
  const again = work.add('a', async () => void begun.push('a again'))
  await turn()
  const other = work.add('b', async () => void begun.push('b'))
  work.clear()
  await Promise.all([again, other].map((cleared) => t.rejects(cleared, { code: 'NOT_RUNNING' })))
  let isIdle = false
  const idle = work.onIdle().then(() => (isIdle = true))
  await turn()
  t.equal(isIdle, false, 'a is under way')
  gate.resolve()
  await idle
  t.same(begun, ['a'])
})

t.test('a long list is gone through in slices, in order', async (t) => {
  let now = 0
  const seen: number[] = []
  const seenAt: number[] = []
  setImmediate(() => setImmediate(() => seenAt.push(seen.length)))
  const step = (i: number) => {
    now += 1
    seen.push(i)
    return i * 2
  }
  const results = await inSlices([...Array(20).keys()], step, new Slices(() => now))
  t.same(seen, [...Array(20).keys()])
  t.same(
    results,
    seen.map((i) => i * 2),
  )
  t.ok((seenAt[0] ?? 20) < 20, 'something else had its turn before the end')
})

t.test(
  'what the steps of a slice cause in the same turn makes the next slices shorter, and longer again',
  async (t) => {
    let now = 0
    let caused = 9
    const sizes = [0]
    const slices = new Slices(() => now)
    for (let i = 0; i < 200; i++) {
      if (slices.isOver) {
        if (sizes.length === 8) caused = 0
        sizes.push(0)
        await slices.next()
      }
      now += 1
      sizes[sizes.length - 1]! += 1
      void Promise.resolve().then(() => (now += caused)) // goes on when the slice is over
    }
    t.equal(sizes[0], 8, 'before anything is known of it')
    t.ok(
      sizes.slice(3, 8).every((size) => size === 1),
      `ten times as much as it takes itself: ${sizes.join(', ')}`,
    )
    t.ok(
      sizes.slice(12, -1).every((size) => size === 8),
      `nothing more: ${sizes.join(', ')}`,
    )
  },
)
