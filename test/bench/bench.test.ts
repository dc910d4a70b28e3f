import t from 'tap'
import { readWrk } from './loads/wrk.ts'
import { highestRate, LOST_AT_MOST } from './loads/udp.ts'
import { whyBusy, machineTicks } from './busy.ts'
import type { Scenario } from './bench.ts'
import { readPerf } from './syscalls.ts'
import { withVariants } from './variants.ts'
import { bendOf, bendText, svgOf, textOf } from './plot.ts'
import { type Conditions, Figures, median, NO_GOAL, OURS, quantile, type RowSpec, rowsOf, tableOf } from './table.ts'

/** The parts of the benchmark that decide: what was measured goes in as plain figures. */
const FASTER: RowSpec = {
  measure: 'requests/s',
  unit: '1/s',
  better: 'higher',
  against: { HAProxy: 1.4, other: 'report' },
}
const SOONER: RowSpec = { measure: 'p99', unit: 'ms', better: 'lower', against: { HAProxy: 1 } }
const SMALL: RowSpec = { measure: 'RSS', unit: 'MiB', better: 'lower', against: { limit: 1 }, limits: { limit: 110 } }

const IDLE: Conditions = { busy: new Set(), loads: new Map([['requests/s', 0.25]]) }

t.test('medians and quantiles', async (t) => {
  const rows = [
    { of: [3], median: 3, p99: 3 },
    { of: [9, 1, 5], median: 5, p99: 9 },
    { of: [1, 2, 3, 10], median: 2.5, p99: 10 },
    { of: Array.from({ length: 200 }, (_, i) => 200 - i), median: 100.5, p99: 198 },
    { of: [], median: undefined, p99: undefined },
  ]
  for (const { of, median: middle, p99 } of rows) {
    t.equal(median(of), middle, `median of ${of.length}`)
    t.equal(quantile(of, 0.99), p99, `p99 of ${of.length}`)
  }
})

t.test('rows: ratios of medians, and whether the goal is reached in its direction', async (t) => {
  const figures = new Figures()
  for (const [lane, values] of Object.entries({ [OURS]: [100, 140, 900], HAProxy: [100, 1, 500], other: [50] })) {
    for (const value of values) figures.add('requests/s', lane, value)
  }
  for (const [lane, value] of Object.entries({ [OURS]: 1.2, HAProxy: 1.1 })) figures.add('p99', lane, value)
  figures.add('RSS', OURS, 100)
  figures.add('RSS', OURS, Number.NaN)
  const rows = rowsOf([FASTER, SOONER, SMALL], figures, IDLE)
  t.same(rows, [
    {
      measure: 'requests/s',
      ours: 140,
      peer: 100,
      peerName: 'HAProxy',
      unit: '1/s',
      ratio: 1.4,
      goal: 1.4,
      ok: true,
      load: 0.25,
    },
    {
      measure: 'requests/s',
      ours: 140,
      peer: 50,
      peerName: 'other',
      unit: '1/s',
      ratio: 2.8,
      goal: 0,
      ok: true,
      load: 0.25,
    },
    {
      measure: 'p99',
      ours: 1.2,
      peer: 1.1,
      peerName: 'HAProxy',
      unit: 'ms',
      ratio: 1.09091,
      goal: 1,
      ok: false,
      load: 0,
    },
    {
      measure: 'RSS',
      ours: 100,
      peer: 110,
      peerName: 'limit',
      unit: 'MiB',
      ratio: 0.909091,
      goal: 1,
      ok: true,
      load: 0,
    },
  ])
  for (const row of rows) {
    t.same(
      Object.keys(row),
      ['measure', 'ours', 'peer', 'peerName', 'unit', 'ratio', 'goal', 'ok', 'load'],
      'the keys of --json',
    )
  }
  const told = rowsOf([{ ...SOONER, against: { HAProxy: 'report' } }], figures, IDLE)
  t.same([told[0]?.goal, told[0]?.ok], [NO_GOAL, true], 'only told: any ratio will do')
  t.same(rowsOf([FASTER], new Figures(), IDLE), [], 'what was not measured is no row')
})

t.test('the table for people', async (t) => {
  const figures = new Figures()
  for (const [lane, value] of Object.entries({ [OURS]: 27_633, HAProxy: 21_305, other: 9 })) {
    figures.add('requests/s', lane, value)
  }
  const lines = tableOf(rowsOf([FASTER], figures, IDLE), [FASTER])
  t.match(lines[0], /^measure +hedgerow +peer +ratio +goal +load before$/)
  t.match(lines[1], /^requests\/s +27,633 1\/s +21,305 +HAProxy +1\.30× +≥ 1\.4× +NOT REACHED +0\.25$/)
  t.match(lines[2], /^ +9\.000 +other +3070\.33× +told$/, 'the measure is said once')
  const busy = rowsOf([FASTER], figures, { ...IDLE, busy: new Set(['requests/s']) })
  t.same(
    busy.map(({ ratio, ok }) => [ratio, ok]),
    [
      [1.29702, null],
      [3070.33, null],
    ],
    'on a busy machine figures are told, not judged',
  )
  t.match(tableOf(busy, [FASTER])[1], /≥ 1\.4× +busy: not judged +0\.25$/)
})

