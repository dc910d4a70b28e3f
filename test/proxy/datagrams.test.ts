import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import { once } from 'node:events'
import t from 'tap'
import { type Clock, systemClock } from '../../src/kit/clock.ts'
import { openMetrics } from '../../src/metrics.ts'
import { vipRange, vipToIPv4 } from '../../src/model/address.ts'
import type { InstanceId, NodeId } from '../../src/model/ids.ts'
import { DATAGRAM_LIMITS, DatagramFlows, type DatagramLimits } from '../../proxy/datagrams/outbound.ts'
import { Held } from '../../proxy/datagrams/held.ts'
import { Shunned } from '../../proxy/datagrams/shunned.ts'
import type { Endpoint } from '../../proxy/dial.ts'
import { type Caller, NODE_CALLER } from '../../proxy/flow.ts'
import { FlowBook } from '../../proxy/flow-book.ts'
import { Inbound, INBOUND_LIMITS } from '../../proxy/inbound.ts'
import { LoopbackInterceptor } from '../../proxy/intercept/loopback.ts'
import type { Identify, InterceptParts } from '../../proxy/intercept/interceptor.ts'
import { OUTBOUND_LIMITS, type OutboundParts } from '../../proxy/outbound.ts'
import { createBalancer } from '../../proxy/policies/index.ts'
import type { Session } from '../../proxy/tunnel/contract.ts'
import {
  keptLog,
  LiteralTable,
  ManualClock,
  peersWith,
  type ServiceFacts,
  sessionTo,
  turns,
  until,
  roomy,
} from './world.ts'

/** Away from the range of any agent on this machine, and of the other tests; the block is this process's own. */
const RANGE = vipRange('127.208.0.0/12')
let lastVip = (process.pid % 0xf00) * 0x100
const vip = () => ++lastVip
const at = (index: number) => vipToIPv4(RANGE, index)
const CART = 'shop.acme.cart.prod'
const PORT = 5_353

/** A UDP socket of the test: a client, or an instance. Keeps what it hears. */
class Peer {
  readonly socket: Socket
  readonly heard: { payload: Buffer; from: RemoteInfo }[] = []

  private constructor(socket: Socket) {
    this.socket = socket
    socket.on('message', (payload, from) => this.heard.push({ payload, from }))
    socket.on('error', () => undefined)
  }

  static async bind(address = '127.0.0.1', port = 0): Promise<Peer> {
    const socket = createSocket({ type: 'udp4', recvBufferSize: 4 * 1024 * 1024 })
    socket.bind({ address, port, exclusive: true })
    await once(socket, 'listening')
    return new Peer(socket)
  }

  /** An instance that answers each datagram with what `answer` makes of it; nothing: silence. */
  static async serve(answer: (payload: Buffer) => Buffer | undefined = (payload) => payload): Promise<Peer> {
    const peer = await Peer.bind()
    peer.socket.on('message', (payload, { port, address }) => {
      const reply = answer(payload)
      if (reply !== undefined) peer.socket.send(reply, port, address)
    })
    return peer
  }

  get port(): number {
    return this.socket.address().port
  }

  get endpoint(): Endpoint {
    return { host: '127.0.0.1', port: this.port }
  }

  get texts(): string[] {
    return this.heard.map(({ payload }) => payload.toString())
  }

  send(payload: Buffer | string, address: string, port = PORT): void {
    this.socket.send(payload, port, address)
  }

  /** Sends, and waits for one more word. */
  async ask(payload: Buffer | string, address: string, port = PORT): Promise<Buffer> {
    const before = this.heard.length
    this.send(payload, address, port)
    await until(() => this.heard.length > before)
    return (this.heard.at(-1) as { payload: Buffer }).payload
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.socket, 'close')
    this.socket.close()
    await closed
  }
}

interface NodeOptions {
  services: ServiceFacts[]
  endpoints?: Record<InstanceId, Endpoint>
  sessions?: Session[]
  rtts?: Record<NodeId, number>
  clock?: Clock
  limits?: Partial<DatagramLimits>
  identify?: Identify
  from?: (caller: Caller) => string | undefined
}

