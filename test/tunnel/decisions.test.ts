import { test } from 'tap'
import { answerProposal, readAnswer } from '../../proxy/tunnel/agree.ts'
import { Deadline, unlessAborted } from '../../proxy/tunnel/deadline.ts'
import { Pulse } from '../../proxy/tunnel/liveness.ts'
import { carrierFor, carriersWanted, outranked, type CarrierView } from '../../proxy/tunnel/placement.ts'
import { race, RaceLost, type Runner } from '../../proxy/tunnel/race.ts'
import { Window } from '../../proxy/tunnel/window.ts'
import type { PathKind } from '../../proxy/tunnel/contract.ts'
import { ManualClock, settle } from './clock.ts'

const carrier = (path: PathKind, streams = 0, backlog = 0, isDraining = false, isDoubtful = false): CarrierView => ({
  isDoubtful,
  path,
  streams,
  backlog,
  isDraining,
})

test('where a new stream goes', async (t) => {
  const rows = [
    { why: 'no carrier', carriers: [], at: -1 },
    { why: 'fewest streams', carriers: [carrier('direct', 3), carrier('direct', 2)], at: 1 },
    { why: 'the first of equals', carriers: [carrier('direct', 2), carrier('direct', 2)], at: 0 },
    { why: 'path beats streams', carriers: [carrier('relayed', 0), carrier('direct', 90)], at: 1 },
    { why: 'reverse beats punched', carriers: [carrier('punched'), carrier('reverse')], at: 1 },
    { why: 'a queue beats streams', carriers: [carrier('direct', 1, 300_000), carrier('direct', 5, 0)], at: 1 },
    { why: 'a few bytes are no queue', carriers: [carrier('direct', 1, 9_000), carrier('direct', 5, 0)], at: 0 },
    { why: 'not where it drains', carriers: [carrier('direct', 0, 0, true), carrier('relayed', 9)], at: 1 },
    { why: 'not where it may be dead', carriers: [carrier('direct', 0, 0, false, true), carrier('relayed', 9)], at: 1 },
    { why: 'unless there is nothing else', carriers: [carrier('direct', 0, 0, false, true)], at: 0 },
    { why: 'nowhere', carriers: [carrier('direct', 0, 0, true)], at: -1 },
  ]
  for (const { why, carriers, at } of rows) t.equal(carrierFor(carriers), carriers[at], why)
})

test('how many carriers, and which are past', async (t) => {
  t.equal(carriersWanted({ path: 'direct', streams: 0 }), 1)
  t.equal(carriersWanted({ path: 'direct', streams: 1 }), 2)
  t.equal(carriersWanted({ path: 'relayed', streams: 50 }), 1)
  const direct = carrier('direct')
  const relayed = carrier('relayed')
  t.same(outranked([direct, relayed]), [relayed])
  t.same(outranked([relayed]), [])
  t.same(outranked([carrier('direct', 0, 0, true), relayed]), [], 'a draining carrier outranks nobody')
})

