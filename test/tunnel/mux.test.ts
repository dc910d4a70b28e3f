import { ANY_PATH } from '../../src/core/model/path-rule.ts'
import { NodeBudget } from '../../proxy/tunnel/node-budget.ts'
import { randomBytes } from 'node:crypto'
import { Duplex, duplexPair } from 'node:stream'
import fc from 'fast-check'
import { test } from 'tap'
import { Carrier } from '../../proxy/tunnel/carrier/carrier.ts'
import type { ByteStream, IncomingStream } from '../../proxy/tunnel/contract.ts'
import { FRAME, MAX_OPEN_BYTES, writeCount, type FrameType } from '../../proxy/tunnel/wire/frame.ts'
import { encodeHello } from '../../proxy/tunnel/wire/hello.ts'
import { Pump } from '../../proxy/tunnel/carrier/pump.ts'
import { isMeshError } from '../../src/core/errors.ts'
import { streamContract } from '../contracts/stream.ts'
import { frame } from '../support/hostile-peer.ts'
import { settle } from '../support/manual-clock.ts'
import { accepting, helloOf, listenTo, Listener, MuxPair } from '../support/mux-pair.ts'

type Far = Listener & { stream: ByteStream; request: string }

function world(limits = {}, consumes = true) {
  const heard: Far[] = []
  const pair = new MuxPair({ limits }, { limits, accept: accepting(heard, consumes) })
  return { pair, heard }
}

/** One frame as the peer would send it, straight into the decoder of `to`. */
function inject(to: Carrier, type: FrameType, stream: number, payload: Buffer = Buffer.alloc(0)): void {
  const header = Buffer.alloc(8)
  header.writeUInt32BE(payload.length, 0)
  header[0] = type
  header.writeUInt32BE(stream, 4)
  to.receive(Buffer.concat([header, payload]))
}

test('a stream opens, carries data both ways and ends', async (t) => {
  const { pair, heard } = world()
  const near = listenTo(pair.near, 'cart')
  near.stream.write(Buffer.from('held until '))
  near.stream.write(Buffer.from('opened'))
  t.equal(pair.near.streams, 1, 'the stream counts from the start')
  pair.move()
  const far = heard[0]!
  t.equal(far.request, 'cart', 'the other side gets the request')
  t.equal(far.text(), 'held until opened', 'what was written before OPENED arrives after it')
  t.same(near.log, ['opened'], 'the opener is told that it is open')
  far.stream.write(Buffer.from('yes'))
  far.stream.end()
  pair.move()
  t.same(near.log, ['opened', 'data', 'end'], 'data and the end arrive')
  t.equal(pair.near.streams, 1, 'one direction is open')
  near.stream.write(Buffer.from('!'))
  near.stream.end()
  pair.move()
  t.same(far.log, ['data', 'end'], 'the other side hears the last data and the end')
  t.equal(far.text(), 'held until opened!', 'all that was written has arrived')
  t.equal(pair.near.streams + pair.far.streams, 0, 'ended at both ends')
  t.equal(pair.near.heldBytes + pair.far.heldBytes, 0, 'neither side holds bytes')
  t.ok(pair.near.accounting.keptBytes > 0, 'what was sent is kept until the peer has acknowledged it')
  pair.tick()
  t.equal(pair.near.accounting.keptBytes + pair.far.accounting.keptBytes, 0, 'within a tick')
  t.ok(pair.near.isQuiet && pair.far.isQuiet, 'freed at both ends')
  far.stream.write(Buffer.from('late'))
  far.stream.reset()
  near.stream.consumed(5)
  t.notOk(pair.step(), 'a freed stream says nothing')
})

test('both sides open streams without colliding', async (t) => {
  const nearHeard: Far[] = []
  const farHeard: Far[] = []
  const pair = new MuxPair({ accept: accepting(nearHeard) }, { accept: accepting(farHeard) })
  for (let i = 0; i < 5; i++) {
    listenTo(pair.near, `n${i}`)
    listenTo(pair.far, `f${i}`)
  }
  pair.move()
  t.same(
    farHeard.map(({ request }) => request),
    ['n0', 'n1', 'n2', 'n3', 'n4'],
    'the far side hears the five streams of the near one, in order',
  )
  t.same(
    nearHeard.map(({ request }) => request),
    ['f0', 'f1', 'f2', 'f3', 'f4'],
    'the near side hears the five streams of the far one, in order',
  )
  t.equal(pair.near.streams, 10, 'all ten streams are open')
})

