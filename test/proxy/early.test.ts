import { once } from 'node:events'
import { randomBytes } from 'node:crypto'
import { connect as connectSocket, createServer, type AddressInfo, type Socket } from 'node:net'
import fc from 'fast-check'
import t from 'tap'
import { Cancellation } from '../../src/core/kit/cancellation.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { TcpAttempt } from '../../proxy/outbound/attempt.ts'
import { connect } from '../../proxy/outbound/connect.ts'
import { EarlyData } from '../../proxy/outbound/early-data.ts'
import { NODE_CALLER } from '../../proxy/flow/flow.ts'
import { DatagramFlow } from '../../proxy/datagrams/flow.ts'
import { Held } from '../../proxy/datagrams/held.ts'
import { FlowLedger } from '../../proxy/flow/ledger.ts'
import { Inbound, INBOUND_LIMITS } from '../../proxy/inbound/inbound.ts'
import type { Endpoint } from '../../proxy/socket/dial.ts'
import { OUTBOUND_LIMITS } from '../../proxy/outbound/establish.ts'
import { outbound } from '../../proxy/outbound/outbound.ts'
import { plan } from '../../proxy/decide/plan.ts'
import { createBalancer } from '../../proxy/policies/index.ts'
import { Outliers } from '../../proxy/decide/outliers.ts'
import type {
  ByteStreamEvents,
  DatagramStream,
  IncomingStream,
  OpeningEvents,
  Session,
} from '../../proxy/tunnel/contract.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { ALL, MuxPair } from '../support/mux-pair.ts'
import { Client, keptLog, LiteralTable, notAsked, peersWith, roomy, serve, turns } from './world.ts'
import { until } from '../support/until.ts'

/**
 * A caller on `edge/a`, instances on `edge/b` and `edge/c`: real sockets at both ends, and between the nodes sessions in memory
 * whose flights the test moves. The nodes are 50 ms apart, as far as they know.
 */

const CART = 'shop.acme.cart.prod'
const RTT_MS = 50
const NODES = ['edge/b', 'edge/c'] as const

interface Far {
  pair: MuxPair
  session: Session
  /** OPENs that have come; the node takes them by itself unless it is `mute`. */
  incoming: IncomingStream[]
  isMute: boolean
  /** What its instance has heard, of all flows together. */
  heard: () => string
  sockets: Socket[]
  take: (incoming: IncomingStream) => void
}

interface WorldOptions {
  earlyData?: boolean
  /** What both ends of the sessions know. */
  features?: number
  /** The instance on `edge/b` is not there. */
  refuses?: boolean
  /** Instances answer each chunk. */
  answers?: boolean
}

/** Instance number `ordinal` and its node, and the caller's session with that node. */
async function farNode(ordinal: number, table: LiteralTable, stack: AsyncDisposableStack, options: WorldOptions) {
  const { features = ALL, refuses = false, answers = true } = options
  const node = NODES[ordinal]!
  const chunks: Buffer[] = []
  const served = stack.use(
    await serve((socket) => {
      socket.on('data', (chunk) => chunks.push(chunk))
      if (answers) socket.on('data', () => socket.write('answer'))
      socket.on('end', () => socket.end())
    }),
  )
  const isHere = ordinal > 0 || !refuses
  const endpointOf = () => (isHere ? { host: '127.0.0.1', port: served.port } : undefined)
  const inbound = stack.use(await inboundOf(node, table, endpointOf))
  const accept = (stream: IncomingStream) => {
    far.incoming.push(stream)
    if (!far.isMute) far.take(stream)
  }
  const pair = new MuxPair({ features }, { accept })
  const far: Far = {
    pair,
    session: sessionWith(node, pair),
    incoming: [],
    isMute: false,
    heard: () => Buffer.concat(chunks).toString('latin1'),
    sockets: served.sockets,
    take: (stream) => inbound.take(asFrom(stream)),
  }
  return far
}

function inboundOf(self: string, table: LiteralTable, endpointOf: () => Endpoint | undefined): Promise<Inbound> {
  return Inbound.start({
    ...roomy(),
    table,
    interests: { want: async () => undefined, wantVip: async () => undefined },
    self,
    endpointOf,
    isDraining: () => false,
    limits: { ...INBOUND_LIMITS, drainMs: 0 },
    log: keptLog(),
    metrics: openMetrics('agent'),
  })
}

function sessionWith(peer: string, pair: MuxPair): Session {
  return {
    peer,
    path: 'direct',
    rttMs: RTT_MS,
    streams: 0,
    report: notAsked,
    route: (rule) => ({ ...pair.near.route(rule)!, rttMs: RTT_MS }),
    open: (request, events) => pair.near.open(request, events),
    openDatagrams: (request, events) => pair.near.openDatagrams(request, events),
  }
}

