import { test } from 'tap'
import { InFlightLimit } from '../../proxy/tunnel/carrier/in-flight.ts'
import { Window } from '../../proxy/tunnel/stream/window.ts'

/* How much a carrier, and a stream, may have under way: on links of all kinds. */

const KIB = 1024
const MBIT = 125 // bytes a millisecond

interface Path {
  bytesPerMs: number
  rttMs: number
  /** The round trip of the first second. */
  beganMs?: number
  /** A packet is lost every `everyMs`, and nothing behind it is read for `lastMs`. */
  holes?: { everyMs: number; lastMs: number }
  isShared?: boolean
}

/** A sender that always has more, for five seconds; what came in the last one, and what was under way then, in what the path holds. */
function flow({ bytesPerMs, rttMs, beganMs = rttMs, holes, isShared = false }: Path): { share: number; held: number } {
  const inFlight = new InFlightLimit()
  inFlight.isShared = isShared
  const marks: { sequence: number; at: number }[] = []
  const sentBy: number[] = []
  const answers: { sequence: number; due: number }[] = []
  let [handed, sent, read, readBefore, most] = [0, 0, 0, 0, 0]
  for (let now = 0; now < 5_000; now++) {
    while (answers[0] !== undefined && answers[0].due <= now) inFlight.answered(answers.shift()!.sequence, now)
    while (inFlight.room > 0) {
      const bytes = Math.min(inFlight.room, 16 * KIB)
      inFlight.sent(bytes)
      handed += bytes
      if (inFlight.isMarkDue) marks.push({ sequence: inFlight.mark(now), at: handed })
    }
    sent = Math.min(handed, sent + bytesPerMs)
    sentBy.push(sent)
    const isStuck = holes !== undefined && now % holes.everyMs < holes.lastMs
    const oneWay = (now < 1_000 ? beganMs : rttMs) / 2
    if (!isStuck) read = Math.max(read, sentBy[now - Math.ceil(oneWay)] ?? 0)
    while (marks[0] !== undefined && marks[0].at <= read) {
      answers.push({ sequence: marks.shift()!.sequence, due: now + Math.floor(oneWay) })
    }
    if (now === 4_000) readBefore = read
    if (now >= 4_000) most = Math.max(most, inFlight.limit)
  }
  return { share: (read - readBefore) / (1_000 * bytesPerMs), held: most / (bytesPerMs * rttMs) }
}

test('the in-flight limit of a carrier follows its bandwidth and round trip', async (t) => {
  const holes = { everyMs: 100, lastMs: 60 }
  const rows = [
    { why: 'a long path without loss', path: { bytesPerMs: 50 * MBIT, rttMs: 50 }, held: [1.9, 2.5] },
    {
      why: 'a long path without loss, with small streams too',
      path: { bytesPerMs: 50 * MBIT, rttMs: 50, isShared: true },
      held: [1.4, 2],
    },
    {
      why: 'a packet lost in every second round trip',
      path: { bytesPerMs: 50 * MBIT, rttMs: 50, holes },
      held: [3, 6],
    },
    {
      why: 'a packet lost in every second round trip, with small streams too',
      path: { bytesPerMs: 50 * MBIT, rttMs: 50, holes, isShared: true },
      held: [2, 6],
    },
    {
      why: 'the round trip of the path grows',
      path: { bytesPerMs: 50 * MBIT, rttMs: 100, beganMs: 1 },
      held: [1.9, 2.5],
    },
    { why: 'a round trip of half a second', path: { bytesPerMs: 50 * MBIT, rttMs: 500 }, held: [1.9, 2.5] },
  ]
  for (const {
    why,
    path,
    held: [least = 0, most = 0],
  } of rows) {
    const { share, held } = flow(path)
    t.ok(share > 0.95, `${why}: fills ${(share * 100).toFixed(0)} % of the link`)
    t.ok(held >= least && held <= most, `${why}: ${held.toFixed(1)} times what the path holds`)
  }
  const near = { bytesPerMs: 5_000 * MBIT, rttMs: 2 }
  const { held } = flow({ ...near, isShared: true, holes: { everyMs: 40, lastMs: 8 } })
  t.ok(held <= 2.5, `a busy machine on a short path is no lossy path: ${held.toFixed(1)} times`)
})