test('the opener gets the reason of each refusal', async (t) => {
  const answers: ((incoming: IncomingStream) => void)[] = []
  const pair = new MuxPair({}, { accept: (incoming) => answers.shift()!(incoming) })
  for (const refusal of [
    'unreachable',
    'not-here',
    'draining',
    'overloaded',
    'timeout',
    'not-allowed',
    'bad-request',
  ] as const) {
    answers.push((incoming) => incoming.refuse(refusal))
    const near = listenTo(pair.near, 'x')
    pair.move()
    t.same(near.log, [`refused ${refusal}`], `the opener is told the reason ${refusal}`)
  }
  t.equal(pair.near.streams + pair.far.streams, 0, 'no stream is left')

  const near = listenTo(pair.near, 'nobody answers')
  let late: IncomingStream | undefined
  let isGone = false
  answers.push((incoming) => {
    late = incoming
    incoming.onGone(() => {
      isGone = true
    })
  })
  pair.move()
  pair.far.tick(4_999)
  pair.move()
  t.same(near.log, [], 'nothing is told before five seconds have passed')
  pair.far.tick(5_000)
  pair.move()
  t.same(near.log, ['refused timeout'], 'after five seconds without an answer the stream is refused')
  t.ok(isGone, 'the accepting side is told that the opener has gone')
  const tooLate = listenTo(pair.near, 'unused')
  late!.refuse('not-here')
  const dead = late!.accept(tooLate)
  dead.write(Buffer.from('x'))
  await settle(1)
  t.same(tooLate.log, ['reset'], 'accepting too late gives a reset')
})

test('when the opener gives up, the accepting side is notified and nothing is left', async (t) => {
  const waiting: IncomingStream[] = []
  const gone: number[] = []
  const pair = new MuxPair({}, { accept: (incoming) => waiting.push(incoming) })
  const near = listenTo(pair.near, 'x')
  pair.move()
  waiting[0]!.onGone(() => gone.push(1))
  near.stream.reset()
  pair.move()
  t.same(gone, [1], 'the accepting side is told once')
  t.equal(pair.far.streams, 0, 'no stream is left there')

  const crossing = listenTo(pair.near, 'y')
  pair.move()
  const far = new Listener()
  waiting[1]!.accept(far)
  crossing.stream.reset()
  pair.move()
  t.same(crossing.log, [], 'OPENED and RESET cross: the opener hears nothing more')
  t.same(far.log, ['reset'], 'the accepting side hears the reset')
})

test('transfers keep their checksums under random chunks, batches and pauses', async (t) => {
  fc.assert(
    fc.property(
      fc.array(
        fc.record({ there: fc.nat(600_000), back: fc.nat(600_000), step: fc.integer({ min: 1, max: 90_000 }) }),
        {
          minLength: 1,
          maxLength: 5,
        },
      ),
      fc.integer({ min: 600, max: 140_000 }),
      fc.infiniteStream(fc.integer({ min: 1, max: 70_000 })),
      fc.infiniteStream(fc.boolean()),
      (flows, batchBytes, chunks, pauses) => {
        const { pair, heard } = world({ windowBytes: 64 * 1024 }, false)
        pair.chunkBytes = () => chunks.next().value as number
        const ends = flows.map((flow, i) => {
          const near = listenTo(pair.near, String(i))
          near.consumes = false
          return { near, there: randomBytes(flow.there), back: randomBytes(flow.back), step: flow.step }
        })
        pair.move(batchBytes)
        for (const [i, { near, there, back, step }] of ends.entries()) {
          for (let at = 0; at < there.length; at += step) near.stream.write(there.subarray(at, at + step))
          for (let at = 0; at < back.length; at += step) heard[i]!.stream.write(back.subarray(at, at + step))
          near.stream.end()
          heard[i]!.stream.end()
        }
        const given = new Map<Listener, number>()
        const readSome = (listener: Listener & { stream: ByteStream }) => {
          if (pauses.next().value === true) return
          listener.stream.consumed(listener.bytes - (given.get(listener) ?? 0))
          given.set(listener, listener.bytes)
        }
        for (let idle = 0; idle < 60; ) {
          idle = pair.step(batchBytes) ? 0 : idle + 1
          for (const { near } of ends) readSome(near)
          for (const far of heard) readSome(far)
        }
        return (
          ends.every(
            ({ near, there, back }, i) =>
              Buffer.concat(heard[i]!.chunks).equals(there) &&
              Buffer.concat(near.chunks).equals(back) &&
              near.log.at(-1) === 'end' &&
              heard[i]!.log.at(-1) === 'end',
          ) && pair.near.streams + pair.far.streams + pair.near.heldBytes + pair.far.heldBytes === 0
        )
      },
    ),
    { numRuns: 25 },
  )
  t.pass('25 runs')
})

