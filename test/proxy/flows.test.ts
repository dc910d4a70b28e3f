import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { randomBytes } from 'node:crypto'
import t, { type Test } from 'tap'
import { Cancellation } from '../../src/core/kit/cancellation.ts'
import type { ErrorCode } from '../../src/core/errors.ts'
import { systemClock, type Clock } from '../../src/core/kit/clock.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import type { InstanceId, NodeId } from '../../src/core/model/ids.ts'
import type { Endpoint } from '../../proxy/socket/dial.ts'
import { instanceCaller, NODE_CALLER, type Caller, type Flow, type FlowReply } from '../../proxy/flow/flow.ts'
import { FlowLedger } from '../../proxy/flow/ledger.ts'
import { Inbound, INBOUND_LIMITS, type InboundLimits } from '../../proxy/inbound/inbound.ts'
import { OUTBOUND_LIMITS } from '../../proxy/outbound/establish.ts'
import { outbound, type OutboundParts } from '../../proxy/outbound/outbound.ts'
import { createBalancer } from '../../proxy/policies/index.ts'
import { trace } from '../../proxy/outbound/trace.ts'
import { encodeRequest } from '../../proxy/flow/request.ts'
import type { IncomingStream, Session } from '../../proxy/tunnel/contract.ts'
import { MuxPair } from '../support/mux-pair.ts'
import { ManualClock } from '../support/manual-clock.ts'
import {
  Client,
  digestOf,
  echo,
  keptLog,
  LiteralTable,
  peersWith,
  serve,
  type ServiceFacts,
  sessionTo,
  turns,
  roomy,
} from './world.ts'
import { until } from '../support/until.ts'

/** The node under test is `edge/a`; `edge/b` and `edge/c` are where sessions lead. */
interface Agent {
  parts: OutboundParts
  log: ReturnType<typeof keptLog>
  table: LiteralTable
  /** Connects a client whose flow goes through `outbound`. */
  call(service: string, options?: Partial<Flow>): Promise<Client & { done: Promise<void> }>
  [Symbol.asyncDispose](): Promise<void>
}

interface AgentOptions {
  services: ServiceFacts[]
  sessions?: Session[]
  rtts?: Record<NodeId, number>
  endpoints?: Record<InstanceId, Endpoint>
  clock?: Clock
  limits?: Partial<OutboundParts['limits']>
  drainMs?: number
}

async function agent(options: AgentOptions): Promise<Agent> {
  const { services, sessions = [], rtts = {}, endpoints = {}, clock = systemClock, limits = {}, drainMs = 0 } = options
  const table = new LiteralTable(...services)
  const log = keptLog()
  const metrics = openMetrics('agent')
  const ledger = await FlowLedger.start({ drainMs }, { clock, log, metrics })
  const parts: OutboundParts = {
    ...roomy(),
    table,
    peers: peersWith(sessions, rtts),
    self: 'edge/a',
    endpointOf: (id) => endpoints[id],
    clock,
    dial: () => ({ timeoutMs: 2000 }),
    balancer: createBalancer({
      rttMs: (node) => rtts[node],
      isHere: (node) => node === 'edge/a',
      openFlows: (id) => ledger.openFlows(id),
    }),
    ledger,
    limits: { ...OUTBOUND_LIMITS, ...limits },
    metrics,
  }
  const listeners: Server[] = []
  return {
    parts,
    log,
    table,
    async call(service, flow = {}) {
      const listener = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true })
      listeners.push(listener)
      listener.listen({ host: '127.0.0.1', port: 0 })
      await once(listener, 'listening')
      const taken = once(listener, 'connection')
      const client = new Client(
        connect({ port: (listener.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true }),
      )
      const [socket] = await taken
      listener.close()
      const target = table.target(service)
      const done = outbound(
        { target, port: 80, socket, caller: NODE_CALLER, mode: 'loopback', startedAt: clock.now(), ...flow },
        parts,
      )
      return Object.assign(client, { done })
    },
    async [Symbol.asyncDispose]() {
      await ledger.close()
      metrics.registry.clear()
    },
  }
}

