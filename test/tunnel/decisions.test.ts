import { test } from 'tap'
import { isBulkNow, quietFor } from '../../proxy/tunnel/session/bulk-detector.ts'
import { answerProposal, readAnswer } from '../../proxy/tunnel/peers/agreement.ts'
import { unlessAborted } from '../../src/core/kit/abort.ts'
import { Deadline } from '../../src/core/kit/deadline.ts'
import { Keepalive } from '../../proxy/tunnel/carrier/keepalive.ts'
import {
  carrierFor,
  carriersWanted,
  outranked,
  rebalance,
  spare,
  type CarrierView,
} from '../../proxy/tunnel/session/placement.ts'
import { headStartsMs, race, RaceLost, type Contender } from '../../proxy/tunnel/peers/path-race.ts'
import { PathHistory } from '../../proxy/tunnel/peers/path-history.ts'
import type { PathKind } from '../../src/core/model/path-rule.ts'
import { ManualClock, settle } from '../support/manual-clock.ts'

const carrier = (path: PathKind, streams = 0, backlog = 0, isDraining = false, isDoubtful = false): CarrierView => ({
  isDoubtful,
  path,
  streams,
  bulks: 0,
  backlog,
  isDraining,
})

test('a new stream goes to the best carrier with the fewest streams', async (t) => {
  const rows = [
    { why: 'no stream is placed where there is no carrier', carriers: [], at: -1 },
    {
      why: 'of equal carriers, the one with the fewest streams is taken',
      carriers: [carrier('direct', 3), carrier('direct', 2)],
      at: 1,
    },
    {
      why: 'of equally loaded carriers, the first is taken',
      carriers: [carrier('direct', 2), carrier('direct', 2)],
      at: 0,
    },
    {
      why: 'a better path matters more than fewer streams',
      carriers: [carrier('relayed', 0), carrier('direct', 90)],
      at: 1,
    },
    { why: 'a reverse path is better than a punched one', carriers: [carrier('punched'), carrier('reverse')], at: 1 },
    {
      why: 'a short queue matters more than fewer streams',
      carriers: [carrier('direct', 1, 300_000), carrier('direct', 5, 0)],
      at: 1,
    },
    {
      why: 'a few queued bytes are not counted as a queue',
      carriers: [carrier('direct', 1, 9_000), carrier('direct', 5, 0)],
      at: 0,
    },
    {
      why: 'a draining carrier gets no new stream',
      carriers: [carrier('direct', 0, 0, true), carrier('relayed', 9)],
      at: 1,
    },
    {
      why: 'a carrier that may be dead gets no new stream',
      carriers: [carrier('direct', 0, 0, false, true), carrier('relayed', 9)],
      at: 1,
    },
    {
      why: 'a carrier that may be dead is taken when there is no other',
      carriers: [carrier('direct', 0, 0, false, true)],
      at: 0,
    },
    { why: 'only draining carriers: the stream is not placed', carriers: [carrier('direct', 0, 0, true)], at: -1 },
  ]
  for (const { why, carriers, at } of rows) t.equal(carrierFor(carriers), carriers[at], why)
})

