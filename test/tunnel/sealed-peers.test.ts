import { randomBytes } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { test } from 'tap'
import type { DatagramStream, Session } from '../../proxy/tunnel/contract.ts'
import { openPeers, type TunnelPeers } from '../../proxy/tunnel/peers/peers.ts'
import type { Address, DatagramPort } from '../../proxy/tunnel/sealed/contract.ts'
import { SealedUdp } from '../../proxy/tunnel/sealed/endpoint.ts'
import { UdpPort } from '../../proxy/tunnel/sealed/udp-port.ts'
import type { Secure } from '../../proxy/tunnel/peers/connector.ts'
import { listFor } from '../../src/core/identity/ciphers.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { openMetrics, type Metrics } from '../../src/core/metrics.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { tlsFor } from '../support/tls.ts'
import { until } from '../support/until.ts'

const AES = listFor('auto', true)
const NO_AES = listFor('auto', false)
const secure = await tlsFor(['a', 'b'])

/** A UDP port of ours with a firewall before it. */
class Walled implements DatagramPort {
  isBlocked = false
  packets = 0
  readonly udp: UdpPort

  constructor(udp: UdpPort) {
    this.udp = udp
  }

  addresses(): string[] {
    return this.udp.addresses()
  }

  send(bytes: Buffer, length: number, to: Address): 'sent' | 'queued' | 'full' {
    this.packets += 1
    return this.isBlocked ? 'sent' : this.udp.send(bytes, length, to)
  }

  fragments(): number {
    return 0
  }

  mtuTowards(): Promise<number> {
    return Promise.resolve(1_500)
  }
}

interface Side {
  peers: TunnelPeers
  room: SealedUdp | undefined
  wall: Walled | undefined
  metrics: Metrics
  port: number
  got: Buffer[]
  stream: DatagramStream | undefined
}

/** Two nodes with real TCP, TLS and UDP on loopback, and time that moves when told. */
class Two implements AsyncDisposable {
  readonly clock = new ManualClock()
  readonly life = new AsyncDisposableStack()
  /** What was dialled, in order. */
  readonly sockets: Socket[] = []
  a!: Side
  b!: Side
  #offers = '127.0.0.1'
  #secure = secure
  session!: Session
  stream!: DatagramStream

  static async start(options: { udp?: boolean; offers?: string; secure?: Record<string, Secure> } = {}): Promise<Two> {
    const two = new Two()
    two.#secure = options.secure ?? secure
    two.#offers = options.offers ?? '127.0.0.1'
    two.b = await two.#side('b', options.udp ?? true)
    two.a = await two.#side('a', true)
    const asked = two.a.peers.session({ id: 'c/b', addresses: [], relays: [] }, AbortSignal.timeout(30_000))
    asked.catch(() => undefined)
    await two.until(() => two.a.peers.existing('c/b') !== undefined)
    two.session = await asked
    const opened = Promise.withResolvers<void>()
    two.stream = two.session.openDatagrams(Buffer.from('datagrams'), {
      opened: opened.resolve,
      refused: (refusal) => opened.reject(new Error(refusal)),
      datagram: (payload) => two.a.got.push(Buffer.from(payload)),
      end: () => undefined,
      reset: () => undefined,
    })
    await opened.promise
    return two
  }