/** The other node: an Inbound before instances at these endpoints. */
async function destination(options: {
  node?: NodeId
  services: ServiceFacts[]
  endpoints: Record<InstanceId, Endpoint>
  limits?: Partial<InboundLimits>
  want?: (key: string, table: LiteralTable) => Promise<void>
  addressOf?: (caller: InstanceId) => string | undefined
  forbids?: (address: string, port: number) => boolean
}) {
  const { node = 'edge/b', services, endpoints, limits = {}, want, addressOf, forbids } = options
  const table = new LiteralTable(...services)
  const log = keptLog()
  const metrics = openMetrics('agent')
  const wanted: string[] = []
  const inbound = await Inbound.start({
    ...roomy(),
    table,
    interests: {
      want: async (key) => {
        wanted.push(key)
        await want?.(key, table)
      },
      wantVip: async () => undefined,
    },
    self: node,
    endpointOf: (id) => endpoints[id],
    isDraining: () => false,
    limits: { ...INBOUND_LIMITS, drainMs: 0, ...limits },
    log,
    metrics,
    ...(addressOf === undefined ? {} : { addressOf }),
    ...(forbids === undefined ? {} : { forbids }),
  })
  return {
    inbound,
    table,
    log,
    wanted,
    session: sessionTo(node, 'edge/a', inbound.take),
    async [Symbol.asyncDispose]() {
      await inbound.close()
      metrics.registry.clear()
    },
  }
}

/** `once` would reject at the RST that is expected. */
function closeOf(socket: Socket | undefined): Promise<void> {
  return new Promise((resolve) => (socket?.closed === false ? socket.once('close', () => resolve()) : resolve()))
}

const CART = 'shop.acme.cart.prod'
const silentSession = (node: NodeId) => sessionTo(node, 'edge/a', () => undefined)
const refusing = (node: NodeId, refusal: Parameters<IncomingStream['refuse']>[0], seen: NodeId[] = []) =>
  sessionTo(node, 'edge/a', (incoming) => {
    seen.push(node)
    incoming.refuse(refusal)
  })

t.test('a flow to an instance on this node', async (t) => {
  await using served = await serve(echo)
  await using here = await agent({
    services: [{ id: CART, on: ['edge/a'] }],
    endpoints: { [`${CART}.0`]: { host: '127.0.0.1', port: served.port } },
  })
  using client = await here.call(CART)
  const bytes = randomBytes(500_000)
  client.socket.write(bytes)
  await until(() => client.bytes === bytes.length)
  t.equal(here.parts.ledger.openFlows(`${CART}.0`), 1, 'while the flow is open it is counted at its instance')
  const [open] = here.parts.ledger.flows()
  t.match(
    open,
    {
      name: `${CART}.any.rr.local`,
      instance: `${CART}.0`,
      node: 'edge/a',
      path: 'local',
      caller: 'edge/a',
    },
    'the open flow is listed with its name, instance, path and caller',
  )
  client.socket.end()
  await client.done
  t.equal(client.digest(), digestOf(bytes), 'the client receives every byte of the echo')
  t.match(
    await here.log.line('flow ended'),
    {
      level: 'info',
      fields: { instance: `${CART}.0`, path: 'local', sent: 500_000, received: 500_000, end: 'closed', port: 80 },
    },
    'the log tells the end of the flow with its numbers',
  )
  t.equal(here.parts.ledger.openFlows(`${CART}.0`), 0, 'after its end no flow is counted at the instance')
  t.same(here.parts.ledger.flows(), [], 'no open flow is listed')
  t.equal(here.parts.ledger.recent().length, 1, 'the flow is among the recent ones')
  t.same(here.parts.ledger.failures(), [], 'the flow is not among the failures')
  const text = await here.parts.metrics.registry.metrics()
  t.match(
    text,
    /hedgerow_proxy_flows_total\{policy="rr",path="local",result="closed",protocol="tcp",role="agent"\} 1/,
    'a metric counts the flow as closed',
  )
  t.match(
    text,
    /hedgerow_proxy_flow_bytes_total\{direction="sent",role="agent"\} 500000/,
    'a metric counts the bytes that were sent',
  )
})

