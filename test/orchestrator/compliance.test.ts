import fc from 'fast-check'
import { test } from 'tap'
import {
  groupsOf,
  mayMoveAt,
  MOST_SAMPLES,
  requestElsewhere,
  taken,
  verdict,
  type Group,
  type History,
} from '../../src/orchestrator/scheduling/compliance.ts'
import type { Constraint } from '../../src/orchestrator/spec.ts'
import { specOf } from './specs.ts'

const group = (rigidness?: number, convergenceSeconds = 60): Group => [
  {
    type: 'latency',
    service: 'shop.acme.db',
    threshold: 20,
    convergenceSeconds,
    ...(rigidness === undefined ? {} : { rigidness }),
  },
]

/** One measurement every five seconds: `+` kept, `-` missed. */
function after(marks: string, of: Group): { history: History; now: number } {
  let history: History = { since: 1_000, samples: [] }
  let now = 1_000
  for (const mark of marks) {
    history = taken(history, { at: now, kept: mark === '+' }, of)
    now += 5_000
  }
  return { history, now: now - 5_000 }
}

test('rigidness is the share of measurements that must keep to it, once convergence_time is over', async (t) => {
  const rows: { why: string; marks: string; of: Group; kind: string }[] = [
    {
      why: 'nothing is violated before the time until it must',
      marks: '-'.repeat(11),
      of: group(1),
      kind: 'converging',
    },
    { why: 'then it is', marks: '-'.repeat(13), of: group(1), kind: 'violated' },
    { why: 'with 1 the first miss counts', marks: '+'.repeat(20) + '-', of: group(1), kind: 'violated' },
    { why: 'with 0.9 one of twelve does not', marks: '+'.repeat(20) + '-', of: group(0.9), kind: 'kept' },
    { why: 'but two of twelve do', marks: '+'.repeat(20) + '--', of: group(0.9), kind: 'violated' },
    { why: 'without a rigidness nine of ten are required', marks: '+'.repeat(20) + '-', of: group(), kind: 'kept' },
    { why: 'what has recovered is not moved any more', marks: '-'.repeat(20) + '+', of: group(1), kind: 'kept' },
    { why: 'with 0 every miss is allowed', marks: '-'.repeat(30), of: group(0), kind: 'kept' },
    { why: 'nothing measured is nothing known', marks: '', of: group(1, 0), kind: 'converging' },
    { why: 'without a time the first miss counts at once', marks: '-', of: group(1, 0), kind: 'violated' },
  ]
  for (const { why, marks, of, kind } of rows) {
    const { history, now } = after(marks, of)
    t.equal(verdict(history, of, now).kind, kind, why)
  }
  const { history, now } = after('+'.repeat(10) + '-'.repeat(6), group(1))
  t.same(verdict(history, group(1), now), { kind: 'violated', kept: 6, of: 12 }, 'the share is that of the last minute')
})

test('the history is bounded, whatever the time until it must', async (t) => {
  fc.assert(
    fc.property(
      fc.nat(100_000),
      fc.array(fc.record({ after: fc.nat(60_000), kept: fc.boolean() }), { maxLength: 400 }),
      (seconds, all) => {
        const of = group(0.5, seconds)
        let history: History = { since: 1, samples: [] }
        let now = 1
        for (const { after, kept } of all) {
          now += after
          history = taken(history, { at: now, kept }, of)
          const judged = verdict(history, of, now)
          if (judged.kind !== 'converging' && (judged.kept > judged.of || judged.of > MOST_SAMPLES)) return false
        }
        return history.samples.length <= MOST_SAMPLES
      },
    ),
    { numRuns: 100, seed: 21 },
  )
  t.pass('no history grew beyond its bound')
})

test('each move makes the next one wait longer', async (t) => {
  const minute = 60_000
  t.equal(mayMoveAt([], group()), Number.NEGATIVE_INFINITY, 'the first is made at once')
  t.equal(mayMoveAt([0], group()), minute, 'the second after a minute')
  t.equal(mayMoveAt([0], group(1, 300)), 5 * minute, 'or after convergence_time')
  t.equal(mayMoveAt([0, minute], group()), 3 * minute, 'the third after two more')
  t.equal(mayMoveAt([0, minute, 3 * minute], group()), 7 * minute)
  t.equal(
    mayMoveAt(
      Array.from({ length: 8 }, (_, i) => i * minute),
      group(),
    ),
    (7 + 60) * minute,
    'never longer than an hour',
  )
  t.equal(mayMoveAt([0, 130 * minute], group()), 131 * minute, 'old moves are forgotten')
})

test('places of a kind hold together, services each for itself', async (t) => {
  const { constraints } = specOf({
    constraints: [
      { type: 'geo', location: '48,11', threshold: 5 },
      { type: 'latency', service: 'shop.acme.db', threshold: 20 },
      { type: 'latency', service: 'shop.acme.log', threshold: 30 },
      { type: 'latency', area: 'munich' },
      { type: 'geo', location: '52,13', threshold: 5 },
      { type: 'addons', needs: ['camera'] },
    ],
  })
  const names = (one: Constraint) => one.service ?? one.area ?? `${one.location?.lat}`
  t.same(
    groupsOf(constraints).map((one) => one.map(names)),
    [['shop.acme.db'], ['shop.acme.log'], ['munich'], ['48', '52']],
  )
  const spec = specOf({ constraints: [{ type: 'latency', service: 'shop.acme.db', threshold: 20 }] })
  const [only] = groupsOf(spec.constraints)
  t.equal(
    requestElsewhere({ spec }, only as Group).spec.constraints[0]?.threshold,
    18,
    'another place must be worth the move',
  )
  t.equal(requestElsewhere({ spec }, group()).spec.constraints[0]?.threshold, 20, 'what is not violated stays as it is')
})
