import { randomBytes } from 'node:crypto'
import { createSocket, type Socket as UdpSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { duplexPair, type Duplex } from 'node:stream'
import fc from 'fast-check'
import t from 'tap'
import {
  ExpectedConnections,
  presentNonce,
  readNonce,
  claimIfExpected,
} from '../../proxy/paths/expected-connections.ts'
import type { RawConnection } from '../../proxy/paths/contract.ts'
import { isPublic } from '../../proxy/paths/addresses.ts'
import { DialGuard, isFair } from '../../proxy/paths/dial-guard.ts'
import {
  isTlsServer,
  mappingOf,
  planBehindSameNat,
  PunchHistory,
  punchPlan,
  type NatBehavior,
  type PunchPlan,
} from '../../proxy/paths/nat/nat-behavior.ts'
import { SharedPort } from '../../proxy/paths/shared-port.ts'
import { HolePuncher } from '../../proxy/paths/punch/hole-puncher.ts'
import { answerDialRequests, reverseDialer } from '../../proxy/paths/reverse-path.ts'
import {
  MAX_SIGNAL_BYTES,
  natFromWire,
  natToWire,
  readSignal,
  Signals,
  type Signal,
} from '../../proxy/paths/signals.ts'
import { decodeAnswer, decodeQuestion, encodeAnswer, encodeQuestion } from '../../proxy/relay/wire/observation.ts'
import { Observer } from '../../proxy/relay/observer.ts'
import type { HeldIdentity } from '../../src/core/identity/held.ts'
import { CALLED_ALPN, connectSecure, createAcceptor } from '../../src/core/identity/peer-tls.ts'
import { nodeIdOf } from '../../src/core/identity/principal.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { TokenBucket } from '../../src/core/kit/token-bucket.ts'
import { TestMesh } from '../identity/mesh.ts'
import { printHostPort } from '../../src/core/kit/host-port.ts'
import { closed } from '../support/closed.ts'
import { until } from '../support/until.ts'

const forever = new AbortController().signal
const NONCE = 'ab'.repeat(16)
const strict: NatBehavior = { mapping: 'endpoint-independent', filtering: 'address-and-port-dependent' }
const open: NatBehavior = { mapping: 'endpoint-independent', filtering: 'address-dependent' }
const varies: NatBehavior = { mapping: 'address-and-port-dependent', filtering: 'unknown' }
const bare: NatBehavior = { mapping: 'none', filtering: 'address-dependent' }
const unknown: NatBehavior = { mapping: 'unknown', filtering: 'unknown' }

t.test('the mapping of a NAT follows from what observers see of one port', (t) => {
  const isOwn = (host: string) => host === '203.0.113.5'
  const by = (observer: string, host: string, port: number) => ({ observer, host, port })
  const rows = [
    { why: 'nothing is known when nobody answered', seen: [], is: 'unknown' },
    { why: 'one answer is not enough', seen: [by('a', '198.51.100.1', 1)], is: 'unknown' },
    { why: 'an answer with our own address means that there is no NAT', seen: [by('a', '203.0.113.5', 1)], is: 'none' },
    {
      why: 'the same address and port for two observers do not depend on the other end',
      seen: [by('a', '198.51.100.1', 1), by('b', '198.51.100.1', 1)],
      is: 'endpoint-independent',
    },
    {
      why: 'another port for each port of one observer',
      seen: [by('a', '198.51.100.1', 1), by('a', '198.51.100.1', 2)],
      is: 'address-and-port-dependent',
    },
    {
      why: 'the same for both ports of an observer, another for the other observer',
      seen: [by('a', '198.51.100.1', 1), by('a', '198.51.100.1', 1), by('b', '198.51.100.1', 2)],
      is: 'address-dependent',
    },
    {
      why: 'another port for each observer, of which one port each answered: the worse is assumed',
      seen: [by('a', '198.51.100.1', 1), by('b', '198.51.100.1', 2)],
      is: 'address-and-port-dependent',
    },
    {
      why: 'another address for each',
      seen: [by('a', '198.51.100.1', 1), by('a', '198.51.100.2', 1)],
      is: 'address-and-port-dependent',
    },
  ]
  for (const { why, seen, is } of rows) t.equal(mappingOf(seen, isOwn), is, why)
  t.end()
})

t.test('NAT behavior keeps its wire encoding, and decodes to the more cautious value', (t) => {
  const behavior = { mapping: 'address-dependent', filtering: 'endpoint-independent' } as const
  t.same(
    natToWire(behavior),
    { mapping: 'varies', filtering: 'open' },
    'the encoding has one word for every NAT that varies, and one for every filter that is open to some',
  )
  t.same(
    natFromWire(natToWire(behavior)),
    { mapping: 'address-and-port-dependent', filtering: 'address-dependent' },
    'what the encoding leaves out is read as the more cautious value',
  )
  for (const one of [strict, open, varies, bare, unknown])
    t.same(
      natFromWire(natToWire(one)),
      one,
      `the NAT with mapping ${one.mapping} and filtering ${one.filtering} is read as it was written`,
    )
  t.end()
})

t.test('both sides choose the same rendezvous method', async (t) => {
  const rows: [string, NatBehavior, NatBehavior, PunchPlan, PunchPlan][] = [
    ['two home routers punch at the same time', strict, strict, 'simultaneous', 'simultaneous'],
    [
      'a firewall and a router punch at the same time',
      { mapping: 'none', filtering: 'address-and-port-dependent' },
      strict,
      'simultaneous',
      'simultaneous',
    ],
    ['a cone listens for a symmetric NAT', open, varies, 'listen', 'dial'],
    ['a public node listens for a symmetric NAT', bare, varies, 'listen', 'dial'],
    ['a home router and a symmetric NAT cannot punch', strict, varies, 'impossible', 'impossible'],
    ['two symmetric NATs cannot punch', varies, varies, 'impossible', 'impossible'],
    ['nothing is tried when one NAT is not known', strict, unknown, 'impossible', 'impossible'],
  ]
  for (const [why, mine, theirs, ours, other] of rows) {
    t.equal(punchPlan(mine, theirs), ours, why)
    t.equal(punchPlan(theirs, mine), other, `${why}, the other side`)
    if (ours !== 'impossible')
      t.not(isTlsServer(ours, 'c/a', 'c/b'), isTlsServer(other, 'c/b', 'c/a'), `${why}: one of them is the server`)
  }
})

t.test('behind one NAT the hairpin decides the method, and one side waits', async (t) => {
  const rows: [PunchPlan, boolean | undefined, PunchPlan, PunchPlan][] = [
    ['simultaneous', true, 'listen', 'dial'],
    ['simultaneous', undefined, 'listen', 'dial'],
    ['simultaneous', false, 'impossible', 'impossible'],
    ['impossible', true, 'impossible', 'impossible'],
    ['listen', true, 'listen', 'listen'],
  ]
  for (const [plan, leadsBack, higher, lower] of rows) {
    t.equal(
      planBehindSameNat(plan, leadsBack, true),
      higher,
      `${plan}, hairpin ${leadsBack}: the side with the higher id does this`,
    )
    t.equal(
      planBehindSameNat(plan, leadsBack, false),
      lower,
      `${plan}, hairpin ${leadsBack}: the side with the lower id does this`,
    )
  }
})

t.test('a method that failed often is not tried until the failures are forgotten', async (t) => {
  const history = new PunchHistory()
  for (let i = 0; i < 6; i++) {
    t.ok(history.isWorthTrying(strict, strict, i), `after ${i} failures it is worth another try`)
    history.record(strict, strict, false, i)
  }
  t.notOk(history.isWorthTrying(strict, strict, 6), 'after six failures it is not')
  t.ok(history.isWorthTrying(strict, open, 6), 'another pair of NATs is worth a try')
  t.ok(history.isWorthTrying(strict, strict, 8 * 24 * 3_600_000), 'eight days later it is worth a try again')
  history.record(open, open, true, 0)
  for (let i = 0; i < 6; i++) history.record(open, open, false, 1)
  t.notOk(history.isWorthTrying(open, open, 2), 'six failures count also when it worked once before')
})

t.test('signals are checked on arrival', async (t) => {
  const good: Signal[] = [
    { type: 'dial-me', nonce: NONCE, addresses: ['203.0.113.5:7472', '[2001:db8::5]:7472'] },
    { type: 'punch-connect', nonce: NONCE, attempt: 1, address: '203.0.113.5:4000', nat: natToWire(strict) },
    {
      type: 'punch-accept',
      nonce: NONCE,
      attempt: 1,
      address: '203.0.113.5:4000',
      nat: natToWire(varies),
      heldMs: 3.5,
    },
    { type: 'punch-sync', nonce: NONCE, attempt: 3 },
    { type: 'punch-refuse', nonce: NONCE, attempt: 3, nat: natToWire(unknown) },
  ]
  for (const signal of good)
    t.same(readSignal(JSON.stringify(signal)), signal, `a ${signal.type} is read as it was written`)
  const bad: [string, unknown][] = [
    ['a type nobody knows', { type: 'format-disk', nonce: NONCE }],
    ['a short nonce', { type: 'punch-sync', nonce: 'ab', attempt: 1 }],
    ['something beside', { type: 'punch-sync', nonce: NONCE, attempt: 1, from: 'c/root' }],
    ['a name to look up', { type: 'dial-me', nonce: NONCE, addresses: ['victim.example:80'] }],
    [
      'too many addresses',
      { type: 'dial-me', nonce: NONCE, addresses: Array.from({ length: 5 }, () => '203.0.113.5:80') },
    ],
    ['none', { type: 'dial-me', nonce: NONCE, addresses: [] }],
    ['time that runs backwards', { ...good[2], heldMs: -1 }],
  ]
  for (const [why, signal] of bad) t.throws(() => readSignal(JSON.stringify(signal)), { code: 'MESSAGE_INVALID' }, why)
  t.throws(
    () => readSignal(' '.repeat(MAX_SIGNAL_BYTES) + JSON.stringify(good[3])),
    { code: 'MESSAGE_INVALID' },
    'a signal that is too long is refused',
  )
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.json()), (text) => {
      try {
        readSignal(text)
        return false
      } catch (error) {
        return (error as { code?: string }).code === 'MESSAGE_INVALID'
      }
    }),
    { numRuns: 300 },
  )
})