t.test('the highest rate that loses little', async (t) => {
  const rows = [
    { why: 'everything arrives up to a bound', bound: 50_000 },
    { why: 'the first rate is too much already', bound: 4_000 },
    { why: 'a bound above many doublings', bound: 700_000 },
  ]
  for (const { why, bound } of rows) {
    let tries = 0
    const found = await highestRate(async (perSecond) => {
      tries++
      const lost = perSecond <= bound ? 0.001 : LOST_AT_MOST + 1 - bound / perSecond
      return { perSecond: perSecond * (1 - lost), lost }
    })
    t.ok(found > bound * 0.85 && found <= bound, `${why}: ${found.toFixed(0)} of ${bound}`)
    t.ok(tries < 30, `${tries} tries`)
  }
  let isUnlucky = true
  const again = await highestRate(async (perSecond) => {
    const lost = perSecond > 20_000 || isUnlucky ? 0.5 : 0
    isUnlucky = false
    return { perSecond, lost }
  })
  t.ok(again > 17_000, 'one unlucky second does not decide')
  t.equal(await highestRate(async (perSecond) => ({ perSecond, lost: 0.9 })), 0, 'nothing arrives well')
  t.equal(
    await highestRate(async (perSecond) => ({ perSecond: Math.min(perSecond, 30_000), lost: 0 })),
    30_000,
    'the sender itself can no more',
  )
})

t.test('what wrk says', async (t) => {
  const said = `  Latency Distribution
     50%  166.00us
     75%    1.10ms
     99%    1.63s
  55270 requests in 2.00s, 9.23MB read
  Socket errors: connect 0, read 2, write 0, timeout 1
Requests/sec:  27633.21`
  t.same(readWrk(said), { perSecond: 27_633.21, p50: 0.166, p99: 1_630, requests: 55_270, errors: 3 })
})

t.test('when the machine is too busy to judge', async (t) => {
  const rows = [
    { why: 'idle', mood: { load: 0.1, others: 0.02, stolen: 0 } },
    {
      why: 'other processes',
      mood: { load: 0.1, others: 0.3, stolen: 0 },
      first: /other processes use 0\.30/,
      later: /other processes/,
    },
    {
      why: 'another virtual machine',
      mood: { load: 0, others: 0, stolen: 0.2 },
      first: /the host .* takes 0\.20/,
      later: /the host/,
    },
    {
      why: 'a load before it began; later it is the benchmark’s own',
      mood: { load: 1.5, others: 0, stolen: 0 },
      first: /1\.50 before/,
    },
  ]
  for (const { why, mood, first, later } of rows) {
    t.match(whyBusy(mood, true), first ?? undefined, why)
    t.match(whyBusy(mood, false), later ?? undefined, `${why}, later`)
  }
  const stat = 'cpu  100 1 20 5000 7 3 4 9 0 0\ncpu0 50 0 10 2500 3 1 2 4 0 0\nintr 1\n'
  t.same(machineTicks(stat), { busy: 128, stolen: 9 }, 'user, nice, system, irq, softirq; steal')
})

t.test('another version is a lane behind ours, and a peer of each row', async (t) => {
  const asked: string[] = []
  const measure = (bench: unknown) => {
    asked.push(String(bench))
    return Promise.resolve({})
  }
  const scenario: Scenario = {
    rows: [FASTER],
    needs: [],
    lanes: [
      { name: OURS, measure },
      { name: 'HAProxy', measure },
    ],
  }
  const inProcess: Scenario = { rows: [SMALL], needs: [], lanes: [{ name: OURS, isOfThisCheckout: true, measure }] }
  const [both, alone] = withVariants([scenario, inProcess], ['before'])
  t.same(
    both?.lanes.map(({ name }) => name),
    [OURS, 'before', 'HAProxy'],
  )
  t.same(both?.rows[0]?.against, { ...FASTER.against, before: 'report' })
  t.equal(alone, inProcess, 'what runs this checkout’s code says nothing of another')
  const bench = { toString: () => 'ours', variant: (name: string) => name } as never
  for (const lane of both?.lanes ?? []) await lane.measure(bench)
  t.same(asked, ['ours', 'before', 'ours'], 'it is measured on its own testbed')
})

t.test('what perf says', async (t) => {
  t.equal(readPerf('# started on\n\n12345,,raw_syscalls:sys_enter,2000000,100.00,,\n'), 12_345)
  t.ok(Number.isNaN(readPerf('<not counted>,,raw_syscalls:sys_enter,0,100.00,,')), 'not counted is no figure')
})

t.test('curves', async (t) => {
  const curve = (points: [number, number][]) => ({ title: 'a < b', x: 'connections', y: 'requests', points })
  const knee = curve([
    [1, 100],
    [10, 1_000],
    [100, 1_050],
    [1_000, 1_060],
  ])
  t.same(bendOf(knee), [10, 1_000])
  t.match(bendText(knee), 'it bends at 10 connections (1000)')
  const straight = curve([
    [1, 10],
    [10, 20],
    [100, 30],
  ])
  t.equal(bendOf(straight), undefined)
  t.match(bendText(straight), 'no bend')
  t.equal(bendOf(curve([[1, 1]])), undefined, 'one point')
  t.equal(textOf(knee).length, 6, 'a title, a bar for each point, where it bends')
  const svg = svgOf(knee)
  t.equal(svg.match(/<circle/g)?.length, 4)
  t.match(svg, 'a &#60; b', 'text is escaped')
  t.notMatch(svg, 'NaN')
  t.notMatch(svgOf(curve([])), 'NaN', 'nothing measured is an empty drawing')
})