test('a stopped reader holds one window and delays no other stream', async (t) => {
  const { pair, heard } = world({}, false)
  const stuck = listenTo(pair.near, 'stuck')
  const quick = listenTo(pair.near, 'quick')
  pair.move()
  heard[1]!.consumes = true
  let accepted = 0
  while (stuck.stream.write(Buffer.alloc(65_536))) accepted += 65_536
  t.ok(accepted < 400_000, 'the writer was stopped')
  pair.move()
  while (stuck.stream.write(Buffer.alloc(65_536)));
  pair.move()
  t.equal(heard[0]!.bytes, 256 * 1024, 'one window and not a byte more')
  t.equal(pair.far.heldBytes, 256 * 1024, 'one window is held')
  for (let i = 0; i < 30; i++) {
    quick.stream.write(Buffer.alloc(60_000))
    pair.move()
  }
  t.equal(heard[1]!.bytes, 1_800_000, 'the other stream has carried everything')
  heard[0]!.stream.consumed(heard[0]!.bytes)
  pair.move()
  t.ok(heard[0]!.bytes > 256 * 1024, 'goes on where it stood')
  t.equal(stuck.drains >= 1, true, 'the writer is told that it may go on')
})

test('bulk streams share fairly, and a small one never waits behind them', async (t) => {
  const { pair, heard } = world({ windowBytes: 4 * 1024 * 1024 }, true)
  const bulks = [1, 2, 3].map((i) => listenTo(pair.near, `bulk ${i}`))
  const small = listenTo(pair.near, 'small')
  pair.move()
  for (const bulk of bulks) bulk.stream.write(Buffer.alloc(1_500_000))
  pair.step(128 * 1024)
  small.stream.write(Buffer.from('keystroke'))
  pair.step(128 * 1024)
  t.equal(heard[3]!.text(), 'keystroke', 'in the very next batch')
  for (let i = 0; i < 6; i++) pair.step(128 * 1024)
  const amounts = heard.slice(0, 3).map(({ bytes }) => bytes)
  t.ok(Math.max(...amounts) - Math.min(...amounts) <= 33_000, `${amounts.join(', ')} differ by two turns at most`)
})

test('on a slow path the data queued ahead of a keystroke is bounded by the capacity of the path', async (t) => {
  const { pair } = world({ windowBytes: 4 * 1024 * 1024 }, true)
  const bulks = Array.from({ length: 8 }, (_, i) => listenTo(pair.near, `bulk ${i}`))
  const small = listenTo(pair.near, 'small')
  pair.move()
  const { near, far } = pair.links[0]!
  // 10 Mbit/s and 20 ms: 25 kB on the path; the kernel between would take megabytes
  const batch = Buffer.alloc(128 * 1024)
  const path: { at: number; bytes: Buffer }[] = []
  let freeAt = pair.time.now
  let waiting = 0
  const hand = () => {
    for (let size = near.outbox.fill(batch); size > 0; size = near.outbox.fill(batch)) {
      for (let at = 0; at < size; at += 1_250) {
        const bytes = Buffer.from(batch.subarray(at, Math.min(size, at + 1_250)))
        freeAt = Math.max(freeAt, pair.time.now) + bytes.length / 1_250
        path.push({ at: freeAt + 10, bytes })
        waiting += bytes.length
      }
    }
  }
  const pass = (ms: number) => {
    for (const until = pair.time.now + ms; pair.time.now < until; pair.time.now += 1) {
      for (const { stream } of bulks) if (stream.write(Buffer.alloc(40_000))) continue
      hand()
      while (path.length > 0 && path[0]!.at <= pair.time.now) {
        const { bytes } = path.shift()!
        waiting -= bytes.length
        far.receive(bytes)
      }
      const size = far.outbox.fill(batch)
      if (size > 0) near.receive(batch.subarray(0, size))
    }
  }
  pass(3_000)
  t.ok(waiting > 25_000, 'the path is full')
  t.ok(waiting < 450_000, `${waiting} bytes are ahead of it`)
  small.stream.write(Buffer.from('k'))
  const before = waiting
  hand()
  t.ok(waiting - before <= 16 * 1024 + 64 + 9 * 16_392, 'and it leaves within one turn of each')
  t.ok(near.outbox.inFlight.limit >= 128 * 1024, 'the limit of bytes in flight is not below one batch')
})

