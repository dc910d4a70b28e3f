import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { type ChildProcess, spawn } from 'node:child_process'
import { tmpdir } from 'node:os'
import { Resolver } from 'node:dns/promises'
import dnsPacket from 'dns-packet'
import fc from 'fast-check'
import t from 'tap'
import { type Clock, systemClock } from '../../src/core/kit/clock.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { vipToIPv4 } from '../../src/core/model/address.ts'
import type { InstanceId, NodeId } from '../../src/core/model/ids.ts'
import { PenaltyList } from '../../proxy/decide/penalty-list.ts'
import { DATAGRAM_LIMITS, DatagramFlows, type DatagramLimits } from '../../proxy/datagrams/outbound.ts'
import type { DatagramParts } from '../../proxy/datagrams/udp-flow.ts'
import { Held } from '../../proxy/datagrams/held.ts'
import type { Endpoint } from '../../proxy/socket/dial.ts'
import { type Caller, instanceCaller, NODE_CALLER } from '../../proxy/flow/flow.ts'
import { FlowLedger } from '../../proxy/flow/ledger.ts'
import { Inbound, INBOUND_LIMITS } from '../../proxy/inbound/inbound.ts'
import { CallerFinder, type InstanceProcesses } from '../../proxy/intercept/caller.ts'
import { LoopbackInterceptor } from '../../proxy/intercept/loopback.ts'
import type { Identify, InterceptParts } from '../../proxy/intercept/interceptor.ts'
import { SocksInterceptor } from '../../proxy/intercept/socks.ts'
import { readPacket } from '../../proxy/intercept/socks-udp.ts'
import { OUTBOUND_LIMITS } from '../../proxy/outbound/establish.ts'
import { createBalancer } from '../../proxy/policies/index.ts'
import type { Session } from '../../proxy/tunnel/contract.ts'
import { nextVip as vip, OWN_RANGE as RANGE } from '../support/own-vips.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { noOtherUsers } from '../support/other-users.ts'
import { Client, keptLog, LiteralTable, peersWith, type ServiceFacts, sessionTo, turns, roomy } from './world.ts'
import '../support/no-orphans.ts'
import { until } from '../support/until.ts'

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

  /** As `ask`, but asks again until there is an answer, as programs do: a datagram may be lost. */
  async askAgain(payload: string, address: string, port = PORT): Promise<string> {
    const again = setInterval(() => this.send(payload, address, port), 500)
    try {
      return (await this.ask(payload, address, port)).toString()
    } finally {
      clearInterval(again)
    }
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

/** The callers' node `edge/a`: listeners on VIPs, flows, instances of its own. */
async function callersNode(options: NodeOptions) {
  const { services, endpoints = {}, sessions = [], rtts = {}, clock = systemClock, limits = {} } = options
  const table = new LiteralTable(...services)
  const log = keptLog()
  const metrics = openMetrics('agent')
  const ledger = await FlowLedger.start({ drainMs: 0 }, { clock, log, metrics })
  const parts: DatagramParts = {
    penalties: new PenaltyList(clock),
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
      openFlows: (id) => ledger.openFlows(id),
    }),
    ledger,
    limits: OUTBOUND_LIMITS,
    log,
    metrics,
  }
  const flows = await DatagramFlows.start({ ...DATAGRAM_LIMITS, ...limits }, parts)
  const intercept: InterceptParts = {
    table,
    onFlow: (flow) => void flow.socket.destroy(),
    onDatagramClient: flows.begin,
    clock,
    log,
    metrics,
  }
  const interceptor = await LoopbackInterceptor.start(
    { range: RANGE },
    options.identify ?? (() => NODE_CALLER),
    intercept,
  )
  return {
    table,
    log,
    metrics,
    ledger,
    flows,
    interceptor,
    parts,
    endpoints,
    metric: async (line: RegExp) => (await metrics.registry.metrics()).split('\n').filter((text) => line.test(text)),
    async [Symbol.asyncDispose]() {
      await interceptor.close()
      await flows.close()
      await ledger.close()
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
    void here.interceptor.prepare(here.table.target(CART))
    await using client = await Peer.bind()
    client.socket.connect(PORT, at(index)) // a connected socket takes answers from the VIP and the port only
    await once(client.socket, 'connect')
    client.socket.send('hello')
    await until(() => client.heard.length === 1)
    t.match(
      client.heard[0]?.from,
      { address: at(index), port: PORT },
      `${on}: the answer comes from the VIP and its port`,
    )
    t.same(client.texts, ['hello'], `${on}: the client receives the echo once`)
    t.match(
      here.ledger.flows(),
      [{ protocol: 'udp', mode: 'loopback', path: on === 'edge/a' ? 'local' : 'direct', sent: 5 }],
      `${on}: the flow is listed with its path and its bytes`,
    )
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
    void here.interceptor.prepare(here.table.target(CART))
    await using client = await Peer.bind()
    for (const size of [0, 1, 1_472, 1_473, 9_000, 65_507]) {
      const payload = Buffer.alloc(size, size % 251)
      t.ok((await client.ask(payload, at(index))).equals(payload), `${on}: ${size} bytes come back unchanged`)
    }
    t.equal(here.ledger.size, 1, `${on}: all sizes are one flow`)
  }
})

