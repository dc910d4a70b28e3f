import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { NODE_CALLER } from '../../proxy/flow/flow.ts'
import { AskedVips, FORGET_MS } from '../../proxy/intercept/asked-vips.ts'
import type { InterceptParts } from '../../proxy/intercept/interceptor.ts'
import { LoopbackInterceptor } from '../../proxy/intercept/loopback.ts'
import { mayUseNft, type Nft } from '../../proxy/intercept/nft.ts'
import type { VipListenersOptions } from '../../proxy/intercept/vip-listeners.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { vipToIPv4 } from '../../src/core/model/address.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { nextVip, OWN_RANGE as RANGE } from '../support/own-vips.ts'
import '../support/no-orphans.ts'
import { freePort } from '../../src/lab/system-tools.ts'
import { Client, keptLog, LiteralTable, type ServiceFacts } from './world.ts'
import { heard } from '../support/heard.ts'
import { until } from '../support/until.ts'

/* Without rights, a VIP has a listener only once somebody may call it: the ports of the others are the machine's. */

const CART = 'shop.acme.cart.prod'
const STOCK = 'shop.acme.stock.prod'
const HERE = ['edge/a']
const at = (index: number) => vipToIPv4(RANGE, index)
const DAY = 24 * 3_600_000

function facts(
  id: string,
  port: number,
  more: Partial<ServiceFacts> = {},
): ServiceFacts & { vips: { 'any.rr': number } } {
  return { id, on: HERE, ports: [port], ...more, vips: { 'any.rr': nextVip() } }
}

async function start(t: Test, table: LiteralTable, options: Partial<VipListenersOptions> = {}) {
  const metrics = openMetrics('agent')
  const sockets: Socket[] = []
  const parts: InterceptParts = {
    table,
    onFlow: ({ socket, target }) => {
      sockets.push(socket)
      socket.on('error', () => undefined).on('end', () => socket.end())
      socket.resume().write(target.service.id)
    },
    onDatagramClient: (client) => ({ datagram: (payload) => void client.answer(payload), end: () => client.ended() }),
    clock: systemClock,
    log: keptLog(),
    metrics,
  }
  const loopback = await LoopbackInterceptor.start({ range: RANGE, ...options }, () => NODE_CALLER, parts)
  t.teardown(async () => {
    await loopback.close()
    metrics.registry.clear()
  })
  return Object.assign(loopback, { sockets })
}

/** What answers a first connection; else the code of the error. */
async function call(port: number, address: string): Promise<string> {
  try {
    using client = await Client.connect(port, address)
    await heard(client.socket)
    return client.text
  } catch (error) {
    return String((error as NodeJS.ErrnoException).code)
  }
}

async function ask(port: number, address: string): Promise<string> {
  const socket = createSocket('udp4').bind(0, '127.0.0.1')
  socket.connect(port, address, () => socket.send('x'))
  const answer = await Promise.race([
    once(socket, 'message').then(([payload]) => String(payload)),
    once(socket, 'error').then(([error]) => String((error as NodeJS.ErrnoException).code)),
  ])
  socket.close()
  return answer
}

/** Starts a server of the machine at every address, TCP and UDP, and stops it: whether it found its ports. */
async function machineCanHave(port: number): Promise<string> {
  const server = createServer().listen(port, '0.0.0.0')
  const socket = createSocket('udp4').bind(port, '0.0.0.0')
  const outcome = async (listening: Promise<unknown>) =>
    listening.then(
      () => 'yes',
      ({ code }: NodeJS.ErrnoException) => code,
    )
  const found = await Promise.all([outcome(once(server, 'listening')), outcome(once(socket, 'listening'))])
  if (server.listening) await new Promise((resolve) => server.close(resolve))
  if (found[1] === 'yes') socket.close()
  return found.join(' ')
}

