import { once } from 'node:events'
import { randomBytes } from 'node:crypto'
import { connect as connectSocket, createServer, type AddressInfo, type Socket } from 'node:net'
import fc from 'fast-check'
import t from 'tap'
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
import { Client, keptLog, LiteralTable, notAsked, peersWith, roomy, serve, turns, until } from './world.ts'

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

async function world({ earlyData = true, features = ALL, refuses = false, answers = true } = {}) {
  const table = new LiteralTable({ id: CART, on: [...NODES] })
  const log = keptLog()
  const metrics = openMetrics('agent')
  const clock = new ManualClock()
  const ledger = await FlowLedger.start({ drainMs: 0 }, { clock: systemClock, log, metrics })
  const stack = new AsyncDisposableStack()
  const fars: Far[] = []
  for (const [ordinal, node] of NODES.entries()) {
    const chunks: Buffer[] = []
    const served = stack.use(
      await serve((socket) => {
        socket.on('data', (chunk) => chunks.push(chunk))
        if (answers) socket.on('data', () => socket.write('answer'))
        socket.on('end', () => socket.end())
      }),
    )
    const endpoint = { host: '127.0.0.1', port: served.port }
    const isHere = ordinal > 0 || !refuses
    const inbound = stack.use(
      await Inbound.start({
        ...roomy(),
        table,
        interests: { want: async () => undefined, wantVip: async () => undefined },
        self: node,
        endpointOf: () => (isHere ? endpoint : undefined),
        isDraining: () => false,
        limits: { ...INBOUND_LIMITS, drainMs: 0 },
        log,
        metrics: openMetrics('agent'),
      }),
    )
    const incoming: IncomingStream[] = []
    const pair = new MuxPair(
      { features },
      {
        accept: (stream) => {
          incoming.push(stream)
          if (!far.isMute) take(stream)
        },
      },
    )
    const take = (stream: IncomingStream): void => inbound.take(asFrom(stream))
    const session: Session = {
      peer: node,
      path: 'direct',
      rttMs: RTT_MS,
      streams: 0,
      report: notAsked,
      route: (rule) => ({ ...pair.near.route(rule)!, rttMs: RTT_MS }),
      open: (request, events) => pair.near.open(request, events),
      openDatagrams: (request, events) => pair.near.openDatagrams(request, events),
    }
    const heard = () => Buffer.concat(chunks).toString('latin1')
    const far: Far = { pair, session, incoming, isMute: false, heard, sockets: served.sockets, take }
    fars.push(far)
  }
  const rtts = Object.fromEntries(NODES.map((node) => [node, RTT_MS]))
  const parts = {
    ...roomy(),
    earlyData,
    table,
    outliers: new Outliers(),
    peers: peersWith(
      fars.map(({ session }) => session),
      rtts,
    ),
    self: 'edge/a',
    endpointOf: () => undefined,
    clock,
    dial: () => ({ timeoutMs: 2_000 }),
    balancer: createBalancer({
      rttMs: (node) => rtts[node],
      isHere: () => false,
      openFlows: (id) => ledger.openFlows(id),
    }),
    ledger,
    limits: OUTBOUND_LIMITS,
    log,
    metrics,
  }
  const listener = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true })
  listener.listen({ host: '127.0.0.1', port: 0 })
  await once(listener, 'listening')
  stack.defer(() => void listener.close())
  return {
    b: fars[0] as Far,
    c: fars[1] as Far,
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
    /** Flights leave until there is what was waited for; how many of them carried something from the caller's node to `far`. */
    async flights(far: Far, isThere: () => boolean): Promise<number> {
      let count = 0
      while (!isThere()) {
        const { bytesIn } = far.pair.links[0]!.far
        far.pair.step()
        if (far.pair.links[0]!.far.bytesIn > bytesIn) count++
        await turns(4)
      }
      return count
    },
    async [Symbol.asyncDispose]() {
      await stack.disposeAsync()
      await ledger.close()
      metrics.registry.clear()
    },
  }
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
    { why: 'early', options: {}, flights: 1 },
    { why: 'switched off', options: { earlyData: false }, flights: 2 },
    { why: 'a peer of an older version', options: { features: 1 }, flights: 2 },
  ]
  for (const { why, options, flights } of rows) {
    await using it = await world(options)
    using client = await it.call()
    client.socket.write('question')
    if (flights === 1) await fed(it.b)
    t.equal(await it.flights(it.b, () => client.text === 'answer'), flights, why)
    t.equal(it.b.heard(), 'question', why)
    client.socket.end()
    const isOver = client.done.then(() => true)
    await it.flights(it.b, () => it.b.pair.near.isQuiet || client.socket.closed)
    t.ok(await isOver)
    const early = await it.metrics.flowsEarly.get()
    t.same(
      early.values.map(({ labels, value }) => [labels.outcome, value]),
      flights === 1 ? [['opened', 1]] : [],
      why,
    )
  }
})