test('the number of carriers fits the streams, and surplus ones are retired', async (t) => {
  const clean = { streams: 1, bulks: 0, rttMs: 1, jitterMs: 0, limit: 8 }
  const rows = [
    { why: 'one carrier is enough until streams are open', view: { path: 'direct', ...clean, streams: 0 }, wanted: 1 },
    { why: 'a clean short path has two carriers', view: { path: 'direct', ...clean }, wanted: 2 },
    {
      why: 'a clean short path has two carriers for hundreds of streams too',
      view: { path: 'reverse', ...clean, streams: 500 },
      wanted: 2,
    },
    { why: 'a relayed path has one carrier', view: { path: 'relayed', ...clean, streams: 50 }, wanted: 1 },
    { why: 'thousands of streams get one more carrier', view: { path: 'direct', ...clean, streams: 5_000 }, wanted: 3 },
    { why: 'a long path has more carriers', view: { path: 'direct', ...clean, streams: 20, rttMs: 30 }, wanted: 3 },
    {
      why: 'a very long path has still more carriers',
      view: { path: 'direct', ...clean, streams: 20, rttMs: 150 },
      wanted: 4,
    },
    {
      why: 'a long path with few streams has no more carriers than streams need',
      view: { path: 'direct', ...clean, streams: 3, rttMs: 150 },
      wanted: 2,
    },
    {
      why: 'a lossy path has more carriers',
      view: { path: 'direct', ...clean, streams: 20, rttMs: 50, jitterMs: 30 },
      wanted: 8,
    },
    {
      why: 'a lossy path with few streams has no more carriers than streams need',
      view: { path: 'direct', ...clean, streams: 3, rttMs: 50, jitterMs: 30 },
      wanted: 3,
    },
    {
      why: 'a lossy path through a relay has more carriers',
      view: { path: 'relayed', ...clean, streams: 20, rttMs: 50, jitterMs: 30 },
      wanted: 4,
    },
    {
      why: 'jitter that the length of the path explains is not taken for loss',
      view: { path: 'direct', ...clean, streams: 20, rttMs: 100, jitterMs: 30 },
      wanted: 4,
    },
    {
      why: 'a busy machine is not taken for a lossy path',
      view: { path: 'direct', ...clean, streams: 20, jitterMs: 12 },
      wanted: 2,
    },
    { why: 'each bulk stream gets a carrier', view: { path: 'direct', ...clean, streams: 10, bulks: 3 }, wanted: 5 },
    {
      why: 'bulk streams alone need no carrier for small ones',
      view: { path: 'direct', ...clean, streams: 3, bulks: 3 },
      wanted: 3,
    },
    {
      why: 'bulk and small streams through a relay get separate carriers',
      view: { path: 'relayed', ...clean, streams: 2, bulks: 1 },
      wanted: 2,
    },
    {
      why: 'there are never more than eight carriers',
      view: { path: 'direct', ...clean, streams: 60, bulks: 40 },
      wanted: 8,
    },
    {
      why: 'there are never more than four on a path that was punched',
      view: { path: 'punched', ...clean, streams: 60, bulks: 40 },
      wanted: 4,
    },
    {
      why: 'there are never more than configured',
      view: { path: 'direct', ...clean, streams: 60, bulks: 40, limit: 2 },
      wanted: 2,
    },
  ] as const
  for (const { why, view, wanted } of rows) t.equal(carriersWanted(view), wanted, why)

  const direct = carrier('direct')
  const relayed = carrier('relayed')
  t.same(outranked([direct, relayed]), [relayed])
  t.same(outranked([relayed]), [])
  t.same(outranked([carrier('direct', 0, 0, true), relayed]), [], 'a draining carrier outranks nobody')
})

/** Carriers as text: `2` is two small streams, `b1` bulk and a small one, `-` draining, `?` in doubt, `r` relayed. */
function carriersOf(text: string): CarrierView[] {
  return text.split(' ').map((word) => {
    const bulks = word.split('b').length - 1
    return {
      path: word.includes('r') ? 'relayed' : 'direct',
      streams: bulks + Number(/\d+/.exec(word)?.[0] ?? 0),
      bulks,
      backlog: 0,
      isDraining: word.includes('-'),
      isDoubtful: word.includes('?'),
    }
  })
}

test('bulk and small streams use separate carriers where possible', async (t) => {
  const rows = [
    { why: 'a small stream goes to a carrier without bulk', on: 'b 9', small: 1 },
    { why: 'a bulk stream goes to an empty carrier', on: 'b 9 0', bulk: 2 },
    { why: 'a bulk stream shares with bulk rather than with small streams', on: 'b 9', bulk: 0 },
    { why: 'a bulk stream shares the carrier with the fewest bulk streams', on: 'bb b 9', bulk: 1 },
    { why: 'a single carrier takes bulk and small streams', on: 'b9', small: 0, bulk: 0 },
    { why: 'a carrier known to work is better than an empty one in doubt', on: '0? 9', small: 1, bulk: 1 },
  ]
  for (const { why, on, small, bulk } of rows) {
    const carriers = carriersOf(on)
    if (small !== undefined) t.equal(carriers.indexOf(carrierFor(carriers, 'small')!), small, why)
    if (bulk !== undefined) t.equal(carriers.indexOf(carrierFor(carriers, 'bulk')!), bulk, why)
  }
})