t.test('signals take the expected route and are limited in number', async (t) => {
  const sent: string[] = []
  const heard: string[] = []
  const state = { session: false, relays: ['wss://r/relay'], now: 0 }
  const signals = new Signals({
    overSession: (to) => state.session && sent.push(`session ${to}`) > 0,
    hasSession: () => state.session,
    overRelay: (to, _, theirs) => state.relays.some((url) => theirs.includes(url)) && sent.push(`relay ${to}`) > 0,
    listening: () => state.relays,
    now: () => state.now,
  })
  const sync: Signal = { type: 'punch-sync', nonce: NONCE, attempt: 1 }
  const dialMe: Signal = { type: 'dial-me', nonce: NONCE, addresses: ['203.0.113.5:7472'] }
  const there = { id: 'c/b', relays: ['wss://r/relay'] }
  const elsewhere = { id: 'c/b', relays: ['wss://other/relay'] }
  t.ok(signals.canReach(there), 'a node at a relay where we listen can be reached')
  t.notOk(signals.canReach(elsewhere), 'a node without a relay in common cannot be reached')
  t.notOk(signals.send(elsewhere, sync), 'a signal is not sent without a session or a relay in common')
  t.ok(signals.send(there, sync), 'a signal is sent through the relay in common')
  state.session = true
  signals.send(there, sync)
  signals.send(there, dialMe)
  t.ok(signals.send(elsewhere, dialMe), 'a signal with addresses is sent over the session where no relay is in common')
  t.same(
    sent,
    ['relay c/b', 'session c/b', 'relay c/b', 'session c/b'],
    'what names addresses is vouched for where it can be',
  )

  signals.on('punch-sync', ({ from, seenAddress }) => heard.push(`${from} ${seenAddress ?? '-'}`))
  const text = Buffer.from(JSON.stringify(sync))
  signals.fromSession('c/b', text)
  signals.fromRelay({ from: 'c/d', seenAddress: '203.0.113.9', body: text.toString(), relay: 'wss://r/relay' })
  t.same(heard, ['c/b -', 'c/d 203.0.113.9'], 'a signal of a session has no seen address, and one of a relay has')
  signals.fromSession('c/b', Buffer.from(JSON.stringify(dialMe)))
  signals.fromSession('c/b', randomBytes(100))
  t.equal(signals.dropped, 2, 'a signal that nobody listens for, and one that nobody understands, are dropped')
  for (let i = 0; i < 100; i++) signals.fromSession('c/e', text)
  t.equal(heard.filter((line) => line.startsWith('c/e')).length, 20, 'at most twenty of one node are heard at once')
  state.now += 1_000
  for (let i = 0; i < 100; i++) signals.fromSession('c/e', text)
  t.equal(heard.filter((line) => line.startsWith('c/e')).length, 25, 'five more are heard a second later')
})