test('control frames overtake data', async (t) => {
  const { pair } = world({ windowBytes: 4 * 1024 * 1024 })
  const bulk = listenTo(pair.near, 'bulk')
  pair.move()
  bulk.stream.write(Buffer.alloc(1_000_000))
  const { near } = pair.links[0]!
  listenTo(pair.near, 'next')
  const batch = Buffer.alloc(4_096)
  near.outbox.fill(batch)
  t.equal(batch[0], FRAME.OPEN, 'the OPEN comes before the data that was written earlier')
})

test('a way is as long as its shortest round trip of late: a busy machine at either end does not make it longer', async (t) => {
  const { pair } = world({})
  const [{ near }] = pair.links as [(typeof pair.links)[0]]
  const seen: (number | undefined)[] = []
  for (const roundTripMs of [120, 1, 150, 200, 300, 250]) {
    pair.time.now += 20_000
    near.tick(false)
    pair.time.now += roundTripMs
    pair.move()
    seen.push(pair.near.route(ANY_PATH)?.rttMs)
  }
  t.same(seen, [120, 1, 1, 1, 150, 200])
})

test('a window grows with bandwidth and round trip, and the session bounds it', async (t) => {
  const roundsOn = (limits: object) => {
    const { pair, heard } = world(limits, true)
    const near = listenTo(pair.near, 'far away')
    pair.move()
    const { near: here, far: there } = pair.links[0]!
    there.tick(true)
    pair.time.now += 100
    pair.move()
    t.equal(pair.far.rttMs, 100, 'the round trip is measured')
    const amounts: number[] = []
    const batch = Buffer.alloc(1024 * 1024)
    const carry = (from: Carrier, to: Carrier) => {
      for (let size = from.outbox.fill(batch); size > 0; size = from.outbox.fill(batch))
        to.receive(batch.subarray(0, size))
    }
    for (let round = 0; round < 24; round++) {
      const before = heard[0]!.bytes
      near.stream.write(Buffer.alloc(20_000_000)) // more than any window
      carry(here, there)
      pair.time.now += 100
      carry(there, here)
      amounts.push(heard[0]!.bytes - before)
      heard[0]!.chunks.length = 0
    }
    return amounts
  }
  const free = roundsOn({})
  t.equal(free[0], 256 * 1024, 'the first round carries one window of 256 KiB')
  t.ok(free.at(-1)! >= 4 * 1024 * 1024, `${free.at(-1)} bytes a round trip`)
  const bounded = roundsOn({ windowGrowthBytes: 256 * 1024 })
  t.equal(bounded.at(-1), 512 * 1024, 'no more than the session can afford')
})

test('when readers leave too much unread, the stream that holds most is reset', async (t) => {
  const { pair, heard } = world({ bufferedBytes: 600_000 }, false)
  const flows = [1, 2, 3].map((i) => listenTo(pair.near, String(i)))
  pair.move()
  flows[0]!.stream.write(Buffer.alloc(250_000))
  pair.move()
  flows[1]!.stream.write(Buffer.alloc(200_000))
  flows[2]!.stream.write(Buffer.alloc(200_000))
  pair.move()
  t.same(heard[0]!.log, ['data', 'reset'], 'the stream that holds most is reset where it is read')
  t.same(flows[0]!.log, ['opened', 'reset'], 'its writer hears the reset')
  t.equal(heard[1]!.bytes + heard[2]!.bytes, 400_000, 'the others have all of theirs')
  t.equal(pair.far.heldBytes, 400_000, 'the bytes of the other two are held')
})

