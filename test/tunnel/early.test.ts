import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { test } from 'tap'
import { isMeshError } from '../../src/core/errors.ts'
import type { ByteStream, IncomingStream, Refusal, Withdrawable } from '../../proxy/tunnel/contract.ts'
import { ANY_PATH } from '../../src/core/model/path-rule.ts'
import { MAX_EARLY_DATAGRAMS } from '../../proxy/tunnel/stream/early-buffer.ts'
import { FLAGGED, FRAME, MAX_EARLY_BYTES } from '../../proxy/tunnel/wire/frame.ts'
import { FEATURE } from '../../proxy/tunnel/wire/hello.ts'
import { Tombstones } from '../../proxy/tunnel/session/closed-streams.ts'
import { settle } from '../support/manual-clock.ts'
import { ALL, DatagramListener, listenTo, Listener, listenToDatagrams, MuxPair } from '../support/mux-pair.ts'
import { told, TwoEnds, type SideName } from '../support/two-ends.ts'

/** What is said before OPENED: it travels with OPEN, is given to nobody before it is accepted, and never to two. */

function world({ features = ALL, limits = {} } = {}) {
  const waiting: IncomingStream[] = []
  const pair = new MuxPair({ features, limits }, { limits, accept: (incoming) => waiting.push(incoming) })
  return { pair, waiting, carriers: () => pair.links[0]! }
}

function take(incoming: IncomingStream): Listener & { stream: ByteStream } {
  const listener = new Listener()
  listener.stream = incoming.accept(listener)
  return listener as Listener & { stream: ByteStream }
}

function frame(type: number, stream: number, payload = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(8)
  header.writeUInt32BE(payload.length, 0)
  header[0] = type
  header.writeUInt32BE(stream, 4)
  return Buffer.concat([header, payload])
}

test('a request travels with OPEN, and the response comes in the packet of OPENED', async (t) => {
  const { pair, waiting } = world()
  t.ok(pair.near.route(ANY_PATH)?.takesEarly, 'the session takes early data')
  const near = listenTo(pair.near, 'cart')
  near.stream.write(Buffer.from('ques'))
  near.stream.write(Buffer.from('tion'))
  near.stream.end()
  pair.step() // one packet each way
  t.equal(pair.far.heldBytes, 8, 'it has come, and is held')
  const far = take(waiting[0]!)
  t.same(far.log, [], 'never before accept has returned')
  await Promise.resolve()
  t.same(far.log, ['data', 'end'], 'data and the end arrive after it')
  t.equal(far.text(), 'question', 'the data is the question')
  far.stream.write(Buffer.from('answer'))
  pair.step()
  t.same(near.log, ['opened', 'data'], 'the opener hears OPENED and the answer')
  far.stream.end()
  pair.move()
  pair.tick()
  t.ok(pair.near.isQuiet && pair.far.isQuiet, 'the stream is freed at both ends')
  t.equal(
    pair.near.heldBytes + pair.far.heldBytes + pair.near.accounting.keptBytes + pair.far.accounting.keptBytes,
    0,
    'neither side holds or keeps bytes',
  )
})

test('an empty early end is delivered, and data that follows keeps its order', async (t) => {
  const { pair, waiting } = world()
  const silent = listenTo(pair.near, 'x')
  silent.stream.end()
  const near = listenTo(pair.near, 'y')
  near.stream.write(Buffer.from('one '))
  pair.step()
  const [mute, far] = waiting.map(take)
  near.stream.write(Buffer.from('two'))
  near.stream.end()
  pair.move() // before what was held is told
  t.same(far!.log, [], 'nothing is told in the turn of accept')
  await Promise.resolve()
  t.same(mute!.log, ['end'], 'the stream that said nothing hears the end')
  t.same(far!.log, ['data', 'end'], 'the other hears data and the end')
  t.equal(far!.text(), 'one two', 'the data is in order')
})

