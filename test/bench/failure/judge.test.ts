import t from 'tap'
import { disturbance, type FailureRow, isReached, longestGapMs, noteOf, rowOf, tableOf } from './judge.ts'
import type { Samples } from './load.ts'
import { timelineOf } from './timeline.ts'

/** The parts of the benchmark that decide: what the client saw goes in as plain figures. */

/** A request every 5 ms from 1,000 on, each answered in 1 ms, unless `other` says how one went. */
function samplesOf(count: number, other: Readonly<Record<number, [tookMs: number, what: number]>> = {}): Samples {
  const requests = Array.from({ length: count }, (_, i) => {
    const [took, what] = other[i] ?? [1, 0]
    return [1_000 + i * 5, took, what] as const
  })
  return {
    requests,
    errors: ['ECONNRESET', 'no answer in 2000 ms'],
    answers: ['shop.bench.target.bench.0 good1 7'],
    stoodStillMs: 3,
  }
}

t.test('what the client saw of a fault', async (t) => {
  const rows = [
    { why: 'nothing', samples: samplesOf(100), sees: { failed: 0, longestGapMs: 5, recoveredMs: 0 } },
    {
      why: 'one failure right after the fault',
      samples: samplesOf(100, { 50: [3, -1] }),
      sees: { failed: 1, longestGapMs: 10, recoveredMs: 3 },
    },
    {
      why: 'one that waited in vain while others were answered',
      samples: samplesOf(100, { 52: [2_000, -2] }),
      sees: { failed: 1, longestGapMs: 10, recoveredMs: 2_010 },
    },
    {
      why: 'one that was late and was answered',
      samples: samplesOf(100, { 50: [300, 0] }),
      sees: { failed: 0, longestGapMs: 54, recoveredMs: 300 },
    },
    {
      why: 'a failure that was over before the fault counts as one, and not as recovery',
      samples: samplesOf(100, { 10: [3, -1] }),
      sees: { failed: 1, longestGapMs: 10, recoveredMs: 0 },
    },
  ]
  for (const { why, samples, sees } of rows) {
    const row = rowOf({ fault: 'instance killed', goal: 'failed <= 1', at: 1_250, samples })
    const { failed, longestGapMs: gap, recoveredMs } = row
    t.same({ failed, longestGapMs: gap, recoveredMs }, sees, why)
    const keys = ['fault', 'requests', 'failed', 'longestGapMs', 'recoveredMs', 'goal', 'ok']
    t.same(Object.keys(row), keys, 'the keys of --json')
  }
})

t.test('the longest time without an answer', async (t) => {
  const failed: [number, number] = [1, -1]
  const rows = [
    { why: 'no request at all', samples: samplesOf(0), is: 0 },
    { why: 'none was answered', samples: samplesOf(3, { 0: failed, 1: failed, 2: failed }), is: 10 },
    { why: 'until the first answer', samples: samplesOf(4, { 0: failed, 1: failed }), is: 11 },
    { why: 'from the last answer to the end', samples: samplesOf(5, { 3: failed, 4: failed }), is: 9 },
    { why: 'an answer may come before that of an earlier request', samples: samplesOf(3, { 0: [100, 0] }), is: 89 },
  ]
  for (const { why, samples, is } of rows) t.equal(longestGapMs(samples), is, why)
})

t.test('goals', async (t) => {
  const of = (failed: number, gapMs = 5, requests = 100) => ({ requests, failed, longestGapMs: gapMs })
  const rows = [
    { goal: 'failed = 0', of: of(0, 5_000), is: true },
    { goal: 'failed = 0', of: of(1), is: false },
    { goal: 'failed <= 1', of: of(1), is: true },
    { goal: 'failed <= 1', of: of(2), is: false },
    { goal: 'gap <= 1000 ms', of: of(9, 1_000), is: true },
    { goal: 'gap <= 1000 ms', of: of(0, 1_001), is: false },
    { goal: 'told', of: of(99, 9_000), is: true },
    { goal: 'failed = 0', of: of(0, 0, 0), is: false },
  ] as const
  for (const { goal, of: row, is } of rows) t.equal(isReached(goal, row), is, `${goal}: ${JSON.stringify(row)}`)
})

t.test('the table and the notes for people', async (t) => {
  const row: FailureRow = {
    fault: 'instance killed',
    requests: 1_200,
    failed: 2,
    longestGapMs: 12,
    recoveredMs: 2_001,
    goal: 'failed <= 1',
    ok: false,
  }
  const lines = tableOf([row, { ...row, fault: 'root killed', failed: 0, recoveredMs: 0, ok: true }])
  t.match(lines[0], /^fault +requests +failed +longest gap +recovered +goal$/)
  t.match(lines[1], /^instance killed +1200 +2 +12 ms +2001 ms +failed <= 1 +NOT REACHED$/)
  t.match(lines[2], /^root killed +1200 +0 +12 ms +not noticed +failed <= 1$/)
  const samples = samplesOf(100, { 52: [2_000, -2], 53: [2_000, -2], 60: [1, -1] })
  t.equal(
    noteOf({ fault: '', goal: 'told', at: 1_250, samples }),
    'answered by 1 processes before and 1 after, 1 × ECONNRESET (sent 50 ms after the fault), 2 × no answer in 2000 ms (sent 10 to 15 ms after the fault)',
  )
})

t.test('what was not the fault', async (t) => {
  const rows = [
    { why: 'nothing', samples: samplesOf(100), is: undefined },
    {
      why: 'the client could not send',
      samples: { ...samplesOf(100), stoodStillMs: 160 },
      is: 'the client itself stood still for 160 ms',
    },
    {
      why: 'requests that were late long before',
      samples: samplesOf(100, { 3: [400, 0], 4: [2_000, -2] }),
      is: '2 requests failed or were late before the fault',
    },
    { why: 'one that was under way may be the fault’s', samples: samplesOf(100, { 70: [2_000, -2] }), is: undefined },
  ]
  for (const { why, samples, is } of rows)
    t.equal(disturbance({ fault: '', goal: 'told', at: 1_500, samples }), is, why)
})

t.test('the timeline', async (t) => {
  const struck = {
    fault: 'a < b',
    goal: 'told',
    at: 1_250,
    samples: samplesOf(500, { 52: [2_000, -2], 60: [300, 0] }),
  } as const
  const svg = timelineOf([{ ...struck, row: rowOf(struck) }])
  t.match(svg, 'a &#60; b', 'text is escaped')
  t.equal(svg.match(/stroke="#d02020"/g)?.length, 1, 'failed requests')
  t.equal(svg.match(/stroke="#e0a100"/g)?.length, 1, 'late ones')
  t.equal(svg.match(/stroke="#2a9d4a"/g)?.length, 1, 'all others')
  t.notMatch(svg, 'NaN')
  t.notMatch(timelineOf([]), /NaN|Infinity/, 'nothing measured is an empty drawing')
})