test('when all sessions of a node hold too much, the largest resets a stream', async (t) => {
  const budget = new NodeBudget(500_000)
  const worlds = [world({ budget }, false), world({ budget }, false)]
  const flows = worlds.map(({ pair }) => listenTo(pair.near, 'x'))
  for (const { pair } of worlds) pair.move()
  const [small, large] = flows as [(typeof flows)[0], (typeof flows)[0]]
  small.stream.write(Buffer.alloc(150_000))
  large.stream.write(Buffer.alloc(250_000))
  for (const { pair } of worlds) pair.move()
  t.equal(budget.heldBytes, 400_000, 'both sessions together hold 400,000 bytes')
  small.stream.write(Buffer.alloc(101_000))
  for (const { pair } of worlds) pair.move()
  const reset = flows.filter(({ log }) => log.at(-1) === 'reset')
  t.equal(reset.length, 1, 'one is enough')
  t.ok(budget.heldBytes <= 500_000, 'the sessions hold no more than allowed')
  for (const { stream } of flows) stream.reset()
  for (const { pair } of worlds) pair.move()
  t.equal(budget.heldBytes, 0, 'and the count comes back to nothing')
})

test('a million OPENs are refused at next to no cost', async (t) => {
  const waiting: IncomingStream[] = []
  const pair = new MuxPair({}, { accept: (incoming) => waiting.push(incoming) })
  const { far } = pair.links[0]!
  const opens = Buffer.alloc(1_000 * 9)
  let id = 1
  let answered = 0
  const drain = Buffer.alloc(64 * 1024)
  for (let burst = 0; burst < 1_000; burst++) {
    for (let i = 0; i < 1_000; i++, id += 2) {
      opens.writeUInt32BE(1, i * 9)
      opens[i * 9] = FRAME.OPEN
      opens.writeUInt32BE(id, i * 9 + 4)
    }
    far.receive(opens)
    for (let size = far.outbox.fill(drain); size > 0; size = far.outbox.fill(drain)) answered += size
  }
  t.equal(waiting.length, 1_024, 'as many as may wait for an answer')
  t.equal(pair.far.streams, 1_024, 'as many streams count as open')
  t.ok(answered >= (1_000_000 - 1_024) * 9, 'all others were refused')
  t.notOk(far.outbox.isOverfull, 'the answers fit while they are read')

  for (let burst = 0; burst < 600; burst++) {
    for (let i = 0; i < 1_000; i++, id += 2) opens.writeUInt32BE(id, i * 9 + 4)
    far.receive(opens)
  }
  t.ok(far.outbox.isOverfull, 'a peer that does not read its answers is noticed (the pump cuts it)')
})

test('streams, and OPENs per second, are limited', async (t) => {
  const heard: Far[] = []
  const pair = new MuxPair({}, { limits: { streams: 3, opensPerSecond: 4 }, accept: accepting(heard) })
  const flows = [1, 2, 3, 4].map((i) => listenTo(pair.near, String(i)))
  pair.move()
  t.same(
    flows.map(({ log }) => log[0]),
    ['opened', 'opened', 'opened', 'refused overloaded'],
    'the first three are opened, the fourth is refused',
  )
  for (const { stream } of flows) stream.reset()
  pair.move()
  pair.time.now += 250
  const next = [5, 6, 7].map((i) => listenTo(pair.near, String(i)))
  pair.move()
  t.same(
    next.map(({ log }) => log[0]),
    ['opened', 'opened', 'refused overloaded'],
    'one token was left, one came back',
  )

  const own = new MuxPair({ limits: { streams: 1 } }, { accept: accepting([]) })
  listenTo(own.near, 'a')
  const second = listenTo(own.near, 'b')
  t.same(second.log, [], 'not before open() has returned')
  await settle(1)
  t.same(second.log, ['refused overloaded'], 'the opener is refused once open() has returned')
  t.throws(() => own.near.open(Buffer.alloc(MAX_OPEN_BYTES + 1), second), 'a request that is too long throws')
})