test('when a stream is refused, withdrawn, reset or late, the instance gets nothing and nothing is left', async (t) => {
  const rows: {
    why: string
    act: (incoming: IncomingStream, near: ByteStream & Withdrawable, pair: MuxPair) => void
    log: string[]
  }[] = [
    { why: 'refused', act: (incoming) => incoming.refuse('refused'), log: ['refused refused'] },
    { why: 'withdrawn', act: (_, near) => near.withdraw(), log: ['refused timeout'] },
    { why: 'reset by the caller', act: (_, near) => near.reset(), log: [] },
    {
      why: 'late',
      act: (_, __, pair) => {
        pair.time.now = 6_000
        pair.far.tick(6_000)
      },
      log: ['refused timeout'],
    },
  ]
  for (const { why, act, log } of rows) {
    const { pair, waiting } = world()
    const near = listenTo(pair.near, 'x')
    near.stream.write(randomBytes(40_000))
    near.stream.end()
    pair.move()
    t.equal(pair.far.heldBytes, MAX_EARLY_BYTES, `${why}: no more than may be early`)
    let isGone = false
    waiting[0]!.onGone(() => (isGone = true))
    act(waiting[0]!, near.stream, pair)
    pair.move()
    t.same(near.log, log, `${why}: what the caller hears`)
    t.equal(
      isGone,
      why !== 'refused',
      `${why}: the instance ${why === 'refused' ? 'knows already' : 'is told that the caller has gone'}`,
    )
    const ears = new Listener()
    waiting[0]!.accept(ears)
    await settle(1)
    t.same(ears.log, ['reset'], `${why}: an instance that accepts too late hears a reset, and no byte`)
    pair.tick()
    t.equal(pair.far.heldBytes + pair.near.accounting.keptBytes, 0, `${why}: no bytes are held or kept`)
    t.equal(pair.near.streams + pair.far.streams, 0, `${why}: no stream is left`)
  }
})

test('WITHDRAW that crosses OPENED changes nothing', async (t) => {
  const { pair, waiting } = world()
  const near = listenTo(pair.near, 'x')
  near.stream.write(Buffer.from('hello'))
  pair.step()
  const far = take(waiting[0]!)
  near.stream.withdraw()
  pair.move()
  await Promise.resolve()
  near.stream.withdraw()
  near.stream.write(Buffer.from(' again'))
  pair.move()
  t.same(near.log, ['opened'], 'the stream is open')
  t.equal(far.text(), 'hello again', 'every byte arrives, before and after the WITHDRAW')
})

test('a few datagrams travel with OPEN and are delivered in order right after accept', async (t) => {
  const { pair, waiting } = world()
  const near = listenToDatagrams(pair.near, 'x')
  const late = listenToDatagrams(pair.near, 'y')
  t.ok(near.stream.send(Buffer.from('one')), 'a first datagram is taken before OPENED')
  t.ok(near.stream.send(Buffer.from('two')), 'a second datagram is taken before OPENED')
  t.notOk(near.stream.send(Buffer.alloc(MAX_EARLY_BYTES)), 'more than may be early waits with its sender')
  let count = 0
  while (late.stream.send(Buffer.of(count))) count++
  t.equal(count, MAX_EARLY_DATAGRAMS, 'as many as may be early are taken')
  pair.step()
  t.equal(pair.far.heldBytes, 6 + count, 'all of them are held where they came')
  for (let i = 0; i < 100; i++) pair.links[0]!.far.receive(frame(FRAME.DATAGRAM, 1, Buffer.alloc(900)))
  t.ok(pair.far.heldBytes <= 2 * MAX_EARLY_BYTES, 'whatever comes, at most twice the limit is held')
  waiting[1]!.refuse('overloaded')
  const ears = new DatagramListener()
  waiting[0]!.acceptDatagrams(ears)
  const { got } = ears
  t.same(got, [], 'nothing is told in the turn of accept')
  await Promise.resolve()
  t.same(got.slice(0, 2).map(String), ['one', 'two'], 'then both arrive, in order')
  t.equal(got.length, MAX_EARLY_DATAGRAMS, 'what came beyond the limit was dropped')
  t.equal(pair.far.heldBytes, 0, 'nothing is held any more')
  pair.move()
  t.same([near.log, late.log], [['opened'], ['refused overloaded']], 'one stream is opened, the other refused')

  const spoken = listenToDatagrams(pair.near, 'z')
  spoken.stream.send(Buffer.from('question'))
  pair.move()
  pair.near.end()
  t.same(spoken.log, ['reset'], 'its instance may have had it')
})

