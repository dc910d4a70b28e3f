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

const clean = { streams: 1, bulks: 0, rttMs: 1, jitterMs: 0, limit: 8 }

/** How many carriers a session wants on such a path with such streams. */
const WANTED = [
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
    why: 'a very long path with few streams has two carriers, as a short one has',
    view: { path: 'direct', ...clean, streams: 3, rttMs: 150 },
    wanted: 2,
  },
  {
    why: 'a lossy path has a carrier for each small stream, up to eight',
    view: { path: 'direct', ...clean, streams: 20, rttMs: 50, jitterMs: 30 },
    wanted: 8,
  },
  {
    why: 'a lossy path with three streams has three carriers',
    view: { path: 'direct', ...clean, streams: 3, rttMs: 50, jitterMs: 30 },
    wanted: 3,
  },
  {
    why: 'a lossy path through a relay has a carrier for each small stream, up to four',
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

test('the number of carriers fits the streams, and surplus ones are retired', async (t) => {
  for (const { why, view, wanted } of WANTED) t.equal(carriersWanted(view), wanted, why)

  const direct = carrier('direct')
  const relayed = carrier('relayed')
  t.same(outranked([direct, relayed]), [relayed], 'a relayed carrier is of no use beside a direct one')
  t.same(outranked([relayed]), [], 'a relayed carrier that is alone is kept')
  t.same(outranked([carrier('direct', 0, 0, true), relayed]), [], 'a relayed carrier beside a draining one is kept')
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
    {
      why: 'a bulk stream moves to an empty carrier, and small streams leave the other',
      on: 'b3 b3 0',
      is: '4 moved: 6 b b',
    },
    { why: 'a bulk stream that is alone stays', on: 'b 5 0', is: '0 moved: b 5 0' },
    { why: 'a bulk stream moves when the small ones cannot', on: 'b3 b', is: '1 moved: 3 bb' },
    { why: 'of two bulk streams, one moves to a new carrier', on: 'bb 9 0', is: '1 moved: b 9 b' },
    {
      why: 'more bulk streams than carriers are spread until their numbers differ by one',
      on: 'bbbb b 9',
      is: '1 moved: bbb bb 9',
    },
    {
      why: 'a carrier for small streams is kept, however many bulk streams there are',
      on: 'bb bb 2',
      is: '0 moved: bb bb 2',
    },
    { why: 'all streams leave a carrier that may be dead', on: 'b5? 0 0', is: '6 moved: 0 b 5' },
    { why: 'no stream moves to a carrier that may be dead', on: '5? 0?', is: '0 moved: 5 0' },
    { why: 'all streams leave a draining carrier', on: '5- 1', is: '5 moved: 0 6' },
    { why: 'all streams leave a draining relayed carrier for a direct one', on: 'b4r- 0', is: '5 moved: 0 b4' },
    { why: 'a small difference in load moves no stream', on: '9 2', is: '0 moved: 9 2' },
    { why: 'of a large difference in load, as many streams move as make it small', on: '20 0', is: '7 moved: 13 7' },
    { why: 'at most 64 small streams move at a time', on: '900 0', is: '64 moved: 836 64' },
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
  t.equal(quietFor(3, { lately: 100, queued: 0 }), 4, 'a stream that moves next to nothing is quiet for one tick more')
  t.equal(quietFor(3, { lately: 100, queued: 200 * KIB }), 0, 'a stream is not quiet when its path has stalled')
  t.equal(quietFor(3, { lately: 100 * KIB, queued: 0 }), 0, 'a stream that moves much is not quiet')
})

test('the emptiest carrier without bulk streams is given back', async (t) => {
  const at = (on: string) => {
    const carriers = carriersOf(on)
    return carriers.indexOf(spare(carriers)!)
  }
  t.equal(at('3 0 b'), 1, 'the emptiest carrier is given back')
  t.equal(at('b 3 4'), 1, 'a carrier with a bulk stream is not given back before one without')
  t.equal(at('0- 3 4'), 1, 'a carrier that drains already is not the one given back')
})

const current = { id: 'c', incarnation: 'i1' }
const same = { session: 'theirs', incarnation: 'i1' }
const restarted = { session: 'theirs', incarnation: 'i2' }

/** A carrier comes in: what this side holds, what the peer names, and the session that the carrier joins. */
const PROPOSALS = [
  {
    why: 'the first carrier of a peer makes a session',
    mine: { isFirst: true, current: undefined, pending: undefined },
    theirs: same,
    is: 'theirs',
  },
  {
    why: 'both dial, and our dial counts, because our id is the smaller',
    mine: { isFirst: true, current: undefined, pending: 'mine' },
    theirs: same,
    is: 'mine',
  },
  {
    why: 'both dial, and the dial of the peer counts, because its id is the smaller',
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
    why: 'the successor restarted without an announcement: its session ends',
    mine: { isFirst: true, current: { id: 'd', incarnation: 'i2' }, leaving: [current], pending: undefined },
    theirs: { session: 'theirs', incarnation: 'i3' },
    is: 'theirs',
    cuts: true,
  },
]

test('the accepting side assigns a carrier to the right session', async (t) => {
  for (const { why, mine, theirs, is, cuts = false } of PROPOSALS) {
    t.same(answerProposal({ leaving: [], ...mine }, theirs), { id: is, cutsCurrent: cuts }, why)
  }
})

test('the dialling side assigns a carrier to the right session', async (t) => {
  const current = { id: 'c', incarnation: 'i1' }
  const rows = [
    {
      why: 'the session of the answer is taken where there is none',
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
    {
      why: 'the peer no longer knows our session, which ends',
      current,
      answer: { session: 'a', incarnation: 'i1' },
      cuts: true,
    },
    {
      why: 'the peer has restarted: its old session ends',
      current,
      answer: { session: 'c', incarnation: 'i2' },
      cuts: true,
    },
    {
      why: 'the successor of the peer answers: the session with its predecessor goes on',
      current,
      leaving: [current],
      answer: { session: 'a', incarnation: 'i2' },
      cuts: false,
    },
    {
      why: 'the predecessor of the peer answers: the session with its successor goes on',
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
      t.notOk(agreement.cutsCurrent, `no session is cut (${order}, answer to ${to})`)
      if (to === 'a') a = agreement.id
      else b = agreement.id
    }
    t.same([a, b], ['A', 'A'], `both sides are in session A when the HELLOs are read in the order ${order}`)
  }
})

test('pings are sent when due, and received data counts as a sign of life', async (t) => {
  const keepalive = new Keepalive()
  const due = (now: number, busy = true) => keepalive.tick(now, busy).due
  t.equal(due(0), 'ping', 'the first ping is sent at once')
  t.equal(due(999), 'nothing', 'no ping is due before a second has passed')
  keepalive.received()
  t.equal(due(1_000), 'ping', 'with open streams a ping is due after a second')
  keepalive.received()
  t.equal(due(5_000, false), 'nothing', 'without streams no ping is due after four seconds')
  t.equal(due(16_000, false), 'ping', 'without streams a ping is due after fifteen seconds')
  const silent = [due(17_000), due(18_000), due(19_000)]
  t.same(silent, ['ping', 'ping', 'dead'], 'the peer is dead after three pings without a sign of life')
})

test('a carrier without streams is in doubt when a ping is late, and pinged every second until it answers', async (t) => {
  const idle = new Keepalive()
  idle.tick(0, false)
  idle.received()
  idle.tick(15_000, false)
  t.notOk(idle.isDoubtful, 'a ping that was just sent is no reason for doubt')
  t.equal(idle.tick(30_000, false).due, 'ping', 'the next ping is due after fifteen seconds')
  t.ok(idle.isDoubtful, 'the carrier is in doubt: the ping before was not answered')
  t.equal(idle.tick(31_000, false).due, 'ping', 'in doubt it is pinged after a second')
  idle.received()
  t.notOk(idle.isDoubtful, 'received data ends the doubt')
  t.equal(idle.tick(32_000, false).due, 'nothing', 'without doubt it is not pinged after a second')
})

test('a peer that sends nothing after it was sent something is pinged at once, and in doubt half a second later', async (t) => {
  const suspect = new Keepalive()
  suspect.tick(0, true)
  suspect.received()
  t.equal(suspect.tick(250, true, true).due, 'nothing', 'the peer has just sent something')
  t.equal(suspect.tick(500, true, true).due, 'ping', 'a tick without an answer to what was sent: a ping is due')
  t.notOk(suspect.isDoubtful, 'the carrier is not in doubt yet')
  t.equal(suspect.tick(750, true, true).due, 'nothing', 'no second ping is due while the first is on its way')
  suspect.tick(1_000, true, true)
  t.ok(suspect.isDoubtful, 'half a second after the ping the carrier is in doubt')
  suspect.received()
  t.notOk(suspect.isDoubtful, 'received data ends the doubt')
})

test('a stall of our own event loop counts as one miss, however long it is', async (t) => {
  const stalled = new Keepalive()
  stalled.tick(0, true)
  t.equal(stalled.tick(60_000, true).due, 'ping', 'after a minute without a tick the peer is pinged, not dead')
})

/** Sends a ping at this time, which is answered so much later. */
function pingFor(keepalive: Keepalive, at: number, rttMs: number): number | undefined {
  const ping = keepalive.tick(at, true)
  return ping.due === 'ping' ? keepalive.pong(ping.sequence, at + rttMs) : undefined
}

test('round trips are measured by the pongs', async (t) => {
  const measured = new Keepalive()
  t.equal(pingFor(measured, 0, 80), 80, 'a pong tells the round trip of its ping')
  t.equal(measured.rttMs, 80, 'the first round trip is taken as it is')
  t.equal(measured.pong(1, 90), undefined, 'a pong counts once')
  pingFor(measured, 1_000, 160)
  t.equal(measured.rttMs, 90, 'the average moves by an eighth of the difference')
  t.equal(measured.leastRttMs, 80, 'the least round trip stays')
  t.equal(measured.recentRttMs, 80, 'one slow ping does not change the recent round trip')
  for (const [at, rttMs] of [
    [2_000, 300],
    [3_000, 280],
    [4_000, 290],
  ] as const) {
    measured.received()
    pingFor(measured, at, rttMs)
  }
  t.equal(measured.recentRttMs, 280, 'three slow pings do: the path has become longer')
  t.equal(measured.pong(77, 2_000), undefined, 'a pong that nobody asked for is ignored')
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
      why: 'a node in the same network answers quickly or not at all: the other paths wait 50 ms',
      field: [
        { path: 'direct', reachability: 'near' },
        { path: 'reverse', reachability: 'unlikely' },
        { path: 'relayed' },
      ],
      are: [0, 50, 50],
    },
    {
      why: 'the node can dial us: it is asked at once, and the relay waits 100 ms',
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

/** Races between paths, on a clock of its own; keeps what happened, with the time since the start of the race. */
class Races {
  readonly clock = new ManualClock()
  #log: string[] = []
  #startedAt = 0

  /** A path that arrives or fails after so long. */
  runner(path: PathKind, ms: number, outcome: 'arrives' | 'fails'): Contender<string> {
    const run = async (signal: AbortSignal) => {
      this.#log.push(`${path} starts at ${this.clock.now() - this.#startedAt}`)
      await this.clock.sleep(ms, signal)
      if (signal.aborted) {
        this.#log.push(`${path} stopped`)
        throw signal.reason
      }
      if (outcome === 'fails') throw new Error(`${path} failed`)
      return path
    }
    return { path, run }
  }

  async outcome(...contenders: Contender<string>[]): Promise<{ result: unknown; log: string[] }> {
    this.#log = []
    this.#startedAt = this.clock.now()
    const never = new AbortController().signal
    const result = race(contenders, this.clock, never).catch((error: unknown) => error)
    await this.clock.advance(5_000)
    return { result: await result, log: this.#log }
  }
}

test('contenders for a path start after their head starts, and the first to arrive wins', async (t) => {
  const races = new Races()
  t.same(
    await races.outcome(races.runner('relayed', 10, 'arrives'), races.runner('direct', 20, 'arrives')),
    { result: 'direct', log: ['direct starts at 0'] },
    'a direct path that arrives within its head start wins, and the relay is not tried',
  )
  t.same(
    await races.outcome(races.runner('direct', 500, 'arrives'), races.runner('relayed', 50, 'arrives')),
    { result: 'relayed', log: ['direct starts at 0', 'relayed starts at 150', 'direct stopped'] },
    'a relay that arrives first wins, and the slow direct path is stopped',
  )
  t.same(
    await races.outcome(races.runner('direct', 10, 'fails'), races.runner('relayed', 50, 'arrives')),
    { result: 'relayed', log: ['direct starts at 0', 'relayed starts at 10'] },
    'a path that has failed has no head start any more',
  )
  t.same(
    await races.outcome(races.runner('relayed', 50, 'arrives')),
    { result: 'relayed', log: ['relayed starts at 0'] },
    'a relay that is alone starts at once',
  )
})

test('a race is lost when every path failed, or there is none', async (t) => {
  const races = new Races()
  const { result } = await races.outcome(races.runner('direct', 10, 'fails'), races.runner('reverse', 10, 'fails'))
  t.ok(result instanceof RaceLost, 'the race is lost when both paths failed')
  t.equal((result as RaceLost).failures.length, 2, 'the error lists both failures')
  t.ok((await races.outcome()).result instanceof RaceLost, 'a race without contenders is lost')
})

test('a race ends with its signal', async (t) => {
  const races = new Races()
  const given = new AbortController()
  const run = (...contenders: Contender<string>[]) =>
    race(contenders, races.clock, given.signal).catch((error: unknown) => error)
  const aborted = run(races.runner('direct', 1_000, 'arrives'))
  await settle()
  given.abort(new Error('given up'))
  t.match(await aborted, { message: 'given up' }, 'a race under way ends with the reason of the signal')
  t.match(await run(), { message: 'given up' }, 'so does one that starts after the signal')
})

test('a path that failed is remembered for a while', async (t) => {
  const paths = new PathHistory()
  t.notOk(paths.hasFailed('direct', 0), 'at first no path has failed')
  paths.failed('direct', 1_000)
  t.ok(paths.hasFailed('direct', 1_001), 'a failure is remembered')
  t.notOk(paths.hasFailed('reverse', 1_001), 'another path has not failed')
  t.notOk(paths.hasFailed('direct', 3_600_000), 'an hour later the failure is forgotten')
  paths.failed('direct', 1_000)
  paths.arrived('direct')
  t.notOk(paths.hasFailed('direct', 1_001), 'a failure is forgotten when the path has arrived since')
  paths.failed('direct', 1_000)
  paths.forget()
  t.notOk(paths.hasFailed('direct', 1_001), 'failures are forgotten when the network has changed')
})

test('a deadline aborts its signal at its time, unless disposed', async (t) => {
  const clock = new ManualClock()
  const late = new Deadline(clock, 100)
  const waiting = unlessAborted(new Promise(() => undefined), late.signal).catch((error: unknown) => error)
  await clock.advance(100)
  t.match(await waiting, { code: 'REQUEST_TIMEOUT' }, 'what waits under the signal fails at the deadline')
  const outer = new AbortController()
  using inTime = new Deadline(clock, 100, outer.signal)
  t.equal(await unlessAborted(Promise.resolve(5), inTime.signal), 5, 'what is done in time succeeds')
  outer.abort()
  t.ok(inTime.signal.aborted, 'the signal is aborted with the outer one')
  const disposed = new Deadline(clock, 100)
  disposed[Symbol.dispose]()
  await clock.advance(200)
  t.notOk(disposed.signal.aborted, 'the signal of a disposed deadline is never aborted')
})