t.test('a flow to an instance on another node', async (t) => {
  await using served = await serve(echo)
  const services = [{ id: CART, on: ['edge/b'] }]
  await using there = await destination({
    services,
    endpoints: { [`${CART}.0`]: { host: '127.0.0.1', port: served.port } },
  })
  await using here = await agent({ services, sessions: [there.session] })
  using client = await here.call(CART)
  const bytes = randomBytes(2_000_000)
  client.socket.end(bytes)
  await client.done
  t.equal(client.digest(), digestOf(bytes), 'the client receives every byte of the echo')
  const ended = await here.log.line('flow ended')
  t.match(
    ended.fields,
    { node: 'edge/b', path: 'direct', sent: 2_000_000, received: 2_000_000, end: 'closed' },
    'the log tells node, path and numbers of the flow',
  )
  const inbound = await there.log.line('inbound flow ended')
  t.equal(inbound.fields['flow'], ended.fields['flow'], 'the flow has one id at both ends')
})

t.test('the same over the frames of a real tunnel: thirty flows at once, one that is reset', async (t) => {
  await using served = await serve((socket) => {
    socket.on('data', (chunk: Buffer) => {
      if (chunk.toString() === 'reset') socket.resetAndDestroy()
      else if (!socket.write(chunk)) socket.pause()
    })
    socket.on('drain', () => socket.resume())
    socket.on('end', () => socket.end())
  })
  const services = [{ id: CART, on: ['edge/b'] }]
  await using there = await destination({
    services,
    endpoints: { [`${CART}.0`]: { host: '127.0.0.1', port: served.port } },
  })
  const pair = new MuxPair({}, { accept: there.inbound.take })
  const { session } = there
  // The pair names its ends itself: the destination hears of a peer called `near`, which may speak for host processes.
  const tunnel: Session = { ...session, open: (request, events) => pair.near.open(request, events) }
  const moved = new AbortController()
  const mover = (async () => {
    while (!moved.signal.aborted) {
      pair.move()
      await turns(1)
    }
  })()
  await using here = await agent({ services, sessions: [tunnel] })
  const all = Array.from({ length: 30 }, () => randomBytes(1 + Math.floor(Math.random() * 1_000_000)))
  const clients = await Promise.all(all.map(() => here.call(CART)))
  for (const [i, client] of clients.entries()) client.socket.end(all[i] as Buffer)
  using broken = await here.call(CART)
  broken.socket.write('reset')
  t.equal(await broken.closed, 'ECONNRESET', 'the client of the flow that is reset sees a reset')
  await Promise.all(clients.map(({ done }) => done))
  t.same(
    clients.map((client) => client.digest()),
    all.map(digestOf),
    'each of the thirty clients receives every byte of its echo',
  )
  t.equal(pair.near.streams + pair.far.streams, 0, 'no stream is left')
  await until(() => there.inbound.size === 0)
  moved.abort()
  await mover
})

t.test('RST passes both ways, and the log says whose it was', async (t) => {
  await using served = await serve((socket) => {
    socket.on('data', (chunk: Buffer) => {
      if (chunk.toString() === 'reset') socket.resetAndDestroy()
      else socket.write(chunk)
    })
  })
  const services = [{ id: CART, on: ['edge/b'] }]
  await using there = await destination({
    services,
    endpoints: { [`${CART}.0`]: { host: '127.0.0.1', port: served.port } },
  })
  await using here = await agent({ services, sessions: [there.session] })
  {
    using client = await here.call(CART)
    client.socket.write('reset')
    t.equal(await client.closed, 'ECONNRESET', 'a reset by the instance is a reset at the client')
    await client.done
    t.equal(here.parts.ledger.recent()[0]?.end, 'instance-reset', 'the flow is listed as reset by its instance')
  }
  {
    using client = await here.call(CART)
    client.socket.write('hello')
    await until(() => client.text === 'hello')
    const closed = closeOf(served.sockets[1])
    client.socket.resetAndDestroy()
    await Promise.all([client.done, closed])
    t.equal(here.parts.ledger.recent()[0]?.end, 'caller-reset', 'the flow is listed as reset by its caller')
  }
})

