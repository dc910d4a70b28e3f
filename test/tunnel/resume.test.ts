import fc from 'fast-check'
import { test } from 'tap'
import { FRAME } from '../../proxy/tunnel/wire/frame.ts'
import { decodeResume, encodeResume, CARRIERS_PER_RESUME, STREAMS_PER_RESUME } from '../../proxy/tunnel/wire/resume.ts'
import { isMeshError } from '../../src/core/errors.ts'
import { soak } from '../soak/soak.ts'
import { told, TwoEnds, type FlowEnd, type Link, type SideName } from '../support/two-ends.ts'

const nat = fc.nat(0xffff)
const step = fc.record({
  act: fc.constantFrom(
    ...([
      'open',
      'write',
      'write',
      'send',
      'send',
      'deliver',
      'deliver',
      'deliver',
      'consume',
      'tick',
      'move',
    ] as const),
    ...(['connect', 'die', 'end', 'reset'] as const),
  ),
  side: fc.constantFrom<SideName>('near', 'far'),
  which: nat,
  size: nat,
})
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never

function play(world: TwoEnds, { act, side, which, size }: Step, mayReset: boolean): void {
  const flow = world.flows[which % Math.max(world.flows.length, 1)]?.[side]
  const link = world.links[which % Math.max(world.links.length, 1)]
  switch (act) {
    case 'open':
      if (world.flows.length < 6) world.open(side)
      return
    case 'write':
      return flow?.write(1 + (size % 20_000))
    case 'end':
      return flow?.finish()
    case 'reset':
      if (mayReset && size % 3 === 0) flow?.abort()
      return
    case 'consume':
      return flow?.consume(size)
    case 'send':
      if (link !== undefined) world.send(link, side, 600 + size)
      return
    case 'deliver':
      if (link !== undefined) world.deliver(link, side, 1 + (which % 3 === 0 ? size % 9 : size))
      return
    case 'connect':
      if (world.links.filter(({ near }) => !near.isDead).length < 4) world.connect()
      return
    case 'die':
      if (link !== undefined && size % 2 === 0) world.die(link, side)
      return
    case 'move': {
      const mux = world.mux[side]
      const streams = [...mux.all()]
      const stream = streams[which % Math.max(streams.length, 1)]
      const to = mux.carriers[size % Math.max(mux.carriers.length, 1)]
      if (stream !== undefined && to !== undefined) mux.failover.move([{ stream, to }])
      return
    }
    case 'tick':
      return world.tick()
    default:
      act satisfies never
  }
}

async function outcome(steps: readonly Step[], mayReset: boolean): Promise<string> {
  const world = new TwoEnds({ windowBytes: 16 * 1024, maxWindowBytes: 64 * 1024 })
  world.connect()
  world.settle()
  try {
    for (const step of steps) play(world, step, mayReset)
    world.settle()
    await Promise.resolve() // an OPEN without a carrier is refused in a turn of its own
    for (const ends of world.flows) {
      if (!mayReset) for (const side of ['near', 'far'] as const) ends[side].finish()
    }
    world.settle()
    world.settle()
  } catch (error) {
    return told(error)
  }
  for (const { near, far } of world.flows) {
    if (near.isDead !== far.isDead && near.stream !== undefined && far.stream !== undefined) {
      // one side that has ended both ways needs not hear of a reset
      const alive = near.isDead ? far : near
      if (!(alive.hasEnded && alive.ends === 1)) return `flow ${near.flow}: only one side knows that it is dead`
    }
    if (near.isDead || far.isDead) continue
    if (near.written !== far.read || far.written !== near.read) return `flow ${near.flow}: bytes are missing`
    if (near.ends !== Number(far.hasEnded) || far.ends !== Number(near.hasEnded))
      return `flow ${near.flow}: ends differ`
  }
  const { near, far } = world.mux
  if (!mayReset && !(near.isQuiet && far.isQuiet)) return 'streams are left over'
  const left = near.accounting.keptBytes + far.accounting.keptBytes + near.heldBytes + far.heldBytes
  return left === 0 ? 'as written' : `${left} bytes are left over`
}