/** What the caller's node has. */
async function nearParts(table: LiteralTable, sessions: Session[], earlyData: boolean) {
  const log = keptLog()
  const metrics = openMetrics('agent')
  const ledger = await FlowLedger.start({ drainMs: 0 }, { clock: systemClock, log, metrics })
  const rtts = Object.fromEntries(NODES.map((node) => [node, RTT_MS]))
  const openFlows = (id: string) => ledger.openFlows(id)
  return {
    ...roomy(),
    earlyData,
    table,
    outliers: new Outliers(),
    peers: peersWith(sessions, rtts),
    self: 'edge/a',
    endpointOf: () => undefined,
    clock: new ManualClock(),
    dial: () => ({ timeoutMs: 2_000 }),
    balancer: createBalancer({ rttMs: (node) => rtts[node], isHere: () => false, openFlows }),
    ledger,
    limits: OUTBOUND_LIMITS,
    log,
    metrics,
  }
}

async function world(options: WorldOptions = {}) {
  const table = new LiteralTable({ id: CART, on: [...NODES] })
  const stack = new AsyncDisposableStack()
  const [b, c] = [await farNode(0, table, stack, options), await farNode(1, table, stack, options)]
  const parts = await nearParts(table, [b.session, c.session], options.earlyData ?? true)
  const { clock, ledger, metrics } = parts
  const listener = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true })
  listener.listen({ host: '127.0.0.1', port: 0 })
  await once(listener, 'listening')
  stack.defer(() => void listener.close())
  return {
    b,
    c,
    clock,
    metrics,
    parts,
    async call(): Promise<Client & { done: Promise<void> }> {
      const taken = once(listener, 'connection')
      const client = new Client(connectSocket({ port: (listener.address() as AddressInfo).port, allowHalfOpen: true }))
      const [socket] = (await taken) as [Socket]
      const target = table.target(CART, { instance: 'any', policy: 'closest' })
      const flow = { target, port: 80, socket, caller: NODE_CALLER, mode: 'loopback', startedAt: clock.now() } as const
      return Object.assign(client, { done: outbound(flow, parts) })
    },
    flights,
    async [Symbol.asyncDispose]() {
      await stack.disposeAsync()
      await ledger.close()
      metrics.registry.clear()
    },
  }
}

/** Flights leave until there is what was waited for; how many of them carried something from the caller's node to `far`. */
async function flights(far: Far, isThere: () => boolean): Promise<number> {
  let count = 0
  while (!isThere()) {
    const { bytesIn } = far.pair.links[0]!.far
    far.pair.step()
    if (far.pair.links[0]!.far.bytesIn > bytesIn) count++
    await turns(4)
  }
  return count
}

/** As the peer that `edge/a` is; MuxPair calls it `near`. */
function asFrom(incoming: IncomingStream): IncomingStream {
  return {
    peer: 'edge/a',
    path: incoming.path,
    request: incoming.request,
    accept: (events) => incoming.accept(events),
    acceptDatagrams: (events) => incoming.acceptDatagrams(events),
    refuse: (refusal) => incoming.refuse(refusal),
    onGone: (listener) => incoming.onGone(listener),
  }
}

/** What the caller has said is on its way. */
const fed = (far: Far) => until(() => far.pair.near.accounting.keptBytes > 0)

t.test('on a known session the answer comes after one flight there and one back', async (t) => {
  const rows = [
    { why: 'with early data', options: {}, flights: 1 },
    { why: 'with early data switched off', options: { earlyData: false }, flights: 2 },
    { why: 'with a peer of an older version', options: { features: 1 }, flights: 2 },
  ]
  for (const { why, options, flights } of rows) {
    await using it = await world(options)
    using client = await it.call()
    client.socket.write('question')
    if (flights === 1) await fed(it.b)
    t.equal(
      await it.flights(it.b, () => client.text === 'answer'),
      flights,
      `${why}: ${flights} flights there until the answer`,
    )
    t.equal(it.b.heard(), 'question', `${why}: the instance has heard the question once`)
    client.socket.end()
    const isOver = client.done.then(() => true)
    await it.flights(it.b, () => it.b.pair.near.isQuiet || client.socket.closed)
    t.ok(await isOver, `${why}: the flow ends`)
    const early = await it.metrics.flowsEarly.get()
    t.same(
      early.values.map(({ labels, value }) => [labels.outcome, value]),
      flights === 1 ? [['opened', 1]] : [],
      `${why}: the metric counts ${flights === 1 ? 'one flow' : 'no flow'}`,
    )
  }
})