test('which session a carrier belongs to: the accepting side', async (t) => {
  const current = { id: 'c', incarnation: 'i1' }
  const same = { session: 'theirs', incarnation: 'i1' }
  const restarted = { session: 'theirs', incarnation: 'i2' }
  const rows = [
    {
      why: 'first contact',
      mine: { isFirst: true, current: undefined, pending: undefined },
      theirs: same,
      is: 'theirs',
    },
    {
      why: 'we dial too, and come first',
      mine: { isFirst: true, current: undefined, pending: 'mine' },
      theirs: same,
      is: 'mine',
    },
    {
      why: 'we dial too, and come second',
      mine: { isFirst: false, current: undefined, pending: 'mine' },
      theirs: same,
      is: 'theirs',
    },
    { why: 'there is one already', mine: { isFirst: false, current, pending: 'mine' }, theirs: same, is: 'c' },
    {
      why: 'another carrier for it',
      mine: { isFirst: true, current, pending: undefined },
      theirs: { session: 'c', incarnation: 'i1' },
      is: 'c',
    },
    {
      why: 'the peer has restarted',
      mine: { isFirst: true, current, pending: undefined },
      theirs: restarted,
      is: 'theirs',
      cuts: true,
    },
    {
      why: 'the peer has a successor, and said so',
      mine: { isFirst: true, current, leaving: [current], pending: undefined },
      theirs: restarted,
      is: 'theirs',
    },
    {
      why: 'the one that leaves brings a carrier',
      mine: { isFirst: true, current: { id: 'd', incarnation: 'i2' }, leaving: [current], pending: undefined },
      theirs: { session: 'c', incarnation: 'i1' },
      is: 'c',
    },
    {
      why: 'the successor restarts without a word',
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

test('which session a carrier belongs to: the dialling side', async (t) => {
  const current = { id: 'c', incarnation: 'i1' }
  const rows = [
    { why: 'the answer stands', current: undefined, answer: { session: 'a', incarnation: 'i1' }, cuts: false },
    { why: 'joins the one we have', current, answer: { session: 'c', incarnation: 'i1' }, cuts: false },
    { why: 'the peer has forgotten ours', current, answer: { session: 'a', incarnation: 'i1' }, cuts: true },
    { why: 'the peer has restarted', current, answer: { session: 'c', incarnation: 'i2' }, cuts: true },
    {
      why: 'a successor answers',
      current,
      leaving: [current],
      answer: { session: 'a', incarnation: 'i2' },
      cuts: false,
    },
    {
      why: 'the one that leaves answers',
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

test('pings and signs of life', async (t) => {
  const pulse = new Pulse()
  const due = (now: number, busy = true) => pulse.beat(now, busy).due
  t.equal(due(0), 'ping', 'at once')
  t.equal(due(999), 'nothing')
  pulse.heard()
  t.equal(due(1_000), 'ping')
  pulse.heard()
  t.equal(due(5_000, false), 'nothing', 'less often when idle')
  t.equal(due(16_000, false), 'ping')
  t.same([due(17_000), due(18_000), due(19_000)], ['ping', 'ping', 'dead'], 'three pings without a sign')

  const idle = new Pulse()
  idle.beat(0, false)
  idle.heard()
  idle.beat(15_000, false)
  t.notOk(idle.isDoubtful)
  t.equal(idle.beat(30_000, false).due, 'ping')
  t.ok(idle.isDoubtful)
  t.equal(idle.beat(31_000, false).due, 'ping', 'in doubt it is asked every second')
  idle.heard()
  t.notOk(idle.isDoubtful)
  t.equal(idle.beat(32_000, false).due, 'nothing', 'and no more once it has spoken')

  const stalled = new Pulse()
  stalled.beat(0, true)
  t.equal(stalled.beat(60_000, true).due, 'ping', 'our own stall counts as one miss, whatever its length')

  const measured = new Pulse()
  const ping = measured.beat(0, true)
  t.equal(ping.due === 'ping' && measured.pong(ping.sequence, 80), 80)
  t.equal(measured.rttMs, 80)
  t.equal(measured.pong(1, 90), undefined, 'a pong counts once')
  const next = measured.beat(1_000, true)
  if (next.due === 'ping') measured.pong(next.sequence, 1_160)
  t.equal(measured.rttMs, 90, 'smoothed: an eighth of the difference')
  t.equal(measured.leastRttMs, 80)
  t.equal(measured.pong(77, 2_000), undefined, 'a pong nobody asked for')
})

test('windows on links of all kinds', async (t) => {
  const KIB = 1024
  /** A sender that always has its window under way; the link gives what it can. */
  const after = (link: { bytesPerMs: number; rttMs: number; queues: boolean }, rounds = 60) => {
    const window = new Window({ first: 256 * KIB, limit: 16 * KIB * KIB, now: 0 })
    let consumed = 0
    let now = 0
    for (let i = 0; i < rounds; i++) {
      const rate = Math.min(link.bytesPerMs, window.bytes / link.rttMs)
      consumed += window.bytes
      now += window.bytes / rate
      const measuredRtt = link.queues ? Math.max(link.rttMs, window.bytes / rate) : link.rttMs
      window.round({ consumed, now, rttMs: measuredRtt }, () => true)
    }
    return window.bytes / KIB
  }
  const rows = [
    { why: 'loopback needs no more', link: { bytesPerMs: 500_000, rttMs: 0.1, queues: false }, least: 256, most: 256 },
    {
      why: 'a queue of our own making is no reason',
      link: { bytesPerMs: 500_000, rttMs: 0.1, queues: true },
      least: 256,
      most: 512,
    },
    {
      why: '1 Gbit/s over 100 ms',
      link: { bytesPerMs: 125_000, rttMs: 100, queues: false },
      least: 12_500,
      most: 16_384,
    },
    {
      why: '1 Gbit/s over 20 ms, with its queue',
      link: { bytesPerMs: 125_000, rttMs: 20, queues: true },
      least: 2_048,
      most: 8_192,
    },
    { why: '10 Mbit/s over 50 ms', link: { bytesPerMs: 1_250, rttMs: 50, queues: true }, least: 256, most: 512 },
  ]
  for (const { why, link, least, most } of rows) {
    const kib = after(link)
    t.ok(kib >= least && kib <= most, `${why}: ${kib} KiB`)
  }
  const poor = new Window({ first: 256 * KIB, limit: 16 * KIB * KIB, now: 0 })
  t.equal(
    poor.round({ consumed: 256 * KIB, now: 10, rttMs: 100 }, () => false),
    0,
    'the session cannot afford more',
  )
  t.equal(
    poor.round({ consumed: 512 * KIB, now: 20, rttMs: undefined }, () => true),
    0,
    'nothing is known of the path',
  )
})

test('the race of paths', async (t) => {
  const clock = new ManualClock()
  const log: string[] = []
  const never = new AbortController().signal
  const runner = (path: PathKind, ms: number, outcome: 'arrives' | 'fails'): Runner<string> => ({
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
  const outcome = async (runners: Runner<string>[], ms = 5_000) => {
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

test('deadlines', async (t) => {
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