test('bytes beyond the early limit wait for OPENED, and then follow the window', async (t) => {
  const { pair, waiting } = world()
  const sent = randomBytes(100_000)
  const near = listenTo(pair.near, 'x')
  near.stream.write(sent)
  pair.move()
  t.equal(pair.far.heldBytes, MAX_EARLY_BYTES, 'as many bytes are held as may be early')
  const far = take(waiting[0]!)
  pair.move()
  await Promise.resolve()
  pair.move()
  t.ok(Buffer.concat(far.chunks).equals(sent), 'every byte arrives after OPENED')
})

test('data held for waiting OPENs counts as held, and the largest holder is reset', async (t) => {
  const { pair, waiting } = world({ limits: { bufferedBytes: 3 * MAX_EARLY_BYTES } })
  const callers = [10_000, 16_000, 12_000, 12_000].map((size) => {
    const near = listenTo(pair.near, 'x')
    near.stream.write(randomBytes(size))
    return near
  })
  pair.move()
  t.same(
    callers.map(({ log }) => log),
    [[], ['reset'], [], []],
    'reset, for want of any better',
  )
  t.equal(pair.far.heldBytes, 34_000, 'the bytes of the three others are held')
  for (const incoming of waiting) incoming.refuse('overloaded')
  t.equal(pair.far.heldBytes, 0, 'when they are refused, nothing is held')
})

test('a peer of an older version gets no early data and may not send any', async (t) => {
  const { pair, waiting, carriers } = world({ features: FEATURE.resume })
  t.notOk(pair.near.route(ANY_PATH)?.takesEarly, 'the session takes no early data')
  const near = listenTo(pair.near, 'x')
  near.stream.write(Buffer.from('waits'))
  near.stream.withdraw()
  pair.move()
  t.equal(pair.far.heldBytes, 0, 'nothing was sent before OPENED')
  const far = take(waiting[0]!)
  pair.move()
  t.equal(far.text(), 'waits', 'what waited arrives after OPENED')
  carriers().far.receive(frame(FRAME.OPEN, 101))
  t.throws(
    () => carriers().far.receive(frame(FRAME.DATA, 101, Buffer.from('x'))),
    { code: 'FRAME_INVALID' },
    'data before OPENED is refused',
  )
})

test('forbidden early frames are refused', async (t) => {
  const one = Buffer.alloc(1)
  const rows: { why: string; frames: Buffer[] }[] = [
    {
      why: 'one byte more than allowed',
      frames: [frame(FRAME.DATA, 1, Buffer.alloc(MAX_EARLY_BYTES)), frame(FRAME.DATA, 1, one)],
    },
    { why: 'bytes after END', frames: [frame(FRAME.END, 1), frame(FRAME.DATA, 1, one)] },
    { why: 'END twice', frames: [frame(FRAME.END, 1), frame(FRAME.END, 1)] },
    {
      why: 'an offset beyond the bytes received',
      frames: [frame(FRAME.DATA | FLAGGED, 1, Buffer.from('000100000000000561', 'hex'))],
    },
  ]
  for (const { why, frames } of rows) {
    const { carriers } = world()
    const { far } = carriers()
    far.receive(frame(FRAME.OPEN, 1))
    t.throws(() => frames.forEach((bytes) => far.receive(bytes)), { code: 'FRAME_INVALID' }, why)
  }
  const { pair, carriers } = world()
  carriers().far.receive(frame(FRAME.WITHDRAW, 77))
  carriers().far.receive(frame(FRAME.DATA, 77, one))
  t.equal(pair.far.heldBytes, 0, 'streams nobody knows are nobody’s')
})

