import { createHash, randomBytes } from 'node:crypto'
import t from 'tap'
import { chooseRelays, orderRelays, type KnownRelay } from '../../proxy/paths/relays/relay-choice.ts'
import { measureRelay, relayedDialer } from '../../proxy/paths/relays/relayed-dialer.ts'
import { Relays } from '../../proxy/paths/relays/relays.ts'
import { staggered } from '../../src/core/kit/race.ts'
import type { ByteStream } from '../../proxy/tunnel/contract.ts'
import { openPeers, type PeersOptions, type TunnelPeers } from '../../proxy/tunnel/peers/peers.ts'
import type { HeldIdentity } from '../../src/core/identity/held.ts'
import { connectSecure, createAcceptor } from '../../src/core/identity/peer-tls.ts'
import { nodeIdOf } from '../../src/core/identity/principal.ts'
import { systemClock, type Clock } from '../../src/core/kit/clock.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { TestMesh } from '../identity/mesh.ts'
import { credentialsOf, RelaySite } from './site.ts'
import { until } from '../support/until.ts'

await using mesh = await TestMesh.create()
const edge = await mesh.cluster('edge')
const n1 = await mesh.node(edge, 'n1')
const n2 = await mesh.node(edge, 'n2')
const forever = new AbortController().signal
const idOf = ({ principal }: HeldIdentity) => (principal.role === 'node' ? nodeIdOf(principal) : '')

t.test('the nearest relays are chosen to listen at', async (t) => {
  const relay = (url: string, rttMs?: number, isAway = false): KnownRelay => ({ url, rttMs, isAway })
  const rows: { why: string; known: KnownRelay[]; current?: string[]; chosen: string[] }[] = [
    { why: 'none', known: [], chosen: [] },
    { why: 'the only one', known: [relay('a')], chosen: ['a'] },
    { why: 'the only one, although it is away', known: [relay('a', 5, true)], current: ['a'], chosen: ['a'] },
    { why: 'the nearest and a spare', known: [relay('a', 80), relay('b', 10), relay('c', 30)], chosen: ['b', 'c'] },
    { why: 'not measured is far', known: [relay('a'), relay('b', 10), relay('c', 30)], chosen: ['b', 'c'] },
    {
      why: 'in the given order while nothing is measured',
      known: [relay('a'), relay('b'), relay('c')],
      chosen: ['a', 'b'],
    },
    { why: 'away is last', known: [relay('a', 1, true), relay('b', 90), relay('c', 50)], chosen: ['c', 'b'] },
    { why: 'two that are away', known: [relay('a', 1, true), relay('b', 9, true)], chosen: ['a', 'b'] },
    {
      why: 'not worth moving for a tenth',
      known: [relay('a', 100), relay('b', 100), relay('c', 90)],
      current: ['a', 'b'],
      chosen: ['a', 'b'],
    },
    {
      why: 'nor for 2 ms',
      known: [relay('a', 3), relay('b', 3), relay('c', 1)],
      current: ['a', 'b'],
      chosen: ['a', 'b'],
    },
    {
      why: 'a third nearer is',
      known: [relay('a', 100), relay('b', 95), relay('c', 60)],
      current: ['a', 'b'],
      chosen: ['c', 'b'],
    },
    {
      why: 'what is first stays first while the other is hardly nearer',
      known: [relay('a', 21), relay('b', 20)],
      current: ['a', 'b'],
      chosen: ['a', 'b'],
    },
    {
      why: 'and goes when it is away',
      known: [relay('a', 1, true), relay('b', 20)],
      current: ['a', 'b'],
      chosen: ['b', 'a'],
    },
  ]
  for (const { why, known, current = [], chosen } of rows) t.same(chooseRelays(known, current, 2), chosen, why)
})

t.test('a dialler tries relays in the order of their expected latency', async (t) => {
  const far: Record<string, number> = { a: 60, b: 10 }
  const rows: [string, string[], string[]][] = [
    ['its own nearest, when the other node is near both', ['a', 'b'], ['b', 'a']],
    ['unknown ones in the other’s order', ['x', 'y'], ['x', 'y']],
    ['a known one before an unknown one', ['x', 'a'], ['a', 'x']],
    ['places count', ['x', 'y', 'z', 'a'], ['x', 'y', 'a', 'z']],
  ]
  for (const [why, listed, order] of rows)
    t.same(
      orderRelays(listed, (url) => far[url]),
      order,
      why,
    )
})