t.test('the first bytes wait in the socket until an instance has answered', async (t) => {
  let open: (() => void) | undefined
  await using served = await serve(echo)
  const services = [{ id: CART, on: ['edge/b'] }]
  await using there = await destination({
    services,
    endpoints: { [`${CART}.0`]: { host: '127.0.0.1', port: served.port } },
  })
  const late = sessionTo('edge/b', 'edge/a', (incoming) => (open = () => there.inbound.take(incoming)))
  await using here = await agent({ services, sessions: [late] })
  using client = await here.call(CART)
  const bytes = randomBytes(20_000_000)
  client.socket.write(bytes)
  await until(() => open !== undefined)
  await turns(20)
  t.equal(here.parts.ledger.flows()[0]?.sent, 0, 'nothing is sent before the instance has answered')
  t.ok(client.socket.writableLength > 0, 'the client is held back, not buffered')
  open?.()
  await until(() => client.bytes === bytes.length)
  t.equal(client.digest(), digestOf(bytes), 'then every byte arrives')
  client.socket.end()
  await client.done
})

t.test('failover: refused, unreachable and unknown nodes are passed over at once', async (t) => {
  await using served = await serve(echo)
  const on = ['edge/b', 'edge/c', 'edge/d', 'edge/a']
  const seen: NodeId[] = []
  await using here = await agent({
    services: [{ id: CART, on }],
    sessions: [refusing('edge/b', 'unreachable', seen), refusing('edge/c', 'draining', seen)], // edge/d: NO_PATH
    endpoints: { [`${CART}.3`]: { host: '127.0.0.1', port: served.port } },
  })
  using client = await here.call(CART)
  client.socket.end('hello')
  await client.done
  t.equal(client.text, 'hello', 'the client receives the echo of the fourth instance')
  t.same(seen, ['edge/b', 'edge/c'], 'the instances before it were asked in order')
  t.match(
    here.parts.ledger.recent()[0],
    { instance: `${CART}.3`, end: 'closed' },
    'the flow is listed with the instance that took it',
  )
})

t.test('failover: an instance on this node that does not listen is passed over', async (t) => {
  await using served = await serve(echo)
  await using dead = await serve(() => undefined)
  dead.server.close()
  await using here = await agent({
    services: [{ id: CART, on: ['edge/a', 'edge/a'] }],
    endpoints: {
      [`${CART}.0`]: { host: '127.0.0.1', port: dead.port },
      [`${CART}.1`]: { host: '127.0.0.1', port: served.port },
    },
  })
  using client = await here.call(CART)
  client.socket.end('hello')
  await client.done
  t.equal(client.text, 'hello', 'the client receives the echo of the instance that listens')
})

t.test('when every instance refuses, the caller sees a reset and the reason is kept', async (t) => {
  const services = [{ id: CART, on: ['edge/b', 'edge/c'] }]
  await using here = await agent({
    services,
    sessions: [refusing('edge/b', 'unreachable'), refusing('edge/c', 'refused')],
  })
  using client = await here.call(CART)
  t.equal(await client.closed, 'ECONNRESET', 'the client sees a reset')
  await client.done
  const [failure] = here.parts.ledger.failures()
  t.match(failure, { end: 'refused', name: `${CART}.any.rr.local` }, 'the flow is among the failures')
  t.match(
    failure?.reason,
    /cart.prod.0: unreachable .*cart.prod.1: refused/,
    'its reason tells the outcome of each try',
  )
  t.match(
    await here.log.line('flow refused'),
    { level: 'warn', fields: { end: 'refused', port: 80 } },
    'the log tells that the flow was refused',
  )
  t.match(
    await here.parts.metrics.registry.metrics(),
    /flows_total\{policy="rr",path="none",result="refused",protocol="tcp",role="agent"\} 1/,
    'a metric counts the flow as refused',
  )
})