test('whatever fails at whatever byte, the reader gets what was written, and END once', async (t) => {
  for (const mayReset of [false, true]) {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 160 }), async (steps) => {
        const is = await outcome(steps, mayReset)
        if (is !== 'as written') throw new Error(is)
      }),
      { numRuns: 150 },
    )
    t.pass(`150 runs ${mayReset ? 'with' : 'without'} resets`)
  }
})

test('RESUME has the specified wire format', async (t) => {
  const one = { lost: [7], streams: [{ stream: 5, received: 65_536, hasEnd: true }] }
  const [payload] = encodeResume(one)
  t.equal(payload!.toString('hex'), '0001000100070000000500010000'.concat('00010000'))
  t.same(decodeResume(payload!), one)
  t.same(decodeResume(Buffer.concat([payload!, Buffer.from('from a later version')])), one)
  t.same(encodeResume({ lost: [], streams: [] }), [], 'nothing to tell')
  t.same(decodeResume(encodeResume({ lost: [1, 2], streams: [] })[0]!), { lost: [1, 2], streams: [] })

  const many = Array.from({ length: 5_000 }, (_, i) => ({ stream: i + 1, received: i * 2 ** 33, hasEnd: i % 2 === 0 }))
  const payloads = encodeResume({ lost: Array.from({ length: 99 }, (_, i) => i), streams: many })
  t.equal(payloads.length, Math.ceil(5_000 / STREAMS_PER_RESUME), 'thousands of streams are several frames')
  t.same(
    payloads.flatMap((one) => decodeResume(one).streams),
    many,
  )
  t.equal(payloads.flatMap((one) => decodeResume(one).lost).length, CARRIERS_PER_RESUME)

  const broken = [
    { why: 'RESUME is shorter than its counts say', bytes: payload!.subarray(0, -1) },
    { why: 'too many carriers', bytes: Buffer.concat([Buffer.from('00210000', 'hex'), Buffer.alloc(99)]) },
    { why: 'too many streams', bytes: Buffer.concat([Buffer.from('00000401', 'hex'), Buffer.alloc(60_000)]) },
  ]
  for (const { why, bytes } of broken) t.throws(() => decodeResume(bytes), { code: 'FRAME_INVALID' }, why)

  fc.assert(
    fc.property(fc.uint8Array({ minLength: 4, maxLength: 400 }), (bytes) => {
      try {
        decodeResume(Buffer.from(bytes))
      } catch (error) {
        if (!isMeshError(error, 'FRAME_INVALID')) throw error
      }
    }),
    { numRuns: 300 },
  )
})

/** One open flow; `near` has written ten bytes, and `far` has read them. */
function oneFlow(): { world: TwoEnds; near: FlowEnd; far: FlowEnd } {
  const world = new TwoEnds()
  world.connect()
  world.settle()
  world.open('near')
  const { near, far } = world.flows[0]!
  world.settle()
  near.write(10)
  world.settle()
  return { world, near, far }
}

/** Where the near side of the first stream sends. */
function linkOf(world: TwoEnds): Link {
  const [stream] = [...world.mux.near.all()]
  return world.links.find(({ near }) => near.carrier === stream!.carrier)!
}

test('an invalid RESUME is refused', async (t) => {
  const rows = [
    { why: 'RESUME acknowledges bytes that were not sent', says: { stream: 1, received: 11, hasEnd: false } },
    { why: 'RESUME acknowledges an END that was not sent', says: { stream: 1, received: 10, hasEnd: true } },
  ]
  for (const { why, says } of rows) {
    const { world } = oneFlow()
    const [payload] = encodeResume({ lost: [], streams: [says] })
    const { carrier } = world.links.at(-1)!.near
    t.throws(() => world.mux.near.frame(carrier, FRAME.RESUME, 0, payload!, false), { code: 'FRAME_INVALID' }, why)
  }
  const { world, far } = oneFlow()
  const { carrier } = world.links.at(-1)!.far
  const itself = encodeResume({ lost: [carrier.number], streams: [] })[0]!
  t.throws(
    () => world.mux.far.frame(carrier, FRAME.RESUME, 0, itself, false),
    { code: 'FRAME_INVALID' },
    'its own carrier',
  )
  t.throws(() => world.mux.far.position(carrier, 1, 1, 11), { code: 'FRAME_INVALID' }, 'a run that leaves out bytes')
  const elsewhere = world.links.find((link) => link !== linkOf(world))!
  t.throws(() => world.mux.far.position(elsewhere.far.carrier, 1, 0, 0), { code: 'FRAME_INVALID' }, 'one run twice')
  t.notOk(far.isDead, 'the stream survives what is refused')
})