t.test('a name that nobody asked for takes no port; asking takes its ports, and the first call works', async (t) => {
  const port = await freePort()
  const vips = { 'any.rr': nextVip(), 'any.closest': nextVip(), '0.pinned': nextVip() }
  const table = new LiteralTable({ id: CART, on: HERE, ports: [port], udp: [port], vips })
  const loopback = await start(t, table)
  await loopback.settled()
  t.equal(loopback.size, 0)
  t.equal(await machineCanHave(port), 'yes yes')
  t.equal(await call(port, at(vips['any.rr'])), 'ECONNREFUSED')

  t.equal(loopback.prepare(table.target(CART)), undefined, 'ready in the same turn')
  t.equal(await call(port, at(vips['any.rr'])), CART)
  t.equal(await ask(port, at(vips['any.rr'])), 'x')
  t.equal(await machineCanHave(port), 'EADDRINUSE EADDRINUSE')
  t.same(loopback.heldPorts, [`${port}/tcp`, `${port}/udp`])
  t.equal(loopback.size, 2, 'the other VIPs have no listener')

  t.equal(loopback.prepare(table.target(CART, { instance: 0, policy: 'pinned' })), undefined)
  t.equal(await call(port, at(vips['0.pinned'])), CART)
  t.equal(loopback.heldPorts.length, 2, 'a numbered name takes no other port')
})

t.test('a VIP that a document requests by number answers unasked', async (t) => {
  const [port, other] = [await freePort(), await freePort()]
  const cart: ServiceFacts = { ...facts(CART, port), vips: { 'any.rr': nextVip(), 'any.closest': nextVip() } }
  const stock = facts(STOCK, other)
  const table = new LiteralTable({ ...cart, requested: ['any.rr'] }, { ...stock, requested: ['any.rr'] })
  const loopback = await start(t, table)
  await loopback.settled()
  t.equal(loopback.size, 2)
  t.equal(await call(port, at(cart.vips?.['any.rr'] ?? 0)), CART)
  table.set(cart)
  table.set(stock)
  t.equal(loopback.size, 1, 'no document requests them any more: the one that was called stays')
  t.equal(await call(port, at(cart.vips?.['any.rr'] ?? 0)), CART)
  t.equal(await machineCanHave(other), 'yes yes')
})

t.test('held over a restart: bound at the start, also when its instance comes later', async (t) => {
  const [port, later] = [await freePort(), await freePort()]
  const [cart, stock] = [facts(CART, port), facts(STOCK, later, { states: ['starting'] })]
  const table = new LiteralTable(cart, stock)
  const asked = new AskedVips(systemClock)
  asked.take([
    { service: CART, vip: cart.vips['any.rr'], idleMs: 1_000 },
    { service: STOCK, vip: stock.vips['any.rr'], idleMs: 1_000 },
  ])
  const loopback = await start(t, table, { asked })
  await loopback.settled()
  t.equal(await call(port, at(cart.vips['any.rr'])), CART)
  t.equal(await call(later, at(stock.vips['any.rr'])), 'ECONNREFUSED')
  table.set({ ...stock, states: ['running'] })
  await loopback.settled()
  t.equal(await call(later, at(stock.vips['any.rr'])), STOCK)
})

t.test('a service that is deleted, comes back, changes its ports, or loses its VIP to another', async (t) => {
  const [port, other] = [await freePort(), await freePort()]
  const cart = facts(CART, port)
  const vip = at(cart.vips['any.rr'])
  const table = new LiteralTable(cart)
  const loopback = await start(t, table)
  await loopback.prepare(table.target(CART))
  table.drop(CART)
  t.equal(await machineCanHave(port), 'yes yes', 'deleted: the port is free')
  table.set(cart)
  await loopback.settled()
  t.equal(await call(port, vip), CART, 'back: a program may hold the VIP still')
  table.set({ ...cart, ports: [other] })
  await loopback.settled()
  t.equal(await call(other, vip), CART)
  t.equal(await machineCanHave(port), 'yes yes', 'the former port is free')

  table.drop(CART)
  table.set({ ...cart, id: STOCK })
  await loopback.settled()
  t.equal(loopback.size, 0, 'nobody has asked for the other service')
  t.equal(loopback.prepare(table.target(STOCK)), undefined)
  t.equal(await call(port, vip), STOCK)
})

t.test(
  'a name that was not answered, since a server of the machine has its port, does not take that later',
  async (t) => {
    const port = await freePort()
    const cart = facts(CART, port)
    const table = new LiteralTable(cart)
    const asked = new AskedVips(systemClock)
    const loopback = await start(t, table, { asked })
    const server = createServer().listen(port, '0.0.0.0')
    await once(server, 'listening')
    t.match(await loopback.prepare(table.target(CART)), /would answer instead/)
    t.match(loopback.problems(), [{ code: 'PORT_TAKEN', port }], 'check tells it')
    t.equal(asked.size, 0)
    await new Promise((resolve) => server.close(resolve))
    await loopback.retry()
    t.same(loopback.problems(), [], 'check tells it no more')
    await loopback.settled()
    t.equal(await machineCanHave(port), 'yes yes', 'it finds its port when it starts again')
    t.equal(await loopback.prepare(table.target(CART)), undefined, 'the next question is answered')
    t.equal(await call(port, at(cart.vips['any.rr'])), CART)
    t.equal(asked.size, 1)
  },
)

