import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import t from 'tap'
import { openMetrics } from '../../src/core/metrics.ts'
import { Descriptors, openFiles } from '../../proxy/flow/descriptors.ts'
import { openFilesLimit } from '../../src/core/kit/open-files.ts'
import { KeyedSemaphore } from '../../src/core/kit/keyed-semaphore.ts'
import { pressure } from '../soak/press.ts'
import { heldBytes } from '../support/held-bytes.ts'
import { Agents, endOf, PATIENT } from './two-agents.ts'
import { echo, keptLog, serve } from './world.ts'
import { until } from '../support/until.ts'

/** What many callers, slow ones and hostile ones may cost an agent. */

const CART = 'shop.acme.cart.prod'
const STOCK = 'shop.acme.stock.prod'

t.setTimeout(280_000) // thousands of connections, beside other test files on the same cores

t.test('a semaphore lets in as many as it has places for, in order, each key by itself', async (t) => {
  const turns = new KeyedSemaphore<string>(2)
  const begun: string[] = []
  const take = (key: string, name: string) => turns.acquire(key, 'caller', () => begun.push(name))
  take('a', 'a1')
  take('a', 'a2')
  take('a', 'a3')
  const fourth = take('a', 'a4')
  take('a', 'a5')
  take('b', 'b1')
  t.same(begun.splice(0), ['a1', 'a2', 'b1'], 'two of each key, and one key waits for no other')
  t.equal(turns.waiting, 3, 'the third, fourth and fifth of one key wait')
  fourth.giveUp()
  fourth.giveUp()
  t.equal(turns.waiting, 2, 'giving up twice counts once')
  turns.release('a')
  turns.release('a')
  t.same(begun.splice(0), ['a3', 'a5'], 'in their order, without who gave up')
  let isIdle = false
  const idle = turns.onIdle().then(() => (isIdle = true))
  turns.release('a')
  turns.release('a')
  t.notOk(isIdle, 'it is not idle while the other key holds a place')
  turns.release('b')
  await idle
  take('a', 'a6')
  t.same(begun, ['a6'], 'a place is given at once when all are free')
  t.equal(turns.waiting, 0, 'nobody waits')
})

t.test('callers take turns at a semaphore, however many tasks one of them has', async (t) => {
  const turns = new KeyedSemaphore<string>(1)
  const begun: string[] = []
  const take = (caller: string, name = caller) => turns.acquire('a', caller, () => begun.push(name))
  for (let i = 0; i < 100; i++) take('flood')
  take('quiet')
  const moved = take('flood', 'known later')
  moved.moveTo('known later')
  for (let i = 0; i < 4; i++) turns.release('a')
  t.same(begun, ['flood', 'flood', 'quiet', 'known later', 'flood'], 'one of each caller after the other')
  moved.moveTo('too late')
  moved.giveUp()
  t.equal(turns.waiting, 97, 'nothing is left to move or to give up')
})

t.test(
  'descriptors are reserved for what keeps the node alive; shortage and recovery are logged once each',
  async (t) => {
    const log = keptLog()
    const metrics = openMetrics('agent')
    let now = 0
    let open = 10
    let looks = 0
    const count = () => (looks++, open)
    const descriptors = new Descriptors({ log, metrics }, { limit: 1_000, count, now: () => now })
    t.ok(
      Array.from({ length: 400 }, () => descriptors.reserve(1)).every(Boolean),
      'with ten descriptors in use, 400 more can be reserved',
    )
    t.equal(looks, 1, 'while there are plenty nobody looks again')
    open = 890
    for (let flow = 0; flow < 60; flow++) descriptors.reserve(1)
    now += 20
    t.ok(descriptors.reserve(10), '900 of 1,000')
    t.notOk(descriptors.reserve(1), 'the rest is the reserve')
    t.notOk(descriptors.reserve(1), 'a second attempt is refused too')
    t.ok(descriptors.isScarce, 'the shortage is told')
    t.equal(looks, 2, 'between looks it is counted on')
    open = 500
    now += 20
    t.ok(descriptors.reserve(1), 'they are back')
    t.notOk(descriptors.isScarce, 'the recovery is told')
    t.same(
      log.lines.map(({ level, sentence }) => [level, sentence]),
      [
        ['warn', 'file descriptors are scarce; new flows are refused'],
        ['info', 'enough file descriptors are free again'],
      ],
      'told once each',
    )
    const small = new Descriptors({ log, metrics }, { limit: 100, count: () => 36, now: () => now })
    t.ok(small.reserve(0), 'at 36 of 100 nothing more than none can be reserved')
    t.notOk(small.reserve(1), 'never less than 64')
    t.ok(Math.abs(openFiles() - readdirSync('/proc/self/fd').length) <= 2, 'the system is believed')
    t.ok(openFilesLimit() > 64, 'the system lets this process open more than 64 files')
  },
)