test('only streams that gain from it are moved to another carrier', async (t) => {
  const after = (on: string) => {
    const carriers = carriersOf(on)
    const streams = carriers.flatMap((carrier) =>
      Array.from({ length: carrier.streams }, (_, i) => ({ carrier, isBulk: i < carrier.bulks })),
    )
    const moves = rebalance(carriers, streams)
    for (const { stream, to } of moves) stream.carrier = to
    const now = carriers.map((carrier) => {
      const here = streams.filter((stream) => stream.carrier === carrier)
      const bulks = here.filter(({ isBulk }) => isBulk).length
      return 'b'.repeat(bulks) + (here.length - bulks || (bulks > 0 ? '' : '0'))
    })
    return `${moves.length} moved: ${now.join(' ')}`
  }
  const rows = [
    { why: 'no stream moves while every carrier works', on: '3 3', is: '0 moved: 3 3' },
    { why: 'no stream moves where there is no other carrier', on: 'b9', is: '0 moved: b9' },
    { why: 'small streams leave a carrier with a bulk stream', on: 'b3 3', is: '3 moved: b 6' },
    { why: 'a bulk stream moves to a carrier of its own', on: 'b3 b3 0', is: '4 moved: 6 b b' },
    { why: 'a bulk stream that is alone stays', on: 'b 5 0', is: '0 moved: b 5 0' },
    { why: 'a bulk stream moves when the small ones cannot', on: 'b3 b', is: '1 moved: 3 bb' },
    { why: 'of two bulk streams, one moves to a new carrier', on: 'bb 9 0', is: '1 moved: b 9 b' },
    { why: 'more bulk streams than carriers are spread evenly', on: 'bbbb b 9', is: '1 moved: bbb bb 9' },
    {
      why: 'a carrier for small streams is kept, however many bulk streams there are',
      on: 'bb bb 2',
      is: '0 moved: bb bb 2',
    },
    { why: 'all streams leave a carrier that may be dead', on: 'b5? 0 0', is: '6 moved: 0 b 5' },
    { why: 'no stream moves to a carrier that may be dead', on: '5? 0?', is: '0 moved: 5 0' },
    { why: 'all streams leave a draining carrier', on: '5- 1', is: '5 moved: 0 6' },
    { why: 'streams move to a better path that came up', on: 'b4r- 0', is: '5 moved: 0 b4' },
    { why: 'a small difference in load moves no stream', on: '9 2', is: '0 moved: 9 2' },
    { why: 'a large difference in load is evened out', on: '20 0', is: '7 moved: 13 7' },
    { why: 'only a part of the streams moves at a time', on: '900 0', is: '64 moved: 836 64' },
  ]
  for (const { why, on, is } of rows) t.equal(after(on), is, why)
})

test('a stream is classified as bulk by its traffic', async (t) => {
  const KIB = 1024
  const weight = { total: 0, lately: 0, queued: 0, quiet: 0 }
  const rows = [
    { why: 'a web page is small', was: false, weight: { ...weight, total: 300 * KIB, lately: 300 * KIB }, is: false },
    { why: 'a backup is bulk', was: false, weight: { ...weight, total: 600 * KIB, lately: 300 * KIB }, is: true },
    {
      why: 'a backup on a slow link is bulk',
      was: false,
      weight: { ...weight, total: 600 * KIB, lately: 40 * KIB, queued: 200 * KIB },
      is: true,
    },
    {
      why: 'a chat that has lasted a year is small',
      was: false,
      weight: { ...weight, total: 9_000 * KIB, lately: 2 * KIB },
      is: false,
    },
    { why: 'a short pause does not end bulk', was: true, weight: { ...weight, quiet: 7 }, is: true },
    { why: 'a bulk stream at rest becomes small', was: true, weight: { ...weight, quiet: 8 }, is: false },
  ]
  for (const { why, was, weight, is } of rows) t.equal(isBulkNow(was, weight), is, why)
  t.equal(quietFor(3, { lately: 100, queued: 0 }), 4)
  t.equal(quietFor(3, { lately: 100, queued: 200 * KIB }), 0, 'a stalled path is not a quiet stream')
  t.equal(quietFor(3, { lately: 100 * KIB, queued: 0 }), 0)
})

test('the emptiest carrier without bulk streams is given back', async (t) => {
  const at = (on: string) => {
    const carriers = carriersOf(on)
    return carriers.indexOf(spare(carriers)!)
  }
  t.equal(at('3 0 b'), 1, 'the emptiest')
  t.equal(at('b 3 4'), 1, 'not one with bulk')
  t.equal(at('0- 3 4'), 1, 'not one that goes anyway')
})

