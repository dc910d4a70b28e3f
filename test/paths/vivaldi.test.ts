import fc from 'fast-check'
import t from 'tap'
import { VivaldiCoordinate } from '../../src/agent/vivaldi.ts'
import { distanceMs, FARTHEST_MS, isCoordinate, ORIGIN } from '../../src/core/model/coordinate.ts'

/** The same numbers in every run. */
function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}

/** Round trips between nodes of cities: far between cities, near inside, and an access link each. */
function matrix(nodes: number, random: () => number): number[][] {
  const cities = [
    [0, 0],
    [12, 3],
    [90, 20],
    [160, 80],
    [40, 110],
  ] as const
  const places = Array.from({ length: nodes }, (_, index) => {
    const city = cities[index % cities.length] as readonly [number, number]
    return { x: city[0] + random() * 3, y: city[1] + random() * 3, access: 0.5 + random() * random() * 15 }
  })
  return places.map((a, i) =>
    places.map((b, j) => (i === j ? 0 : Math.hypot(a.x - b.x, a.y - b.y) + a.access + b.access)),
  )
}

/** Each node measures some others, in turns, with jitter: most samples a little late, a few very. */
function settle(rtts: number[][], rounds: number, random: () => number): VivaldiCoordinate[] {
  const nodes = rtts.map((_, index) => new VivaldiCoordinate(ORIGIN, seeded(index + 1)))
  for (let round = 0; round < rounds; round++) {
    for (const [index, node] of nodes.entries()) {
      const peer = Math.floor(random() * nodes.length)
      if (peer === index) continue
      const jitter = random() < 0.05 ? 80 * random() : 0.05 * random() * (rtts[index]?.[peer] ?? 0)
      node.measured(`edge/n${peer}`, (nodes[peer] as VivaldiCoordinate).own, (rtts[index]?.[peer] ?? 0) + jitter)
    }
  }
  return nodes
}

t.test('nodes that never exchanged packets are ranked correctly on a latency matrix with jitter', async (t) => {
  const random = seeded(7)
  const rtts = matrix(40, random)
  const nodes = settle(rtts, 300, random)
  const errors: number[] = []
  let right = 0
  let asked = 0
  for (let a = 0; a < nodes.length; a++) {
    for (let b = 0; b < nodes.length; b++) {
      if (a === b) continue
      const real = rtts[a]?.[b] as number
      errors.push(
        Math.abs(distanceMs((nodes[a] as VivaldiCoordinate).own, (nodes[b] as VivaldiCoordinate).own) - real) / real,
      )
      for (let c = 0; c < b; c++) {
        const other = rtts[a]?.[c] as number
        if (c === a || Math.max(real, other) < 1.5 * Math.min(real, other)) continue // not clearly nearer
        asked += 1
        const says = distanceMs((nodes[a] as VivaldiCoordinate).own, (nodes[b] as VivaldiCoordinate).own)
        const saysOther = distanceMs((nodes[a] as VivaldiCoordinate).own, (nodes[c] as VivaldiCoordinate).own)
        if (says < saysOther === real < other) right += 1
      }
    }
  }
  const median = errors.toSorted((a, b) => a - b)[errors.length >> 1] as number
  t.ok(median < 0.15, `half of all estimates are within 15 % (${(median * 100).toFixed(1)} %)`)
  t.ok(
    right / asked > 0.95,
    `of two clearly different distances the nearer is told (${((100 * right) / asked).toFixed(1)} %)`,
  )
  for (const { own } of nodes) t.ok(own.error < 0.5, 'everybody has become sure of itself')
})

t.test('the coordinate of a node that moves converges on its new position', async (t) => {
  const random = seeded(11)
  const rtts = matrix(20, random)
  const nodes = settle(rtts, 200, random)
  const moved = nodes[0] as VivaldiCoordinate
  for (let peer = 1; peer < 20; peer++)
    for (let i = 0; i < 8; i++)
      moved.measured(`edge/n${peer}`, (nodes[peer] as VivaldiCoordinate).own, (rtts[2]?.[peer] ?? 0) + 1)
  for (let round = 0; round < 20; round++)
    for (let peer = 1; peer < 20; peer++)
      moved.measured(`edge/n${peer}`, (nodes[peer] as VivaldiCoordinate).own, (rtts[2]?.[peer] ?? 0) + 1)
  const now = distanceMs(moved.own, (nodes[7] as VivaldiCoordinate).own)
  const real = (rtts[2]?.[7] as number) + 1
  t.ok(Math.abs(now - real) < 0.4 * real, `${now.toFixed(1)} ms, really ${real.toFixed(1)} ms`)
})

t.test('no measured or reported value makes a coordinate invalid', async (t) => {
  const coordinate = fc.record({
    at: fc.array(fc.double({ min: -FARTHEST_MS, max: FARTHEST_MS, noNaN: true }), { minLength: 3, maxLength: 3 }),
    height: fc.double({ min: 0, max: FARTHEST_MS, noNaN: true }),
    error: fc.double({ min: 0, max: 1, noNaN: true }),
  })
  fc.assert(
    fc.property(fc.array(fc.tuple(coordinate, fc.double())), (measures) => {
      const node = new VivaldiCoordinate(ORIGIN, seeded(3))
      for (const [theirs, rtt] of measures) {
        node.measured('edge/liar', theirs, rtt)
        if (!isCoordinate(node.own)) return false
      }
      return true
    }),
    { numRuns: 200 },
  )
  t.pass('always a coordinate')
  for (const found of [
    undefined,
    null,
    7,
    {},
    { at: [0, 0], height: 0, error: 0 },
    { at: [0, 0, Number.NaN], height: 0, error: 0 },
    { at: [0, 0, 1e9], height: 0, error: 0 },
    { at: [0, 0, 0], height: -1, error: 0 },
    { at: [0, 0, 0], height: 0, error: 2 },
  ]) {
    t.notOk(isCoordinate(found), JSON.stringify(found))
  }
})
