import fc from 'fast-check'
import t from 'tap'
import { lab } from '../../src/lab/lab.ts'
import { conditionsOf, printConditions } from '../../src/lab/link/conditions.ts'
import { hasNetem, netemOf } from '../../src/lab/link/link.ts'
import { Transit, Wire } from '../../src/lab/link/wire.ts'
import { linkContract } from '../contracts/link.ts'
import { lacking, nameFor, destroy } from '../../src/lab/namespace.ts'
import { text } from '../../src/lab/program.ts'

const never = () => 0.999_999
const always = () => 0

t.test('when a frame comes out', async (t) => {
  const rows = [
    { why: 'no conditions', conditions: {}, frames: [[100, 5]], due: [5] },
    {
      why: 'delay',
      conditions: { delayMs: 20 },
      frames: [
        [100, 5],
        [100, 6],
      ],
      due: [25, 26],
    },
    {
      why: '1 Mbit/s is 125 bytes a millisecond',
      conditions: { rateMbit: 1 },
      frames: [
        [125, 0],
        [250, 0],
        [125, 10],
      ],
      due: [1, 3, 11],
    },
    {
      why: 'rate, then delay',
      conditions: { rateMbit: 1, delayMs: 10 },
      frames: [
        [125, 0],
        [125, 0],
      ],
      due: [11, 12],
    },
    {
      why: 'a full queue drops',
      conditions: { rateMbit: 1, queueKiB: 1 },
      frames: [
        [1000, 0],
        [1000, 0],
        [125, 8],
      ],
      due: [8, undefined, 9],
    },
  ] as const
  for (const { why, conditions, frames, due } of rows) {
    const wire = new Wire(conditions, never)
    t.same(
      frames.map(([bytes, at]) => wire.accept(bytes, at)),
      due,
      why,
    )
  }
  t.equal(new Wire({ lossPercent: 1 }, always).accept(100, 0), undefined, 'lost')
  t.equal(new Wire({ lossPercent: 100 }, never).accept(100, 0), undefined, 'all lost')
  t.equal(new Wire({ delayMs: 50, reorderPercent: 1 }, always).accept(100, 7), 7, 'overtakes')
})

t.test('frames keep their order unless they overtake, whatever the jitter', async (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ after: fc.nat(5), bytes: fc.integer({ min: 1, max: 1500 }) }), { maxLength: 50 }),
      fc.array(fc.double({ min: 0, max: 0.999, noNaN: true }), { minLength: 1, maxLength: 20 }),
      (frames, draws) => {
        let at = 0
        let now = 0
        const wire = new Wire({ delayMs: 30, jitterMs: 30, rateMbit: 5 }, () => draws[at++ % draws.length] as number)
        const transit = new Transit()
        const sent: number[] = []
        for (const [index, { after, bytes }] of frames.entries()) {
          now += after
          const due = wire.accept(bytes, now)
          if (due === undefined) continue
          sent.push(index)
          transit.add(due, Buffer.of(index))
        }
        const seen: number[] = []
        for (let frame = transit.take(1e9); frame !== undefined; frame = transit.take(1e9))
          seen.push(frame[0] as number)
        t.same(seen, sent)
      },
    ),
    { numRuns: 50 },
  )
  const transit = new Transit()
  for (const [due, mark] of [
    [10, 1],
    [20, 2],
    [5, 3],
    [15, 4],
  ] as const)
    transit.add(due, Buffer.of(mark))
  t.equal(transit.take(4), undefined)
  t.same(
    [5, 10, 15, 20].map((now) => transit.take(now)?.[0]),
    [3, 1, 4, 2],
    'by their time',
  )
  t.equal(transit.due, undefined)
})

t.test('conditions', async (t) => {
  t.throws(() => conditionsOf({ lossPercent: 101 }), /lossPercent 101/)
  t.throws(() => conditionsOf({ delayMs: -1 }), /delayMs -1/)
  t.throws(() => conditionsOf({ rateMbit: 0 }), /rateMbit 0/)
  t.throws(() => conditionsOf({ delayMs: Number.NaN }), /NaN/)
  t.throws(() => conditionsOf({ jitterMs: 5 }), /jitterMs/)
  t.equal(printConditions({ delayMs: 50, jitterMs: 5, lossPercent: 1, rateMbit: 20 }), '50 ms ± 5, 1 % loss, 20 Mbit/s')
  t.equal(printConditions({}), 'no conditions')
  t.equal(
    netemOf({ delayMs: 50, jitterMs: 5, lossPercent: 1, rateMbit: 20 }).join(' '),
    'netem limit 359 delay 50ms 5ms loss 1% rate 20mbit',
  )
})

const skip = (await lacking()) ?? false
const kinds =
  skip === false ? ((await netemHere()) ? (['user-space', 'netem'] as const) : (['user-space'] as const)) : []

async function netemHere(): Promise<boolean> {
  const name = nameFor('netem')
  await text(['ip', 'netns', 'add', name])
  try {
    return await hasNetem(name)
  } finally {
    destroy([name])
  }
}

for (const kind of kinds) {
  t.test(`a ${kind} link`, (t) => linkContract(kind, { ok: (fact, what) => t.ok(fact, what) }))
}

t.test('a lab says what it cannot do', { skip }, async (t) => {
  await t.rejects(lab({ publics: ['a'], conditions: { b: {} } }), /conditions for b/)
  await t.rejects(lab({ publics: ['a'], conditions: { a: { delayMs: -5 } } }), /delayMs -5/)
})