t.test('hedging: a silent instance costs its hedge delay, not the flow', async (t) => {
  const clock = new ManualClock()
  await using served = await serve(echo)
  const services = [{ id: CART, on: ['edge/b', 'edge/c'] }]
  let gone = 0
  const silent = sessionTo('edge/b', 'edge/a', (incoming) => incoming.onGone(() => gone++))
  await using there = await destination({
    node: 'edge/c',
    services,
    endpoints: { [`${CART}.1`]: { host: '127.0.0.1', port: served.port } },
  })
  await using here = await agent({ services, sessions: [silent, there.session], rtts: { 'edge/b': 30 }, clock })
  using client = await here.call(CART)
  client.socket.end('hello')
  await clock.advance(89)
  await turns(10)
  t.same(served.sockets.length, 0, 'the second is not tried before 3 × 30 ms')
  await clock.advance(1)
  await client.done
  t.equal(client.text, 'hello', 'the client receives the echo of the second instance')
  t.equal(here.parts.ledger.recent()[0]?.instance, `${CART}.1`, 'the flow is listed with the second instance')
  await until(() => gone === 1)
  t.equal(gone, 1, 'the slow one learns that the caller no longer waits')
})

t.test('the deadline: RST after 3 s of silence, and every try is given up', async (t) => {
  const clock = new ManualClock()
  const services = [{ id: CART, on: ['edge/b', 'edge/c'] }]
  await using here = await agent({ services, sessions: [silentSession('edge/b'), silentSession('edge/c')], clock })
  using client = await here.call(CART)
  await clock.advance(250)
  await clock.advance(2749)
  t.equal(here.parts.ledger.size, 1, 'a millisecond before the deadline the flow is still open')
  await clock.advance(1)
  t.equal(await client.closed, 'ECONNRESET', 'at the deadline the client sees a reset')
  await client.done
  t.match(
    here.parts.ledger.failures()[0],
    { end: 'timeout', ageMs: 3000 },
    'the flow is listed as timed out, after three seconds',
  )
})

t.test('the tries end with a flow that is cut while it waits', async (t) => {
  const services = [{ id: CART, on: ['edge/b'] }]
  let gone = false
  let seen = false
  const silent = sessionTo('edge/b', 'edge/a', (incoming) => {
    seen = true
    incoming.onGone(() => (gone = true))
  })
  await using here = await agent({ services, sessions: [silent] })
  const taken = await here.call(CART)
  await until(() => seen)
  const closing = here.parts.ledger.drain(0)
  t.equal(await taken.closed, 'ECONNRESET', 'the client sees a reset')
  await Promise.all([taken.done, closing])
  await until(() => gone)
  t.equal(here.parts.ledger.failures()[0]?.end, 'cut', 'the flow is listed as cut')
})

t.test('flows that cannot succeed are refused before anything is tried', async (t) => {
  const services: ServiceFacts[] = [
    { id: CART, on: ['edge/b'], allow: ['shop.acme'] },
    { id: 'shop.acme.empty.prod', on: [] },
    { id: 'shop.acme.lost.prod', on: ['edge/b'], states: ['lost'] },
  ]
  await using here = await agent({ services, sessions: [refusing('edge/b', 'unreachable')], limits: { maxFlows: 1 } })
  const answers: [ErrorCode, string][] = []
  const reply: FlowReply = {
    connected: () => t.fail('connected'),
    failed: (code, reason) => answers.push([code, reason]),
  }
  const rows: [why: string, service: string, flow: Partial<Flow>, code: ErrorCode, end: string][] = [
    ['a host process that is not in the allow list is refused', CART, {}, 'NOT_ALLOWED', 'not-allowed'],
    [
      'an instance of another app is refused',
      CART,
      { caller: instanceCaller('mail.acme.smtp.prod.0') as Caller },
      'NOT_ALLOWED',
      'not-allowed',
    ],
    ['a flow to a port that is not served is refused', CART, { port: 22 }, 'PORT_UNKNOWN', 'port-unknown'],
    ['a flow to a service without instances is refused', 'shop.acme.empty.prod', {}, 'NO_INSTANCE', 'no-instance'],
    ['a flow to a service whose instance is lost is refused', 'shop.acme.lost.prod', {}, 'NO_INSTANCE', 'no-instance'],
  ]
  for (const [why, service, flow, code, end] of rows) {
    using client = await here.call(service, { ...flow, reply })
    await client.done
    t.equal(answers.at(-1)?.[0], code, why)
    t.equal(here.parts.ledger.failures()[0]?.end, end, why)
  }
  using plain = await here.call(CART)
  t.equal(await plain.closed, 'ECONNRESET', 'a caller that cannot be given a reply sees a reset')
})