test('any frames on pending streams are refused as a whole or held within bounds', async (t) => {
  const types = [FRAME.OPEN, FRAME.DATA, FRAME.END, FRAME.WITHDRAW, FRAME.RESET, FRAME.DATA, FRAME.DATA | FLAGGED]
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.constantFrom(...types), fc.nat(3), fc.nat(9_000)), { maxLength: 60 }),
      (frames) => {
        const { pair, carriers } = world()
        const { far } = carriers()
        const open = new Set<number>()
        for (const [type, which, size] of frames) {
          const id = which * 2 + 1
          if (type === FRAME.OPEN) open.add(id)
          const payload = type === FRAME.OPEN || type === FRAME.END ? 0 : Math.max(size, type > 31 ? 8 : 0)
          try {
            far.receive(frame(type, id, Buffer.alloc(Math.min(payload, type === FRAME.DATA ? 9e9 : 64))))
          } catch (error) {
            return isMeshError(error, 'FRAME_INVALID')
          }
          if (pair.far.heldBytes > open.size * MAX_EARLY_BYTES) return false
        }
        return true
      },
    ),
    { numRuns: 200 },
  )
  t.pass('200 runs')
})

// ── carriers die between OPEN and its answer ──

test('when the carrier of a request dies, another carries it again and it is read once', async (t) => {
  for (const before of ['the question', 'OPENED'] as const) {
    for (const isLast of [false, true]) {
      const why = `${before} is lost, ${isLast ? 'no carrier is left for a while' : 'another stands by'}`
      const { pair, waiting } = world()
      if (!isLast) pair.connect('direct')
      const near = listenTo(pair.near, 'x')
      near.stream.write(Buffer.from('question'))
      near.stream.end()
      const on = pair.links.findIndex(({ near: carrier }) => carrier.streams > 0)
      let far: (Listener & { stream: ByteStream }) | undefined
      const { near: carrier, far: to } = pair.links[on]!
      const batch = Buffer.alloc(1_000)
      const packet = batch.subarray(0, carrier.outbox.fill(batch))
      if (before === 'OPENED') {
        to.receive(packet)
        far = take(waiting[0]!)
        await Promise.resolve()
        far.stream.write(Buffer.from('answer'))
      }
      pair.sever(on)
      t.same(near.log, [], why)
      if (isLast) pair.connect('direct')
      pair.move()
      t.equal(waiting.length, 1, `${why}: asked once`)
      far ??= take(waiting[0]!)
      await Promise.resolve()
      if (before !== 'OPENED') far.stream.write(Buffer.from('answer'))
      pair.move()
      t.same(near.log, ['opened', 'data'], why)
      t.same(far.log, ['data', 'end'], why)
      t.equal(far.text(), 'question', why)
    }
  }
})

test('when no carrier returns, a stream that has sent data is reset and one that has not is refused', async (t) => {
  const { pair } = world()
  const spoken = listenTo(pair.near, 'x')
  const silent = listenTo(pair.near, 'y')
  const unsent = listenTo(pair.near, 'z')
  spoken.stream.write(Buffer.from('question'))
  pair.move()
  unsent.stream.write(Buffer.from('never left'))
  pair.sever(0)
  t.same(
    [spoken.log, silent.log, unsent.log],
    [[], ['refused unreachable'], ['refused unreachable']],
    'without a carrier, the streams that sent nothing are refused at once',
  )
  pair.near.end()
  t.same(spoken.log, ['reset'], 'the stream that sent data is reset when none returns')
})

test('REFUSED for a repeated OPEN proves nothing, and an OPEN of a finished stream is not accepted again', async (t) => {
  const { pair, waiting, carriers } = world()
  const near = listenTo(pair.near, 'x')
  near.stream.write(Buffer.from('question'))
  pair.step()
  pair.sever(0)
  pair.connect('direct')
  waiting[0]!.refuse('draining')
  pair.move()
  t.same(near.log, ['reset'], 'the opener hears a reset: the instance may have had the question')
  t.equal(pair.near.streams + pair.far.streams, 0, 'no stream is left')

  carriers().far.receive(Buffer.concat([frame(FRAME.OPEN | FLAGGED, 1), frame(FRAME.DATA, 1, Buffer.from('question'))]))
  t.equal(waiting.length, 1, 'it ended here already')
  t.equal(pair.far.heldBytes, 0, 'nothing is held for it')
})

