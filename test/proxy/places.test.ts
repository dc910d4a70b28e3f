import t from 'tap'
import { Places, type SpareFlow } from '../../proxy/datagrams/places.ts'
import type { Ends } from '../../src/core/kit/local-users.ts'
import { keptLog } from './world.ts'

/** Which UDP flows make room for which, by user. */

const SPARE_MS = 5_000

/** A flow from this port, or from this address of nobody's. */
class FakeFlow implements SpareFlow {
  readonly ends: Ends
  readonly world: World
  isOver = false
  usedAt: number
  #seenAt: number
  readonly #listeners: (() => void)[] = []

  constructor(world: World, remoteAddress: string, remotePort: number) {
    this.world = world
    this.ends = { protocol: 'udp', remoteAddress, remotePort, localAddress: '127.30.0.1' }
    this.usedAt = world.now
    this.#seenAt = world.now
  }

  silentMs(): number {
    const wasUsed = this.usedAt !== this.#seenAt
    this.#seenAt = this.usedAt
    return wasUsed ? 0 : this.world.now - this.usedAt
  }

  whenOver(listener: () => void): void {
    this.#listeners.push(listener)
  }

  end(): void {
    this.isOver = true
    for (const listener of this.#listeners) listener()
  }
}

/** The user of a flow is its port divided by 1,000; 0: the socket is closed already, so that nobody knows. */
class World {
  now = 0
  asked = 0
  readonly log = keptLog()
  readonly places: Places<FakeFlow>

  constructor(capacity: number) {
    this.places = new Places<FakeFlow>({
      capacity,
      spareMs: SPARE_MS,
      log: this.log,
      users: {
        userOf: async ({ remotePort = 0 }) => {
          this.asked += 1
          return Math.floor(remotePort / 1_000) || undefined
        },
      },
      end: (flow) => flow.end(),
    })
  }

  /** One flow after another; those that were admitted. */
  async enter(count: number, port: number, address: (i: number) => string = () => '127.0.0.1'): Promise<FakeFlow[]> {
    const admitted: FakeFlow[] = []
    for (let i = 0; i < count; i++) {
      const flow = new FakeFlow(this, address(i), port === 0 ? 0 : port + i)
      if (await this.places.enter(flow)) admitted.push(flow)
      else flow.end()
      this.now += 1
    }
    return admitted
  }
}

const open = (flows: readonly FakeFlow[]) => flows.filter(({ isOver }) => !isOver).length

t.test('while fewer than half of the places are taken nobody is asked whose the flows are', async (t) => {
  const world = new World(10)
  t.equal((await world.enter(4, 1_000)).length, 4, 'four of ten are admitted')
  t.equal(world.asked, 0, 'without a question')
  await world.enter(1, 1_010)
  t.equal(world.asked, 5, 'then about each, once')
})

t.test('the user that has most makes room for one that has fewer, also with flows in use', async (t) => {
  const world = new World(10)
  const flood = await world.enter(10, 1_000)
  t.equal((await world.enter(10, 1_100)).length, 0, 'flows in use make no room for others of their user')
  const honest = await world.enter(10, 2_000)
  t.equal(honest.length, 5, 'another user gets as many as the first, and no more')
  t.equal(open(flood), 5, 'half is left to the first')
  t.equal(open(honest), 5, 'and half is the other’s')
  t.match(
    world.log.lines,
    [
      { sentence: 'new flows of one user are refused', fields: { user: 'uid 1', open: 10 } },
      { sentence: 'new flows of one user are refused', fields: { user: 'uid 2', open: 5 } },
    ],
    'the log names both',
  )
})

t.test('the one that was silent longest goes first, and a used one last', async (t) => {
  const world = new World(4)
  const [first, second, third, fourth] = (await world.enter(4, 1_000)) as [FakeFlow, FakeFlow, FakeFlow, FakeFlow]
  world.now += SPARE_MS
  first.usedAt = world.now
  t.equal((await world.enter(1, 1_500)).length, 1, 'one makes room')
  t.same(
    [first, second, third, fourth].map(({ isOver }) => isOver),
    [false, true, false, false],
    'the first was used a moment ago',
  )
  world.now += 1
  third.usedAt = world.now
  third.silentMs()
  world.places.used(third) // as a sweep does
  await world.enter(1, 1_501)
  t.ok(fourth.isOver, 'the fourth makes room')
  t.notOk(third.isOver, 'the third was used since')
})

t.test('flows of sockets that are closed already are one user’s, whatever their addresses', async (t) => {
  const world = new World(20)
  const honest = await world.enter(5, 1_000)
  const flood = await world.enter(1_000, 0, (i) => `127.9.${i >> 8}.${i & 255}`)
  t.equal(open(honest), 5, 'none of another user has made room')
  t.equal(flood.length, 15, 'the flood has what was free')
  t.equal((await world.enter(5, 1_100)).length, 5, 'and that user gets more, up to as many')
  t.equal(open(flood), 10, 'of the flood')
})

t.test('many at once: no more than there are places', async (t) => {
  const world = new World(10)
  const flows = Array.from({ length: 100 }, (_, i) => new FakeFlow(world, '127.0.0.1', 1_000 + i))
  const admitted = await Promise.all(flows.map(async (flow) => world.places.enter(flow)))
  t.equal(admitted.filter(Boolean).length, 10, 'ten of a hundred')
})
