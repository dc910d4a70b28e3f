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
import { until } from '../proxy/world.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { credentialsOf, RelaySite } from './site.ts'

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
    { why: 'a third nearer', known: { a: 90, b: 60 }, inUse: 'a', to: 'b' },
    { why: 'the nearest of those', known: { a: 90, b: 60, c: 20, d: 30 }, inUse: 'a', to: 'c' },
    { why: 'a tenth is not worth it', known: { a: 90, b: 81 }, inUse: 'a' },
    { why: 'nor are 2 ms', known: { a: 4, b: 2 }, inUse: 'a' },
    { why: 'the one in use is the nearest', known: { a: 20, b: 60 }, inUse: 'a' },
    { why: 'back only for as much', known: { a: 60, b: 66 }, inUse: 'b' },
    { why: 'nobody knows how far the one in use is', known: { a: undefined, b: 10 }, inUse: 'a' },
    { why: 'nor the other one', known: { a: 90, b: undefined }, inUse: 'a' },
  ]
  for (const { why, known, inUse, to } of rows) {
    const relays = Object.entries(known).map(([url, ms]) => ({ url, ms }))
    t.equal(nearerRelay(relays, { url: inUse, ms: known[inUse] }), to, why)
  }
  const ours = (url: string) => ({ a: 10, b: 40 })[url]
  const sum = (known: Record<string, number>) => (url: string) => known[url]
  t.same(orderRelays(['a', 'b'], ours, sum({ a: 200, b: 50 })), ['b', 'a'], 'nearest to both together')
  t.same(orderRelays(['a', 'b'], ours, sum({ a: 200 })), ['a', 'b'], 'a sum is not compared with a guess')
})

t.test('nodes with a session report to each other where they listen, and only when it has changed', async (t) => {
  const far: Record<string, number | undefined> = { 'wss://a/relay': 10, 'wss://b/relay': 40 }
  let listening = ['wss://a/relay', 'wss://b/relay']
  const said: { to: string; signal: Signal }[] = []
  const heard = new Map<string, (heard: never) => void>()
  const sessions = [{ peer: 'edge/n2' }]
  await using life = new Lifetime()
  const peerRelays = PeerRelays.start(life, {
    relays: {
      get listening() {
        return listening
      },
      rttMs: (url) => far[url],
      isKnown: (url) => url in far,
    },
    signals: {
      on: (type, listener) => void heard.set(type, listener),
      send: (to, signal) => {
        said.push({ to: to.id, signal: readSignal(JSON.stringify(signal)) })
        return true
      },
    },
    peers: () => ({ all: () => sessions as never }),
    reach: (id) => (id === 'edge/n3' ? { id, addresses: ['10.0.0.1:1'], relays: ['wss://b/relay'] } : undefined),
  })
  const told = () => {
    peerRelays.announce()
    return said.splice(0).map(({ to, signal }) => [to, 'relays' in signal ? signal.relays : []])
  }
  const both = [
    { url: 'wss://a/relay', ms: 10 },
    { url: 'wss://b/relay', ms: 40 },
  ]
  t.same(told(), [['edge/n2', both]])
  t.same(told(), [], 'once')
  far['wss://a/relay'] = 12
  t.same(told(), [], 'jitter is not a change')
  sessions.push({ peer: 'edge/n3' })
  t.same(told(), [['edge/n3', both]], 'another session gets the same report as the first')
  listening = []
  t.same(told(), [], 'nowhere: it comes back to one of them')
  listening = ['wss://b/relay']
  t.same(told().length, 2, 'another list is a change')
  far['wss://b/relay'] = 60
  t.same(told()[1], ['edge/n3', [{ url: 'wss://b/relay', ms: 60 }]], 'so is another distance')

  t.equal(peerRelays.reach('edge/n2'), undefined)
  const says = (relays: object[], seen?: string) =>
    heard.get('here')?.({ from: 'edge/n2', signal: { type: 'here', relays }, seenAddress: seen } as never)
  says([{ url: 'wss://a/relay', ms: 5 }], '203.0.113.1')
  t.equal(peerRelays.reach('edge/n2'), undefined, 'what a relay says that it says does not count')
  says([{ url: 'wss://evil/relay' }, { url: 'wss://b/relay', ms: 5 }, { url: 'wss://a/relay', ms: 30 }])
  t.match(peerRelays.reach('edge/n2'), { addresses: [], relays: ['wss://b/relay', 'wss://a/relay'] })
  t.equal(peerRelays.reach('edge/n2')?.relays.length, 2, 'what is no relay is not kept')
  t.equal(peerRelays.throughMs('edge/n2', 'wss://b/relay'), 65)
  t.equal(peerRelays.nearer('edge/n2', 'wss://b/relay'), 'wss://a/relay')
  t.equal(peerRelays.nearer('edge/n2', 'wss://a/relay'), undefined)
  says([{ url: 'wss://a/relay', ms: 30 }])
  t.equal(peerRelays.nearer('edge/n2', 'wss://b/relay'), 'wss://a/relay', 'how far it was from one that it has left')
  t.match(peerRelays.reach('edge/n3'), { addresses: ['10.0.0.1:1'], relays: ['wss://b/relay'] }, 'the table’s')
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
  t.ok([...second.relay.listening].includes('edge/n2'))
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
  t.equal(await came.promise, 'relayed')
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