t.test('a token bucket allows its burst and then its rate', async (t) => {
  let at = 0
  const bucket = new TokenBucket({ perSecond: 2, burst: 3, now: () => at })
  const take = (now: number) => {
    at = now
    return bucket.tryTake()
  }
  t.same([0, 0, 0, 0].map(take), [true, true, true, false], 'three at once are allowed, and not a fourth')
  t.same([499, 500, 501].map(take), [false, true, false], 'after that one in half a second')
  t.same(
    [99_000, 99_000, 99_000, 99_000].map(take),
    [true, true, true, false],
    'after a long rest three at once again, and no more',
  )
})

t.test('a peer can make us dial only permitted addresses', async (t) => {
  const rows: { why: string; address: string; seen?: string; claimed?: string[]; may: boolean }[] = [
    { why: 'where the relay sees it', address: '203.0.113.5:40000', seen: '203.0.113.5', may: true },
    { why: 'somebody else', address: '203.0.113.6:40000', seen: '203.0.113.5', may: false },
    { why: 'no relay vouches: few and far between', address: '203.0.113.6:40000', may: true },
    { why: 'somebody’s service', address: '203.0.113.6:443', may: false },
    { why: 'its own, by the table', address: '203.0.113.6:443', claimed: ['203.0.113.6:443'], may: true },
    { why: 'our own network', address: '192.168.1.1:8080', may: false },
    { why: 'also when it claims it', address: '192.168.1.1:8080', claimed: ['192.168.1.1:8080'], may: false },
    { why: 'this machine', address: '127.0.0.1:7480', may: false },
    { why: 'this machine, otherwise', address: '[::ffff:127.0.0.1]:7480', may: false },
    { why: 'this machine by IPv6', address: '[::1]:7480', may: false },
    { why: 'the cloud’s metadata', address: '169.254.169.254:8080', may: false },
    { why: 'a neighbour', address: '[fe80::1]:8080', may: false },
    { why: 'everybody', address: '224.0.0.1:8080', may: false },
    { why: 'a provider’s own', address: '100.64.3.4:8080', may: false },
    { why: 'a name', address: 'localhost:8080', may: false },
    { why: 'another family than the relay sees', address: '203.0.113.6:40000', seen: '2001:db8::1', may: true },
  ]
  for (const { why, address, seen, claimed = [], may } of rows) {
    const guard = new DialGuard({
      reach: (id) => ({ id, addresses: claimed, relays: [] }),
      exclude: () => false,
      now: () => 0,
    })
    t.equal(
      guard.allowed({ from: 'c/b', seenAddress: seen }, [address], 1).length,
      may ? 1 : 0,
      `${why}: ${address} is ${may ? 'dialled' : 'not dialled'}`,
    )
  }
  t.notOk(isPublic('10.0.0.1'), 'a private address is not public')
  t.ok(isPublic('2001:db8::1'), 'an address of the internet is public')
  t.notOk(isFair('203.0.113.5:99999', undefined, []), 'a port that cannot be is refused')

  const state = { now: 0 }
  const guard = new DialGuard({
    reach: () => undefined,
    exclude: (host) => host === '203.0.113.77',
    now: () => state.now,
  })
  const ask = (from: string, address: string) => guard.allowed({ from, seenAddress: undefined }, [address], 3).length
  t.equal(ask('c/b', '203.0.113.77:8080'), 0, 'an address of our own overlay')
  let dialled = 0
  for (let i = 0; i < 100; i++) dialled += ask('c/b', `203.0.113.${i % 50}:8080`)
  t.equal(dialled, 8, 'one node makes us dial so often')
  dialled = 0
  for (let i = 0; i < 100; i++) dialled += ask(`c/n${i}`, '198.51.100.1:8080')
  t.equal(dialled, 16, 'and many nodes one victim so often')
  dialled = 0
  for (let i = 0; i < 1_000; i++) dialled += ask(`c/m${i}`, `198.51.${i >> 8}.${i & 255}:8080`)
  t.ok(dialled <= 100, `${dialled}: and all together so often`)
})