test('an outage does not raise the in-flight limit', async (t) => {
  const inFlight = new InFlightLimit()
  let now = 0
  for (let i = 0; i < 50; i++) {
    inFlight.sent(64 * KIB)
    const sequence = inFlight.mark(now)
    inFlight.answered(sequence, (now += 50))
  }
  const before = inFlight.limit
  inFlight.sent(64 * KIB)
  const sequence = inFlight.mark(now)
  inFlight.answered(sequence, now + 9_000)
  t.ok(inFlight.limit <= 3.1 * before, `${before} to ${inFlight.limit}`)
})

/** A sender that always has its window under way, or twice what the path holds; the link gives what it can. Its window in the end, in KiB. */
function windowOn(link: { bytesPerMs: number; rttMs: number; queues: boolean }, rounds = 200): number {
  const window = new Window({ first: 256 * KIB, limit: 16 * KIB * KIB, now: 0 })
  let consumed = 0
  let now = 0
  for (let i = 0; i < rounds; i++) {
    const underWay = link.rttMs < 10 ? window.bytes : Math.min(window.bytes, 2 * link.bytesPerMs * link.rttMs)
    const rate = Math.min(link.bytesPerMs, underWay / link.rttMs)
    const piece = window.bytes / 4
    consumed += piece
    now += piece / rate
    const rttMs = link.queues ? Math.max(link.rttMs, underWay / rate) : link.rttMs
    if (window.hasRoundEnded(consumed, now)) window.round({ consumed, now, rttMs }, () => true)
  }
  return window.bytes / KIB
}

test('windows grow to fit links of all kinds', async (t) => {
  const rows = [
    {
      why: 'on loopback the window does not grow',
      link: { bytesPerMs: 500_000, rttMs: 0.1, queues: false },
      least: 256,
      most: 256,
    },
    {
      why: 'a round trip that our own queue makes longer does not grow the window',
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
      least: 9_000,
      most: 16_384,
    },
    {
      why: '50 Mbit/s over 50 ms',
      link: { bytesPerMs: 50 * MBIT, rttMs: 50, queues: false },
      least: 1_200,
      most: 2_048,
    },
    {
      why: '50 Mbit/s over 50 ms, with its queue',
      link: { bytesPerMs: 50 * MBIT, rttMs: 50, queues: true },
      least: 1_200,
      most: 4_096,
    },
    { why: '10 Mbit/s over 50 ms', link: { bytesPerMs: 10 * MBIT, rttMs: 50, queues: true }, least: 256, most: 512 },
  ]
  for (const { why, link, least, most } of rows) {
    const kib = windowOn(link)
    t.ok(kib >= least && kib <= most, `${why}: ${kib.toFixed(0)} KiB`)
  }
})

test('a window grows while a stream begins, as fast as TCP does', async (t) => {
  const window = new Window({ first: 256 * KIB, limit: 16 * KIB * KIB, now: 0 })
  let consumed = 0
  for (let trip = 1, cwnd = 14 * KIB; trip < 9; trip++, cwnd *= 2) {
    t.ok(window.bytes >= cwnd, `round trip ${trip}: ${cwnd / KIB} KiB are under way`)
    consumed += cwnd
    const at = { consumed, now: trip * 50, rttMs: 50 }
    if (window.hasRoundEnded(at.consumed, at.now)) window.round(at, () => true)
  }
  t.ok(window.bytes <= 8 * KIB * KIB, `${window.bytes / KIB} KiB`)
})

test('a window stays as it is where growing would not help', async (t) => {
  const poor = new Window({ first: 256 * KIB, limit: 16 * KIB * KIB, now: 0 })
  t.equal(
    poor.round({ consumed: 256 * KIB, now: 10, rttMs: 8 }, () => false),
    0,
    'the session cannot afford more',
  )
  t.equal(
    poor.round({ consumed: 2_560 * KIB, now: 200, rttMs: 100 }, () => false),
    0,
    'nor on a long path',
  )
  t.equal(
    poor.round({ consumed: 5_120 * KIB, now: 210, rttMs: undefined }, () => true),
    0,
    'nothing is known of the path',
  )
  t.equal(
    poor.round({ consumed: 5_121 * KIB, now: 400, rttMs: 100 }, () => true),
    0,
    'a slow reader',
  )
})