t.test('after a refusal the next candidate gets the same bytes from the start, and the end', async (t) => {
  await using it = await world({ refuses: true })
  using client = await it.call()
  client.socket.end('question')
  await fed(it.b)
  await it.flights(it.b, () => it.c.pair.near.accounting.keptBytes > 0)
  t.equal(await it.flights(it.c, () => client.text === 'answer'), 1, 'the next candidate gets them early too')
  t.equal(it.c.heard(), 'question', 'the next candidate has heard the question once')
  t.equal(it.b.heard(), '', 'the one that refused has heard nothing')
  await client.ended
})

t.test(
  'a candidate silent beyond its hedge delay gives early bytes back; then both are tried and the bytes wait',
  async (t) => {
    await using it = await world()
    it.b.isMute = true
    using client = await it.call()
    client.socket.write('question')
    await fed(it.b)
    it.b.pair.move()
    await it.clock.advance(3 * RTT_MS)
    t.equal(it.c.incoming.length, 0, 'the other candidate has not been asked')
    t.notOk(it.c.pair.step(), 'nobody else is asked before the first has answered')
    it.b.pair.move()
    await until(() => it.c.pair.near.streams === 1)
    t.equal(it.c.pair.near.accounting.keptBytes, 0, 'the bytes wait for OPENED')
    it.b.pair.move()
    t.equal(it.b.incoming.length, 2, 'the silent one is asked again: it may still be the first')
    t.equal(it.b.pair.far.heldBytes, 0, 'the silent one holds no bytes any more')
    await it.flights(it.c, () => client.text === 'answer')
    t.equal(it.c.heard(), 'question', 'the one that opens has heard the question once')
    it.b.take(it.b.incoming[0]!)
    it.b.pair.move()
    await turns(20)
    t.equal(it.b.heard(), '', 'the one that is late hears nothing')
  },
)

t.test('when the session is lost under the question, the caller gets an RST and nobody else is asked', async (t) => {
  await using it = await world()
  it.b.isMute = true
  using client = await it.call()
  client.socket.write('question')
  await fed(it.b)
  it.b.pair.move()
  it.b.pair.near.end()
  t.equal(await client.closed, 'ECONNRESET', 'the caller sees a reset')
  await client.done
  t.equal(it.c.pair.near.streams, 0, 'the other candidate is not asked')
  const early = await it.metrics.flowsEarly.get()
  t.same(
    early.values.map(({ labels }) => labels.outcome),
    ['unreachable'],
    'the metric counts the early flow as unreachable',
  )
})

t.test('when the carrier is lost and another comes, the flow goes on', async (t) => {
  await using it = await world()
  using client = await it.call()
  client.socket.write('question')
  await fed(it.b)
  const { near, far } = it.b.pair.links[0]!
  const batch = Buffer.alloc(2_000)
  far.receive(batch.subarray(0, near.outbox.fill(batch)))
  await until(() => it.b.heard() === 'question')
  it.b.pair.sever(0)
  it.b.pair.connect('direct')
  await it.flights(it.b, () => client.text === 'answer')
  t.equal(it.b.heard(), 'question', 'the instance has heard the question once')
  t.equal(it.c.pair.near.streams, 0, 'the other candidate is not asked')
})

t.test('a caller that says nothing is hedged as ever; what it says then waits for the first that opens', async (t) => {
  await using it = await world()
  it.b.isMute = true
  using client = await it.call()
  await until(() => it.b.pair.near.streams === 1)
  await it.clock.advance(3 * RTT_MS)
  await until(() => it.c.pair.near.streams === 1)
  client.socket.write('question')
  it.b.pair.move()
  await turns(20)
  const sent = it.b.pair.near.accounting.keptBytes + it.c.pair.near.accounting.keptBytes
  t.equal(sent, 0, 'neither candidate is sent the question before one has opened')
  await it.flights(it.c, () => client.text === 'answer')
  t.equal(it.c.heard(), 'question', 'the one that opens has heard the question once')
  t.equal(it.b.heard(), '', 'the other has heard nothing')
})

t.test('a caller that leaves takes its question with it', async (t) => {
  await using it = await world()
  it.b.isMute = true
  using client = await it.call()
  client.socket.write('question')
  await fed(it.b)
  it.b.pair.move()
  t.equal(it.b.pair.far.heldBytes, 8, 'the question is held where it came')
  client.socket.resetAndDestroy()
  await client.done
  it.b.pair.move()
  t.equal(
    it.b.pair.far.heldBytes + it.b.pair.far.streams,
    0,
    'when the caller has left, neither bytes nor stream are held',
  )
  it.b.take(it.b.incoming[0]!)
  await turns(20)
  t.equal(it.b.heard(), '', 'an instance that is accepted after that hears nothing')
})