test('finished streams are remembered, and the oldest are forgotten', async (t) => {
  const past = new Tombstones()
  t.notOk(past.has(1), 'a stream that has not ended is not remembered')
  for (let id = 1; id <= 4_097; id++) past.add(id)
  t.same(
    [1, 2, 4_097, 4_098].map((id) => past.has(id)),
    [false, true, true, false],
    'the oldest of 4,097 is forgotten, the others are remembered',
  )
})

// ── nobody hears a question twice ──

/** A caller that asks one after the other, as a flow does, until one has opened. */
class Caller {
  readonly said: Buffer[] = []
  /** Of each try: what its instance has heard, and whether the caller was told that it heard nothing. */
  readonly tries: { heard: Buffer[]; ends: number; isRefused: boolean; stream?: ByteStream & Withdrawable }[] = []
  hasEnded = false
  state: 'asking' | 'open' | 'over' = 'asking'
  readonly #world: TwoEnds
  readonly #number: number

  constructor(world: TwoEnds, number: number) {
    this.#world = world
    this.#number = number
    this.ask()
  }

  ask(): void {
    const at = this.tries.length
    const made: Caller['tries'][number] = { heard: [], ends: 0, isRefused: false }
    this.tries.push(made)
    if (at > 5) {
      this.state = 'over'
      return
    }
    made.stream = this.#world.mux.near.open(Buffer.from(`${this.#number} ${at}`), {
      opened: () => (this.state = 'open'),
      refused: () => {
        made.isRefused = true
        this.ask()
      },
      data: () => undefined,
      end: () => undefined,
      drain: () => undefined,
      reset: () => (this.state = 'over'),
    })
    for (const chunk of this.said) made.stream.write(chunk)
    if (this.hasEnded) made.stream.end()
  }

  say(size: number): void {
    if (this.hasEnded || this.state === 'over') return
    const chunk = randomBytes(size)
    this.said.push(chunk)
    this.tries.at(-1)!.stream?.write(Buffer.from(chunk))
  }

  finish(): void {
    if (this.state === 'over') return
    this.hasEnded = true
    this.tries.at(-1)!.stream?.end()
  }

  /** It goes away with a reset. */
  leave(): void {
    this.state = 'over'
    this.tries.at(-1)!.stream?.reset()
  }

  /** What is wrong with it, if anything. */
  fault(): string | undefined {
    const heard = this.tries.filter((made) => made.heard.length > 0 || made.ends > 0)
    if (heard.length > 1) return 'two instances heard the question'
    if (heard.some(({ isRefused }) => isRefused)) return 'REFUSED, and heard'
    const [one] = heard
    if (one === undefined) return this.state === 'open' && this.said.length > 0 ? 'open, and not heard' : undefined
    const [said, got] = [Buffer.concat(this.said), Buffer.concat(one.heard)]
    if (!said.subarray(0, got.length).equals(got)) return 'other bytes than were said'
    if (one.ends > 1 || (one.ends === 1 && got.length < said.length)) return 'a wrong end'
    return this.state === 'open' && got.length < said.length ? 'bytes are missing' : undefined
  }
}

const ACTS = ['ask', 'say', 'end', 'withdraw', 'leave', 'accept', 'accept', 'refuse', 'fail'] as const
const CARRY = ['send', 'send', 'deliver', 'deliver', 'deliver', 'connect', 'die', 'tick'] as const
const step = fc.record({
  act: fc.constantFrom(...ACTS, ...CARRY),
  side: fc.constantFrom<SideName>('near', 'far'),
  which: fc.nat(0xffff),
  size: fc.nat(0xffff),
})
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never
const REFUSING: readonly Refusal[] = ['refused', 'overloaded', 'timeout', 'draining']

