import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import t from 'tap'
import { PeerRelays } from '../../proxy/paths/relays/peer-relays.ts'
import { nearerRelay, orderRelays } from '../../proxy/paths/relays/relay-choice.ts'
import { RelayListener } from '../../proxy/paths/relays/relay-listener.ts'
import { relayedDialer } from '../../proxy/paths/relays/relayed-dialer.ts'
import { readSignal, type Signal } from '../../proxy/paths/signals.ts'
import { relayCredentials } from '../../src/agent/relays.ts'
import type { HeldIdentity } from '../../src/core/identity/held.ts'
import { nodeIdOf } from '../../src/core/identity/principal.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { dialText } from '../../src/core/kit/websocket.ts'
import { TestMesh } from '../identity/mesh.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { credentialsOf, RelaySite } from './site.ts'
import { until } from '../support/until.ts'

/*
 * How nodes come back to a relay, to each other through it, and to a nearer one.
 */

await using mesh = await TestMesh.create()
const edge = await mesh.cluster('edge')
const n1 = await mesh.node(edge, 'n1')
const n2 = await mesh.node(edge, 'n2')
const forever = new AbortController().signal
const idOf = ({ principal }: HeldIdentity) => (principal.role === 'node' ? nodeIdOf(principal) : '')
const quietly = { onConnection: () => undefined, credentials: credentialsOf(n2) }

t.test('another relay is chosen only when it is clearly nearer', async (t) => {
  const rows: { why: string; known: Record<string, number | undefined>; inUse: string; to?: string }[] = [
    { why: 'a relay that is a third nearer is chosen', known: { a: 90, b: 60 }, inUse: 'a', to: 'b' },
    {
      why: 'of several that are clearly nearer, the nearest is chosen',
      known: { a: 90, b: 60, c: 20, d: 30 },
      inUse: 'a',
      to: 'c',
    },
    { why: 'a relay that is a tenth nearer is not chosen', known: { a: 90, b: 81 }, inUse: 'a' },
    { why: 'a relay that is 2 ms nearer is not chosen', known: { a: 4, b: 2 }, inUse: 'a' },
    { why: 'the nearest relay stays in use', known: { a: 20, b: 60 }, inUse: 'a' },
    { why: 'a relay that is a tenth farther stays out of use', known: { a: 60, b: 66 }, inUse: 'b' },
    { why: 'a relay that is not measured stays in use', known: { a: undefined, b: 10 }, inUse: 'a' },
    { why: 'a relay that is not measured is not chosen', known: { a: 90, b: undefined }, inUse: 'a' },
  ]
  for (const { why, known, inUse, to } of rows) {
    const relays = Object.entries(known).map(([url, ms]) => ({ url, ms }))
    t.equal(nearerRelay(relays, { url: inUse, ms: known[inUse] }), to, why)
  }
  const ours = (url: string) => ({ a: 10, b: 40 })[url]
  const sum = (known: Record<string, number>) => (url: string) => known[url]
  t.same(
    orderRelays(['a', 'b'], ours, sum({ a: 200, b: 50 })),
    ['b', 'a'],
    'the relay nearest to both nodes together comes first',
  )
  t.same(
    orderRelays(['a', 'b'], ours, sum({ a: 200 })),
    ['a', 'b'],
    'where one sum is not known, our own distance decides',
  )
})

/** Of node `edge/n1`: which relays it knows and how far they are, where it listens, its sessions, and what it says and hears. */
class ReportingNode implements AsyncDisposable {
  readonly far: Record<string, number | undefined> = { 'wss://a/relay': 10, 'wss://b/relay': 40 }
  readonly sessions = [{ peer: 'edge/n2' }]
  listening = ['wss://a/relay', 'wss://b/relay']
  readonly peerRelays: PeerRelays
  readonly #life = new Lifetime()
  readonly #said: { to: string; signal: Signal }[] = []
  readonly #heard = new Map<string, (heard: never) => void>()