const ack = (consumed: number) => {
  const payload = Buffer.alloc(12)
  writeCount(payload, 0, consumed)
  return payload
}

/** Frames that are wrong in the state of their stream; each is named as the reason of the error names it. */
const FORBIDDEN: { why: string; says: (far: Carrier, near: Carrier) => void }[] = [
  {
    why: 'data beyond the window',
    says: (far) => {
      for (let i = 0; i < 5; i++) inject(far, FRAME.DATA, 1, Buffer.alloc(60_000))
    },
  },
  { why: 'OPEN of a stream that is ours to open', says: (far) => inject(far, FRAME.OPEN, 2) },
  { why: 'OPEN of a stream that is open', says: (far) => inject(far, FRAME.OPEN, 1) },
  {
    why: 'data after END',
    says: (far) => {
      inject(far, FRAME.END, 1)
      inject(far, FRAME.DATA, 1, Buffer.alloc(1))
    },
  },
  {
    why: 'a second END',
    says: (far) => {
      inject(far, FRAME.END, 1)
      inject(far, FRAME.END, 1)
    },
  },
  { why: 'ACK of bytes that were not sent', says: (far) => inject(far, FRAME.ACK, 1, ack(1)) },
  { why: 'a count that no stream can reach', says: (far) => inject(far, FRAME.ACK, 1, Buffer.alloc(12, 0xff)) },
  { why: 'OPENED without OPEN', says: (far) => inject(far, FRAME.OPENED, 1) },
  { why: 'REFUSED without OPEN', says: (far) => inject(far, FRAME.REFUSED, 1, Buffer.of(0)) },
  { why: 'data on a stream that is not open', says: (_, near) => inject(near, FRAME.DATA, 3, Buffer.alloc(1)) },
  { why: 'END on a stream that is not open', says: (_, near) => inject(near, FRAME.END, 3) },
]

test('forbidden frames end the session', async (t) => {
  for (const { why, says } of FORBIDDEN) {
    const { pair } = world({}, false)
    listenTo(pair.near, 'open')
    pair.move()
    listenTo(pair.near, 'opening')
    const { far, near } = pair.links[0]!
    try {
      says(far, near)
      t.fail(`accepted: ${why}`)
    } catch (error) {
      const reason = isMeshError(error, 'FRAME_INVALID') ? error.details['reason'] : error
      t.equal(reason, why, `the session ends with FRAME_INVALID and the reason: ${why}`)
    }
  }
})

test('frames of streams that are gone are dropped, and unknown ones are counted', async (t) => {
  const { pair } = world()
  const { far } = pair.links[0]!
  for (const type of [FRAME.OPENED, FRAME.DATA, FRAME.END, FRAME.RESET] as const) inject(far, type, 77, Buffer.alloc(1))
  inject(far, FRAME.REFUSED, 77, Buffer.of(99))
  inject(far, FRAME.ACK, 77, ack(5))
  t.equal(pair.far.streams, 0, 'frames for streams that are gone are dropped')
  inject(far, 28 as FrameType, 0)
  inject(far, 27 as FrameType, 3, Buffer.alloc(500))
  t.equal(pair.ignored, 2, 'unknown frames are counted')
  inject(far, FRAME.GOAWAY, 0, Buffer.alloc(5))
  t.equal(pair.wentAway, 1, 'GOAWAY is told once')
})

test('any sequence of frames from a peer is either accepted or refused as invalid', async (t) => {
  const type = fc.integer({ min: 2, max: 20 })
  const frame = fc.record({ type, stream: fc.integer({ min: 0, max: 7 }), payload: fc.uint8Array({ maxLength: 70 }) })
  fc.assert(
    fc.property(fc.array(frame, { maxLength: 40 }), (frames) => {
      const { pair, heard } = world({ streams: 4 })
      listenTo(pair.near, 'a').stream.write(Buffer.alloc(10))
      pair.move()
      const { far } = pair.links[0]!
      try {
        for (const { type, stream, payload } of frames) inject(far, type as FrameType, stream, Buffer.from(payload))
      } catch (error) {
        if (!isMeshError(error, 'FRAME_INVALID')) throw error
      }
      for (const { stream } of heard) stream.reset()
      return pair.far.streams <= 8 && pair.far.heldBytes === 0
    }),
    { numRuns: 400 },
  )
  t.pass('400 runs')
})