t.test(
  'an answered name keeps its listener where one of two ports is taken, and gets the other one later',
  async (t) => {
    const [port, other] = [await freePort(), await freePort()]
    const cart = facts(CART, port, { ports: [port, other] })
    const table = new LiteralTable(cart)
    const loopback = await start(t, table)
    const server = createServer().listen(other, '0.0.0.0')
    await once(server, 'listening')
    t.equal(loopback.prepare(table.target(CART)), undefined)
    t.match(await loopback.obstacles(table.target(CART)), [{ port: other }])
    await new Promise((resolve) => server.close(resolve))
    await loopback.retry()
    await loopback.settled()
    t.equal(await call(other, at(cart.vips['any.rr'])), CART)
  },
)

t.test('what is in the way of a name is told also while no instance runs', async (t) => {
  const [port, other] = [await freePort(), await freePort()]
  const cart = facts(CART, port, { ports: [port, other] })
  const table = new LiteralTable(cart)
  const loopback = await start(t, table)
  const server = createServer().listen(port, '0.0.0.0')
  await once(server, 'listening')
  t.equal(loopback.prepare(table.target(CART)), undefined)
  const told = [{ code: 'PORT_TAKEN', port, reason: /another program/ }]
  t.match(loopback.problems(), told)
  for (const state of ['starting', 'running', 'starting'] as const) {
    table.set({ ...cart, states: [state] })
    await loopback.settled()
    await loopback.retry()
    t.match([loopback.problems(), loopback.size], [told, state === 'running' ? 1 : 0], state)
    t.match(await loopback.obstacles(table.target(CART)), [{ port, reason: /would answer instead/ }], 'and by resolve')
  }
  t.match(await loopback.prepare(table.target(CART)), /would answer instead/, 'its name is not answered meanwhile')

  await new Promise((resolve) => server.close(resolve))
  await loopback.retry()
  t.same(loopback.problems(), [], 'the port is free')
  t.equal(await machineCanHave(port), 'yes yes', 'and is not taken')
  table.set(cart)
  await loopback.settled()
  t.equal(await call(port, at(cart.vips['any.rr'])), CART, 'until an instance runs')

  const again = createServer().listen(0, '0.0.0.0')
  await once(again, 'listening')
  table.set({ ...cart, ports: [(again.address() as AddressInfo).port] })
  await loopback.settled()
  t.equal(loopback.problems().length, 1)
  table.set({ ...cart, ports: [], states: ['starting'] })
  await loopback.settled()
  t.same(loopback.problems(), [], 'a port that the service has no more')
  await new Promise((resolve) => again.close(resolve))
})

const noRights = mayUseNft() ? false : 'optional: needs CAP_NET_ADMIN, which this test takes away'

t.test(
  'rights that are lost: what was asked for answers at its port, the other ports are free',
  { skip: noRights },
  async (t) => {
    const [port, other, late, by] = [await freePort(), await freePort(), await freePort(), await freePort()]
    const [cart, stock, number] = [
      facts(CART, port, { udp: [port] }),
      facts(STOCK, other),
      facts('shop.acme.n.prod', by),
    ]
    const table = new LiteralTable(cart, stock, number)
    const kernel = { has: true, rules: '' }
    const answer = async (rules: string) => {
      if (!kernel.has) throw new Error('nft: Operation not permitted')
      kernel.rules += rules
      return '{"nftables":[]}'
    }
    const nft: Nft = { apply: async (rules) => void (await answer(rules)), list: () => answer('') }
    const loopback = await start(t, table, { nft })
    await loopback.prepare(table.target(CART))
    await loopback.settled()
    t.equal(loopback.size, 4, 'with rights, every VIP has a listener')
    t.same(loopback.heldPorts, [], 'and takes no port')
    const listening = new RegExp(`tcp_to \\{ ${by} : (\\d+) \\}`).exec(kernel.rules)?.[1] // nothing rewrites it here
    t.equal(await call(Number(listening), at(number.vips['any.rr'])), 'shop.acme.n.prod', 'called by number, unasked')
    kernel.has = false
    const db = facts('shop.acme.db.prod', late)
    table.set(db)
    t.equal(await loopback.prepare(table.target('shop.acme.db.prod')), undefined, 'the name during which they went')
    t.match(loopback.rules, { isOn: false, fault: /no right/ })
    t.equal(await call(late, at(db.vips['any.rr'])), 'shop.acme.db.prod')
    await loopback.settled()
    t.equal(await call(port, at(cart.vips['any.rr'])), CART)
    t.equal(await ask(port, at(cart.vips['any.rr'])), 'x')
    t.equal(await machineCanHave(other), 'yes yes')
    t.equal(await call(by, at(number.vips['any.rr'])), 'shop.acme.n.prod', 'what was called answers as well')
    t.same(loopback.heldPorts.toSorted(), [`${by}/tcp`, `${port}/tcp`, `${port}/udp`, `${late}/tcp`].toSorted())
  },
)

