import fc from 'fast-check'
import t from 'tap'
import { DialQueue } from '../../proxy/inbound/dial-queue.ts'
import { until } from '../support/until.ts'

const CART = 'shop.acme.cart.prod.0'
const STOCK = 'shop.acme.stock.prod.0'

const by = (peer: string, caller = peer) => ({ peer, caller })

t.test('peers take turns at an instance, however many OPENs one of them sends', async (t) => {
  const queue = new DialQueue({ dials: 4, dialsWaiting: 1_000 })
  const begun: string[] = []
  for (let i = 0; i < 100; i++) queue.enter(CART, by('edge/flood'), () => begun.push('flood'))
  t.equal(begun.length, 3, 'one peer has three quarters of the dials at most')
  for (let i = 0; i < 3; i++) queue.enter(CART, by('edge/quiet'), () => begun.push('quiet'))
  t.same(begun.splice(0), ['flood', 'flood', 'flood', 'quiet'], 'another peer begins at once')
  for (let i = 0; i < 6; i++) queue.leave(CART, i % 2 === 0 ? 'edge/quiet' : 'edge/flood')
  t.equal(begun.filter((peer) => peer === 'quiet').length, 2, 'and all of its OPENs within their turns')
})

t.test('callers of one peer take turns within those of the peer', async (t) => {
  const queue = new DialQueue({ dials: 1, dialsWaiting: 1_000 })
  const begun: string[] = []
  const enter = (peer: string, caller: string) => queue.enter(CART, by(peer, caller), () => begun.push(caller))
  for (let i = 0; i < 100; i++) enter('edge/a', 'flood')
  enter('edge/a', 'beside the flood')
  enter('edge/b', 'elsewhere')
  for (const peer of ['edge/a', 'edge/a', 'edge/b', 'edge/a']) queue.leave(CART, peer)
  t.same(begun, ['flood', 'flood', 'elsewhere', 'beside the flood', 'flood'], 'the order of the turns')
})

t.test('a few dials begin in one turn of the event loop, and the others in the next ones', async (t) => {
  const queue = new DialQueue({ dials: 1_000, dialsWaiting: 1_000 })
  let begun = 0
  for (let i = 0; i < 100; i++) queue.enter(CART, by('edge/flood'), () => begun++)
  let other = false
  queue.enter(STOCK, by('edge/quiet'), () => (other = true))
  t.equal(begun, 32, 'thirty-two begin at once')
  await new Promise((resolve) => setImmediate(resolve))
  t.ok(other, 'instances take turns')
  t.equal(begun, 63, 'as many again in the next turn, one of them the other’s')
  await until(() => queue.waiting === 0)
  t.equal(begun, 100, 'all have begun in the end')
  for (let i = 0; i < 100; i++) queue.leave(CART, 'edge/flood')
  queue.leave(STOCK, 'edge/quiet')
  await queue.onIdle()
})

const endpoint = { host: '127.0.0.1', port: 80 }
const silent = () => false

/** A queue before a program that accepts nothing by itself, with this many open connections of a peer and more that wait. */
function behindSlowProgram(open: number, waiting: number) {
  const kernel = { held: open }
  const queue = new DialQueue({ dials: 80, dialsWaiting: 1_000, dialsInOneTurn: 1_000 }, () => kernel.held)
  const world = { queue, kernel, begun: 0, answered: new Set<number>() }
  for (let i = 0; i < open + waiting; i++) queue.enter(CART, by('edge/flood'), () => world.begun++)
  for (let i = 0; i < open; i++)
    queue.connected(CART, { peer: 'edge/flood', endpoint, hasAnswered: () => world.answered.has(i) })
  return world
}

async function begunAre(world: { begun: number }, count: number): Promise<void> {
  await until(() => world.begun >= count)
}

t.test('what the kernel holds for a program that accepts slowly keeps its places', async (t) => {
  const world = behindSlowProgram(60, 30)
  t.equal(world.begun, 60, 'three quarters of the places are one peer’s')
  let other = false
  world.queue.enter(CART, by('edge/quiet'), () => (other = true))
  t.ok(other, 'another peer begins at once, and waits in the kernel behind those sixty only')
  await new Promise((resolve) => setTimeout(resolve, 300))
  t.equal(world.begun, 60, 'no more begin, however long that takes')
  world.kernel.held = 50
  await begunAre(world, 70)
  t.equal(world.queue.waiting, 20, 'ten were accepted, so ten more begin')
})