test('only the streams of peers that cannot resume end with their carrier', async (t) => {
  const heard: Far[] = []
  const pair = new MuxPair({ features: 0 }, { accept: accepting(heard) }, ['direct', 'direct'])
  const flows = [1, 2, 3, 4].map((i) => listenTo(pair.near, String(i)))
  pair.move()
  t.same(
    pair.links.map(({ near }) => near.streams),
    [2, 2],
    'streams are spread',
  )
  const opening = [5, 6].map((i) => listenTo(pair.near, String(i)))
  flows[1]!.stream.write(Buffer.from('not kept'))
  pair.sever(0)
  t.same(
    flows.map(({ log }) => log.at(-1)),
    ['reset', 'opened', 'reset', 'opened'],
    'the streams of the lost carrier are reset, the others stay open',
  )
  t.same(
    opening.map(({ log }) => log),
    [['refused unreachable'], []],
    'an OPEN fails over at once',
  )
  pair.move()
  t.equal(pair.near.accounting.keptBytes, 0, 'nothing is kept for a peer that cannot resume')
  t.same(opening[1]!.log, ['opened'], 'the OPEN on the other carrier is answered')
  t.equal(pair.near.streams, 3, 'three streams are left here')
  t.equal(pair.far.streams, 3, 'three streams are left there')
  pair.sever(0)
  await settle(1)
  const none = listenTo(pair.near, 'no carrier')
  await settle(1)
  t.same(none.log, ['refused unreachable'], 'without a carrier a stream is refused as unreachable')
})

test('a draining carrier takes no new streams and keeps its open ones', async (t) => {
  const heard: Far[] = []
  const pair = new MuxPair({}, { accept: accepting(heard) }, ['relayed'])
  const old = listenTo(pair.near, 'old')
  pair.move()
  pair.connect('direct')
  pair.links[0]!.near.drain()
  pair.move()
  t.ok(pair.links[0]!.far.isDraining, 'both ends know')
  const young = listenTo(pair.near, 'young')
  pair.move()
  t.same(
    pair.links.map(({ near }) => near.streams),
    [1, 1],
    'new streams take the other carrier',
  )
  old.stream.end()
  heard[0]!.stream.end()
  pair.move()
  t.notOk(pair.links[0]!.near.isDrained, 'the last acknowledgement is due')
  pair.tick()
  t.ok(pair.links[0]!.near.isDrained && pair.links[0]!.far.isDrained, 'may be closed')
  t.notOk(pair.links[1]!.near.isDraining, 'the other carrier does not drain')

  pair.far.drain()
  const crossing = listenTo(pair.near, 'crosses the DRAIN')
  pair.move()
  await settle(1)
  t.same(crossing.log, ['opened'], 'asked for before the DRAIN was read')
  const late = listenTo(pair.near, 'after it')
  await settle(1)
  t.same(late.log, ['refused draining'], 'a stream that is opened after the DRAIN is refused')
  young.stream.write(Buffer.from('goes on'))
  pair.move()
  t.equal(heard[1]!.text(), 'goes on', 'a stream that was open before carries data')
})

test('the pump cuts off a peer that sends pings and does not read', async (t) => {
  const carrier = new Carrier('direct', () => 0)
  const { near } = new MuxPair()
  carrier.onHello = (hello) => carrier.attach(near, hello)
  const stuck = new Duplex({ read: () => undefined, write: () => undefined }) // no write ever ends
  const reasons: unknown[] = []
  const pump = new Pump(carrier, stuck, { carrierLost: (_, reason) => reasons.push(reason) })
  stuck.push(encodeHello(helloOf(near)))
  const ping = Buffer.from('09000008000000000000000000000000', 'hex')
  const pings = Buffer.concat(Array.from({ length: 16_384 }, () => ping))
  for (let i = 0; i < 20 && reasons.length === 0; i++) {
    stuck.push(pings)
    await settle(3)
  }
  t.match(
    reasons,
    [{ code: 'FRAME_INVALID', details: { reason: 'the peer does not read its answers' } }],
    'the carrier is lost because the peer does not read its answers',
  )
  t.ok(stuck.destroyed, 'the connection is destroyed')
  pump.cut()
  pump.finish()
  t.equal(reasons.length, 1, 'notified once')
})