t.test('relays are dialled one after another, and overlap after a short delay', async (t) => {
  const discarded: string[] = []
  const how = { staggerMs: 5, clock: systemClock, discard: (late: string) => void discarded.push(late) }
  const never = (signal: AbortSignal) =>
    new Promise<string>((_resolve, reject) => signal.addEventListener('abort', () => reject(new Error('aborted'))))
  const fails = () => Promise.reject<string>(new Error('no'))
  t.equal(await staggered([fails, () => Promise.resolve('b')], how, forever), 'b', 'the next at once after a failure')
  t.equal(await staggered([never, () => Promise.resolve('b')], how, forever), 'b', 'and beside one that hangs')
  await t.rejects(staggered([fails, fails], how, forever), AggregateError)
  await t.rejects(staggered([], how, forever), AggregateError)
  const gone = new AbortController()
  const given = staggered([never], how, gone.signal)
  gone.abort(new Error('given up'))
  await t.rejects(given, { message: 'given up' })
  const late = Promise.withResolvers<string>()
  t.equal(await staggered([() => late.promise, () => Promise.resolve('b')], how, forever), 'b')
  late.resolve('a')
  await until(() => discarded.length > 0)
  t.same(discarded, ['a'], 'what comes late is thrown away')
})

t.test('a node listens at two relays, and replaces one that fails', async (t) => {
  await using a = await RelaySite.start(edge)
  const b = await RelaySite.start(edge)
  const gone = b.url
  await using c = await RelaySite.start(edge)
  let changes = 0
  await using relays = await Relays.start(
    {
      urls: [a.url],
      credentials: credentialsOf(n2),
      onConnection: () => undefined,
      onChange: () => (changes += 1),
      random: () => 0,
    },
    silentLog,
  )
  t.notOk(relays.isListening, 'nowhere before it is said')
  relays.listen()
  await until(() => relays.isListening)
  relays.update([a.url, b.url])
  await until(() => relays.listening.length === 2)
  t.same(relays.listening.toSorted(), [a.url, b.url].toSorted())
  await until(() => relays.rttMs(a.url) !== undefined && relays.rttMs(b.url) !== undefined)
  relays.update([a.url, b.url, c.url])
  await until(() => relays.rttMs(c.url) !== undefined)
  const before = changes
  await b[Symbol.asyncDispose]()
  await until(() => relays.listening.includes(c.url))
  t.notOk(relays.listening.includes(gone), 'the relay that is gone is no longer listened at')
  t.ok(changes > before, 'the change was announced')
  t.ok((await measureRelay(a.url, credentialsOf(n1), forever)) > 0, 'anybody measures')
  t.match(await relays.measureAll(2_000), [{ relay: a.url, rttMs: Number }, { relay: gone }, { rttMs: Number }])
  relays.update([a.url])
  await until(() => [...c.relay.listening].length === 0)
  t.same(relays.listening, [a.url], 'a relay that is no more is left')
})

t.test('flows continue through another relay without losing a byte', async (t) => {
  const a = await RelaySite.start(edge)
  await using b = await RelaySite.start(edge)
  await using pair = await Pair.start([a, b])
  const reply = pair.exchange(12 * 2 ** 20)
  await until(() => pair.received > 2 ** 20)
  t.equal(pair.near.existing(idOf(n2))?.path, 'relayed')
  const carried = await b.bytes()
  await a[Symbol.asyncDispose]()
  t.same(await reply, await pair.sent, 'nothing lost, nothing twice')
  t.ok((await b.bytes()) > carried, 'the other one carried the rest')
})

t.test('flows continue when the only relay restarts', async (t) => {
  const before = await RelaySite.start(edge)
  const { port } = before
  await using pair = await Pair.start([before])
  const reply = pair.exchange(12 * 2 ** 20)
  await until(() => pair.received > 2 ** 20)
  await before[Symbol.asyncDispose]()
  await using after = await RelaySite.start(edge, {}, port)
  t.same(await reply, await pair.sent, 'nothing lost, nothing twice')
  t.ok((await after.bytes()) > 0, 'the reply came through the new relay')
})