t.test('fifteen hundred connections at once: queued, not dropped', async (t) => {
  const { answered, connections } = await pressure(1_500)
  t.equal(answered, connections, 'every connection is answered')
})

t.test('who waits too long for a turn is refused; a service that hangs holds up no other', async (t) => {
  await using served = await serve(echo)
  await using hanging = await serve(() => undefined)
  await using agents = await Agents.start({
    services: [
      { id: CART, on: ['edge/far'] },
      { id: STOCK, on: ['edge/far'] },
    ],
    endpoints: {
      [`${CART}.0`]: { host: '127.0.0.1', port: hanging.port },
      [`${STOCK}.0`]: { host: '127.0.0.1', port: served.port },
    },
    outbound: { opening: 1, waitMs: 50 },
    peers: { limits: { openTimeoutMs: 60_000 } },
  })
  const { parts } = agents.near
  parts.openings.acquire(CART, 'edge/near', () => undefined) // a flow that is being opened, and never is
  const late = await agents.call(CART)
  t.equal(await late.closed, 'ECONNRESET', 'a flow that waits longer than 50 ms for its turn sees a reset')
  t.match(
    agents.near.ledger.failures()[0],
    { end: 'too-many', reason: /being opened/ },
    'the failure says that other flows are being opened',
  )
  const gone = await agents.call(CART)
  gone.socket.destroy()
  await until(() => agents.near.ledger.size === 0 && parts.openings.waiting === 0)

  const other = await agents.call(STOCK)
  other.socket.end('hello')
  await other.ended
  t.equal(other.text, 'hello', 'another service answers meanwhile')
  const next = await agents.call(CART)
  parts.openings.release(CART)
  await until(() => hanging.sockets.length === 1)
  next.socket.destroy()
})

t.test('users of the machine take turns while flows are being opened to a service', async (t) => {
  const order: string[] = []
  await using served = await serve((socket) => socket.once('data', (name) => order.push(name.toString())))
  await using agents = await Agents.start({
    services: [{ id: CART, on: ['edge/far'] }],
    endpoints: { [`${CART}.0`]: { host: '127.0.0.1', port: served.port } },
    outbound: { opening: 1, waitMs: 60_000 },
  })
  const { parts } = agents.near
  let asked = 0
  Object.assign(parts, { localUsers: { userOf: async () => (asked++ < 5 ? 1 : 2) } })
  parts.openings.acquire(CART, 'edge/near', () => undefined) // so that all have to wait
  for (const [i, name] of ['flood', 'flood', 'flood', 'flood', 'flood', 'quiet'].entries()) {
    const { socket } = await agents.call(CART)
    socket.write(name)
    await until(() => parts.openings.waiting === i + 1 && asked === i + 1)
  }
  parts.openings.release(CART)
  await until(() => order.length === 6)
  t.same(order, ['flood', 'quiet', 'flood', 'flood', 'flood', 'flood'], 'the other user is second')
})