test('the accepting side assigns a carrier to the right session', async (t) => {
  const current = { id: 'c', incarnation: 'i1' }
  const same = { session: 'theirs', incarnation: 'i1' }
  const restarted = { session: 'theirs', incarnation: 'i2' }
  const rows = [
    {
      why: 'the first carrier of a peer makes a session',
      mine: { isFirst: true, current: undefined, pending: undefined },
      theirs: same,
      is: 'theirs',
    },
    {
      why: 'both dial, and the dial of ours counts',
      mine: { isFirst: true, current: undefined, pending: 'mine' },
      theirs: same,
      is: 'mine',
    },
    {
      why: 'both dial, and the dial of the peer counts',
      mine: { isFirst: false, current: undefined, pending: 'mine' },
      theirs: same,
      is: 'theirs',
    },
    {
      why: 'a session exists already: the carrier joins it',
      mine: { isFirst: false, current, pending: 'mine' },
      theirs: same,
      is: 'c',
    },
    {
      why: 'another carrier joins the session that it names',
      mine: { isFirst: true, current, pending: undefined },
      theirs: { session: 'c', incarnation: 'i1' },
      is: 'c',
    },
    {
      why: 'the peer has restarted: its old session ends',
      mine: { isFirst: true, current, pending: undefined },
      theirs: restarted,
      is: 'theirs',
      cuts: true,
    },
    {
      why: 'the peer announced a successor: both sessions live',
      mine: { isFirst: true, current, leaving: [current], pending: undefined },
      theirs: restarted,
      is: 'theirs',
    },
    {
      why: 'the predecessor of a peer brings another carrier for its session',
      mine: { isFirst: true, current: { id: 'd', incarnation: 'i2' }, leaving: [current], pending: undefined },
      theirs: { session: 'c', incarnation: 'i1' },
      is: 'c',
    },
    {
      why: 'the successor restarted without an announcement',
      mine: { isFirst: true, current: { id: 'd', incarnation: 'i2' }, leaving: [current], pending: undefined },
      theirs: { session: 'theirs', incarnation: 'i3' },
      is: 'theirs',
      cuts: true,
    },
  ]
  for (const { why, mine, theirs, is, cuts = false } of rows) {
    t.same(answerProposal({ leaving: [], ...mine }, theirs), { id: is, cutsCurrent: cuts }, why)
  }
})

test('the dialling side assigns a carrier to the right session', async (t) => {
  const current = { id: 'c', incarnation: 'i1' }
  const rows = [
    {
      why: 'the session of the answer is taken',
      current: undefined,
      answer: { session: 'a', incarnation: 'i1' },
      cuts: false,
    },
    {
      why: 'the carrier joins the session that exists',
      current,
      answer: { session: 'c', incarnation: 'i1' },
      cuts: false,
    },
    { why: 'the peer no longer knows our session', current, answer: { session: 'a', incarnation: 'i1' }, cuts: true },
    {
      why: 'the peer has restarted: its old session ends',
      current,
      answer: { session: 'c', incarnation: 'i2' },
      cuts: true,
    },
    {
      why: 'the successor of the peer answers',
      current,
      leaving: [current],
      answer: { session: 'a', incarnation: 'i2' },
      cuts: false,
    },
    {
      why: 'the predecessor of the peer answers',
      current: { id: 'a', incarnation: 'i2' },
      leaving: [current],
      answer: { session: 'c', incarnation: 'i1' },
      cuts: false,
    },
  ]
  for (const { why, current, leaving = [], answer, cuts } of rows) {
    t.same(readAnswer({ current, leaving }, answer), { id: answer.session, cutsCurrent: cuts }, why)
  }
})

test('simultaneous dials agree in every order of events', async (t) => {
  // a < b; each step is one HELLO being read
  for (const order of ['ab', 'ba'] as const) {
    let a: string | undefined
    let b: string | undefined
    const held = (id: string | undefined) => ({
      current: id === undefined ? undefined : { id, incarnation: 'i' },
      leaving: [],
    })
    const answers: { to: 'a' | 'b'; session: string }[] = []
    for (const reader of order) {
      if (reader === 'a') {
        a = answerProposal({ isFirst: true, ...held(a), pending: 'A' }, { session: 'B', incarnation: 'i' }).id
        answers.push({ to: 'b', session: a })
      } else {
        b = answerProposal({ isFirst: false, ...held(b), pending: 'B' }, { session: 'A', incarnation: 'i' }).id
        answers.push({ to: 'a', session: b })
      }
    }
    for (const { to, session } of answers) {
      const agreement = readAnswer(held(to === 'a' ? a : b), { session, incarnation: 'i' })
      t.notOk(agreement.cutsCurrent)
      if (to === 'a') a = agreement.id
      else b = agreement.id
    }
    t.same([a, b], ['A', 'A'], order)
  }
})