  async #side(name: string, withUdp: boolean): Promise<Side> {
    const metrics = openMetrics('agent')
    const started = { metrics, got: [], room: undefined, wall: undefined, stream: undefined, port: 0 }
    const side = started as unknown as Side // its peers come last: they need the rest
    if (withUdp) await this.#openUdp(name, side)
    const server = createServer((stream) => side.peers.incoming({ path: 'direct', stream, via: 'test' }))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    this.life.defer(() => void server.close())
    side.port = (server.address() as AddressInfo).port
    side.peers = this.#peersOf(name, side)
    return side
  }

  async #openUdp(name: string, side: Side): Promise<void> {
    const udp = await UdpPort.start(
      {
        host: '127.0.0.1',
        port: 0,
        addresses: (port) => [`${this.#offers}:${port}`],
        onPacket: (packet, from) => {
          if (side.wall?.isBlocked === false) side.room?.receive(packet, from)
        },
      },
      silentLog,
    )
    this.life.use(udp)
    side.wall = new Walled(udp)
    const { metrics, wall } = side
    side.room = new SealedUdp({ self: `c/${name}`, port: wall, now: () => this.clock.now(), metrics })
  }

  #peersOf(name: string, side: Side): TunnelPeers {
    const dial = async () => {
      const stream = connect(this.b.port, '127.0.0.1')
      this.sockets.push(stream)
      await once(stream, 'connect')
      return { path: 'direct', stream, via: 'test' } as const
    }
    return openPeers({
      self: `c/${name}`,
      dialers: name === 'b' ? [] : [{ path: 'direct', suits: () => true, dial }],
      secure: this.#secure[name]!,
      accept: (incoming) => {
        side.stream = incoming.acceptDatagrams({
          datagram: (payload) => side.got.push(Buffer.from(payload)),
          end: () => undefined,
          reset: () => undefined,
        })
      },
      clock: this.clock,
      metrics: side.metrics,
      ...(side.room === undefined ? {} : { sealed: side.room }),
    })
  }

  /** Lets time pass in small steps, and packets travel between them, until it is so. */
  async until(isSo: () => boolean, each: () => void = () => undefined): Promise<void> {
    for (let step = 0; step < 400; step++) {
      if (isSo()) return
      each()
      await this.settle()
      await this.clock.advance(50)
    }
    throw new Error('it did not come to that')
  }

  /** The kernel's loopback is done within a few turns of the loop. */
  async settle(): Promise<void> {
    for (let turn = 0; turn < 20; turn++) await new Promise<void>((resolve) => setImmediate(resolve))
  }

  /** Sends until both sides have proven their ways. */
  async seal(): Promise<void> {
    await this.until(
      () => this.session.report().datagrams === 'sealed' && [...this.b.peers.all()][0]?.report().datagrams === 'sealed',
      () => {
        this.stream.send(Buffer.from('wake'))
        this.b.stream?.send(Buffer.from('wake'))
      },
    )
    await this.settle()
    this.a.got.length = 0
    this.b.got.length = 0
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closing = Promise.all([this.a.peers[Symbol.asyncDispose](), this.b.peers[Symbol.asyncDispose]()])
    let isClosed = false
    void closing.then(() => (isClosed = true))
    await this.until(() => isClosed)
    await this.life.disposeAsync()
  }
}

const SIZES = [0, 1, 1_199, 1_200, 1_201, 9_000, 65_507]

/** One datagram of each size, and what arrived. */
async function exchange(two: Two, stream: DatagramStream, got: Buffer[]): Promise<string[]> {
  const wrong: string[] = []
  for (const size of SIZES) {
    const payload = randomBytes(size)
    got.length = 0
    stream.send(payload)
    await two.until(() => got.length > 0).catch(() => undefined)
    if (got.length !== 1 || !got[0]!.equals(payload)) wrong.push(`${size}: ${got.map(({ length }) => length).join()}`)
  }
  return wrong
}