t.test('as many as there is room for: none that was handed out a moment ago is given up', async (t) => {
  const ports = [await freePort(), await freePort(), await freePort()]
  const services = ports.map((port, i) => facts(`shop.acme.s${i}.prod`, port))
  const table = new LiteralTable(...services)
  const clock = new ManualClock()
  const loopback = await start(t, table, { asked: new AskedVips(clock, 2) })
  const prepare = (i: number) => loopback.prepare(table.target(`shop.acme.s${i}.prod`))
  t.equal(prepare(0), undefined)
  await clock.advance(1_000)
  t.equal(prepare(1), undefined)
  t.match(prepare(2), /too many addresses/)
  t.equal(loopback.size, 2)
  await clock.advance(1_000)
  t.equal(prepare(0), undefined, 'one that is held is answered all the same')
  await clock.advance(120_000)
  t.equal(prepare(2), undefined, 'in place of the one unused for longest')
  t.equal(await machineCanHave(ports[1] ?? 0), 'yes yes', 'whose port is free now')
  t.equal(await call(ports[0] ?? 0, at(services[0]?.vips['any.rr'] ?? 0)), 'shop.acme.s0.prod')
})

t.test('forgotten when nobody asks for it, calls it, or has a flow to it in a week', async (t) => {
  const ports = await Promise.all(Array.from({ length: 4 }, freePort))
  const [idle, called, open, talking] = ports.map((port, i) => facts(`shop.acme.s${i}.prod`, port, { udp: [port] }))
  if (!idle || !called || !open || !talking) throw new Error('four')
  const table = new LiteralTable(idle, called, open, talking)
  const clock = new ManualClock()
  const loopback = await start(t, table, { asked: new AskedVips(clock) })
  for (const { id } of [idle, called, open, talking]) await loopback.prepare(table.target(id))
  using flow = await Client.connect(ports[2] ?? 0, at(open.vips['any.rr']))
  const talker = createSocket('udp4').bind(0, '127.0.0.1')
  t.teardown(() => talker.close())
  talker.send('x', ports[3], at(talking.vips['any.rr']))
  await once(talker, 'message')
  await clock.advance(FORGET_MS - DAY)
  t.equal(await call(ports[1] ?? 0, at(called.vips['any.rr'])), called.id)
  await until(() => loopback.sockets[1]?.closed === true)
  await loopback.forgetUnused()
  t.equal(loopback.size, 8)
  await clock.advance(DAY)
  await loopback.forgetUnused()
  t.equal(loopback.size, 6)
  t.equal(await machineCanHave(ports[0] ?? 0), 'yes yes')
  flow.socket.destroy()
  await until(() => loopback.sockets.every(({ closed }) => closed))
  await clock.advance(FORGET_MS - DAY)
  await loopback.forgetUnused()
  t.equal(loopback.size, 2 + 2, 'the flow has ended, and was seen last a day ago; the datagrams go on')
})

t.test('10,000 services that nobody asked for: no listener, and no list of their ports', async (t) => {
  const table = new LiteralTable()
  let read = 0
  for (let i = 0; i < 10_000; i += 1) {
    const entry = table.set({ id: `shop.acme.s${i}.prod`, on: HERE, ports: [8_080], vips: { 'any.rr': i } })
    const { vips } = entry.service
    Object.defineProperty(entry.service, 'vips', { get: () => (read++, vips) })
  }
  const startedAt = performance.now()
  const loopback = await start(t, table)
  t.comment(`started in ${Math.round(performance.now() - startedAt)} ms`)
  t.ok(loopback.isSettled)
  t.equal(loopback.size, 0)
  t.equal(read, 0, 'their VIPs are not even looked at')
})
