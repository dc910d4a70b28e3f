import t from 'tap'
import type { Session } from '../../proxy/tunnel/contract.ts'
import { NetworkCoordinates } from '../../src/agent/coordinates.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import type { Coordinate } from '../../src/core/model/coordinate.ts'
import type { NodeId } from '../../src/core/model/ids.ts'

/** Nodes on a line, `at` ms from its start, that measure only their neighbours and hear of each other through a table. */
class World {
  readonly told = new Map<NodeId, Coordinate>()
  readonly nodes = new Map<NodeId, NetworkCoordinates>()
  now = 0

  add(life: Lifetime, id: NodeId, sessions: Record<NodeId, number>): void {
    const all = Object.entries(sessions).map(([peer, rttMs]) => ({ peer, rttMs }) as Session)
    const node = (id: NodeId) => {
      const coordinate = this.told.get(id)
      return { id, addresses: [], relays: [], ...(coordinate === undefined ? {} : { coordinate }) }
    }
    const clock = {
      now: () => this.now,
      wall: () => this.now,
      sleep: () => Promise.resolve(),
      after: () => () => undefined,
    }
    this.nodes.set(id, NetworkCoordinates.start(life, { table: { node }, peers: { all: () => all }, clock }))
  }

  run(seconds: number): number {
    let news = 0
    for (let second = 0; second < seconds; second++) {
      this.now += 1_000
      for (const [id, node] of this.nodes) {
        node.measure()
        if (!node.renew() || node.reported === undefined) continue
        news += 1
        this.told.set(id, node.reported)
      }
    }
    return news
  }
}

t.test('nodes that never exchanged packets are ranked by coordinates that others measured', async (t) => {
  await using life = new Lifetime()
  const world = new World()
  world.add(life, 'edge/a', { 'edge/b': 10, 'edge/c': 30 })
  world.add(life, 'edge/b', { 'edge/a': 10, 'edge/c': 20, 'edge/d': 60 })
  world.add(life, 'edge/c', { 'edge/a': 30, 'edge/b': 20, 'edge/d': 40 })
  world.add(life, 'edge/d', { 'edge/b': 60, 'edge/c': 40 })
  const a = world.nodes.get('edge/a') as NetworkCoordinates
  t.equal(a.estimateMs('edge/d'), undefined, 'nothing is known at first')
  world.run(600)
  const far = a.estimateMs('edge/d') ?? 0
  t.ok(far > 45 && far < 100, `a and d, 70 ms apart, never measured each other: ${far.toFixed(0)} ms`)
  t.ok(far > (a.estimateMs('edge/b') ?? Number.POSITIVE_INFINITY), 'b is nearer')
  t.equal(a.estimateMs('edge/nobody'), undefined)
  t.ok(world.run(600) <= 12, 'who does not move has no news')
})