t.test('an answer shows that everything before it was accepted', async (t) => {
  const world = behindSlowProgram(60, 30)
  world.answered.add(24)
  await begunAre(world, 85)
  t.equal(world.queue.waiting, 5, 'twenty-five places were free')
})

t.test(
  'a program elsewhere, which the kernel knows nothing of, is believed to have accepted after a while',
  async (t) => {
    const queue = new DialQueue({ dials: 80, dialsWaiting: 1_000, dialsInOneTurn: 1_000 }, () => undefined)
    const world = { begun: 0 }
    for (let i = 0; i < 70; i++) queue.enter(CART, by('edge/flood'), () => world.begun++)
    for (let i = 0; i < 60; i++) queue.connected(CART, { peer: 'edge/flood', endpoint, hasAnswered: silent })
    t.equal(world.begun, 60, 'three quarters begin at once')
    await begunAre(world, 70)
    t.equal(queue.waiting, 0)
  },
)

t.test('a queue is idle when nothing is being dialled, also where nothing was accepted', async (t) => {
  const { queue } = behindSlowProgram(60, 0)
  await queue.onIdle()
  t.equal(queue.waiting, 0, 'none waits')
})

t.test('one peer cannot fill the places to wait, and one instance does not hold up another', async (t) => {
  const queue = new DialQueue({ dials: 1, dialsWaiting: 8 })
  let waiting = 0
  for (; queue.hasRoom('edge/flood'); waiting++) queue.enter(CART, by('edge/flood'), () => undefined)
  t.equal(queue.waiting, 6, 'three quarters of the places')
  t.ok(queue.hasRoom('edge/quiet'), 'another peer still has room')
  let begun = 0
  queue.enter(STOCK, by('edge/quiet'), () => begun++)
  t.equal(begun, 1, 'an idle instance is dialled at once')
})

t.test('a wait that is given up makes room, and begins no more', async (t) => {
  const queue = new DialQueue({ dials: 1, dialsWaiting: 4 })
  const begun: string[] = []
  queue.enter(CART, by('edge/a'), () => begun.push('first'))
  const giveUp = queue.enter(CART, by('edge/a'), () => begun.push('second'))
  queue.enter(CART, by('edge/a'), () => begun.push('third'))
  giveUp()
  giveUp()
  t.equal(queue.waiting, 1, 'giving up twice frees one place, and only that')
  queue.leave(CART, 'edge/a')
  t.same(begun, ['first', 'third'])
  const idle = queue.onIdle()
  queue.leave(CART, 'edge/a')
  await idle
})

t.test('whatever is entered, left and given up: nothing is lost, and no limit is exceeded', async (t) => {
  const step = fc.record({ peer: fc.constantFrom('a', 'b', 'c'), what: fc.constantFrom('enter', 'leave', 'give up') })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const queue = new DialQueue({ dials: 3, dialsWaiting: 100, dialsInOneTurn: 1_000 })
      const underWay: string[] = []
      const waits: { giveUp: () => void; hasBegun: boolean }[] = []
      for (const { peer, what } of steps) {
        if (what === 'enter') {
          const wait = { giveUp: () => undefined as void, hasBegun: false }
          wait.giveUp = queue.enter(CART, by(peer), () => {
            wait.hasBegun = true
            underWay.push(peer)
          })
          waits.push(wait)
        } else if (what === 'leave') {
          const at = underWay.indexOf(peer)
          if (at >= 0) queue.leave(CART, ...(underWay.splice(at, 1) as [string]))
        } else {
          const at = waits.findIndex(({ hasBegun }) => !hasBegun)
          if (at >= 0) waits.splice(at, 1)[0]?.giveUp()
        }
        const waiting = waits.filter(({ hasBegun }) => !hasBegun).length
        if (queue.waiting !== waiting || underWay.length > 3) t.fail(`${queue.waiting} of ${waiting} wait`)
        if (waiting > 0 && underWay.length === 0) t.fail('a free place is not used')
      }
    }),
    { numRuns: 500 },
  )
})