const pick = <T>(from: readonly T[], which: number): T | undefined => from[which % Math.max(from.length, 1)]
/** Takes one out, or none. */
const pickOut = <T>(from: T[], which: number): T | undefined => from.splice(which % (from.length + 1), 1)[0]

/** Up to four callers at one end, instances that accept or refuse at the other, and carriers that come, die and are slow. */
class Run {
  readonly #callers: Caller[] = []
  /** OPENs that have come and are not answered yet. */
  readonly #pending: IncomingStream[] = []
  /** Streams that were accepted. */
  readonly #open: ByteStream[] = []
  readonly #ends = new TwoEnds({ windowBytes: 32 * 1024 }, (incoming) => this.#pending.push(incoming))

  constructor() {
    this.#ends.connect()
    this.#ends.settle()
  }

  take(step: Step): void {
    if ((CARRY as readonly string[]).includes(step.act)) this.#carry(step)
    else this.#act(step)
  }

  /** What callers and instances do. */
  #act({ act, which, size }: Step): void {
    const caller = pick(this.#callers, which)
    if (act === 'ask' && this.#callers.length < 4) this.#callers.push(new Caller(this.#ends, this.#callers.length))
    else if (act === 'say') caller?.say(1 + (size % 12_000))
    else if (act === 'end') caller?.finish()
    else if (act === 'withdraw') caller?.tries.at(-1)!.stream?.withdraw()
    else if (act === 'leave' && size % 4 === 0) caller?.leave()
    else if (act === 'accept') this.#accept(pickOut(this.#pending, which))
    else if (act === 'refuse') pickOut(this.#pending, which)?.refuse(REFUSING[size % 4]!)
    else if (act === 'fail' && size % 3 === 0) pickOut(this.#open, which)?.reset()
  }

  /** What happens to the carriers between them. */
  #carry({ act, side, which, size }: Step): void {
    const link = pick(this.#ends.links, which)
    if (act === 'send' && link !== undefined) this.#ends.send(link, side, 600 + size)
    else if (act === 'deliver' && link !== undefined)
      this.#ends.deliver(link, side, 1 + (which % 3 === 0 ? size % 9 : size))
    else if (act === 'connect' && this.#ends.links.filter(({ near }) => !near.isDead).length < 4) this.#ends.connect()
    else if (act === 'die' && link !== undefined && size % 2 === 0) this.#ends.die(link, side)
    else if (act === 'tick') this.#ends.tick()
  }

  #accept(incoming: IncomingStream | undefined): void {
    if (incoming === undefined) return
    const [number, at] = incoming.request.toString().split(' ').map(Number)
    const made = this.#callers[number!]!.tries[at!]!
    const stream: ByteStream = incoming.accept({
      data: (chunk) => {
        made.heard.push(Buffer.from(chunk))
        stream.consumed(chunk.length)
      },
      end: () => void made.ends++,
      reset: () => undefined,
      drain: () => undefined,
    })
    this.#open.push(stream)
  }

  /** Everything arrives, and whatever is still asked is accepted. */
  async finish(): Promise<void> {
    for (let round = 0; round < 8; round++) {
      this.#ends.settle()
      await settle(1)
      for (const incoming of this.#pending.splice(0)) this.#accept(incoming)
      await Promise.resolve()
    }
    this.#ends.settle()
  }

  /** @throws Error with what is wrong at the end, if anything. */
  check(): void {
    for (const caller of this.#callers) {
      const fault = caller.fault()
      if (fault !== undefined) throw new Error(fault)
    }
    const held = this.#ends.mux.near.heldBytes + this.#ends.mux.far.heldBytes
    if (held > 0) throw new Error(`${held} bytes are left over`)
  }
}

test('no byte reaches two instances, whatever is refused, opened, lost or late', async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 140 }), async (steps) => {
      const run = new Run()
      try {
        for (const step of steps) {
          run.take(step)
          await Promise.resolve()
          await Promise.resolve()
        }
        await run.finish()
      } catch (error) {
        throw new Error(told(error), { cause: error })
      }
      run.check()
    }),
    { numRuns: 120 },
  )
  t.pass('in 120 runs each question was heard whole, by one instance at most')
})