t.test('a caller that sends more than may be early is stopped until OPENED, and every byte arrives', async (t) => {
  await using it = await world({ answers: false })
  it.b.isMute = true
  using client = await it.call()
  const sent = randomBytes(3_000_000)
  client.socket.end(sent)
  await fed(it.b)
  it.b.pair.move()
  await turns(50)
  t.ok(
    it.b.pair.near.accounting.keptBytes < 128 * 1024,
    `less than 128 KiB are read before OPENED: ${it.b.pair.near.accounting.keptBytes}`,
  )
  it.b.take(it.b.incoming[0]!)
  await it.flights(it.b, () => it.b.sockets[0]?.readableEnded === true)
  t.ok(Buffer.from(it.b.heard(), 'latin1').equals(sent), 'the instance has heard every byte')
})

// ── datagrams ──

/** A stream that takes so many datagrams before it is open. */
function taker(room: number) {
  const got: string[] = []
  const stream: DatagramStream = {
    send: (payload) => {
      if (got.length >= room) return false
      got.push(payload.toString())
      return true
    },
    end: () => undefined,
    reset: () => undefined,
  }
  return { got, stream, open: () => (room = 99) }
}

t.test('datagrams go ahead in order, and none goes twice to the same', async (t) => {
  await using it = await world()
  const instance = it.parts.table.entry(CART)!.instances[0]!
  const begin = () => {
    const target = it.parts.table.target(CART)
    const wish = { kind: 'target', target, caller: NODE_CALLER } as const
    const client = {
      port: 80,
      from: { protocol: 'udp', remoteAddress: '127.0.0.1', remotePort: 1 },
      mode: 'loopback',
      startedAt: 0,
      intent: wish,
      answer: () => true,
      ended: () => undefined,
    } as const
    const flow = new DatagramFlow(client, new Held({ datagrams: 8, bytes: 8_000 }, { bytes: 8_000 }), it.parts)
    flow.datagram(Buffer.from('one'))
    return flow
  }
  let fed = 0
  const onFirst = () => void fed++

  const flow = begin()
  const first = taker(2)
  flow.feed(first.stream, onFirst)
  for (const word of ['two', 'three', 'four']) flow.datagram(Buffer.from(word))
  t.same(first.got, ['one', 'two'], 'as many go ahead as are taken')
  t.equal(fed, 1, 'it is told once that something went ahead')
  first.open()
  flow.opened(instance, first.stream)
  flow.datagram(Buffer.from('five'))
  t.same(first.got, ['one', 'two', 'three', 'four', 'five'], 'the rest follows when the stream is open')
  t.equal(flow.pipe.near.datagrams, 5, 'five datagrams of the caller are counted')

  const refused = begin()
  const [second, third] = [taker(9), taker(9)]
  refused.feed(second.stream, onFirst)
  refused.pause()
  refused.datagram(Buffer.from('two'))
  refused.opened(instance, third.stream)
  t.same([second.got, third.got], [['one'], ['one', 'two']], 'the one that opens gets them from the start')
})

// ── no byte to two instances ──

/** One stream of a session that may do anything: what its instance and the caller's node receive comes at times of their own. */
class Thread {
  written = 0
  hasEnded = false
  /** Bytes that the instance has heard, once it was accepted. */
  heard = 0
  state: 'asked' | 'accepted' | 'refused' | 'dead' = 'asked'
  isTold = false
  readonly events: OpeningEvents & ByteStreamEvents

  constructor(events: OpeningEvents & ByteStreamEvents) {
    this.events = events
  }

  /** What the instance's node does. */
  accept(): void {
    if (this.state !== 'asked') return
    this.state = 'accepted'
    this.listen()
  }

  refuse(): void {
    if (this.state === 'asked') this.state = 'refused'
  }

  listen(): void {
    if (this.state === 'accepted') this.heard = this.written + Number(this.hasEnded)
  }

  /** Its answer arrives. */
  arrive(): void {
    if (this.isTold || (this.state !== 'accepted' && this.state !== 'refused')) return
    this.isTold = true
    if (this.state === 'accepted') this.events.opened()
    else this.events.refused('timeout')
  }

  /** No answer will arrive; as `refused` says, that is known to be harmless only where nothing was written. */
  lose(): void {
    if (this.isTold) return
    this.isTold = true
    if (this.written > 0 || this.hasEnded) this.events.reset()
    else this.events.refused('unreachable')
  }
}