/** The callers' node `edge/a`: doors on VIPs, flows, instances of its own. */
async function callersNode(options: NodeOptions) {
  const { services, endpoints = {}, sessions = [], rtts = {}, clock = systemClock, limits = {} } = options
  const table = new LiteralTable(...services)
  const log = keptLog()
  const metrics = openMetrics('agent')
  const book = await FlowBook.start({ drainMs: 0 }, clock, metrics)
  const parts: OutboundParts = {
    ...roomy(),
    table,
    peers: peersWith(sessions, rtts),
    self: 'edge/a',
    endpointOf: (id, _port, protocol) => (protocol === 'udp' ? endpoints[id] : undefined),
    clock,
    dial: ({ caller }) => ({ timeoutMs: 2_000, from: options.from?.(caller) }),
    balancer: createBalancer({
      rttMs: (node) => rtts[node],
      isHere: (node) => node === 'edge/a',
      openFlows: (id) => book.openFlows(id),
    }),
    book,
    limits: OUTBOUND_LIMITS,
    log,
    metrics,
  }
  const flows = await DatagramFlows.start({ ...DATAGRAM_LIMITS, ...limits }, parts)
  const intercept: InterceptParts = {
    table,
    onFlow: (flow) => void flow.socket.destroy(),
    onConversation: flows.begin,
    clock,
    log,
    metrics,
  }
  const doors = await LoopbackInterceptor.start({ range: RANGE }, options.identify ?? (() => NODE_CALLER), intercept)
  return {
    table,
    log,
    metrics,
    book,
    flows,
    doors,
    parts,
    endpoints,
    metric: async (line: RegExp) => (await metrics.registry.metrics()).split('\n').filter((text) => line.test(text)),
    async [Symbol.asyncDispose]() {
      await doors.close()
      await flows.close()
      await book.close()
      metrics.registry.clear()
    },
  }
}

/** The instances' node, and the session that leads to it. */
async function instancesNode(services: ServiceFacts[], endpoints: Record<InstanceId, Endpoint>, node = 'edge/b') {
  const draining = new Set<InstanceId>()
  const metrics = openMetrics('agent')
  const log = keptLog()
  const inbound = await Inbound.start({
    ...roomy(),
    table: new LiteralTable(...services),
    interests: { want: async () => undefined, wantVip: async () => undefined },
    self: node,
    endpointOf: (id, _port, protocol) => (protocol === 'udp' ? endpoints[id] : undefined),
    isDraining: (id) => draining.has(id),
    limits: { ...INBOUND_LIMITS, drainMs: 0 },
    log,
    metrics,
  })
  return {
    inbound,
    log,
    draining,
    endpoints,
    session: sessionTo(node, 'edge/a', inbound.take),
    async [Symbol.asyncDispose]() {
      await inbound.close()
      metrics.registry.clear()
    },
  }
}

t.test('a flow to an instance on this node, and to one on another: answers come from the VIP', async (t) => {
  await using server = await Peer.serve()
  for (const on of ['edge/a', 'edge/b']) {
    const index = vip()
    const services = [{ id: CART, udp: [PORT], on: [on], vips: { 'any.rr': index } }]
    const endpoints = { [`${CART}.0`]: server.endpoint }
    await using there = await instancesNode(services, endpoints)
    await using here = await callersNode({ services, endpoints, sessions: [there.session] })
    here.doors.touch(here.table.target(CART))
    await using client = await Peer.bind()
    client.socket.connect(PORT, at(index)) // a connected socket takes answers from the VIP and the port only
    await once(client.socket, 'connect')
    client.socket.send('hello')
    await until(() => client.heard.length === 1)
    t.match(client.heard[0]?.from, { address: at(index), port: PORT })
    t.same(client.texts, ['hello'])
    t.match(here.book.flows(), [
      { protocol: 'udp', mode: 'loopback', path: on === 'edge/a' ? 'local' : 'direct', sent: 5 },
    ])
  }
})

t.test('datagrams whole: from nothing to the largest there is', async (t) => {
  await using server = await Peer.serve()
  for (const on of ['edge/a', 'edge/b']) {
    const index = vip()
    const services = [{ id: CART, udp: [PORT], on: [on], vips: { 'any.rr': index } }]
    const endpoints = { [`${CART}.0`]: server.endpoint }
    await using there = await instancesNode(services, endpoints)
    await using here = await callersNode({ services, endpoints, sessions: [there.session] })
    here.doors.touch(here.table.target(CART))
    await using client = await Peer.bind()
    for (const size of [0, 1, 1_472, 1_473, 9_000, 65_507]) {
      const payload = Buffer.alloc(size, size % 251)
      t.ok((await client.ask(payload, at(index))).equals(payload), `${size} bytes, ${on}`)
    }
    t.equal(here.book.size, 1)
  }
})