t.test('a DNS server behind the mesh', async (t) => {
  await using server = await Peer.serve((packet) => {
    const { id, questions = [] } = dnsPacket.decode(packet)
    const answers = questions.map(({ name }) => ({ type: 'A' as const, name, ttl: 5, data: '192.0.2.7' }))
    return dnsPacket.encode({ type: 'response', id: id ?? 0, questions, answers })
  })
  const index = vip()
  const services = [{ id: CART, udp: [PORT], on: ['edge/b'], vips: { 'any.rr': index } }]
  await using there = await instancesNode(services, { [`${CART}.0`]: server.endpoint })
  await using here = await callersNode({ services, sessions: [there.session] })
  void here.interceptor.prepare(here.table.target(CART))
  const resolver = new Resolver({ timeout: 2_000, tries: 1 })
  resolver.setServers([`${at(index)}:${PORT}`])
  const names = Array.from({ length: 20 }, (_, i) => `host${i}.example`)
  const found = await Promise.all(names.map((name) => resolver.resolve4(name)))
  t.same(new Set(found.flat()), new Set(['192.0.2.7']), 'each name is resolved by the server behind the mesh')
  const dig = await output('dig', `@${at(index)}`, '-p', String(PORT), '+short', '+tries=1', '+time=3', 'dug.example')
  if (dig === undefined) t.comment('dig is not on this machine')
  else t.equal(dig.trim(), '192.0.2.7', 'dig gets the answer of that server')
})

/** What a program prints; `undefined` when it is not there. */
async function output(program: string, ...argv: string[]): Promise<string | undefined> {
  const child = spawn(program, argv, { stdio: ['ignore', 'pipe', 'ignore'] })
  const chunks: Buffer[] = []
  child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk))
  return new Promise((resolve) => {
    child.once('error', () => resolve(undefined))
    child.once('close', () => resolve(Buffer.concat(chunks).toString()))
  })
}

t.test('as QUIC does: 1,200 bytes, both ways at once, many in flight', async (t) => {
  for (const on of ['edge/a', 'edge/b']) {
    await using server = await Peer.serve()
    const index = vip()
    const services = [{ id: CART, udp: [PORT], on: [on], vips: { 'any.rr': index } }]
    const endpoints = { [`${CART}.0`]: server.endpoint }
    await using there = await instancesNode(services, endpoints)
    await using here = await callersNode({ services, endpoints, sessions: [there.session] })
    void here.interceptor.prepare(here.table.target(CART))
    await using client = await Peer.bind()
    const packets = Array.from({ length: 2_000 }, (_, i) => {
      const packet = Buffer.alloc(1_200, i % 256)
      packet.writeUInt32BE(i, 0)
      return packet
    })
    await client.ask(packets[0] as Buffer, at(index))
    let sent = 1
    const more = () => {
      while (sent < packets.length && sent - client.heard.length < 32) client.send(packets[sent++] as Buffer, at(index))
    }
    client.socket.on('message', more)
    more()
    await until(() => client.heard.length === packets.length)
    t.ok(
      client.heard.every(({ payload }, i) => payload.equals(packets[i] as Buffer)),
      `${on}: every packet comes back unchanged, in order`,
    )
    t.equal(server.heard.length, packets.length, `${on}: the instance has heard each packet once`)
    t.equal(new Set(server.heard.map(({ from }) => from.port)).size, 1, 'the instance sees one source port')
    t.match(
      here.ledger.flows(),
      [{ sent: 2_400_000, received: 2_400_000 }],
      `${on}: the flow counts the bytes of both directions`,
    )
  }
})

t.test('as RTP does: a stream with sequence numbers, one way; nothing lost, the order kept', async (t) => {
  await using server = await Peer.serve(() => undefined)
  const index = vip()
  const services = [{ id: CART, udp: [PORT], on: ['edge/b'], vips: { 'any.rr': index } }]
  await using there = await instancesNode(services, { [`${CART}.0`]: server.endpoint })
  await using here = await callersNode({ services, sessions: [there.session] })
  void here.interceptor.prepare(here.table.target(CART))
  await using client = await Peer.bind()
  for (let sequence = 0; sequence < 500; sequence++) {
    const packet = Buffer.alloc(172)
    packet.writeUInt16BE(sequence, 2)
    client.send(packet, at(index))
    await turns(1)
  }
  await until(() => server.heard.length === 500)
  t.same(
    server.heard.map(({ payload }) => payload.readUInt16BE(2)),
    Array.from({ length: 500 }, (_, sequence) => sequence),
    'all 500 packets arrive in order',
  )
})

t.test('two clients with one source port on two addresses are two flows, and stay so', async (t) => {
  await using one = await Peer.serve((payload) => Buffer.concat([Buffer.from('one '), payload]))
  await using two = await Peer.serve((payload) => Buffer.concat([Buffer.from('two '), payload]))
  const index = vip()
  const services = [{ id: CART, udp: [PORT], on: ['edge/b', 'edge/b'], vips: { 'any.rr': index } }]
  await using there = await instancesNode(services, { [`${CART}.0`]: one.endpoint, [`${CART}.1`]: two.endpoint })
  await using here = await callersNode({ services, sessions: [there.session] })
  void here.interceptor.prepare(here.table.target(CART))
  await using left = await Peer.bind('127.0.0.2')
  await using right = await Peer.bind('127.0.0.3', left.port)
  const first = (await left.ask('left', at(index))).toString()
  const second = (await right.ask('right', at(index))).toString()
  t.same(
    new Set([first.slice(0, 4), second.slice(0, 4)]),
    new Set(['one ', 'two ']),
    'each client has an instance of its own',
  )
  for (let i = 0; i < 20; i++) {
    left.send(`left ${i}`, at(index))
    right.send(`right ${i}`, at(index))
  }
  await until(() => left.heard.length === 21 && right.heard.length === 21)
  t.ok(
    left.texts.every((text) => text.startsWith(first)),
    'every answer to the left client is of its first instance',
  )
  t.ok(
    right.texts.every((text) => text.startsWith(second)),
    'every answer to the right client is of its first instance',
  )
  t.equal(here.ledger.size, 2, 'there are two flows')
})