const SOME_NODES = ['edge/b', 'edge/c', 'edge/d', 'edge/e']

/** A session whose streams are threads of the test; `takesEarly`: it takes bytes before they are open. */
function threadSession(peer: string, takesEarly: boolean, threads: Thread[]): Session {
  return {
    ...({ peer, path: 'direct', rttMs: RTT_MS, streams: 0, report: notAsked } as const),
    route: () => ({ path: 'direct', rttMs: RTT_MS, takesEarly, silentMs: 0 }),
    openDatagrams: () => {
      throw new Error('only flows of TCP are tried')
    },
    open: (_request, events) => {
      const thread = new Thread(events)
      threads.push(thread)
      return {
        write: (chunk) => {
          thread.written += chunk.length
          thread.listen()
          return true
        },
        end: () => {
          thread.hasEnded = true
          thread.listen()
        },
        reset: () => {
          if (thread.state === 'asked') thread.state = 'dead'
        },
        withdraw: () => thread.refuse(),
        consumed: () => undefined,
      }
    },
  }
}

const act = fc.constantFrom('say', 'say', 'end', 'accept', 'refuse', 'arrive', 'arrive', 'lose', 'time', 'leave')
const step = fc.record({ act, which: fc.nat(20), size: fc.nat(200) })
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never

/** A caller that speaks before a stream is open, and four nodes of which some take early bytes: a bit each in `takers`. */
class Run {
  readonly #clock = new ManualClock()
  readonly #threads: Thread[] = []
  readonly #early = new EarlyData(() => undefined)
  readonly #gone = new Cancellation()
  readonly #connected: ReturnType<typeof connect>
  #winner: TcpAttempt | undefined
  #said = 0

  constructor(takers: number) {
    const sessions = SOME_NODES.map((peer, at) => threadSession(peer, (takers & (1 << at)) !== 0, this.#threads))
    const table = new LiteralTable({ id: CART, on: SOME_NODES })
    const parts = {
      table,
      peers: peersWith(sessions, Object.fromEntries(SOME_NODES.map((node) => [node, RTT_MS]))),
      self: 'edge/a',
      endpointOf: () => undefined,
      clock: this.#clock,
      outliers: new Outliers(),
      dial: () => ({ timeoutMs: 1 }),
      balancer: createBalancer({ rttMs: () => RTT_MS, isHere: () => false, openFlows: () => 0 }),
      limits: { candidates: 4 },
    }
    const wish = { target: table.target(CART), port: 80, protocol: 'tcp', caller: NODE_CALLER } as const
    const onWon = (attempt: TcpAttempt) => {
      this.#winner = attempt
      this.#early.settle(attempt.stream!)
    }
    const connection = { attempt: TcpAttempt, plan: plan(wish, parts), flow: '1', deadlineMs: 3_000 }
    this.#connected = connect({ ...connection, early: this.#early, onWon }, parts, this.#gone)
  }

  async take({ act, which, size }: Step): Promise<void> {
    const thread = this.#threads[which % this.#threads.length]
    const far = this.#winner?.stream ?? this.#early
    if (act === 'say') {
      far.write(Buffer.alloc(1 + size))
      this.#said += 1 + size
    } else if (act === 'end') far.end()
    else if (act === 'accept') thread?.accept()
    else if (act === 'refuse') thread?.refuse()
    else if (act === 'arrive') thread?.arrive()
    else if (act === 'lose') thread?.lose()
    else if (act === 'time') await this.#clock.advance(size)
    else if (act === 'leave' && which === 0) this.#gone.cancel()
    await Promise.resolve()
  }

  /** @throws Error with what is wrong at the end, if anything. */
  async finish(): Promise<void> {
    for (const thread of this.#threads) thread.accept() // whatever is still asked may be taken
    await this.#clock.advance(3_000)
    const { kind } = await this.#connected
    const hearing = this.#threads.filter(({ heard }) => heard > 0)
    if (hearing.length > 1) throw new Error(`${hearing.length} instances have heard it`)
    if (kind === 'won' && this.#said > 0 && (hearing[0]?.written ?? 0) < this.#said)
      throw new Error('the winner has not all of it')
  }
}

t.test('no byte reaches two instances, whatever order answers, losses and time come in', async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), fc.nat(15), async (steps, takers) => {
      const run = new Run(takers)
      for (const step of steps) await run.take(step)
      await run.finish()
    }),
    { numRuns: 600 },
  )
  t.pass('in 600 runs at most one instance has heard it, and a winner all of it')
})