test('streams unknown to the other side are reset', async (t) => {
  const { world, near } = oneFlow()
  const [stranger] = encodeResume({ lost: [], streams: [{ stream: 3, received: 0, hasEnd: false }] })
  const { carrier } = world.links.at(-1)!.far
  world.mux.far.frame(carrier, FRAME.RESUME, 0, stranger!, false)
  const batch = Buffer.alloc(1_024)
  const size = carrier.outbox.fill(batch)
  t.equal(batch.subarray(0, size).toString('hex'), '0700000000000003')
  t.notOk(near.isDead, 'the stream that both sides know goes on')
})

test('pending OPENs move to another live carrier, and fail at once without one', async (t) => {
  const world = new TwoEnds()
  const first = world.connect()
  world.settle()
  world.open('near')
  world.send(first, 'near', 65_536) // on its way, and lost
  world.die(first, 'near')
  world.settle()
  t.ok(world.flows[0]!.near.isOpen, 'said again on the other')
  t.ok(world.flows[0]!.far.stream, 'and heard once')

  for (const link of world.links) world.die(link, 'far')
  world.open('near')
  for (const link of world.links) world.die(link, 'near')
  t.ok(world.flows[1]!.near.isDead, 'refused at once')
  t.notOk(world.flows[0]!.near.isDead, 'while the open one waits')
  world.flows[0]!.near.write(5_000)
  world.settle()
  t.equal(world.flows[0]!.far.read, 5_000, 'the open stream goes on')
})

test('late data from a carrier that was thought dead does no harm', async (t) => {
  const { world, near, far } = oneFlow()
  const old = linkOf(world)
  near.write(5_000)
  world.send(old, 'near', 65_536) // stays on its way
  world.die(old, 'near')
  const exchange = () => {
    for (const link of world.links.filter((link) => link !== old)) {
      for (const side of ['near', 'far'] as const) {
        world.send(link, side, 65_536)
        world.deliver(link, side === 'near' ? 'far' : 'near', 1e9)
      }
    }
  }
  exchange()
  near.write(100)
  exchange()
  exchange()
  world.deliver(old, 'far', 1e9)
  t.equal(far.read, 5_110, 'nothing twice, nothing missing (every byte is checked)')
  t.ok(old.far.isDead, 'the other side was notified')
})

test('a move resends little, and next to nothing for small streams', async (t) => {
  const { world, near, far } = oneFlow()
  world.connect()
  world.settle()
  const { mux } = world
  const stream = [...mux.near.all()][0]!
  const to = mux.near.carriers.find((one) => one !== stream.carrier)!
  mux.near.failover.move([{ stream, to }])
  const batch = Buffer.alloc(65_536)
  const size = to.outbox.fill(batch)
  t.ok(size <= 36, `${size} bytes for a stream that rests`)
  t.equal(mux.near.failover.moved, 1, 'one stream has moved')
  far.consume(1e9)
  near.finish()
  far.finish()
})

test('over real sockets flows stay intact both ways while paths are killed in every way', async (t) => {
  const report = await soak({ seconds: 3, seed: 5, flows: 30, outageMs: 500, flowBytes: 1_000_000 })
  t.same(report.faults, [], `${report.megabytes} MB compared over ${report.flows} flows`)
  t.ok(report.kills >= 2, `${report.kills} kills`)
  t.ok(report.resumes + report.moved > 0, `${report.resumes} sessions resumed, ${report.moved} streams moved`)
})