t.test('no more flows than the limit, and none while closing', async (t) => {
  await using served = await serve(echo)
  await using here = await agent({
    services: [{ id: CART, on: ['edge/a'] }],
    endpoints: { [`${CART}.0`]: { host: '127.0.0.1', port: served.port } },
    limits: { maxFlows: 1 },
    drainMs: 60_000,
  })
  using first = await here.call(CART)
  first.socket.write('x')
  await until(() => first.text === 'x')
  using second = await here.call(CART)
  t.equal(await second.closed, 'ECONNRESET', 'a flow beyond the limit is reset')
  const draining = here.parts.ledger.drain(60_000)
  using third = await here.call(CART)
  t.equal(await third.closed, 'ECONNRESET', 'a flow that comes while closing is reset')
  first.socket.end()
  await draining
  await first.done
  t.equal(first.text, 'x', 'an open flow may finish while the agent waits')
})

t.test('the destination refuses what its own table does not allow', async (t) => {
  await using served = await serve(echo)
  const here: ServiceFacts[] = [
    { id: CART, on: ['edge/b'] },
    { id: 'mail.acme.smtp.prod', on: ['edge/a'] },
  ]
  const strict: ServiceFacts[] = [{ id: CART, on: ['edge/b'], allow: ['shop.acme'] }]
  await using there = await destination({
    services: strict,
    endpoints: { [`${CART}.0`]: { host: '127.0.0.1', port: served.port } },
  })
  await using source = await agent({ services: here, sessions: [there.session] }) // would allow host processes
  using client = await source.call(CART)
  t.equal(await client.closed, 'ECONNRESET', 'the client sees a reset')
  await client.done
  t.match(
    source.parts.ledger.failures()[0]?.reason,
    /not-allowed/,
    'the reason of the failure is that the caller is not allowed',
  )
  t.match(
    (await there.log.line('inbound flow refused')).fields,
    {
      peer: 'edge/a',
      instance: `${CART}.0`,
      caller: 'edge/a',
    },
    'the log of the destination tells peer, instance and caller',
  )
  t.equal(served.sockets.length, 0, 'the instance was not connected')
})

t.test('the destination refuses a path that the service leaves out, whatever the caller’s node believes', async (t) => {
  await using served = await serve(echo)
  const endpoints = { [`${CART}.0`]: { host: '127.0.0.1', port: served.port } }
  await using there = await destination({ services: [{ id: CART, on: ['edge/b'], paths: 'relay-only' }], endpoints })
  await using source = await agent({ services: [{ id: CART, on: ['edge/b'] }], sessions: [there.session] })
  using client = await source.call(CART)
  t.equal(await client.closed, 'ECONNRESET', 'the client sees a reset')
  await client.done
  t.match(
    source.parts.ledger.failures()[0],
    { end: 'path-forbidden', reason: /path-forbidden/ },
    'the flow is listed as refused for its path',
  )
  t.match(
    (await there.log.line('inbound flow refused')).fields,
    { reason: /relay-only leaves direct out/ },
    'the log of the destination tells which rule leaves the path out',
  )
  t.equal(served.sockets.length, 0, 'the instance was not connected')
})

t.test('an unknown caller is asked about once, then believed or refused', async (t) => {
  await using served = await serve(echo)
  const services: ServiceFacts[] = [{ id: CART, on: ['edge/b'] }]
  const front = { id: 'shop.acme.front.prod', on: ['edge/a'] }
  await using there = await destination({
    services,
    endpoints: { [`${CART}.0`]: { host: '127.0.0.1', port: served.port } },
    want: async (key, table) => void (key === 'shop.acme.front' && table.set(front)),
  })
  await using here = await agent({ services, sessions: [there.session] })
  using known = await here.call(CART, { caller: instanceCaller('shop.acme.front.prod.0') as Caller })
  known.socket.end('hello')
  await known.done
  t.equal(known.text, 'hello', 'a caller that the cluster knows is served')
  for (let i = 0; i < 3; i++) {
    using ghost = await here.call(CART, { caller: instanceCaller('shop.acme.ghost.prod.0') as Caller })
    t.equal(await ghost.closed, 'ECONNRESET', 'a caller that the cluster does not know sees a reset')
  }
  t.same(there.wanted, ['shop.acme.front', 'shop.acme.ghost'], 'a flood of unknown names is one question')
})