t.test('a thousand flows at once, each with a socket of its own before the instance', async (t) => {
  await using server = await Peer.serve()
  const index = vip()
  const services = [{ id: CART, udp: [PORT], on: ['edge/b'], vips: { 'any.rr': index } }]
  await using there = await instancesNode(services, { [`${CART}.0`]: server.endpoint })
  await using here = await callersNode({ services, sessions: [there.session] })
  void here.interceptor.prepare(here.table.target(CART))
  const clients: Peer[] = []
  for (let i = 0; i < 1_000; i++) clients.push(await Peer.bind())
  try {
    for (const [i, client] of clients.entries()) {
      client.send(`client ${i}`, at(index))
      if (i % 50 === 0) await turns(2) // what a socket buffer holds
    }
    await until(() => clients.every(({ heard }) => heard.length === 1))
    t.same(
      clients.map(({ texts }) => texts[0]),
      clients.map((_, i) => `client ${i}`),
      'each client receives its own echo',
    )
    t.equal(new Set(server.heard.map(({ from }) => from.port)).size, 1_000, 'the instance sees a thousand source ports')
    t.equal(here.ledger.openFlows(`${CART}.0`), 1_000, 'a thousand flows are counted at the instance')
    t.equal(there.inbound.size, 1_000, 'a thousand flows are open on its node')
    await here.interceptor.close()
    await until(() => there.inbound.size === 0)
    t.equal(here.ledger.size, 0, 'no flow is left')
  } finally {
    await Promise.all(clients.map((client) => client[Symbol.asyncDispose]()))
  }
})

