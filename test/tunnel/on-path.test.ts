import { test } from 'tap'
import { Air, join } from '../support/udp-air.ts'

/*
 * Somebody on the path sees every sealed packet of two nodes. They cannot open one; they can copy, delay, reorder, repeat and drop
 * them, send them on from an address of their own, and send back what comes there.
 */

const A = '10.0.0.1:1'
const B = '10.0.0.2:2'
const BOX = '66.6.6.6:6'

/** Sends a number each way in every tick, in a frame where it is not sealed, and keeps what arrives. */
async function attacked() {
  const air = new Air()
  const near = air.side('c/a', A)
  const far = air.side('c/b', B)
  join(near, far)
  const arrived = { near: [] as string[], far: [] as string[] }
  const frames = { count: 0 }
  let number = 0
  const say = () => {
    number += 1
    for (const [side, other] of [
      [near, 'far'],
      [far, 'near'],
    ] as const) {
      if (side.link.send(1, Buffer.from(`${number}`)) !== undefined) continue
      frames.count += 1
      arrived[other].push(`${number}`)
    }
  }
  const pass = async (ms: number, each: () => void = () => undefined) => {
    await air.pass(ms, () => (say(), each()), near, far)
    for (const [side, to] of [
      [near, arrived.near],
      [far, arrived.far],
    ] as const)
      to.push(...side.got.splice(0).map(({ payload }) => payload.toString()))
  }
  const isSealed = () => near.link.mode === 'sealed' && far.link.mode === 'sealed'
  const toBox = () => air.seen.filter(({ to }) => to === BOX)
  /** Numbers that arrived twice, and of the last `count` those that did not arrive. */
  const faults = (count: number) => {
    const of = (all: string[]) => ({
      twice: all.length - new Set(all).size,
      missing: Array.from({ length: count }, (_, i) => `${number - i}`).filter((one) => !all.includes(one)),
    })
    return [of(arrived.near), of(arrived.far)]
  }
  await pass(3_000)
  air.seen.length = 0
  return { air, pass, isSealed, toBox, faults, frames }
}

const SOUND = [
  { twice: 0, missing: [] },
  { twice: 0, missing: [] },
]

test('copies that overtake the packets, both ways, do not draw the path to whoever forwards them', async (t) => {
  const { air, pass, isSealed, toBox, faults, frames } = await attacked()
  t.ok(isSealed(), 'datagrams go sealed at the beginning')
  const before = frames.count
  air.fate = (bytes, _from, to) => {
    if (to !== BOX) air.inject(bytes, BOX, to) // first, and from elsewhere
    return 1
  }
  let sentOn = 0
  await pass(30_000, () => {
    // what is sent to the box is passed on: each side's probes are answered through it
    for (const { bytes, from } of toBox().slice(sentOn)) {
      sentOn += 1
      air.inject(bytes, BOX, from === A ? B : A)
    }
  })
  t.ok(isSealed(), 'datagrams still go sealed')
  t.equal(frames.count, before, 'the path is never left')
  t.same(faults(120), SOUND, 'every datagram arrives, once')
  t.ok(
    toBox().every(({ bytes }) => bytes.length <= 39 || bytes.length === 1_200),
    'the box gets probes and answers, and no datagram',
  )
})

test('packets that are delayed, reordered and replayed from elsewhere change nothing', async (t) => {
  const { air, pass, isSealed, toBox, faults, frames } = await attacked()
  const before = frames.count
  let arrived = 0
  await pass(20_000, () => {
    const kept = air.seen.slice(Math.max(0, arrived - 40), arrived)
    arrived = air.seen.length
    for (const { bytes, to } of kept.toReversed()) if (to !== BOX) air.inject(bytes, BOX, to)
  })
  t.ok(isSealed(), 'datagrams still go sealed')
  t.equal(frames.count, before)
  t.same(faults(80), SOUND)
  t.equal(toBox().length, 0, 'a packet that is not new asks for nothing')
})

test('a box that is the only way, and then keeps everything: flows go on, and return to the path when it is free', async (t) => {
  const { air, pass, isSealed, faults, toBox } = await attacked()
  const through = (bytes: Buffer, from: string, to: string) =>
    air.inject(bytes, BOX, to === BOX ? (from === A ? B : A) : to)
  air.fate = (bytes, from, to) => {
    through(bytes, from, to)
    return 0
  }
  await pass(10_000)
  t.same(faults(8), SOUND, 'whatever way they take')
  air.fate = () => 0
  await pass(6_000)
  t.notOk(isSealed(), 'without any way for packets datagrams go in frames')
  t.same(faults(8), SOUND, 'in frames')
  air.fate = (_bytes, _from, to) => (to === BOX ? 0 : 1)
  await pass(40_000)
  t.ok(isSealed(), 'once packets arrive again datagrams go sealed')
  air.seen.length = 0
  await pass(5_000)
  t.equal(toBox().length, 0, 'nothing goes to the box any more')
  t.same(faults(20), SOUND)
})