t.test('a connection is matched to the call whose nonce it presents, once, and only from that node', async (t) => {
  const calls = new ExpectedConnections()
  const arrive = async (peer: string, nonce: string) => {
    const [near, far] = duplexPair()
    near.on('error', () => undefined)
    far.on('error', () => undefined)
    presentNonce(near, nonce)
    near.write('and what follows')
    const sorted = await claimIfExpected(calls, { peer, stream: far, isCalled: true }).catch((error: unknown) => error)
    return { sorted, far }
  }
  using call = calls.expect('c/b')
  t.match((await arrive('c/b', NONCE)).sorted, { code: 'PEER_REFUSED' }, 'a nonce that nobody gave')
  const thief = await arrive('c/d', call.nonce)
  t.match(thief.sorted, { code: 'PEER_REFUSED' }, 'another node with that nonce')
  t.ok(thief.far.destroyed, 'the connection of the thief is closed')
  const right = await arrive('c/b', call.nonce)
  t.equal(right.sorted, undefined, 'the connection of the right node is taken')
  const stream = await call.arrived
  t.equal(stream, right.far, 'the call gets that very connection')
  t.equal(String(stream.read()), 'and what follows', 'nothing of what follows is lost')
  t.match((await arrive('c/b', call.nonce)).sorted, { code: 'PEER_REFUSED' }, 'a second time')
  const given = calls.expect('c/b')
  given[Symbol.dispose]()
  t.match((await arrive('c/b', given.nonce)).sorted, { code: 'PEER_REFUSED' }, 'too late')
  t.equal(calls.size, 0, 'no call is left')

  const [near, far] = duplexPair()
  const reading = readNonce(far).catch((error: unknown) => error)
  near.end('short')
  t.match(await reading, { code: 'PEER_REFUSED' }, 'a nonce that is cut short is refused')
  const many = Array.from({ length: 256 }, () => calls.expect('c/b'))
  t.throws(() => calls.expect('c/b'), { code: 'NO_PATH' }, 'bounded')
  for (const one of many) one[Symbol.dispose]()
  const plain = await claimIfExpected(calls, { peer: 'c/b', stream: far, isCalled: false })
  t.equal(plain?.peer, 'c/b', 'others are let through')
})

const TOKEN = '11'.repeat(16)

/** An observer, a UDP socket that was admitted to it, and the answers that the socket has received. */
class Asker implements AsyncDisposable {
  readonly observer: Observer
  readonly ports: readonly [number, number]
  readonly cookie: string
  readonly answers: { bytes: Buffer; port: number }[] = []
  readonly #udp: UdpSocket

  private constructor(observer: Observer, udp: UdpSocket) {
    this.observer = observer
    const { ports, cookie } = observer.admit()
    this.ports = ports
    this.cookie = cookie
    this.#udp = udp
    udp.on('message', (bytes, from) => this.answers.push({ bytes, port: from.port }))
  }

  static async start(): Promise<Asker> {
    const observer = await Observer.start({ host: '127.0.0.1', port: 0 }, silentLog)
    const udp = createSocket('udp4')
    udp.bind(0, '127.0.0.1')
    await once(udp, 'listening')
    return new Asker(observer, udp)
  }

  get ownPort(): number {
    return this.#udp.address().port
  }

  question(what: number, cookie = this.cookie): Buffer {
    return encodeQuestion({ ask: what, cookie, token: TOKEN })
  }