test('a peer that goes on opening streams beyond its rate is read more slowly', async (t) => {
  const pair = new MuxPair({ limits: { opensPerSecond: 1_000 }, accept: () => undefined }, {}, [])
  const carrier = new Carrier('direct', () => 0)
  carrier.onHello = (hello) => carrier.attach(pair.near, hello)
  const [ours, theirs] = duplexPair()
  const pump = new Pump(carrier, ours, { carrierLost: () => undefined })
  theirs.resume()
  const hello = encodeHello(helloOf(pair.far))
  theirs.write(hello)
  const opens = (first: number) =>
    Buffer.concat(Array.from({ length: 100 }, (_, i) => frame(FRAME.OPEN, 2 * (first + i))))
  const read = async (count: number) => {
    while (carrier.bytesIn < hello.length + 8 * count) await new Promise((resolve) => setTimeout(resolve, 2))
    return performance.now()
  }
  for (let i = 0; i < 23; i++) theirs.write(opens(100 * i + 1))
  const due = await read(2_100) // 1,000 that it may open, 1,000 refusals, and 100 beyond
  const last = await read(2_300)
  t.ok(last - due > 250, `200 more took ${last - due} ms, while 1,000 a second are read`)
  t.equal(pair.near.streams, 1_000, 'as many streams are open as may be opened in the first second')
  pump.cut()
})

test('when a session has reached its limit, every writer stops after each chunk, and each resumes', async (t) => {
  const { pair } = world({ retainedBytes: 8 * 1024 * 1024 })
  const flows = Array.from({ length: 200 }, (_, i) => listenTo(pair.near, String(i)))
  pair.move()
  let queued = 0
  for (const { stream } of flows) {
    for (let isFree = true; isFree; queued += 65_536) isFree = stream.write(Buffer.alloc(65_536))
  }
  t.ok(queued < 22 * 1024 * 1024, `${queued} bytes wait where nobody sends`)
  t.equal(pair.near.accounting.keptBytes, queued, 'what waits is counted')
  pair.move()
  pair.tick()
  await settle(1)
  t.equal(pair.near.accounting.keptBytes, 0, 'once all has been sent and acknowledged, nothing is kept')
  t.ok(
    flows.every(({ drains }) => drains === 1),
    'each was notified once',
  )
})

// the same streams over real pumps and a connection in memory
streamContract('tunnel', async (near, far) => {
  const accepted = Promise.withResolvers<ByteStream>()
  const opened = Promise.withResolvers<void>()
  const pair = new MuxPair({}, { accept: (incoming) => accepted.resolve(incoming.accept(far)) }, [])
  const [nearEnd, farEnd] = duplexPair()
  const carriers = [
    { carrier: new Carrier('direct', () => performance.now()), mux: pair.near, stream: nearEnd },
    { carrier: new Carrier('direct', () => performance.now()), mux: pair.far, stream: farEnd },
  ]
  const pumps = carriers.map(({ carrier, mux, stream }) => {
    carrier.sendHello(helloOf(mux))
    carrier.onHello = (hello) => {
      carrier.attach(mux, hello)
      mux.failover.attach(carrier)
    }
    return new Pump(carrier, stream, { carrierLost: () => mux.failover.detach(carrier) })
  })
  await settle(4)
  const stream = pair.near.open(Buffer.from('contract'), {
    opened: () => opened.resolve(),
    refused: (refusal) => opened.reject(new Error(refusal)),
    data: (chunk) => near.data(chunk),
    end: () => near.end(),
    reset: () => near.reset(),
    drain: () => near.drain(),
  })
  await opened.promise
  return {
    near: stream,
    far: await accepted.promise,
    [Symbol.asyncDispose]: async () => {
      for (const pump of pumps) pump.cut()
      await settle(2)
    },
  }
})