test('datagrams between two nodes go first in frames and then sealed, with the same bytes', async (t) => {
  await using two = await Two.start()
  const { a, b, session, stream } = two
  t.equal(session.report().datagrams, 'frames', 'a new session sends datagrams in frames')
  a.wall!.isBlocked = true
  t.same(await exchange(two, stream, b.got), [], 'in frames, every size arrives with its bytes')
  t.equal(b.room!.packetsIn, 0, 'no UDP packet has come')
  a.wall!.isBlocked = false
  await two.seal()
  const before = b.room!.packetsIn
  t.same(await exchange(two, stream, b.got), [], 'sealed, every size arrives with its bytes')
  t.ok(b.room!.packetsIn - before > 50, 'the datagrams came in more than 50 UDP packets')
  t.same(await exchange(two, b.stream!, a.got), [], 'so does every size on the way back')
  t.equal(stream.send(Buffer.alloc(65_508)), false, 'a datagram longer than UDP can carry is not taken')
  t.notOk(b.room!.drops.forged ?? b.room!.drops.malformed, 'no packet was dropped as forged or malformed')
  await two.clock.advance(500)
  const text = await a.metrics.registry.metrics()
  const sealed = /hedgerow_tunnel_datagrams_total\{way="sealed",result="sent",[^}]*\} [1-9]/
  t.match(text, sealed, 'a metric counts the datagrams that were sealed')
  const inFrames = /hedgerow_tunnel_datagrams_total\{way="frames",result="sent",[^}]*\} [1-9]/
  t.match(text, inFrames, 'a metric counts the datagrams in frames')
  const packets = /hedgerow_tunnel_sealed_packets_total\{direction="in",[^}]*\} [1-9]/
  t.match(text, packets, 'a metric counts the packets that came in')
})

test('where one of two nodes lacks AES instructions, TLS and packets are under ChaCha20', async (t) => {
  const rows = [
    { why: 'both have AES', a: AES, b: AES, tls: 'TLS_AES_128_GCM_SHA256', packets: 'AES-256-GCM' },
    {
      why: 'the dialler has none',
      a: NO_AES,
      b: AES,
      tls: 'TLS_CHACHA20_POLY1305_SHA256',
      packets: 'ChaCha20-Poly1305',
    },
    {
      why: 'the acceptor has none',
      a: AES,
      b: NO_AES,
      tls: 'TLS_CHACHA20_POLY1305_SHA256',
      packets: 'ChaCha20-Poly1305',
    },
    { why: 'neither has it', a: NO_AES, b: NO_AES, tls: 'TLS_CHACHA20_POLY1305_SHA256', packets: 'ChaCha20-Poly1305' },
    {
      why: 'one forbids ChaCha20',
      a: NO_AES,
      b: listFor('aes', true),
      tls: 'TLS_AES_128_GCM_SHA256',
      packets: 'AES-256-GCM',
    },
  ]
  for (const { why, a: near, b: far, tls, packets } of rows) {
    await using two = await Two.start({ secure: await tlsFor(['a', 'b'], { a: near, b: far }) })
    await two.seal()
    for (const session of [two.session, ...two.b.peers.all()]) {
      t.equal(session.report().cipher, tls, `${why}: TLS`)
      t.equal(session.report().sealedWith, packets, `${why}: packets`)
    }
    t.same(await exchange(two, two.stream, two.b.got), [], `${why}: every size arrives`)
    t.same(await exchange(two, two.b.stream!, two.a.got), [], `${why}: and on the way back`)
  }
})

test('when UDP is blocked during a flow, frames take over in seconds, and sealing resumes when it returns', async (t) => {
  await using two = await Two.start()
  const { a, b, session, stream } = two
  await two.seal()
  a.wall!.isBlocked = true
  b.wall!.isBlocked = true
  const from = two.clock.now()
  const tick = () => void stream.send(Buffer.from('x'))
  await two.until(() => session.report().datagrams === 'blocked', tick)
  t.ok(
    two.clock.now() - from <= 4_000,
    `frames take over within 4 s of the tunnel's time: ${two.clock.now() - from} ms`,
  )
  t.same(await exchange(two, stream, b.got), [], 'every size arrives in frames')
  a.wall!.isBlocked = false
  b.wall!.isBlocked = false
  await two.until(() => session.report().datagrams === 'sealed', tick)
  await two.settle()
  t.same(await exchange(two, stream, b.got), [], 'every size arrives sealed when UDP is back')
})