  ask(bytes: Buffer, port: number): Promise<void> {
    return new Promise((resolve) => this.#udp.send(bytes, port, '127.0.0.1', () => resolve()))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new Promise<void>((resolve) => this.#udp.close(() => resolve()))
    await this.observer[Symbol.asyncDispose]()
  }
}

t.test('an observer tells over UDP the address that it sees', async (t) => {
  await using asker = await Asker.start()
  const { answers, ports } = asker
  await asker.ask(asker.question(0), ports[0])
  await asker.ask(asker.question(0), ports[1])
  await until(() => answers.length === 2)
  for (const { bytes } of answers) {
    const seen = { host: '127.0.0.1', port: asker.ownPort, token: TOKEN, heard: undefined }
    t.same(decodeAnswer(bytes), seen, 'the answer names the address of the socket, and repeats its token')
    t.ok(bytes.length <= asker.question(0).length, 'an answer is never longer than the question')
  }
  await asker.ask(asker.question(1), ports[0])
  await until(() => answers.length === 3)
  t.notOk(ports.includes(answers[2]!.port), 'the answer comes from a third port when the question says so')
})

t.test('an observer gives strangers no answer', async (t) => {
  await using asker = await Asker.start()
  const { answers, ports, observer } = asker
  const good = asker.question(0)
  await asker.ask(asker.question(0, '00'.repeat(16)), ports[0])
  await asker.ask(good.subarray(0, 39), ports[0])
  await asker.ask(Buffer.concat([good, Buffer.alloc(1)]), ports[0])
  await asker.ask(randomBytes(40), ports[0])
  const other = observer.admit()
  observer.forget(other.cookie)
  await asker.ask(asker.question(0, other.cookie), ports[0])
  await asker.ask(good, ports[0]) // the last one is answered: those before were not
  await until(() => answers.length > 0)
  t.equal(answers.length, 1, 'of six questions only the last, with a cookie that is known, is answered')
})

t.test('an observer answers one node only so often', async (t) => {
  await using asker = await Asker.start()
  const { answers, ports, observer } = asker
  for (let i = 0; i < 200; i++) await asker.ask(asker.question(0), ports[1])
  await asker.ask(asker.question(0, observer.admit().cookie), ports[0])
  await until(() => answers.some(({ port }) => port === ports[0]))
  t.ok(answers.length < 60, `fewer than 60 of 200 questions are answered: ${answers.length}`)
})

t.test('an observer answers over TCP, and tells whether the port that asks can be reached', async (t) => {
  await using asker = await Asker.start()
  const { ports, cookie } = asker
  const place = { host: '127.0.0.1', port: ports[0], cookie }
  using port = new SharedPort('127.0.0.1')
  const seen = await port.query(place, { ask: 0, cookie, token: TOKEN }, forever)
  t.match(seen, { host: '127.0.0.1', port: port.port, heard: undefined }, 'the answer names the address of the port')
  using listening = new SharedPort('127.0.0.1')
  listening.listen((socket) => socket.destroy())
  const ofListening = await listening.query(place, { ask: 1, cookie, token: TOKEN }, forever)
  t.equal(ofListening.heard, true, 'a port that listens is reached')
  using deaf = new SharedPort('127.0.0.1')
  const ofDeaf = await deaf.query(place, { ask: 1, cookie, token: TOKEN }, forever)
  t.equal(ofDeaf.heard, false, 'a port that does not listen is not reached')
})

t.test('an observer closes a TCP connection of a stranger without a byte', async (t) => {
  await using asker = await Asker.start()
  const { ports, cookie } = asker
  using port = new SharedPort('127.0.0.1')
  const place = { host: '127.0.0.1', port: ports[1], cookie }
  const asked = port.query(place, { ask: 0, cookie: NONCE, token: TOKEN }, forever)
  await t.rejects(asked, 'a question with an unknown cookie is not answered')
  const rude = connect(ports[0], '127.0.0.1')
  rude.write('GET / HTTP/1.1\r\nHost: observer.example\r\nAccept: */*\r\n\r\n')
  await closed(rude.resume())
  t.equal(rude.bytesRead, 0, 'a malformed request gets no bytes')
})

t.test('an answer of an observer is read as it was written, and no bytes make its reader throw', async (t) => {
  for (const host of ['203.0.113.5', '2001:db8::5', '::1', '2001:db8:1:2:3:4:5:6']) {
    const back = decodeAnswer(encodeAnswer({ host, port: 4_711, token: TOKEN, heard: true }))
    const url = new URL(`http://${back!.host.includes(':') ? `[${back!.host}]` : back!.host}`)
    t.equal(url.hostname.replace(/[[\]]/g, ''), host, `the host ${host} is read back`)
    t.match(back, { port: 4_711, heard: true, token: TOKEN }, `port, token and finding are read back with ${host}`)
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => {
      decodeAnswer(Buffer.from(bytes))
      decodeQuestion(Buffer.from(bytes))
    }),
    { numRuns: 300 },
  )
})

// ── both ends ──

await using mesh = await TestMesh.create()
const cluster = await mesh.cluster('edge')
const identities = [
  await mesh.node(cluster, 'n1'),
  await mesh.node(cluster, 'n2'),
  await mesh.node(cluster, 'n3'),
] as const

/** One node: signals straight to the others, TLS as agents have it, and a port where it takes connections. */
class Node implements AsyncDisposable {
  readonly id: string
  readonly calls = new ExpectedConnections()
  readonly signals: Signals
  readonly guard: DialGuard
  readonly incoming: RawConnection[] = []
  readonly sent: Signal[] = []
  readonly identity: HeldIdentity
  nat: NatBehavior = strict
  nat6: NatBehavior = unknown
  leadsBack: boolean | undefined = true
  seen = '127.0.0.1'
  readonly #acceptor: ReturnType<typeof createAcceptor>
  readonly #closing = new AbortController()
  #server!: Server

