import fc from 'fast-check'
import t from 'tap'
import { DialQueue } from '../../proxy/inbound/dial-queue.ts'

const CART = 'shop.acme.cart.prod.0'
const STOCK = 'shop.acme.stock.prod.0'

t.test('peers take turns at an instance, however many OPENs one of them sends', async (t) => {
  const queue = new DialQueue({ dials: 4, dialsWaiting: 1_000 })
  const begun: string[] = []
  for (let i = 0; i < 100; i++) queue.enter(CART, 'edge/flood', () => begun.push('flood'))
  t.equal(begun.length, 3, 'one peer has three quarters of the dials at most')
  for (let i = 0; i < 3; i++) queue.enter(CART, 'edge/quiet', () => begun.push('quiet'))
  t.same(begun.splice(0), ['flood', 'flood', 'flood', 'quiet'], 'another peer begins at once')
  for (let i = 0; i < 6; i++) queue.leave(CART, i % 2 === 0 ? 'edge/quiet' : 'edge/flood')
  t.equal(begun.filter((peer) => peer === 'quiet').length, 2, 'and all of its OPENs within their turns')
})

t.test('one peer cannot fill the places to wait, and one instance does not hold up another', async (t) => {
  const queue = new DialQueue({ dials: 1, dialsWaiting: 8 })
  let waiting = 0
  for (; queue.hasRoom('edge/flood'); waiting++) queue.enter(CART, 'edge/flood', () => undefined)
  t.equal(queue.waiting, 6, 'three quarters of the places')
  t.ok(queue.hasRoom('edge/quiet'), 'another peer still has room')
  let begun = 0
  queue.enter(STOCK, 'edge/quiet', () => begun++)
  t.equal(begun, 1, 'an idle instance is dialled at once')
})

t.test('a wait that is given up makes room, and begins no more', async (t) => {
  const queue = new DialQueue({ dials: 1, dialsWaiting: 4 })
  const begun: string[] = []
  queue.enter(CART, 'edge/a', () => begun.push('first'))
  const giveUp = queue.enter(CART, 'edge/a', () => begun.push('second'))
  queue.enter(CART, 'edge/a', () => begun.push('third'))
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
      const queue = new DialQueue({ dials: 3, dialsWaiting: 100 })
      const underWay: string[] = []
      const waits: { giveUp: () => void; hasBegun: boolean }[] = []
      for (const { peer, what } of steps) {
        if (what === 'enter') {
          const wait = { giveUp: () => undefined as void, hasBegun: false }
          wait.giveUp = queue.enter(CART, peer, () => {
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