test('pings are sent when due, and received data counts as a sign of life', async (t) => {
  const keepalive = new Keepalive()
  const due = (now: number, busy = true) => keepalive.tick(now, busy).due
  t.equal(due(0), 'ping', 'at once')
  t.equal(due(999), 'nothing')
  keepalive.received()
  t.equal(due(1_000), 'ping')
  keepalive.received()
  t.equal(due(5_000, false), 'nothing', 'less often when idle')
  t.equal(due(16_000, false), 'ping')
  t.same([due(17_000), due(18_000), due(19_000)], ['ping', 'ping', 'dead'], 'three pings without a sign')

  const idle = new Keepalive()
  idle.tick(0, false)
  idle.received()
  idle.tick(15_000, false)
  t.notOk(idle.isDoubtful)
  t.equal(idle.tick(30_000, false).due, 'ping')
  t.ok(idle.isDoubtful)
  t.equal(idle.tick(31_000, false).due, 'ping', 'in doubt it is asked every second')
  idle.received()
  t.notOk(idle.isDoubtful)
  t.equal(idle.tick(32_000, false).due, 'nothing', 'and no more once it has spoken')

  const suspect = new Keepalive()
  suspect.tick(0, true)
  suspect.received()
  t.equal(suspect.tick(250, true, true).due, 'nothing', 'it has just spoken')
  t.equal(suspect.tick(500, true, true).due, 'ping', 'bytes without an answer: asked at once')
  t.notOk(suspect.isDoubtful)
  t.equal(suspect.tick(750, true, true).due, 'nothing')
  suspect.tick(1_000, true, true)
  t.ok(suspect.isDoubtful, 'half a second later it is in doubt')
  suspect.received()
  t.notOk(suspect.isDoubtful)

  const stalled = new Keepalive()
  stalled.tick(0, true)
  t.equal(stalled.tick(60_000, true).due, 'ping', 'our own stall counts as one miss, whatever its length')

  const measured = new Keepalive()
  const ping = measured.tick(0, true)
  t.equal(ping.due === 'ping' && measured.pong(ping.sequence, 80), 80)
  t.equal(measured.rttMs, 80)
  t.equal(measured.pong(1, 90), undefined, 'a pong counts once')
  const next = measured.tick(1_000, true)
  if (next.due === 'ping') measured.pong(next.sequence, 1_160)
  t.equal(measured.rttMs, 90, 'smoothed: an eighth of the difference')
  t.equal(measured.leastRttMs, 80)
  t.equal(measured.recentRttMs, 80)
  for (const [at, rtt] of [
    [2_000, 300],
    [3_000, 280],
    [4_000, 290],
  ] as const) {
    measured.received()
    const ping = measured.tick(at, true)
    if (ping.due === 'ping') measured.pong(ping.sequence, at + rtt)
  }
  t.equal(measured.recentRttMs, 280, 'the path has become longer')
  t.equal(measured.pong(77, 2_000), undefined, 'a pong nobody asked for')
})

test('better paths get a head start over worse ones', async (t) => {
  type Field = Parameters<typeof headStartsMs>[0]
  const rows: ReadonlyArray<{ why: string; field: Field; are: number[] }> = [
    {
      why: 'nothing is known: better paths get a head start',
      field: [{ path: 'relayed' }, { path: 'direct' }, { path: 'reverse' }],
      are: [150, 0, 50],
    },
    { why: 'a path that is alone starts at once', field: [{ path: 'relayed' }], are: [0] },
    {
      why: 'dialling cannot work: the relay is tried at once',
      field: [{ path: 'direct', reachability: 'unlikely' }, { path: 'relayed' }],
      are: [0, 0],
    },
    {
      why: 'a node in the same network answers quickly or not at all',
      field: [
        { path: 'direct', reachability: 'near' },
        { path: 'reverse', reachability: 'unlikely' },
        { path: 'relayed' },
      ],
      are: [0, 50, 50],
    },
    {
      why: 'the node can dial us: it is asked at once, and given time',
      field: [
        { path: 'direct', reachability: 'unlikely' },
        { path: 'reverse', reachability: 'open' },
        { path: 'relayed' },
      ],
      are: [0, 0, 100],
    },
    {
      why: 'all paths are unlikely: all start at once',
      field: [
        { path: 'direct', reachability: 'unlikely' },
        { path: 'reverse', reachability: 'unlikely' },
        { path: 'relayed', reachability: 'unlikely' },
      ],
      are: [0, 0, 0],
    },
    {
      why: 'a punched path gets a head start over the relay',
      field: [{ path: 'relayed' }, { path: 'punched' }],
      are: [100, 0],
    },
    { why: 'no path is possible: none is tried', field: [], are: [] },
  ]
  for (const { why, field, are } of rows) t.same(headStartsMs(field), are, why)
})