t.test('garbage in OPEN is refused, and costs nothing', async (t) => {
  await using there = await destination({ services: [], endpoints: {} })
  const refusals: string[] = []
  for (let i = 0; i < 200; i++) {
    there.inbound.take({
      peer: 'edge/a',
      path: 'direct',
      request: randomBytes(i * 6),
      accept: () => t.fail('accepted') as never,
      acceptDatagrams: () => t.fail('accepted') as never,
      refuse: (refusal) => refusals.push(refusal),
      onGone: () => undefined,
    })
  }
  await until(() => refusals.length === 200)
  t.same(new Set(refusals), new Set(['bad-request']), 'all 200 are refused as bad requests')
  t.equal(there.inbound.size, 0, 'no flow is open')
})

const TWO_INSTANCES: ServiceFacts[] = [{ id: CART, on: ['edge/b', 'edge/b'] }]

/** What a destination answers to an OPEN for this instance. */
function askFor(t: Test, inbound: Inbound, ordinal: number): Promise<string> {
  const flow = { service: CART, ordinal, port: 80, protocol: 'tcp', caller: NODE_CALLER, flow: '00'.repeat(8) } as const
  return new Promise((resolve) => {
    inbound.take({
      peer: 'edge/a',
      path: 'direct',
      request: encodeRequest(flow),
      accept: () => {
        resolve('accepted')
        return { write: () => true, end: () => undefined, reset: () => undefined, consumed: () => undefined }
      },
      acceptDatagrams: () => t.fail('no datagrams were asked for') as never,
      refuse: resolve,
      onGone: () => undefined,
    })
  })
}

t.test('a destination refuses flows beyond its limit', async (t) => {
  await using served = await serve(echo)
  await using there = await destination({
    services: TWO_INSTANCES,
    endpoints: { [`${CART}.0`]: { host: '127.0.0.1', port: served.port } },
    limits: { maxFlows: 2 },
  })
  const said = [await askFor(t, there.inbound, 0), await askFor(t, there.inbound, 0), await askFor(t, there.inbound, 0)]
  t.same(said, ['accepted', 'accepted', 'overloaded'], 'two flows are accepted, the third is one too many')
  served.sockets[0]?.destroy()
  await until(() => there.inbound.size === 2 || there.inbound.size === 1)
})

t.test('a destination refuses an instance that does not listen, and one at a forbidden address', async (t) => {
  await using dead = await serve(() => undefined)
  dead.server.close()
  await using there = await destination({
    services: TWO_INSTANCES,
    endpoints: {
      [`${CART}.0`]: { host: '127.0.0.1', port: dead.port },
      [`${CART}.1`]: { host: '169.254.169.254', port: 80 },
    },
  })
  t.equal(await askFor(t, there.inbound, 0), 'refused', 'an instance that does not listen refuses')
  t.equal(await askFor(t, there.inbound, 1), 'not-here', 'cloud metadata is never reached')
  await using own = await serve(() => t.fail('the agent reached itself'))
  await using guarded = await destination({
    services: TWO_INSTANCES,
    endpoints: { [`${CART}.0`]: { host: '127.0.0.1', port: own.port } },
    forbids: (_address, port) => port === own.port,
  })
  t.equal(await askFor(t, guarded.inbound, 0), 'not-here', 'a port of the agent itself is never reached')
})

t.test('a destination that closes refuses new streams as draining', async (t) => {
  await using there = await destination({ services: TWO_INSTANCES, endpoints: {} })
  await there.inbound.close()
  t.equal(await askFor(t, there.inbound, 0), 'draining', 'the opener is told to go elsewhere')
})