t.test('idle flows end, used ones do not', async (t) => {
  const clock = new ManualClock()
  await using server = await Peer.serve()
  const index = vip()
  const services = [{ id: CART, udp: [PORT], on: ['edge/b'], vips: { 'any.rr': index } }]
  await using there = await instancesNode(services, { [`${CART}.0`]: server.endpoint })
  await using here = await callersNode({ services, sessions: [there.session], clock, limits: { idleMs: 60_000 } })
  void here.interceptor.prepare(here.table.target(CART))
  await using quiet = await Peer.bind()
  await using talker = await Peer.bind()
  await quiet.ask('hello', at(index))
  await talker.ask('hello', at(index))
  const seconds = async (count: number) => {
    for (let i = 0; i < count; i++) await clock.advance(1_000)
  }
  await seconds(59)
  await talker.ask('again', at(index))
  t.equal(here.ledger.size, 2, 'after 59 seconds both flows are open')
  await seconds(3)
  t.equal(here.ledger.size, 1, 'the quiet one is over after a minute')
  t.match(
    here.ledger.recent(),
    [{ end: 'closed', instance: `${CART}.0`, sent: 5, received: 5, protocol: 'udp' }],
    'the ended flow is listed with its bytes',
  )
  await until(() => there.inbound.size === 1)
  server.socket.send('a word', server.heard.at(-1)?.from.port ?? 0, '127.0.0.1')
  await until(() => talker.texts.includes('a word'))
  await seconds(57)
  t.equal(here.ledger.size, 1, 'a word of the instance keeps the flow open')
  await seconds(5)
  t.equal(here.ledger.size, 0, 'a minute after the last word of the instance the flow is over')
  await until(() => there.inbound.size === 0)
  t.same(await quiet.ask('back', at(index)), Buffer.from('back'), 'the next datagram begins another flow')
  t.match(
    await here.metric(/flow_datagrams_total\{direction="sent"/),
    [/ 3$/],
    'the metric counts the datagrams of ended flows',
  )
  await seconds(1)
  t.match(
    await here.metric(/flow_datagrams_total\{direction="sent"/),
    [/ 4$/],
    'a second later the metric counts the datagram of the new flow too',
  )
})

t.test('a flow stays on its instance when others appear', async (t) => {
  const clock = new ManualClock()
  await using one = await Peer.serve(() => Buffer.from('one'))
  await using two = await Peer.serve(() => Buffer.from('two'))
  const index = vip()
  const facts = { id: CART, udp: [PORT], vips: { 'any.closest': index } }
  const endpoints = { [`${CART}.0`]: one.endpoint, [`${CART}.1`]: two.endpoint }
  await using there = await instancesNode([{ ...facts, on: ['edge/b', 'edge/a'] }], endpoints)
  await using here = await callersNode({
    services: [{ ...facts, on: ['edge/b'] }],
    endpoints,
    sessions: [there.session],
    rtts: { 'edge/b': 20 },
    clock,
  })
  void here.interceptor.prepare(here.table.target(CART, { instance: 'any', policy: 'closest' }))
  await using client = await Peer.bind()
  t.equal((await client.ask('?', at(index))).toString(), 'one', 'the flow goes to the only instance')
  here.table.set({ ...facts, on: ['edge/b', 'edge/a'] })
  for (let second = 0; second < 50; second++) await clock.advance(1_000)
  t.equal((await client.ask('?', at(index))).toString(), 'one', 'neither a closer instance nor a pause moves the flow')
  await using newcomer = await Peer.bind()
  t.equal((await newcomer.ask('?', at(index))).toString(), 'two', 'a new client goes to the closer one')
})

t.test('a closed port: the flow is over, and the next datagram goes to another instance', async (t) => {
  for (const on of ['edge/a', 'edge/b']) {
    await using server = await Peer.serve()
    const gone = await Peer.serve()
    const { endpoint } = gone
    const index = vip()
    const facts = { id: CART, udp: [PORT], vips: { 'any.closest': index } }
    const services = [{ ...facts, on: [on, 'edge/c'] }]
    const endpoints = { [`${CART}.0`]: endpoint }
    await using there = await instancesNode(services, endpoints)
    await using other = await instancesNode(services, { [`${CART}.1`]: server.endpoint }, 'edge/c')
    await using here = await callersNode({
      services,
      endpoints,
      sessions: [there.session, other.session],
      rtts: { 'edge/b': 1, 'edge/c': 50 },
    })
    void here.interceptor.prepare(here.table.target(CART, { instance: 'any', policy: 'closest' }))
    await using client = await Peer.bind()
    await client.ask('hello', at(index))
    await gone[Symbol.asyncDispose]()
    client.send('lost', at(index))
    await until(() => here.ledger.recent().length === 1)
    t.match(here.ledger.recent(), [{ end: 'instance-reset', instance: `${CART}.0` }], on)
    t.equal(
      (await client.ask('again', at(index))).toString(),
      'again',
      'the next datagram is answered by the other instance',
    )
    t.match(here.ledger.flows(), [{ instance: `${CART}.1` }], 'the new flow is listed with the other instance')
  }
})

t.test('datagrams wait while the way is opened, in order and not without end', async (t) => {
  let open: (() => void) | undefined
  await using server = await Peer.serve()
  const index = vip()
  const services = [{ id: CART, udp: [PORT], on: ['edge/b'], vips: { 'any.rr': index } }]
  await using there = await instancesNode(services, { [`${CART}.0`]: server.endpoint })
  const late = sessionTo('edge/b', 'edge/a', (incoming) => (open = () => there.inbound.take(incoming)))
  await using here = await callersNode({
    services,
    sessions: [late],
    limits: { held: { datagrams: 10, bytes: 100_000 } },
  })
  void here.interceptor.prepare(here.table.target(CART))
  await using client = await Peer.bind()
  for (let i = 0; i < 12; i++) client.send(String(i), at(index))
  await until(() => open !== undefined)
  await until(() => here.flows.size === 1)
  const isDropped = async () =>
    (await here.metric(/dropped_total\{reason="waiting"/)).some((line) => line.endsWith(' 2'))
  for (let i = 0; i < 100 && !(await isDropped()); i++) await turns(1)
  open?.()
  await until(() => client.heard.length === 10)
  t.same(client.texts, ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9'], 'the ten oldest arrive, in order')
  t.ok(await isDropped(), 'the metric counts two as dropped for want of room')
})

t.test('a refused flow is dropped, logged once, and tried again later', async (t) => {
  const clock = new ManualClock()
  const index = vip()
  const services = [{ id: CART, udp: [PORT], on: ['edge/b'], allow: ['bank.acme'], vips: { 'any.rr': index } }]
  await using here = await callersNode({ services, clock })
  void here.interceptor.prepare(here.table.target(CART))
  await using client = await Peer.bind()
  for (let i = 0; i < 5; i++) client.send('hello', at(index))
  await here.log.line('flow refused')
  await until(() => here.flows.size === 1)
  for (let i = 0; i < 5; i++) client.send('hello', at(index))
  for (
    let i = 0;
    i < 100 && (await here.metric(/dropped_total\{reason="refused"/)).every((l) => !l.endsWith(' 10'));
    i++
  )
    await turns(1)
  const refusals = () => here.log.lines.filter(({ sentence }) => sentence === 'flow refused')
  t.equal(refusals().length, 1, 'the refusal is logged once for ten datagrams')
  t.match(
    refusals()[0]?.fields,
    { end: 'not-allowed', protocol: 'udp', reason: /allow list/ },
    'the log tells why the flow was refused',
  )
  t.match(await here.metric(/dropped_total\{reason="refused"/), [/ 10$/], 'the metric counts all ten as dropped')
  here.table.set({ id: CART, udp: [PORT], on: ['edge/b'], vips: { 'any.rr': index } })
  await clock.advance(1_000)
  await clock.advance(1_000)
  t.equal(here.flows.size, 0, 'after two seconds the refusal is forgotten')
  client.send('hello', at(index))
  await until(() => here.ledger.recent().some(({ end }) => end === 'unreachable'))
  t.pass('then it is tried: nothing leads to the node')
})

t.test('a rest is over as soon as the service has changed', async (t) => {
  const clock = new ManualClock()
  const index = vip()
  const facts = { id: CART, udp: [PORT], on: ['edge/b'], vips: { 'any.rr': index } }
  await using here = await callersNode({ services: [{ ...facts, allow: ['bank.acme'] }], clock })
  void here.interceptor.prepare(here.table.target(CART))
  await using client = await Peer.bind()
  client.send('hello', at(index))
  await until(() => here.ledger.recent().length === 1 && here.flows.size === 1)
  here.table.set({ ...facts, id: 'shop.acme.other.prod', vips: {} })
  t.equal(here.flows.size, 1, 'another service changes nothing')
  here.table.set(facts)
  t.equal(here.flows.size, 0, 'flows to an instance that is gone have ended')
  client.send('hello', at(index))
  await until(() => here.ledger.recent().some(({ end }) => end === 'unreachable'))
  t.pass('no time has passed')
})

t.test('a service without an instance: the system tells the caller, until one runs', async (t) => {
  const index = vip()
  const facts = { id: CART, udp: [PORT], vips: { 'any.rr': index } }
  await using here = await callersNode({ services: [{ ...facts, on: ['edge/b'] }] })
  void here.interceptor.prepare(here.table.target(CART))
  const refusals = async () => {
    const socket = createSocket('udp4')
    socket.connect(PORT, at(index))
    await once(socket, 'connect')
    const heard = once(socket, 'error').then(
      ([{ code }]) => code as string,
      () => 'none',
    )
    const logged = until(() => here.ledger.recent().length > 0).then(() => 'taken')
    socket.send('hello')
    const what = await Promise.race([heard, logged])
    socket.close()
    return what
  }
  here.table.set({ ...facts, on: [] })
  t.equal(await refusals(), 'ECONNREFUSED')
  here.table.set({ ...facts, on: ['edge/b'] })
  void here.interceptor.prepare(here.table.target(CART))
  t.equal(await refusals(), 'taken', 'as soon as the table knows of one')
})

t.test('an instance that is closed everywhere is not asked for every datagram', async (t) => {
  const gone = await Peer.serve()
  const { endpoint } = gone
  await gone[Symbol.asyncDispose]()
  const index = vip()
  const services = [{ id: CART, udp: [PORT], on: ['edge/a'], vips: { 'any.rr': index } }]
  await using here = await callersNode({ services, endpoints: { [`${CART}.0`]: endpoint } })
  void here.interceptor.prepare(here.table.target(CART))
  await using client = await Peer.bind()
  client.send('hello', at(index))
  await until(() => here.ledger.recent().length === 1)
  for (let i = 0; i < 50; i++) {
    client.send('hello', at(index))
    await turns(2)
  }
  t.equal(here.ledger.recent().length, 1, 'the client that found out rests')
  await using other = await Peer.bind()
  other.send('hello', at(index))
  await until(() => here.ledger.recent().length === 2)
  t.match(
    here.ledger.recent().map(({ end }) => end),
    ['instance-reset', 'instance-reset'],
    'another is tried at once: the port may be open again',
  )
})

t.test('a session that is lost ends the flow; the next datagram begins one at once', async (t) => {
  await using server = await Peer.serve()
  const index = vip()
  const services = [{ id: CART, udp: [PORT], on: ['edge/b'], vips: { 'any.rr': index } }]
  const endpoints = { [`${CART}.0`]: server.endpoint }
  const there = await instancesNode(services, endpoints)
  const sessions = [there.session]
  await using here = await callersNode({ services, sessions })
  void here.interceptor.prepare(here.table.target(CART))
  await using client = await Peer.bind()
  await client.ask('hello', at(index))
  await there[Symbol.asyncDispose]()
  await until(() => here.ledger.size === 0)
  await using back = await instancesNode(services, endpoints)
  sessions[0] = back.session
  t.equal(
    (await client.ask('again', at(index))).toString(),
    'again',
    'the next datagram is answered over the new session',
  )
})

t.test('when there are too many, the longest silent make room; used ones do not', async (t) => {
  const clock = new ManualClock()
  await using server = await Peer.serve()
  const index = vip()
  const services = [{ id: CART, udp: [PORT], on: ['edge/a'], vips: { 'any.rr': index } }]
  const limits = { maxFlows: 4, spareMs: 5_000 }
  await using here = await callersNode({ services, endpoints: { [`${CART}.0`]: server.endpoint }, clock, limits })
  void here.interceptor.prepare(here.table.target(CART))
  const clients = await Promise.all(Array.from({ length: 6 }, () => Peer.bind()))
  const [first, second, third, fourth, fifth, sixth] = clients as [Peer, Peer, Peer, Peer, Peer, Peer]
  for (const client of [first, second, third, fourth]) await client.ask('hello', at(index))
  fifth.send('no room', at(index))
  for (let i = 0; i < 100 && (await here.metric(/reason="too-many"/)).length === 0; i++) await turns(1)
  t.match(await here.metric(/reason="too-many"/), [/ 1$/], 'a fifth flow is refused while four are in use')
  await clock.advance(1_000)
  t.match((await here.log.line('flows refused')).fields, { count: 1 }, 'the log tells that one flow was refused')
  for (let i = 0; i < 5; i++) await clock.advance(1_000)
  for (const client of [first, third, fourth]) await client.ask('still here', at(index))
  t.equal(
    (await fifth.ask('now', at(index))).toString(),
    'now',
    'the new client is served when one of the four has been silent for five seconds',
  )
  t.match(await here.metric(/^hedgerow_proxy_flows_evicted_total/), [/ 1$/], 'a metric counts one flow that made room')
  sixth.send('no room', at(index))
  for (let i = 0; i < 100 && (await here.metric(/reason="too-many"/)).every((line) => !line.endsWith(' 2')); i++)
    await turns(1)
  t.equal(here.ledger.size, 4, 'the sixth client gets no flow while the four are in use')
  await Promise.all(clients.map((client) => client[Symbol.asyncDispose]()))
})

/** Sends from so many ports, again and again, so that every flow is in use. */
const SPRAY = `
  const [host, port, count] = process.argv.slice(1)
  for (let i = 0; i < count; i++) {
    const socket = require('node:dgram').createSocket('udp4')
    socket.on('error', () => {})
    setInterval(() => socket.send('spray', Number(port), host), 100)
  }`

t.test('a user that sends from many ports takes no flow from other users', { skip: noOtherUsers }, async (t) => {
  await using server = await Peer.serve()
  const index = vip()
  const services = [{ id: CART, udp: [PORT], on: ['edge/a'], vips: { 'any.rr': index } }]
  const limits = { maxFlows: 40 }
  await using here = await callersNode({ services, endpoints: { [`${CART}.0`]: server.endpoint }, limits })
  void here.interceptor.prepare(here.table.target(CART))
  await using old = await Peer.bind()
  await old.ask('before', at(index))
  const spray = spawn(process.execPath, ['-e', SPRAY, at(index), `${PORT}`, '200'], {
    uid: 65_534,
    gid: 65_534,
    cwd: '/',
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  try {
    t.match(await here.log.line('new flows of one user are refused'), { fields: { user: 'uid 65534' } })
    t.equal(await old.askAgain('still here', at(index)), 'still here', 'a flow from before goes on')
    const clients = await Promise.all(Array.from({ length: 15 }, () => Peer.bind()))
    for (const client of clients)
      t.equal(await client.askAgain('hello', at(index)), 'hello', 'a new flow of another user is answered')
    t.ok(here.ledger.size <= 40, `no more flows than there may be: ${here.ledger.size}`)
    await Promise.all(clients.map((client) => client[Symbol.asyncDispose]()))
  } finally {
    const ended = once(spray, 'exit')
    spray.kill('SIGKILL')
    await ended
  }
})

t.test('the instance sees who calls, and a flow ends when its instance leaves', async (t) => {
  const clock = new ManualClock()
  await using server = await Peer.serve()
  const [index, own] = [vip(), vip()]
  const facts = { id: CART, udp: [PORT], vips: { 'any.rr': index } }
  const caller = instanceCaller('shop.acme.front.prod.0') as Caller
  await using here = await callersNode({
    services: [{ ...facts, on: ['edge/a'] }],
    endpoints: { [`${CART}.0`]: server.endpoint },
    identify: async () => caller,
    from: ({ kind }) => (kind === 'instance' ? at(own) : undefined),
    clock,
  })
  void here.interceptor.prepare(here.table.target(CART))
  await using client = await Peer.bind()
  await client.ask('hello', at(index))
  t.equal(server.heard[0]?.from.address, at(own), 'the instance sees the address of the caller')
  t.match(here.ledger.flows(), [{ caller: 'shop.acme.front.prod.0' }], 'the flow is listed with its caller')
  here.table.set({ ...facts, on: ['edge/b'] })
  await clock.advance(1_000)
  await until(() => here.ledger.size === 0)
  t.match(here.ledger.recent(), [{ end: 'cut' }], 'its port may be another instance’s by now')
})

t.test(
  'the instance’s node ends flows whose instance has left, and idle ones of an instance that drains',
  async (t) => {
    await using server = await Peer.serve()
    await using next = await Peer.serve()
    const index = vip()
    const services = [{ id: CART, udp: [PORT], on: ['edge/b', 'edge/b'], vips: { 'any.rr': index } }]
    const endpoints = { [`${CART}.0`]: server.endpoint, [`${CART}.1`]: server.endpoint }
    await using there = await instancesNode(services, endpoints)
    await using here = await callersNode({ services, sessions: [there.session] })
    void here.interceptor.prepare(here.table.target(CART))
    await using one = await Peer.bind()
    await using two = await Peer.bind()
    await one.ask('hello', at(index))
    await two.ask('hello', at(index))
    const [first] = here.ledger.flows()
    endpoints[`${CART}.0`] = next.endpoint
    there.draining.add(`${CART}.1`)
    await until(() => here.ledger.size === 0)
    const ends = Object.fromEntries(here.ledger.recent().map(({ instance, end }) => [instance, end]))
    t.same(
      ends,
      { [`${CART}.0`]: 'instance-reset', [`${CART}.1`]: 'closed' },
      'the flow of the instance that left is reset, and the idle one of the draining instance is closed',
    )
    t.ok(first, 'there was a flow before')
  },
)

/** A process that sends on request, in a process group of its own as the runtime starts instances; prints what it hears. */
function sender(script: string): ChildProcess {
  const text = `const s = require('dgram').createSocket('udp4'); s.on('error', () => {}); ${script}; setTimeout(() => {}, 60_000)`
  return spawn(process.execPath, ['-e', text], {
    detached: true,
    stdio: ['ignore', 'ignore', 'inherit'],
    cwd: tmpdir(),
  })
}

t.test('who calls: sockets that are connected, bound, or neither', async (t) => {
  const index = vip()
  const services = [{ id: 'bank.acme.ledger.prod', udp: [PORT], on: ['edge/z'], vips: { 'any.rr': index } }]
  const running: (InstanceProcesses & { child: ChildProcess })[] = []
  const finder = new CallerFinder(() => running)
  await using here = await callersNode({ services, identify: finder.identify })
  void here.interceptor.prepare(here.table.target('bank.acme.ledger.prod'))
  const to = `${PORT}, '${at(index)}'`
  const scripts = [
    `s.send('x', ${to})`,
    `s.bind(0, '127.0.0.1', () => s.send('x', ${to}))`,
    `s.connect(${to}, () => s.send('x'))`,
    `const v6 = require('dgram').createSocket('udp6'); v6.send('x', ${PORT}, '::ffff:${at(index)}')`,
  ]
  const callers = () => here.ledger.failures().map(({ caller }) => caller)
  try {
    for (const [i, script] of scripts.entries()) {
      const child = sender(script)
      running.push({ instance: `shop.acme.front.prod.${i}`, pids: [child.pid as number], child })
      await until(() => callers().length === i + 1)
      t.equal(callers()[0], `shop.acme.front.prod.${i}`, script)
    }
    await using host = await Peer.bind()
    host.send('x', at(index))
    await until(() => callers().length === 5)
    t.equal(callers()[0], 'edge/a', 'a host process beside them is the node')

    // our own sockets are nobody's who calls; two owners' are told apart by nothing that a datagram shows
    const join = (instance: string, script: string) => {
      const child = sender(script)
      running.push({ instance, pids: [child.pid as number], child })
    }
    join('shop.acme.front.prod.8', `s.bind(${host.port}, '127.0.0.8', () => s.send('x', ${to}))`)
    await until(() => callers().length === 6)
    t.equal(callers()[0], 'shop.acme.front.prod.8', 'the agent has the same port on another address')
    join('shop.acme.front.prod.9', `s.bind(${host.port}, '127.0.0.9', () => s.send('x', ${to}))`)
    t.match(
      await refusedFor(here, /cannot be identified/),
      { protocol: 'udp' },
      'a socket that has the port of another on one more address is not identified',
    )
    t.equal(callers().length, 6, 'it is not taken for a caller')
  } finally {
    for (const { child } of running) {
      const ended = once(child, 'exit')
      child.kill('SIGKILL')
      await ended
    }
  }
})

async function refusedFor({ log }: { log: ReturnType<typeof keptLog> }, reason: RegExp) {
  const find = () => log.lines.find(({ fields }) => reason.test(String(fields['reason'])))
  await until(() => find() !== undefined)
  return find()?.fields
}

const FRONT = 'shop.acme.front.prod.0'
const STOCK = 'shop.acme.stock.prod'

/** A node with a SOCKS5 listener before two services, one of which prefixes its answers with `cart`, the other with `stock`. */
class SocksWorld implements AsyncDisposable {
  readonly #life = new AsyncDisposableStack()
  readonly index = vip()
  cart!: Peer
  here!: Awaited<ReturnType<typeof callersNode>>
  socks!: Awaited<ReturnType<typeof SocksInterceptor.start>>

  static async start(): Promise<SocksWorld> {
    const world = new SocksWorld()
    world.cart = world.#life.use(await Peer.serve((payload) => Buffer.concat([Buffer.from('cart '), payload])))
    const stock = world.#life.use(await Peer.serve((payload) => Buffer.concat([Buffer.from('stock '), payload])))
    const services = [
      { id: CART, udp: [53], on: ['edge/a'], vips: { 'any.rr': world.index } },
      { id: STOCK, udp: [PORT], on: ['edge/a'], vips: { 'any.rr': vip() } },
    ]
    const endpoints = { [`${CART}.0`]: world.cart.endpoint, [`${STOCK}.0`]: stock.endpoint }
    world.here = world.#life.use(await callersNode({ services, endpoints }))
    world.socks = world.#life.use(await world.#listen())
    return world
  }

  #listen() {
    const { table, flows, log, metrics } = this.here
    return SocksInterceptor.start(
      { port: 0 },
      {
        table,
        onFlow: (flow) => void flow.socket.destroy(),
        onDatagramClient: flows.begin,
        interests: { want: async () => undefined, wantVip: async () => undefined },
        zones: ['local'],
        ranges: [RANGE],
        credentials: (user) => (user === FRONT ? 'quiet' : undefined),
        clock: systemClock,
        log,
        metrics,
      },
    )
  }

  /** Asks for an association (RFC 1928 §7) with this password, and waits for so many bytes of answer. */
  async associate(password = 'quiet', answerBytes = 14): Promise<{ control: Client; reply: Buffer }> {
    const control = await Client.connect(this.socks.port)
    const hello = [Buffer.of(5, 1, 2, 1, FRONT.length), Buffer.from(`${FRONT}\x05${password}`)]
    control.socket.write(Buffer.concat([...hello, Buffer.of(5, 3, 0, 1, 0, 0, 0, 0, 0, 0)]))
    await until(() => control.bytes >= answerBytes)
    return { control, reply: Buffer.concat(control.chunks) }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#life.disposeAsync()
  }
}

/** The head of a datagram to a name. */
function socksHead(name: string, port: number): Buffer {
  return Buffer.concat([Buffer.of(0, 0, 0, 3, name.length), Buffer.from(name), Buffer.of(port >> 8, port & 255)])
}

const TO_CART = socksHead(`${CART}.any.rr.local`, 53)

t.test('a SOCKS5 association carries datagrams to names and VIPs, and the answers under the same head', async (t) => {
  await using world = await SocksWorld.start()
  const { control, reply } = await world.associate()
  t.equal(reply.toString('hex', 0, 12), '05020100050000017f000001', 'the association is granted, at 127.0.0.1')
  await using client = await Peer.bind()
  const say = (packet: Buffer) => client.ask(packet, '127.0.0.1', reply.readUInt16BE(12))
  const fromCart = await say(Buffer.concat([TO_CART, Buffer.from('a')]))
  t.same(fromCart, Buffer.concat([TO_CART, Buffer.from('cart a')]), 'a name leads to its service')
  const toStock = socksHead(`${STOCK}.any.rr.local`, PORT)
  const fromStock = await say(Buffer.concat([toStock, Buffer.from('b')]))
  t.same(fromStock, Buffer.concat([toStock, Buffer.from('stock b')]), 'another name leads to another service')
  const vip = at(world.index).split('.').map(Number)
  const toVip = Buffer.concat([Buffer.of(0, 0, 0, 1), Buffer.from(vip), Buffer.of(0, 53)])
  t.same(await say(toVip), Buffer.concat([toVip, Buffer.from('cart ')]), 'a VIP is reached, by an empty datagram')
  const [flow] = world.here.ledger.flows()
  t.match(flow, { caller: FRONT, mode: 'socks', protocol: 'udp' }, 'the caller is the user of the association')
  t.equal(world.here.ledger.size, 3, 'there is a flow for each destination')

  const closed = control.closed
  control.socket.end()
  await closed
  await until(() => world.here.ledger.size === 0)
  t.pass('the flows end with the connection of the association')
})

t.test('a SOCKS5 association drops what is another’s, a piece, or to a name outside the mesh', async (t) => {
  await using world = await SocksWorld.start()
  const { control, reply } = await world.associate()
  const relay = reply.readUInt16BE(12)
  await using client = await Peer.bind()
  const say = (text: string) => client.ask(Buffer.concat([TO_CART, Buffer.from(text)]), '127.0.0.1', relay)
  t.same(await say('a'), Buffer.concat([TO_CART, Buffer.from('cart a')]), 'the first client has the association')

  await using stranger = await Peer.bind()
  stranger.send(Buffer.concat([TO_CART, Buffer.from('mine')]), '127.0.0.1', relay)
  const piece = Buffer.concat([TO_CART, Buffer.from('piece')])
  piece[2] = 1
  client.send(piece, '127.0.0.1', relay)
  client.send(Buffer.concat([socksHead('example.com', 53), Buffer.from('out')]), '127.0.0.1', relay)
  t.match(await refusedFor(world.here, /not a name of the mesh/), { mode: 'socks' }, 'the log says why it was refused')
  t.same(await say('c'), Buffer.concat([TO_CART, Buffer.from('cart c')]), 'the association goes on')
  t.notOk(world.cart.texts.includes('mine'), 'the datagram of another client has not arrived')
  t.notOk(world.cart.texts.includes('piece'), 'the piece of a datagram has not arrived')
  t.equal(client.heard.length, 2, 'the client has received the two answers and nothing else')
  control.socket.destroy()
})

t.test('there is no SOCKS5 association without the right credentials', async (t) => {
  await using world = await SocksWorld.start()
  const { control } = await world.associate('wrong', 4)
  await control.ended
  t.equal(Buffer.concat(control.chunks).toString('hex'), '05020101', 'the password is refused, and nothing follows')
  control.socket.destroy()
})

t.test('a packet of SOCKS is read whole, and what is none is refused', async (t) => {
  const rows: [why: string, hex: string, host: string | undefined][] = [
    ['a packet to an IPv4 address', '000000017f1e01020035aa', '127.30.1.2'],
    ['a packet to a name', '0000000301610035', 'a'],
    ['a packet to an IPv6 address', '00000004fd00000000000000000000000000000100350000', 'fd00::1'],
    ['a piece of a datagram', '000001017f1e01020035aa', undefined],
    ['reserved bytes that are not zero', '000100017f1e01020035aa', undefined],
    ['an unknown type of address', '000000027f1e01020035aa', undefined],
    ['port 0', '000000017f1e01020000aa', undefined],
    ['an empty name', '00000003000035aa', undefined],
    ['a packet cut off in the address', '000000017f1e01', undefined],
    ['a packet cut off in the port', '000000017f1e010200', undefined],
    ['an empty packet', '', undefined],
  ]
  for (const [why, hex, host] of rows) {
    const packet = readPacket(Buffer.from(hex, 'hex'))
    t.equal(packet?.host, host, `${why} is ${host === undefined ? 'refused' : 'read'}`)
    if (packet === undefined) continue
    t.equal(packet.head.toString('hex') + packet.payload.toString('hex'), hex, `${why}: head and payload are all of it`)
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
      const packet = readPacket(Buffer.from(bytes))
      return packet === undefined || packet.head.length + packet.payload.length === bytes.length
    }),
    { numRuns: 500 },
  )
})

t.test('what waits is bounded, one by one and together', async (t) => {
  const budget = { bytes: 100 }
  const held = new Held({ datagrams: 3, bytes: 60 }, budget)
  const other = new Held({ datagrams: 3, bytes: 60 }, budget)
  t.ok(held.push(Buffer.alloc(60)), 'as many bytes are held as may be')
  t.notOk(held.push(Buffer.alloc(1)), 'no more bytes are held')
  t.ok(held.push(Buffer.alloc(0)), 'an empty datagram takes no bytes')
  t.ok(held.push(Buffer.alloc(0)), 'a third datagram is held')
  t.notOk(held.push(Buffer.alloc(0)), 'no more datagrams are held')
  t.ok(other.push(Buffer.alloc(40)), 'another flow holds the rest of the bytes')
  t.notOk(other.push(Buffer.alloc(1)), 'no more bytes are held by all together')
  const third = new Held({ datagrams: 3, bytes: 2_000 }, budget)
  t.notOk(third.push(Buffer.alloc(1_501)), 'not for a third flow either')
  t.ok(third.push(Buffer.alloc(1_500)), 'except for a first datagram of ordinary size')
  t.notOk(third.push(Buffer.alloc(1)), 'and no second one')
  t.equal(held.take().length, 3, 'all three are taken out')
  for (const each of [other, third]) each.take()
  t.equal(budget.bytes, 100, 'their bytes are free again')
  const payload = Buffer.from('a')
  other.push(payload)
  payload[0] = 98
  t.equal(other.take()[0]?.toString(), 'a', 'a copy is held')
})

t.test('instances whose port was closed come last, for a while', async (t) => {
  const clock = new ManualClock()
  const table = new LiteralTable({ id: CART, on: ['edge/a', 'edge/b', 'edge/c'] })
  const [a, b, c] = table.entry(CART)?.instances ?? []
  if (a === undefined || b === undefined || c === undefined) throw new Error('three instances')
  const penalised = new PenaltyList(clock)
  t.same(penalised.last([a, b, c]), [a, b, c], 'at first the order is kept')
  penalised.add(a, { isMute: true })
  t.same(penalised.last([a, b, c]), [b, c, a], 'the instance whose port was closed comes last')
  t.same(penalised.last([a]), [a], 'an instance that is alone is asked again')
  t.ok(penalised.areClosed([a]), 'it is known that the only instance is closed')
  t.notOk(penalised.areClosed([a, b]), 'with another instance beside it, not all are closed')
  await clock.advance(1_000)
  t.notOk(penalised.areClosed([a]), 'a second later it is not known to be closed any more')
  penalised.add(b, { isMute: false })
  t.same(penalised.last([a, b]), [a, b], 'when all were closed, their order is kept')
  t.notOk(penalised.areClosed([b]), 'an instance that had answered before is not taken for closed')
  await clock.advance(5_000)
  t.same(penalised.last([a, b, c]), [a, b, c], 'after six seconds the order is as before')
})