  constructor() {
    const listening = () => this.listening
    this.peerRelays = PeerRelays.start(this.#life, {
      relays: {
        get listening() {
          return listening()
        },
        rttMs: (url) => this.far[url],
        isKnown: (url) => url in this.far,
      },
      signals: {
        on: (type, listener) => void this.#heard.set(type, listener),
        send: (to, signal) => {
          this.#said.push({ to: to.id, signal: readSignal(JSON.stringify(signal)) })
          return true
        },
      },
      peers: () => ({ all: () => this.sessions as never }),
      reach: (id) => (id === 'edge/n3' ? { id, addresses: ['10.0.0.1:1'], relays: ['wss://b/relay'] } : undefined),
    })
  }

  /** What it reports now, and to whom. */
  told() {
    this.peerRelays.announce()
    return this.#said.splice(0).map(({ to, signal }) => [to, 'relays' in signal ? signal.relays : []])
  }

  /** `edge/n2` reports where it listens; `seen`: the address at which a relay sees it, when a relay passes it on. */
  hears(relays: object[], seen?: string): void {
    this.#heard.get('here')?.({ from: 'edge/n2', signal: { type: 'here', relays }, seenAddress: seen } as never)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}

t.test('a node reports to each node with a session where it listens, and only when it has changed', async (t) => {
  await using node = new ReportingNode()
  const both = [
    { url: 'wss://a/relay', ms: 10 },
    { url: 'wss://b/relay', ms: 40 },
  ]
  t.same(node.told(), [['edge/n2', both]], 'the first report has both relays, with their distances')
  t.same(node.told(), [], 'the same is not reported twice')
  node.far['wss://a/relay'] = 12
  t.same(node.told(), [], 'jitter is not a change')
  node.sessions.push({ peer: 'edge/n3' })
  t.same(node.told(), [['edge/n3', both]], 'another session gets the same report as the first')
  node.listening = []
  t.same(node.told(), [], 'a node that listens nowhere reports nothing: it comes back to one of its relays')
  node.listening = ['wss://b/relay']
  t.same(node.told().length, 2, 'another list is a change, and both sessions get it')
  node.far['wss://b/relay'] = 60
  t.same(node.told()[1], ['edge/n3', [{ url: 'wss://b/relay', ms: 60 }]], 'another distance is a change')
})

t.test('a node is reached through the relays that it reported itself', async (t) => {
  await using node = new ReportingNode()
  node.listening = ['wss://b/relay']
  node.far['wss://a/relay'] = 12
  node.far['wss://b/relay'] = 60
  const { peerRelays } = node
  t.equal(peerRelays.reach('edge/n2'), undefined, 'nothing is known of a node that has reported nothing')
  node.hears([{ url: 'wss://a/relay', ms: 5 }], '203.0.113.1')
  t.equal(peerRelays.reach('edge/n2'), undefined, 'a report that came through a relay does not count')
  node.hears([{ url: 'wss://evil/relay' }, { url: 'wss://b/relay', ms: 5 }, { url: 'wss://a/relay', ms: 30 }])
  const known = { addresses: [], relays: ['wss://b/relay', 'wss://a/relay'] }
  t.match(peerRelays.reach('edge/n2'), known, 'the node is reached through the relays of its report, in its order')
  t.equal(peerRelays.reach('edge/n2')?.relays.length, 2, 'what is no relay of the mesh is not kept')
  t.equal(peerRelays.throughMs('edge/n2', 'wss://b/relay'), 65, 'the way through a relay is the sum of both distances')
  t.equal(peerRelays.nearer('edge/n2', 'wss://b/relay'), 'wss://a/relay', 'a, with 42 ms, is nearer than b, with 65')
  t.equal(peerRelays.nearer('edge/n2', 'wss://a/relay'), undefined, 'no relay is nearer than a')
  node.hears([{ url: 'wss://a/relay', ms: 30 }])
  const nearer = peerRelays.nearer('edge/n2', 'wss://b/relay')
  t.equal(nearer, 'wss://a/relay', 'how far it was from a relay that it has left is remembered')
  const ofTable = { addresses: ['10.0.0.1:1'], relays: ['wss://b/relay'] }
  t.match(peerRelays.reach('edge/n3'), ofTable, 'a node that has reported nothing is reached as the table says')
})

t.test('a listener reconnects soon while streams wait, and backs off otherwise', async (t) => {
  const first = await RelaySite.start(edge)
  const { port } = first
  const clock = new WatchedClock()
  await using listener = RelayListener.start({ ...quietly, url: first.url, clock, random: () => 1 }, silentLog)
  await until(() => listener.isListening)
  await first[Symbol.asyncDispose]()
  await until(() => !listener.isListening)
  await first.until(async () => {
    await clock.advance(500)
    return clock.restMs === 4_000 // its rests have grown
  })
  await using second = await RelaySite.start(edge, {}, port)
  await clock.advance(450)
  t.notOk(listener.isListening, 'idle: in its own time')
  await first.until(async () => {
    listener.expedite()
    await clock.advance(50)
    return listener.isListening
  })
  t.ok([...second.relay.listening].includes('edge/n2'), 'the node listens at the relay again')
})

t.test('a silent channel is detected by a ping and replaced', async (t) => {
  await using site = await RelaySite.start(edge)
  await using router = await Router.start(site.port)
  const listener = RelayListener.start({ ...quietly, url: router.url }, silentLog)
  await using _listening = listener
  await until(() => listener.isListening)
  listener.expedite(1)
  await listener.measure()
  router.forget()
  await until(() => {
    listener.expedite(1)
    return router.connections > 1 && listener.isListening
  })
  t.equal(router.connections, 2, 'the one that answered at first stayed until it did not')
})

t.test('a pending leg is announced to its node when that node listens again', async (t) => {
  await using site = await RelaySite.start(edge)
  const dead = await dialText(`${site.url}?listen`, credentialsOf(n2)(), forever)
  const knocked = new Promise<string>((resolve) => dead.onText(resolve))
  const dialling = relayedDialer({ credentials: () => relayCredentials({ certificate: n1, egress: undefined }) }).dial(
    { id: idOf(n2), addresses: [], relays: [site.url] },
    forever,
  )
  t.match(JSON.parse(await knocked), { type: 'incoming', from: 'edge/n1' }, 'and nobody takes it')
  const came = Promise.withResolvers<string>()
  await using _listening = RelayListener.start(
    { ...quietly, url: site.url, onConnection: ({ path }) => came.resolve(path) },
    silentLog,
  )
  const { stream } = await dialling
  t.equal(await came.promise, 'relayed', 'the connection came through the relay')
  stream.destroy()
})

class WatchedClock extends ManualClock {
  /** The latest that somebody asked for. */
  restMs = 0

  override sleep(ms: number, signal?: AbortSignal): Promise<void> {
    this.restMs = ms
    return super.sleep(ms, signal)
  }
}

/** Passes bytes on, until it forgets its connections: then it swallows what comes on them. */
class Router implements AsyncDisposable {
  readonly #server = createServer()
  readonly #open = new Set<readonly [Socket, Socket]>()
  connections = 0

  static async start(to: number): Promise<Router> {
    const router = new Router()
    router.#server.on('connection', (near) => {
      router.connections += 1
      const far = connect(to, '127.0.0.1')
      near.pipe(far)
      far.pipe(near)
      router.#open.add([near, far])
      for (const [one, other] of [[near, far] as const, [far, near] as const]) {
        one.on('error', () => undefined)
        one.on('close', () => other.destroy())
      }
    })
    router.#server.listen(0, '127.0.0.1')
    await once(router.#server, 'listening')
    return router
  }

  get url(): string {
    return `wss://127.0.0.1:${(this.#server.address() as AddressInfo).port}/relay`
  }

  forget(): void {
    for (const [near, far] of this.#open) {
      near.unpipe(far)
      far.unpipe(near)
      near.resume()
      far.resume()
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const sockets of this.#open) for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => this.#server.close(resolve))
  }
}