t.test('no descriptors: new flows are refused with RST, and taken again when there are some', async (t) => {
  let left = 20
  await using served = await serve(echo)
  await using agents = await Agents.start({
    services: [{ id: CART, on: ['edge/far'] }],
    endpoints: { [`${CART}.0`]: { host: '127.0.0.1', port: served.port } },
    descriptors: (node) => ({ reserve: () => node !== 'near' || left-- > 0 }),
  })
  const ask = async () => {
    const client = agents.dial(CART)
    client.socket.end('hello')
    const end = await client.closed
    return end === 'ok' ? client.text : end
  }
  const first = await Promise.all(Array.from({ length: 10 }, ask))
  t.same(new Set(first), new Set(['hello']), 'with descriptors left, every flow is answered')
  left = 0
  t.equal(await ask(), 'ECONNRESET', 'without descriptors a flow sees a reset')
  t.match(
    agents.near.ledger.failures()[0],
    { end: 'too-many', reason: 'no descriptors are left' },
    'the failure says that no descriptors are left',
  )
  left = 20
  t.equal(await ask(), 'hello', 'with descriptors again a flow is answered')
})

t.test('a process with few descriptors', async (t) => {
  const script = `
    import { pressure } from './test/soak/press.ts'
    const { answered, failures } = await pressure(400, { real: true })
    const after = await pressure(20, { real: true })
    console.log(JSON.stringify({ answered, failures, after: after.answered }))
  `
  const argv = ['-c', 'ulimit -n 600 && exec "$0" --input-type=module -e "$1"', process.execPath, script]
  const ran = spawnSync('sh', argv, { encoding: 'utf8', timeout: 60_000 })
  const told = JSON.parse(ran.stdout || '{}') as { answered: number; failures: Record<string, number>; after: number }
  t.comment(JSON.stringify(told))
  t.ok(told.answered > 50 && told.answered < 400, `some are answered (${told.answered})${ran.stderr}`)
  t.same(told.failures, { ECONNRESET: 400 - told.answered }, 'and all others are told at once')
  t.equal(told.after, 20, 'then it goes on')
})

t.test('callers that read nothing cost one window each, and hold up nobody', async (t) => {
  const CALLERS = 120
  await using served = await serve((socket) => {
    const block = Buffer.alloc(65_536)
    const fill = (): void => {
      while (socket.writable && socket.write(block));
    }
    socket.on('drain', fill)
    socket.once('data', fill)
  })
  await using quick = await serve(echo)
  await using agents = await Agents.start({
    services: [
      { id: CART, on: ['edge/far'] },
      { id: STOCK, on: ['edge/far'] },
    ],
    endpoints: {
      [`${CART}.0`]: { host: '127.0.0.1', port: served.port },
      [`${STOCK}.0`]: { host: '127.0.0.1', port: quick.port },
    },
    outbound: PATIENT.outbound,
    peers: { limits: { openTimeoutMs: PATIENT.openTimeoutMs } },
  })
  const host = agents.vip(CART)
  const sockets: Socket[] = []
  const before = await heldBytes()
  for (let i = 0; i < CALLERS; i++) {
    const socket = connect({ host, port: 8080 })
    void endOf(socket)
    socket.pause()
    socket.write('everything, please')
    sockets.push(socket)
  }
  const received = () => agents.near.ledger.flows().reduce((sum, flow) => sum + flow.received, 0)
  let last = -1
  await until(() => agents.near.ledger.flows().length === CALLERS)
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 200))
    const now = received()
    if (now === last) break
    last = now
  }
  const held = ((await heldBytes()) - before) / CALLERS
  t.ok(held < 1_800 * 1024, `${Math.round(held / 1024)} KiB of buffers for each, in both agents and the instance`)
  const client = await agents.call(STOCK)
  client.socket.end('hello')
  await client.ended
  t.equal(client.text, 'hello', 'a flow beside the slow readers is answered')
  for (const socket of sockets) socket.destroy()
  await until(() => agents.near.ledger.size === 0 && agents.node('far').inbound.size === 0)
  t.pass('and leave nothing')
})
