import { createServer, type Server, type Socket } from 'node:net'
import { once } from 'node:events'
import t from 'tap'
import { Agents } from './two-agents.ts'
import { echo, serve } from './world.ts'
import { until } from '../support/until.ts'

/** A node that is gone: what flows to it cost, how soon others are taken, how soon it is used again. */

t.setTimeout(280_000)

const CART = 'shop.acme.cart.prod'
const LONE = 'shop.acme.lone.prod'

async function world() {
  const served = await serve(echo)
  const endpoint = { host: '127.0.0.1', port: served.port }
  const agents = await Agents.start({
    nodes: ['near', 'far', 'other'],
    services: [
      { id: CART, on: ['edge/far', 'edge/other'] },
      { id: LONE, on: ['edge/far'] },
    ],
    endpoints: { [`${CART}.0`]: endpoint, [`${CART}.1`]: endpoint, [`${LONE}.0`]: endpoint },
  })
  const ask = async (service: string): Promise<{ end: string; ms: number }> => {
    const startedAt = performance.now()
    const client = agents.dial(service)
    client.socket.end('hello')
    const end = await client.closed
    return { end: end === 'ok' ? client.text : end, ms: performance.now() - startedAt }
  }
  return {
    agents,
    ask,
    async askMany(service: string, count: number) {
      const all = await Promise.all(Array.from({ length: count }, () => ask(service)))
      const times = all.map(({ ms }) => ms).toSorted((a, b) => a - b)
      const median = times[times.length >> 1] as number
      return { ends: [...new Set(all.map(({ end }) => end))], median, last: times.at(-1) as number }
    },
    /** Instances tried for flows, by outcome. */
    async tries(): Promise<Record<string, number>> {
      const { values } = await agents.near.metrics.candidatesTried.get()
      return Object.fromEntries(values.map(({ labels, value }) => [String(labels.outcome), value]))
    },
    async dials(result: string) {
      const { values } = await agents.near.metrics.dials.get()
      return values.filter(({ labels }) => labels.result === result).reduce((sum, { value }) => sum + value, 0)
    },
    async [Symbol.asyncDispose]() {
      await agents[Symbol.asyncDispose]()
      await served[Symbol.asyncDispose]()
    },
  }
}

const handles = () => {
  const kinds = process.getActiveResourcesInfo()
  return {
    sockets: kinds.filter((kind) => /TCPSocket|TLS/.test(kind)).length,
    timers: kinds.filter((kind) => kind === 'Timeout').length,
  }
}

/** Sockets of the carriers that may come up meanwhile: both ends in this process, TLS and TCP. */
const CARRIERS = 8 * 4

t.test('a node whose agent has ended', async (t) => {
  await using it = await world()
  const { agents } = it
  t.same((await it.askMany(CART, 20)).ends, ['hello'])
  const { port } = agents.node('far').listener
  await agents.node('far')[Symbol.asyncDispose]()
  await until(() => agents.near.peers.existing('edge/far') === undefined)
  const before = handles()

  const failover = await it.askMany(CART, 300)
  t.comment(failover)
  t.same(failover.ends, ['hello'], 'every flow finds the other instance')
  const lost = await it.askMany(LONE, 300)
  t.comment(lost)
  t.same(lost.ends, ['ECONNRESET'], 'where there is no other, RST')
  t.ok((await it.dials('failed')) < 30, `${await it.dials('failed')} dials for 600 flows`)
  await until(() => agents.near.ledger.size === 0)
  t.comment({ before, after: handles() })
  await until(() => handles().sockets <= before.sockets + CARRIERS && handles().timers <= before.timers + 4)
  t.pass('no socket and no timer is left of them')

  await agents.start('far', port)
  const backAt = performance.now()
  for (;;) if ((await it.ask(LONE)).end === 'hello') break
  t.ok(performance.now() - backAt < 10_000, `used again after ${Math.round(performance.now() - backAt)} ms`)
})

t.test('a node that is frozen: it accepts, and never says a word', async (t) => {
  await using it = await world()
  const { agents } = it
  const { port } = agents.node('far').listener
  await agents.node('far')[Symbol.asyncDispose]()
  const frozen: Socket[] = []
  const mute: Server = createServer((socket) => frozen.push(socket))
  await once(mute.listen(port, '127.0.0.1'), 'listening')

  const failover = await it.askMany(CART, 100)
  t.comment(failover)
  t.same(failover.ends, ['hello'])
  const rounds = [await it.askMany(CART, 100), await it.askMany(CART, 100), await it.askMany(CART, 100)]
  t.comment(rounds)
  t.same([...new Set(rounds.flatMap(({ ends }) => ends))], ['hello'])
  const { opened = 0, dropped = 0, ...others } = await it.tries()
  t.equal(opened, 400, 'each flow is opened once')
  t.ok(dropped > 0, 'the frozen node is tried, and left for the other before its dial has ended')
  const waited = Object.values(others).reduce((sum, count) => sum + count, 0)
  t.ok(waited < 30, `${waited} tries lasted until its dial had failed`)
  const lost = await it.askMany(LONE, 100)
  t.comment(lost)
  t.same(lost.ends, ['ECONNRESET'])
  t.comment(frozen.length)
  t.ok(frozen.length <= 4, `${frozen.length} connections to it`)

  for (const socket of frozen) socket.destroy()
  mute.close()
  await agents.start('far', port)
  const backAt = performance.now()
  for (;;) if ((await it.ask(LONE)).end === 'hello') break
  t.ok(performance.now() - backAt < 10_000, `used again after ${Math.round(performance.now() - backAt)} ms`)
})