t.test('refused: the next candidate gets the same bytes from the start, and the end', async (t) => {
  await using it = await world({ refuses: true })
  using client = await it.call()
  client.socket.end('question')
  await fed(it.b)
  await it.flights(it.b, () => it.c.pair.near.accounting.keptBytes > 0)
  t.equal(await it.flights(it.c, () => client.text === 'answer'), 1, 'early again')
  t.equal(it.c.heard(), 'question')
  t.equal(it.b.heard(), '')
  await client.ended
})

t.test('silent beyond its hedge delay: asked to give them back, then both are tried and the bytes wait', async (t) => {
  await using it = await world()
  it.b.isMute = true
  using client = await it.call()
  client.socket.write('question')
  await fed(it.b)
  it.b.pair.move()
  await it.clock.advance(3 * RTT_MS)
  t.equal(it.c.incoming.length, 0)
  t.notOk(it.c.pair.step(), 'nobody else is asked before the first has answered')
  it.b.pair.move()
  await until(() => it.c.pair.near.streams === 1)
  t.equal(it.c.pair.near.accounting.keptBytes, 0, 'the bytes wait for OPENED')
  it.b.pair.move()
  t.equal(it.b.incoming.length, 2, 'it may still be the first')
  t.equal(it.b.pair.far.heldBytes, 0)
  await it.flights(it.c, () => client.text === 'answer')
  t.equal(it.c.heard(), 'question')
  it.b.take(it.b.incoming[0]!)
  it.b.pair.move()
  await turns(20)
  t.equal(it.b.heard(), '', 'who was late hears nothing')
})

t.test('the session is lost under the question: RST, and nobody else is asked', async (t) => {
  await using it = await world()
  it.b.isMute = true
  using client = await it.call()
  client.socket.write('question')
  await fed(it.b)
  it.b.pair.move()
  it.b.pair.near.end()
  t.equal(await client.closed, 'ECONNRESET')
  await client.done
  t.equal(it.c.pair.near.streams, 0)
  const early = await it.metrics.flowsEarly.get()
  t.same(
    early.values.map(({ labels }) => labels.outcome),
    ['unreachable'],
  )
})

t.test('the carrier is lost and another comes: the flow goes on', async (t) => {
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
  t.equal(it.b.heard(), 'question', 'once')
  t.equal(it.c.pair.near.streams, 0)
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
  t.equal(it.b.pair.near.accounting.keptBytes + it.c.pair.near.accounting.keptBytes, 0)
  await it.flights(it.c, () => client.text === 'answer')
  t.equal(it.c.heard(), 'question')
  t.equal(it.b.heard(), '')
})

t.test('a caller that leaves takes its question with it', async (t) => {
  await using it = await world()
  it.b.isMute = true
  using client = await it.call()
  client.socket.write('question')
  await fed(it.b)
  it.b.pair.move()
  t.equal(it.b.pair.far.heldBytes, 8)
  client.socket.resetAndDestroy()
  await client.done
  it.b.pair.move()
  t.equal(it.b.pair.far.heldBytes + it.b.pair.far.streams, 0)
  it.b.take(it.b.incoming[0]!)
  await turns(20)
  t.equal(it.b.heard(), '')
})