t.test('the instance sees who calls', async (t) => {
  const seen: (string | undefined)[] = []
  await using served = await serve((socket) => {
    seen.push(socket.remoteAddress)
    echo(socket)
  })
  const services: ServiceFacts[] = [
    { id: CART, on: ['edge/b'] },
    { id: 'shop.acme.front.prod', on: ['edge/a'] },
  ]
  await using there = await destination({
    services,
    endpoints: { [`${CART}.0`]: { host: '127.0.0.1', port: served.port } },
    addressOf: () => '127.30.7.9',
  })
  await using here = await agent({ services, sessions: [there.session] })
  using client = await here.call(CART, { caller: instanceCaller('shop.acme.front.prod.0') as Caller })
  client.socket.end('x')
  await client.done
  using other = await here.call(CART)
  other.socket.end('x')
  await other.done
  t.same(
    seen,
    ['127.30.7.9', '127.0.0.1'],
    'the instance sees the address of the calling instance, and loopback for a host process',
  )
})

t.test('round robin counts flows, and a stopped instance gets none', async (t) => {
  const names = ['zero', 'one', 'two']
  const servers = await Promise.all(names.map((name) => serve((socket) => socket.end(name))))
  const endpoints = Object.fromEntries(servers.map(({ port }, i) => [`${CART}.${i}`, { host: '127.0.0.1', port }]))
  await using here = await agent({ services: [{ id: CART, on: ['edge/a', 'edge/a', 'edge/a'] }], endpoints })
  const heard: Record<string, number> = {}
  for (let i = 0; i < 30; i++) {
    using client = await here.call(CART)
    await client.ended
    client.socket.end()
    await client.done
    heard[client.text] = (heard[client.text] ?? 0) + 1
  }
  t.same(heard, { zero: 10, one: 10, two: 10 }, 'each instance has ten of thirty flows')
  const { vips } = here.table.target(CART).service
  here.table.set({ id: CART, vips, on: ['edge/a', 'edge/a', 'edge/a'], states: ['running', 'stopping', 'running'] })
  for (let i = 0; i < 6; i++) {
    using client = await here.call(CART)
    await client.ended
    t.not(client.text, 'one', 'the instance that stops gets no flow')
    client.socket.end()
    await client.done
  }
  for (const server of servers) await server[Symbol.asyncDispose]()
})

t.test('trace tells each decision, and really connects', async (t) => {
  await using served = await serve(echo)
  const services = [{ id: CART, on: ['edge/b', 'edge/a'] }]
  await using here = await agent({
    services,
    sessions: [refusing('edge/b', 'draining')],
    rtts: { 'edge/b': 3 },
    endpoints: { [`${CART}.1`]: { host: '127.0.0.1', port: served.port } },
  })
  const gone = new Cancellation()
  const intent = (port: number) =>
    ({ target: here.table.target(CART), port, protocol: 'tcp', caller: NODE_CALLER }) as const
  const steps = await trace(intent(80), here.parts, gone)
  t.match(
    steps,
    [
      { step: 'target', name: `${CART}.any.rr.local`, port: 80 },
      { step: 'authorised', caller: 'edge/a', allowed: true },
      {
        step: 'ordered',
        reason: 'next in turn',
        instances: [{ instance: `${CART}.0`, node: 'edge/b' }, { instance: `${CART}.1` }],
      },
      { step: 'tried', instance: `${CART}.0`, outcome: 'draining', path: 'direct', rttMs: 3 },
      { step: 'tried', instance: `${CART}.1`, outcome: 'opened', path: 'local', rttMs: 0 },
      { step: 'connected', instance: `${CART}.1`, node: 'edge/a', path: 'local' },
    ],
    'the steps are told in order: target, permission, order, tries, connection',
  )
  t.equal(served.sockets.length, 1, 'the instance was connected once')
  await closeOf(served.sockets[0])
  const refused = await trace(intent(81), here.parts, gone)
  t.match(
    refused.at(-1),
    { step: 'failed', reason: `${CART} does not serve port 81` },
    'a port that is not served is told',
  )
  here.table.set({ id: CART, on: ['edge/b'], allow: ['mail.acme'] })
  const forbidden = await trace(intent(80), here.parts, gone)
  t.match(forbidden.at(-2), { step: 'authorised', allowed: false }, 'a caller that is not allowed is told')
})