test('contenders for a path start after their head starts, and the first to arrive wins', async (t) => {
  const clock = new ManualClock()
  const log: string[] = []
  const never = new AbortController().signal
  const runner = (path: PathKind, ms: number, outcome: 'arrives' | 'fails'): Contender<string> => ({
    path,
    run: async (signal) => {
      log.push(`${path} starts at ${clock.now()}`)
      await clock.sleep(ms, signal)
      if (signal.aborted) {
        log.push(`${path} stopped`)
        throw signal.reason
      }
      if (outcome === 'fails') throw new Error(`${path} failed`)
      return path
    },
  })
  const outcome = async (runners: Contender<string>[], ms = 5_000) => {
    log.length = 0
    const started = clock.now()
    const result = race(runners, clock, never).catch((error: unknown) => error)
    await clock.advance(ms)
    return { result: await result, log: log.map((line) => line.replace(/\d+/, (at) => String(Number(at) - started))) }
  }

  t.same(await outcome([runner('relayed', 10, 'arrives'), runner('direct', 20, 'arrives')]), {
    result: 'direct',
    log: ['direct starts at 0'],
  })
  t.same(await outcome([runner('direct', 500, 'arrives'), runner('relayed', 50, 'arrives')]), {
    result: 'relayed',
    log: ['direct starts at 0', 'relayed starts at 150', 'direct stopped'],
  })
  t.same(
    await outcome([runner('direct', 10, 'fails'), runner('relayed', 50, 'arrives')]),
    {
      result: 'relayed',
      log: ['direct starts at 0', 'relayed starts at 10'],
    },
    'no head start over the dead',
  )
  t.same(await outcome([runner('relayed', 50, 'arrives')]), { result: 'relayed', log: ['relayed starts at 0'] })
  const lost = await outcome([runner('direct', 10, 'fails'), runner('reverse', 10, 'fails')])
  t.ok(lost.result instanceof RaceLost && lost.result.failures.length === 2)
  t.ok((await outcome([])).result instanceof RaceLost, 'nobody runs')

  const given = new AbortController()
  const aborted = race([runner('direct', 1_000, 'arrives')], clock, given.signal).catch((error: unknown) => error)
  await settle()
  given.abort(new Error('given up'))
  t.match(await aborted, { message: 'given up' })
  t.match(await race([], clock, given.signal).catch((error: unknown) => error), { message: 'given up' })
})

test('a path that failed is remembered for a while', async (t) => {
  const paths = new PathHistory()
  t.notOk(paths.hasFailed('direct', 0))
  paths.failed('direct', 1_000)
  t.ok(paths.hasFailed('direct', 1_001))
  t.notOk(paths.hasFailed('reverse', 1_001))
  t.notOk(paths.hasFailed('direct', 3_600_000), 'not for ever')
  paths.failed('direct', 1_000)
  paths.arrived('direct')
  t.notOk(paths.hasFailed('direct', 1_001), 'it has arrived since')
  paths.failed('direct', 1_000)
  paths.forget()
  t.notOk(paths.hasFailed('direct', 1_001), 'another network')
})

test('a deadline aborts its signal at its time, unless disposed', async (t) => {
  const clock = new ManualClock()
  const late = new Deadline(clock, 100)
  const waiting = unlessAborted(new Promise(() => undefined), late.signal).catch((error: unknown) => error)
  await clock.advance(100)
  t.match(await waiting, { code: 'REQUEST_TIMEOUT' })
  const outer = new AbortController()
  using inTime = new Deadline(clock, 100, outer.signal)
  t.equal(await unlessAborted(Promise.resolve(5), inTime.signal), 5)
  outer.abort()
  t.ok(inTime.signal.aborted)
  const disposed = new Deadline(clock, 100)
  disposed[Symbol.dispose]()
  await clock.advance(200)
  t.notOk(disposed.signal.aborted)
})
