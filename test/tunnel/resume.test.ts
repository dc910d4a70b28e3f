import fc from 'fast-check'
import { test } from 'tap'
import { decodeResume, encodeResume, LOST_A_RESUME, STREAMS_A_RESUME } from '../../proxy/tunnel/resume.ts'
import { isMeshError } from '../../src/errors.ts'
import { told, TwoEnds, type SideName } from './two-ends.ts'

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
      if (stream !== undefined && to !== undefined) mux.move([{ stream, to }])
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
  const left = near.shares.keptBytes + far.shares.keptBytes + near.heldBytes + far.heldBytes
  return left === 0 ? 'as written' : `${left} bytes are left over`
}

test('whatever dies and moves at whatever byte: what is read is what was written, and END comes once', async (t) => {
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
