import t from 'tap'
import { connect } from 'node:net'
import { once } from 'node:events'
import { NODE_CALLER } from '../../proxy/flow/flow.ts'
import { flowRules } from '../../proxy/decide/flow-rules.ts'
import type { Dialer } from '../../proxy/paths/contract.ts'
import { directDialer, DirectListener } from '../../proxy/paths/direct-path.ts'
import { trace } from '../../proxy/outbound/trace.ts'
import { Cancellation } from '../../src/core/kit/cancellation.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { ANY_PATH, readPathRule } from '../../src/core/model/path-rule.ts'
import { Agents } from './two-agents.ts'
import { echo, LiteralTable, serve } from './world.ts'

const [OPEN, RELAY, STRAIGHT] = ['open', 'relay', 'straight'].map((name) => `shop.acme.${name}.prod`) as [
  string,
  string,
  string,
]

/** Two agents that reach each other directly and through a relay; the relay is another port of the far one. */
async function world(own = ANY_PATH) {
  const served = await serve(echo)
  const endpoint = { host: '127.0.0.1', port: served.port }
  let relay: DirectListener | undefined
  const relayed: Dialer = {
    path: 'relayed',
    suits: () => relay !== undefined,
    dial: async () => {
      const stream = connect({ host: '127.0.0.1', port: relay?.port ?? 0, allowHalfOpen: true })
      await once(stream, 'connect')
      return { path: 'relayed', stream, via: 'the relay' }
    },
  }
  const agents = await Agents.start({
    services: [
      { id: OPEN, on: ['edge/far'] },
      { id: RELAY, on: ['edge/far'], paths: 'relay-only' },
      { id: STRAIGHT, on: ['edge/far'], paths: 'direct-only' },
    ],
    endpoints: Object.fromEntries([OPEN, RELAY, STRAIGHT].map((id) => [`${id}.0`, endpoint])),
    peers: { dialers: [directDialer(), relayed], allows: (path) => own.allowed.has(path) },
  })
  const { near } = agents
  Object.assign(near.parts, { ruleOf: flowRules(own, agents.table) })
  const far = agents.node('far').peers
  relay = await DirectListener.start(
    { host: '127.0.0.1', port: 0 },
    (raw) => far.incoming({ ...raw, path: 'relayed' }),
    silentLog,
  )
  return {
    near,
    agents,
    async ask(service: string) {
      const client = agents.dial(service)
      client.socket.end('hello')
      const end = await client.closed
      const [flow] = near.ledger.recent()
      return { said: client.text, end, path: flow?.path, flow }
    },
    trace: (service: string) =>
      trace(
        { target: agents.table.target(service), port: 8080, protocol: 'tcp', caller: NODE_CALLER },
        near.parts,
        Cancellation.from(AbortSignal.timeout(30_000)),
      ),
    async [Symbol.asyncDispose]() {
      await agents[Symbol.asyncDispose]()
      await relay?.[Symbol.asyncDispose]()
      await served[Symbol.asyncDispose]()
    },
  }
}

t.test('flows of one pair of nodes take the paths of their services', async (t) => {
  await using two = await world()
  t.match(await two.ask(OPEN), { said: 'hello', path: 'direct' })
  t.match(await two.ask(RELAY), { said: 'hello', path: 'relayed' }, 'although the session is direct')
  t.match(await two.ask(STRAIGHT), { said: 'hello', path: 'direct' })
  t.match(await two.ask(OPEN), { said: 'hello', path: 'direct' }, 'although there is a relayed carrier')
  const [session] = two.near.peers.all()
  t.same([...new Set(session?.report().carrierPaths)].toSorted(), ['direct', 'relayed'])
})

t.test('a path that nobody may take: the flow is refused, and the log and trace say why', async (t) => {
  await using two = await world(readPathRule('relay-only'))
  t.match(await two.ask(OPEN), { said: 'hello', path: 'relayed' })
  const refused = await two.ask(STRAIGHT)
  t.equal(refused.end, 'ECONNRESET')
  t.match(refused.flow, { end: 'path-forbidden', reason: /the rule is "relay-only and direct-only".*no path is left/ })
  t.match((await two.near.log.line('flow refused')).fields, {
    end: 'path-forbidden',
    reason: /relay-only and direct-only/,
  })
  t.match((await two.trace(STRAIGHT)).slice(-2), [
    { step: 'tried', outcome: 'path-forbidden', reason: /no permitted path to .* is working/ },
    { step: 'failed', reason: /direct-only/ },
  ])
  t.match((await two.trace(RELAY)).at(-1), { step: 'connected', path: 'relayed' })
})

t.test('the rule of a flow is what node and service say now', async (t) => {
  const table = new LiteralTable({ id: OPEN }, { id: RELAY, paths: 'relay-only' })
  const own = readPathRule('no-punched') ?? ANY_PATH
  const ruleOf = flowRules(own, table)
  t.equal(ruleOf(OPEN), own)
  t.equal(ruleOf('shop.acme.unknown.prod'), own)
  t.equal(ruleOf(RELAY).text, 'no-punched and relay-only')
  t.equal(ruleOf(RELAY), ruleOf(RELAY), 'read once')
  table.set({ id: RELAY, paths: 'direct-only' })
  t.equal(ruleOf(RELAY).text, 'no-punched and direct-only', 'after a change of the service')
})