  private constructor(identity: HeldIdentity, nodes: Map<string, Node>) {
    this.identity = identity
    this.id = identity.principal.role === 'node' ? nodeIdOf(identity.principal) : ''
    this.#acceptor = createAcceptor(identity)
    this.guard = new DialGuard({
      reach: () => undefined,
      exclude: () => false,
      now: () => performance.now(),
      isPublic: (host) => host === '127.0.0.1' || host === '::1',
    })
    this.signals = new Signals({
      overSession: () => false,
      hasSession: () => false,
      overRelay: (to, body) => {
        this.sent.push(readSignal(body))
        setImmediate(() =>
          nodes.get(to)?.signals.fromRelay({ from: this.id, seenAddress: this.seen, body, relay: 'wss://r' }),
        )
        return true
      },
      listening: () => ['wss://r'],
      now: () => performance.now(),
    })
    nodes.set(this.id, this)
  }

  static async start(identity: HeldIdentity, nodes: Map<string, Node>): Promise<Node> {
    const node = new Node(identity, nodes)
    node.#server = createServer({ allowHalfOpen: true }, (socket) => {
      socket.on('error', () => undefined)
      void node.claim({ path: 'direct', stream: socket, via: 'listener' }).catch(() => socket.destroy())
    })
    node.#server.listen(0, '127.0.0.1')
    await once(node.#server, 'listening')
    answerDialRequests({
      signals: node.signals,
      guard: node.guard,
      present: node.present,
      incoming: (raw) => node.incoming.push(raw),
      closing: node.#closing.signal,
      log: silentLog,
    })
    return node
  }

  get address(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  readonly claim = async (raw: RawConnection) =>
    await claimIfExpected(this.calls, await this.#acceptor.accept(raw.stream))

  readonly present = async (raw: RawConnection, peer: string, nonce: string, signal: AbortSignal): Promise<Duplex> => {
    const stream = await connectSecure(raw.stream, this.identity, peer, signal, CALLED_ALPN)
    presentNonce(stream, nonce)
    return stream
  }

  punching(): HolePuncher {
    return new HolePuncher({
      self: this.id,
      signals: this.signals,
      expected: this.calls,
      guard: this.guard,
      history: new PunchHistory(),
      nat: (family) => (family === 'ipv4' ? this.nat : this.nat6),
      hairpins: () => this.leadsBack,
      openPort: (family) => {
        const host = family === 'ipv4' ? '127.0.0.1' : '::1'
        const port = new SharedPort(host)
        return Promise.resolve({
          port,
          address: printHostPort(host, port.port),
          [Symbol.dispose]: () => port[Symbol.dispose](),
        })
      },
      present: this.present,
      serve: this.claim,
      incoming: (raw) => this.incoming.push(raw),
      closing: this.#closing.signal,
      clock: systemClock,
      log: silentLog,
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort()
    this.#acceptor[Symbol.dispose]()
    for (const { stream } of this.incoming) stream.destroy()
    await new Promise((resolve) => this.#server.close(resolve))
  }
}

const reach = (id: string) => ({ id, addresses: [], relays: ['wss://r'] })

/** Bytes go both ways. */
async function speaks(near: Duplex, far: Duplex): Promise<string> {
  near.on('error', () => undefined)
  far.on('error', () => undefined)
  const heard = once(far, 'data')
  const answered = once(near, 'data')
  near.write('there')
  far.write('back')
  return `${String((await heard)[0])} and ${String((await answered)[0])}`
}

t.test('reverse: a node that cannot be dialled dials back', async (t) => {
  const nodes = new Map<string, Node>()
  await using a = await Node.start(identities[0], nodes)
  await using b = await Node.start(identities[1], nodes)
  const dialer = reverseDialer({ signals: a.signals, expected: a.calls, reachable: () => [a.address] })
  t.ok(dialer.suits(reach(b.id)), 'a node that can be signalled suits')
  t.notOk(dialer.suits({ ...reach(b.id), relays: [] }), 'nobody carries the signal')
  t.notOk(
    reverseDialer({ signals: a.signals, expected: a.calls, reachable: () => [] }).suits(reach(b.id)),
    'where we cannot be reached ourselves, no node suits',
  )
  const raw = await dialer.dial(reach(b.id), forever)
  t.match(raw, { path: 'reverse', proven: b.id }, 'the connection is a reverse one, and the peer has proven who it is')
  await until(() => b.incoming.length === 1)
  t.match(b.incoming[0], { path: 'direct', proven: a.id }, 'the other side sees a direct connection, and who we are')
  t.equal(await speaks(raw.stream, b.incoming[0]!.stream), 'there and back', 'bytes pass both ways')
  t.equal(a.calls.size, 0, 'no call is left')
  raw.stream.destroy()
})

t.test('reverse: forged and spoofed signals cause no connection', async (t) => {
  const nodes = new Map<string, Node>()
  await using a = await Node.start(identities[0], nodes)
  await using b = await Node.start(identities[1], nodes)
  await using c = await Node.start(identities[2], nodes)
  const calls: Socket[] = []
  const victim = createServer((socket) => calls.push(socket.on('error', () => undefined)))
  victim.listen(0, '127.0.0.1')
  await once(victim, 'listening')
  const victimAddress = `127.0.0.1:${(victim.address() as AddressInfo).port}`

  const ask = (from: Node, addresses: string[], nonce = NONCE) =>
    from.signals.send(reach(b.id), { type: 'dial-me', nonce, addresses })

  // the relay sees the sender elsewhere: it claims another's address
  c.seen = '203.0.113.9'
  ask(c, [victimAddress])
  await until(() => b.guard.refused === 1)
  t.equal(calls.length, 0, 'nobody dialled')

  // a victim at the sender's own address: a few calls, and nothing is said there but a TLS greeting
  c.seen = '127.0.0.1'
  for (let i = 0; i < 60; i++) {
    ask(c, [victimAddress])
    await new Promise((resolve) => setImmediate(resolve))
  }
  await until(() => calls.length > 0)
  t.ok(calls.length <= 8, `${calls.length} of 60`)
  for (const socket of calls) socket.destroy()
  victim.on('connection', (socket) => socket.destroy()) // one that nobody reads keeps the server from closing

  // c asks b to dial a: b finds out by the certificate, a by the nonce
  ask(c, [a.address])
  using call = a.calls.expect(b.id)
  let isArrived = false
  void call.arrived.then(() => (isArrived = true))
  const raw = connect({ port: Number(a.address.split(':')[1]), host: '127.0.0.1', allowHalfOpen: true })
  await once(raw, 'connect')
  const stream = await c.present({ path: 'direct', stream: raw, via: '' }, a.id, call.nonce, forever)
  stream.on('error', () => undefined).resume()
  await once(stream, 'end')
  stream.destroy()
  t.notOk(isArrived, 'the right nonce from the wrong node is nothing')
  t.equal(b.incoming.length, 0, 'no connection came in')
  await new Promise((resolve) => victim.close(resolve))
})

t.test('punched: both sides dial at the same moment and connect', async (t) => {
  const pairs: [string, NatBehavior, NatBehavior][] = [
    ['two home routers', strict, strict],
    ['a symmetric NAT calls a cone', varies, open],
    ['a cone waits for a symmetric NAT', open, varies],
  ]
  for (const [why, mine, theirs] of pairs) {
    for (const [one, other] of [
      [identities[0], identities[1]],
      [identities[1], identities[0]],
    ] as const) {
      const nodes = new Map<string, Node>()
      await using a = await Node.start(one, nodes)
      await using b = await Node.start(other, nodes)
      a.nat = mine
      b.nat = theirs
      const { dialer } = a.punching()
      b.punching()
      t.ok(dialer.suits(reach(b.id)), 'a node that can be signalled suits')
      const raw = await dialer.dial(reach(b.id), forever)
      t.match(raw, { path: 'punched', proven: b.id }, `${why}, ${a.id} begins`)
      await until(() => b.incoming.length === 1)
      t.match(
        b.incoming[0],
        { path: 'punched', proven: a.id },
        'the other side sees a punched connection, and who we are',
      )
      t.equal(await speaks(raw.stream, b.incoming[0]!.stream), 'there and back', 'bytes pass both ways')
      raw.stream.destroy()
    }
  }
})

t.test('punched: firewalls are passed by IPv6 where both sides have it, otherwise by IPv4', async (t) => {
  const firewall: NatBehavior = { mapping: 'none', filtering: 'address-and-port-dependent' }
  const both = (id: string) => ({ ...reach(id), addresses: ['192.168.1.5:7472', '[2001:db8::5]:7472'] })
  const rows = [
    { why: 'both have it', mine: firewall, theirs: firewall, by: /^\[::1\]:/, connects: ['[::1]'] },
    { why: 'they do not see it', mine: firewall, theirs: unknown, by: /^127/, connects: ['[::1]', '127.0.0.1'] },
    { why: 'we do not', mine: unknown, theirs: firewall, by: /^127/, connects: ['127.0.0.1'] },
  ]
  for (const { why, mine, theirs, by, connects } of rows) {
    const nodes = new Map<string, Node>()
    await using a = await Node.start(identities[0], nodes)
    await using b = await Node.start(identities[1], nodes)
    a.nat6 = mine
    b.nat6 = theirs
    a.seen = mine === firewall ? '::1' : '127.0.0.1'
    const { dialer } = a.punching()
    b.punching()
    const raw = await dialer.dial(both(b.id), forever)
    t.match(raw.via, by, why)
    const told = a.sent.flatMap((signal) =>
      signal.type === 'punch-connect' ? signal.address.replace(/:\d+$/, '') : [],
    )
    t.same(told, connects, `${why}: one signal for each family`)
    raw.stream.destroy()
  }
  const nodes = new Map<string, Node>()
  await using a = await Node.start(identities[0], nodes)
  a.nat = unknown
  a.nat6 = firewall
  const { dialer } = a.punching()
  t.ok(dialer.suits(both('edge/n9')), 'a node suits at first')
  t.notOk(dialer.suits({ ...reach('edge/n9'), addresses: ['192.168.1.5:7472'] }), 'no family in common')
})

t.test('punched: two nodes behind one NAT connect only where it hairpins', async (t) => {
  const nodes = new Map<string, Node>()
  await using a = await Node.start(identities[0], nodes)
  await using b = await Node.start(identities[1], nodes)
  const { dialer } = a.punching()
  b.punching()
  b.leadsBack = false
  await t.rejects(dialer.dial(reach(b.id), forever), {
    code: 'NO_PATH',
    details: { reason: /cannot be brought together/ },
  })
  t.same(
    [...a.sent, ...b.sent].map(({ type }) => type),
    ['punch-connect', 'punch-refuse'],
    'no SYN is sent, and none asked for',
  )
  t.notOk(dialer.suits(reach(b.id)), 'left alone for a while')
  a.leadsBack = undefined
  b.leadsBack = true
  await using c = await Node.start(identities[2], nodes)
  c.punching()
  const raw = await dialer.dial(reach(c.id), forever)
  t.match(raw, { path: 'punched', proven: c.id }, 'not measured: tried')
  await until(() => c.incoming.length === 1)
  t.equal(await speaks(raw.stream, c.incoming[0]!.stream), 'there and back', 'bytes pass both ways')
  raw.stream.destroy()
})

t.test('punched: a hopeless pair is detected with one signal and remembered', async (t) => {
  const nodes = new Map<string, Node>()
  await using a = await Node.start(identities[0], nodes)
  await using b = await Node.start(identities[1], nodes)
  b.nat = varies
  const { dialer } = a.punching()
  b.punching()
  await t.rejects(dialer.dial(reach(b.id), forever), {
    code: 'NO_PATH',
    details: { reason: /cannot be brought together/ },
  })
  t.same(
    a.sent.map(({ type }) => type),
    ['punch-connect'],
    'asked once',
  )
  t.notOk(dialer.suits(reach(b.id)), 'and not again')
  a.nat = unknown
  t.notOk(dialer.suits(reach('edge/n9')), 'nothing is tried while we know nothing of ourselves')
})

t.test('punched: a peer cannot aim dials at a victim or repeat them without limit', async (t) => {
  const nodes = new Map<string, Node>()
  await using a = await Node.start(identities[0], nodes)
  await using b = await Node.start(identities[1], nodes)
  await using c = await Node.start(identities[2], nodes)
  let calls = 0
  const victim = createServer((socket) => {
    calls += 1
    socket.on('error', () => undefined).destroy()
  })
  victim.listen(0, '127.0.0.1')
  await once(victim, 'listening')
  const address = `127.0.0.1:${(victim.address() as AddressInfo).port}`

  // the relay sees it elsewhere than it says
  b.seen = '203.0.113.9'
  b.signals.on('punch-connect', ({ signal: { nonce, attempt }, reply }) => {
    reply({ type: 'punch-accept', nonce, attempt, address, nat: natToWire(open), heldMs: 0 })
  })
  await t.rejects(a.punching().dialer.dial(reach(b.id), forever), {
    code: 'NO_PATH',
    details: { reason: /may not be dialled/ },
  })
  t.equal(calls, 0, 'the victim hears nothing')

  // a victim at its own address: a few SYNs, then nothing
  a.sent.length = 0
  for (let i = 0; i < 40; i++) {
    const nonce = randomBytes(16).toString('hex')
    c.signals.send(reach(a.id), { type: 'punch-connect', nonce, attempt: 1, address, nat: natToWire(strict) })
    c.signals.send(reach(a.id), { type: 'punch-sync', nonce, attempt: 1 })
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  t.ok(calls > 0 && calls <= 8, `${calls} of 40`)
  t.ok(a.guard.refused > 0 || a.signals.dropped > 0, 'and the rest is refused')
  await new Promise((resolve) => victim.close(resolve))
})

t.test('punched: forged signals cause no dial', async (t) => {
  const nodes = new Map<string, Node>()
  await using a = await Node.start(identities[0], nodes)
  await using b = await Node.start(identities[1], nodes)
  await using c = await Node.start(identities[2], nodes)
  b.punching()
  const calls: Socket[] = []
  const victim = createServer((socket) => calls.push(socket.on('error', () => undefined)))
  victim.listen(0, '127.0.0.1')
  await once(victim, 'listening')
  const address = `127.0.0.1:${(victim.address() as AddressInfo).port}`
  const connectTo = (nonce: string): Signal => ({
    type: 'punch-connect',
    nonce,
    attempt: 1,
    address,
    nat: natToWire(strict),
  })

  c.seen = '203.0.113.9'
  c.signals.send(reach(b.id), connectTo(NONCE))
  await until(() => b.sent.length === 1)
  t.match(b.sent[0], { type: 'punch-refuse' }, 'an address that is not the sender’s')

  // answers and syncs that nobody waits for, or from somebody else
  c.signals.send(reach(b.id), { type: 'punch-sync', nonce: NONCE, attempt: 1 })
  c.signals.send(reach(b.id), {
    type: 'punch-accept',
    nonce: NONCE,
    attempt: 1,
    address,
    nat: natToWire(open),
    heldMs: 0,
  })
  c.seen = '127.0.0.1'
  a.signals.send(reach(b.id), connectTo('cd'.repeat(16)))
  await until(() => b.sent.length === 2)
  t.match(b.sent[1], { type: 'punch-accept' }, 'the second signal accepts the punching')
  c.signals.send(reach(b.id), { type: 'punch-sync', nonce: 'cd'.repeat(16), attempt: 1 })
  await new Promise((resolve) => setTimeout(resolve, 50))
  t.equal(calls.length, 0, 'another node’s sync fires nothing')
  a.signals.send(reach(b.id), { type: 'punch-sync', nonce: 'cd'.repeat(16), attempt: 1 })
  await until(() => calls.length === 1)
  for (const socket of calls) socket.destroy()
  victim.on('connection', (socket) => socket.destroy()) // one that nobody reads keeps the server from closing
  t.equal(b.incoming.length, 0, 'whoever answers there is not who it should be')
  await new Promise((resolve) => victim.close(resolve))
})