t.test('more than may be early: the caller is stopped until OPENED, and every byte arrives', async (t) => {
  await using it = await world({ answers: false })
  it.b.isMute = true
  using client = await it.call()
  const sent = randomBytes(3_000_000)
  client.socket.end(sent)
  await fed(it.b)
  it.b.pair.move()
  await turns(50)
  t.ok(it.b.pair.near.accounting.keptBytes < 128 * 1024, `${it.b.pair.near.accounting.keptBytes} bytes were read`)
  it.b.take(it.b.incoming[0]!)
  await it.flights(it.b, () => it.b.sockets[0]?.readableEnded === true)
  t.ok(Buffer.from(it.b.heard(), 'latin1').equals(sent))
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
  t.same(first.got, ['one', 'two'], 'as many as may')
  t.equal(fed, 1)
  first.open()
  flow.opened(instance, first.stream)
  flow.datagram(Buffer.from('five'))
  t.same(first.got, ['one', 'two', 'three', 'four', 'five'], 'the rest follows')
  t.equal(flow.pipe.near.datagrams, 5)

  const refused = begin()
  const [second, third] = [taker(9), taker(9)]
  refused.feed(second.stream, onFirst)
  refused.pause()
  refused.datagram(Buffer.from('two'))
  refused.opened(instance, third.stream)
  t.same([second.got, third.got], [['one'], ['one', 'two']], 'who opens gets them from the start')
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

t.test('no byte reaches two instances, whatever order answers, losses and time come in', async (t) => {
  const act = fc.constantFrom('say', 'say', 'end', 'accept', 'refuse', 'arrive', 'arrive', 'lose', 'time', 'leave')
  const step = fc.record({ act, which: fc.nat(20), size: fc.nat(200) })
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), fc.nat(15), async (steps, takers) => {
      const clock = new ManualClock()
      const threads: Thread[] = []
      const nodes = ['edge/b', 'edge/c', 'edge/d', 'edge/e']
      const sessions = nodes.map((peer, at): Session => {
        const facts = { peer, path: 'direct', rttMs: RTT_MS, streams: 0, report: notAsked } as const
        return {
          ...facts,
          route: () => ({ path: 'direct', rttMs: RTT_MS, takesEarly: (takers & (1 << at)) !== 0, silentMs: 0 }),
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
      })
      const table = new LiteralTable({ id: CART, on: nodes })
      const parts = {
        table,
        peers: peersWith(sessions, Object.fromEntries(nodes.map((node) => [node, RTT_MS]))),
        self: 'edge/a',
        endpointOf: () => undefined,
        clock,
        outliers: new Outliers(),
        dial: () => ({ timeoutMs: 1 }),
        balancer: createBalancer({ rttMs: () => RTT_MS, isHere: () => false, openFlows: () => 0 }),
        limits: { candidates: 4 },
      }
      const early = new EarlyData(() => undefined)
      const gone = new AbortController()
      let winner: TcpAttempt | undefined
      let said = 0
      const connected = connect(
        {
          attempt: TcpAttempt,
          plan: plan({ target: table.target(CART), port: 80, protocol: 'tcp', caller: NODE_CALLER }, parts),
          flow: '1',
          deadlineMs: 3_000,
          early,
          onWon: (attempt) => {
            winner = attempt
            early.settle(attempt.stream!)
          },
        },
        parts,
        gone.signal,
      )
      for (const { act, which, size } of steps) {
        const thread = threads[which % threads.length]
        const far = winner?.stream ?? early
        if (act === 'say') {
          far.write(Buffer.alloc(1 + size))
          said += 1 + size
        } else if (act === 'end') far.end()
        else if (act === 'accept') thread?.accept()
        else if (act === 'refuse') thread?.refuse()
        else if (act === 'arrive') thread?.arrive()
        else if (act === 'lose') thread?.lose()
        else if (act === 'time') await clock.advance(size)
        else if (act === 'leave' && which === 0) gone.abort()
        await Promise.resolve()
      }
      for (const thread of threads) thread.accept() // whatever is still asked may be taken
      await clock.advance(3_000)
      const { kind } = await connected
      const hearing = threads.filter(({ heard }) => heard > 0)
      if (hearing.length > 1) throw new Error(`${hearing.length} instances have heard it`)
      if (kind === 'won' && said > 0 && (hearing[0]?.written ?? 0) < said)
        throw new Error('the winner has not all of it')
    }),
    { numRuns: 600 },
  )
  t.pass('600 runs')
})