t.test('a session moves to a nearer relay without losing a byte', async (t) => {
  await using a = await RelaySite.start(edge)
  await using b = await RelaySite.start(edge)
  const nearer = (node: string, relay: string) => (node === idOf(n2) && relay === a.url ? b.url : undefined)
  await using pair = await Pair.start([a, b], { nearer, clock: fasterClock(4) })
  const moved = a.until(async () => (await b.open()) > 0 && (await a.open()) === 0)
  const reply = pair.exchange(4 * 2 ** 20, moved)
  await moved
  t.ok(pair.received > 0, 'while a stream was open')
  const carried = await b.bytes()
  t.same(await reply, await pair.sent, 'nothing lost, nothing twice')
  t.ok((await b.bytes()) > carried, 'the nearer one carried the rest')
})

/** A clock that runs `times` as fast as the system clock. */
function fasterClock(times: number): Clock {
  return {
    ...systemClock,
    now: () => systemClock.now() * times,
    sleep: (ms, signal) => systemClock.sleep(ms / times, signal),
    after: (ms, act) => systemClock.after(ms / times, act),
  }
}

/** Two nodes whose only path is relayed; `n2` sends back what it gets. */
class Pair implements AsyncDisposable {
  readonly near: TunnelPeers
  readonly #reach: { id: string; addresses: string[]; relays: string[] }
  readonly #life: Lifetime
  readonly #sent = Promise.withResolvers<string>()
  received = 0

  private constructor(near: TunnelPeers, relays: string[], life: Lifetime) {
    this.near = near
    this.#reach = { id: idOf(n2), addresses: [], relays }
    this.#life = life
  }

  static start(sites: RelaySite[], options: Pick<PeersOptions, 'nearer' | 'clock'> = {}): Promise<Pair> {
    return Lifetime.open(async (life) => {
      const urls = sites.map(({ url }) => url)
      const reach = (id: string) => ({ id, addresses: [], relays: urls })
      const peersOf = (node: HeldIdentity) => {
        const acceptor = life.use(createAcceptor(node))
        return life.use(
          openPeers({
            self: idOf(node),
            dialers: [relayedDialer({ credentials: credentialsOf(node) })],
            secure: {
              connect: ({ stream }, peer, signal) => connectSecure(stream, node, peer, signal),
              accept: ({ stream }) => acceptor.accept(stream),
            },
            accept: (incoming) => {
              let owed = 0
              const pay = () => {
                back.consumed(owed)
                owed = 0
              }
              const back: ByteStream = incoming.accept({
                data: (chunk) => {
                  owed += chunk.length
                  if (back.write(chunk)) pay()
                },
                end: () => back.end(),
                reset: () => undefined,
                drain: pay,
              })
            },
            reach,
            drainMs: 0,
            ...options,
          }),
        )
      }
      const [near, far] = [peersOf(n1), peersOf(n2)]
      for (const [node, peers] of [
        [n1, near],
        [n2, far],
      ] as const) {
        const options = { urls, credentials: credentialsOf(node), onConnection: peers.incoming.bind(peers) }
        const relays = life.use(await Relays.start(options, silentLog))
        relays.listen()
        await until(() => relays.listening.length === urls.length)
      }
      return new Pair(near, urls, life)
    })
  }

  /** The hash of what was sent. */
  get sent(): Promise<string> {
    return this.#sent.promise
  }

  /** Sends the data, its second half when allowed, and resolves to the hash of what came back. */
  async exchange(total: number, atHalf: Promise<unknown> = Promise.resolve()): Promise<string> {
    const session = await this.near.session(this.#reach, forever)
    const [there, back] = [createHash('sha256'), createHash('sha256')]
    const done = Promise.withResolvers<string>()
    let sent = 0
    const stream = session.open(Buffer.from('echo'), {
      opened: () => send(),
      refused: (refusal) => done.reject(new Error(refusal)),
      data: (chunk) => {
        back.update(chunk)
        this.received += chunk.length
        stream.consumed(chunk.length)
        if (this.received === total) done.resolve(back.digest('hex'))
      },
      end: () => undefined,
      reset: () => done.reject(new Error('reset')),
      drain: () => send(),
    })
    let limit = total / 2
    void atHalf.then(() => {
      limit = total
      send()
    })
    const send = () => {
      while (sent < limit) {
        const chunk = randomBytes(Math.min(65_536, total - sent))
        there.update(chunk)
        sent += chunk.length
        if (sent === total) this.#sent.resolve(there.digest('hex'))
        if (!stream.write(chunk)) return
      }
    }
    return done.promise
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}