test('strangers on the UDP port get no answer', async (t) => {
  await using two = await Two.start()
  await two.seal()
  const { b, stream } = two
  const stranger = createSocket('udp4')
  const answers: Buffer[] = []
  stranger.on('message', (answer) => answers.push(answer))
  stranger.bind(0, '127.0.0.1')
  await once(stranger, 'listening')
  const { packets } = b.wall!
  for (let i = 0; i < 50; i++) {
    const junk = randomBytes(40 + i)
    if (i % 2 === 0) junk[0] = 0xb1
    stranger.send(junk, b.wall!.udp.port, '127.0.0.1')
  }
  await two.until(() => (b.room!.drops.short ?? 0) + (b.room!.drops.unknown ?? 0) >= 50)
  t.equal(b.wall!.packets, packets, 'not one packet was sent for theirs')
  t.same(answers, [], 'the stranger has received nothing')
  t.same(await exchange(two, stream, b.got), [], 'the datagrams of the peer arrive all the same')
  stranger.close()
})

test('when carriers die while datagrams flow, the stream continues sealed under the keys of another', async (t) => {
  await using two = await Two.start()
  const { b, session, stream } = two
  const tick = () => void stream.send(Buffer.from('x'))
  await two.until(() => session.report().carrierPaths.length >= 2, tick)
  await two.seal()
  two.sockets[0]!.destroy()
  await two.settle()
  t.same(await exchange(two, stream, b.got), [], 'when one carrier has died, every size arrives')
  await two.seal()
  t.same(await exchange(two, stream, b.got), [], 'sealed under the keys of another carrier, every size arrives')

  for (const socket of two.sockets) socket.destroy()
  await two.settle()
  await two.until(() => session.report().carrierPaths.length > 0)
  await two.seal()
  t.same(await exchange(two, stream, b.got), [], 'when all have died and others came, every size arrives sealed')
})

test('without a known public address the address of the carrier is used with the offered port', async (t) => {
  await using two = await Two.start({ offers: '127.7.7.7' })
  await two.seal()
  t.same(await exchange(two, two.stream, two.b.got), [], 'every size arrives there')
  t.same(await exchange(two, two.b.stream!, two.a.got), [], 'every size arrives on the way back')
})

test('a node without UDP is sent frames only', async (t) => {
  await using two = await Two.start({ udp: false })
  const { a, b, session, stream } = two
  t.same(await exchange(two, stream, b.got), [], 'every size arrives')
  t.equal(session.report().datagrams, 'frames', 'the datagrams go in frames')
  t.equal(a.wall!.packets, 0, 'the node is sent no UDP packet')
})

test('a taken UDP port is replaced by another', async (t) => {
  const got: string[] = []
  const options = {
    addresses: (port: number) => [`127.0.0.1:${port}`],
    onPacket: (packet: Buffer) => got.push(packet.toString()),
  }
  await using one = await UdpPort.start({ host: '127.0.0.1', port: 0, ...options }, silentLog)
  await using two = await UdpPort.start({ host: '127.0.0.1', port: one.port, ...options }, silentLog)
  t.not(two.port, one.port, 'a taken port is replaced by another, which is reported')
  t.same(two.addresses(), [`127.0.0.1:${two.port}`], 'the addresses offered have the new port')
  const sent = one.send(Buffer.from('hello, and more'), 5, { host: '127.0.0.1', port: two.port })
  t.equal(sent, 'sent', 'a packet is sent to the new port')
  await until(() => got.length > 0)
  t.same(got, ['hello'], 'as many bytes arrive as were to be sent')
  t.equal(
    one.send(Buffer.alloc(5), 5, { host: '::1', port: 1 }),
    'full',
    'a packet of a family without a socket is not taken',
  )
  t.equal(await one.mtuTowards('127.0.0.1'), 65_536, 'the longest packet towards loopback is known')
  await using six = await UdpPort.start(
    { host: '::1', port: 0, ...options, addresses: (port) => [`[::1]:${port}`] },
    silentLog,
  )
  t.equal(six.send(Buffer.from('six'), 3, { host: '::1', port: six.port }), 'sent', 'a packet is sent over IPv6')
  await until(() => got.length > 1)
  t.same(got, ['hello', 'six'], 'it arrives over IPv6')
  const foreign = UdpPort.start({ host: '192.0.2.1', port: 0, ...options }, silentLog)
  await t.rejects(foreign, { code: 'LISTEN_FAILED' }, 'an address that is not ours cannot be listened at')
})
