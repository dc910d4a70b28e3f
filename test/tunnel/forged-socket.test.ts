import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { test } from 'tap'
import type { DatagramStream, Session } from '../../proxy/tunnel/contract.ts'
import { openPeers, type PeersOptions, type TunnelPeers } from '../../proxy/tunnel/peers/peers.ts'
import type { Address, DatagramPort } from '../../proxy/tunnel/sealed/contract.ts'
import { SealedUdp } from '../../proxy/tunnel/sealed/endpoint.ts'
import { UdpPort } from '../../proxy/tunnel/sealed/udp-port.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { tlsFor } from '../support/tls.ts'

/*
 * A flood of forged packets at a real UDP socket, from another process that has seen a genuine packet, while 50 datagrams a second
 * are sent and answered. What the flood does to them is in the output; what is asserted is counted, not timed.
 */

const PER_SECOND = 100_000
const FLOOD_MS = 4_000
/** Of the honest flow. */
const EVERY_MS = 20
/** What is sent in the first second of the flood: more than that may not be lost in all. */
const MAY_BE_LOST = 1_000 / EVERY_MS

/** Sends copies of a packet with another number each. Says how many, at the end. */
const FLOOD = `
const [packet, port, perSecond, ms] = [Buffer.from(process.argv[1], 'hex'), ...process.argv.slice(2).map(Number)]
const socket = require('dgram').createSocket({ type: 'udp4', lookup: (host, _, found) => found(null, host, 4) })
let sent = 0
const startedAt = performance.now()
const send = () => {
  const elapsed = performance.now() - startedAt
  if (elapsed >= ms) return socket.close(() => console.log(sent))
  for (const due = (elapsed / 1000) * perSecond, most = sent + 2000; sent < due && sent < most; sent++) {
    const copy = Buffer.from(packet)
    copy.writeUInt32BE(1_000_000 + sent, 12)
    socket.send(copy, port, '127.0.0.1')
  }
  setTimeout(send, 1)
}
socket.bind(0, '127.0.0.1', send)
`

/** A UDP port whose packets somebody sees. */
class SeenPort implements DatagramPort {
  readonly #udp: UdpPort
  last: Buffer | undefined

  constructor(udp: UdpPort) {
    this.#udp = udp
  }

  get port(): number {
    return this.#udp.port
  }

  addresses(): string[] {
    return this.#udp.addresses()
  }

  send(bytes: Buffer, length: number, to: Address): 'sent' | 'queued' | 'full' {
    this.last = Buffer.from(bytes.subarray(0, length))
    return this.#udp.send(bytes, length, to)
  }

  fragments(): number {
    return 0
  }

  mtuTowards(): Promise<number> {
    return Promise.resolve(1_500)
  }
}

interface Side {
  room: SealedUdp
  seen: SeenPort
  peers: TunnelPeers
}

interface SideOptions {
  secure: PeersOptions['secure']
  /** The port at which the other side accepts carriers; asked at each dial. */
  dials: () => number
  accept: (stream: DatagramStream, payload: Buffer) => void
}

/** A node with a real UDP socket. */
async function side(life: AsyncDisposableStack, self: string, options: SideOptions): Promise<Side> {
  const udp = await UdpPort.start(
    {
      host: '127.0.0.1',
      port: 0,
      addresses: (port) => [`127.0.0.1:${port}`],
      onPacket: (packet, from) => room.receive(packet, from),
    },
    silentLog,
  )
  life.use(udp)
  const seen = new SeenPort(udp)
  const room = new SealedUdp({ self, port: seen, now: () => systemClock.now() })
  return { room, seen, peers: life.use(peersOf(self, room, options)) }
}

function peersOf(self: string, room: SealedUdp, { secure, dials, accept }: SideOptions): TunnelPeers {
  const dial = async () => {
    const stream = connect(dials(), '127.0.0.1')
    await once(stream, 'connect')
    return { path: 'direct', stream, via: 'test' } as const
  }
  return openPeers({
    self,
    secure,
    sealed: room,
    dialers: [{ path: 'direct', suits: () => true, dial }],
    accept: (incoming) => {
      const stream = incoming.acceptDatagrams({
        datagram: (payload) => accept(stream, payload),
        end: () => undefined,
        reset: () => undefined,
      })
    },
    drainMs: 0,
  })
}

/** Two nodes, a session from `a` to `b`, and an honest flow in it: `b` answers every datagram. */
async function pairWithFlow(life: AsyncDisposableStack) {
  const secure = await tlsFor(['a', 'b'])
  let port = 0
  const dials = () => port
  const echo = (stream: DatagramStream, payload: Buffer) => void stream.send(Buffer.from(payload))
  const b = await side(life, 'c/b', { secure: secure['b']!, dials, accept: echo })
  const server = createServer((stream) => b.peers.incoming({ path: 'direct', stream, via: 'test' }))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  life.defer(() => void server.close())
  port = (server.address() as AddressInfo).port
  const a = await side(life, 'c/a', { secure: secure['a']!, dials, accept: () => undefined })
  const session = await a.peers.session({ id: 'c/b', addresses: [], relays: [] }, AbortSignal.timeout(30_000))
  const flow = await HonestFlow.start(session)
  life.defer(() => flow.stop())
  return { a, b, session, flow }
}

/** Floods this port of loopback with copies of a genuine packet; gives how many were sent, at its end. */
function flood(life: AsyncDisposableStack, genuine: Buffer, port: number): Promise<string> {
  const args = [genuine.toString('hex'), `${port}`, `${PER_SECOND}`, `${FLOOD_MS}`]
  const child = spawn(process.execPath, ['-e', FLOOD, ...args])
  life.defer(() => void child.kill('SIGKILL'))
  let said = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (said += text))
  return once(child, 'exit').then(() => said.trim())
}

test('100,000 forged packets a second at a socket: an honest flow goes on in frames, and is sealed again later', async (t) => {
  await using life = new AsyncDisposableStack()
  const { a, b, session, flow } = await pairWithFlow(life)
  const isSealed = () => session.report().datagrams === 'sealed'
  await flow.until(isSealed, 'sealed')
  await pause(1_000)

  const before = flow.figures()
  const startedAt = performance.now()
  const ended = flood(life, a.seen.last!, b.seen.port)
  await flow.until(() => !isSealed(), 'in frames')
  const framesAfterMs = performance.now() - startedAt
  const inFrames = flow.figures()
  const said = await ended
  const during = flow.figures()
  const { forged = 0, paused = 0 } = b.room.drops
  await flow.until(isSealed, 'sealed again')
  const sealedAgainMs = performance.now() - startedAt - FLOOD_MS
  await pause(1_000)
  await flow.stop()
  const after = flow.figures()

  t.comment(
    `${said} forged packets sent, ${forged + paused} arrived, ${forged} opened in vain; in frames after ${Math.round(framesAfterMs)} ms; ` +
      `${during.sent - before.sent} datagrams sent meanwhile, ${during.answered - before.answered} answered, longest wait ${Math.round(flow.longestMs)} ms; ` +
      `sealed again ${Math.round(sealedAgainMs)} ms after the flood`,
  )
  t.ok(forged + paused > PER_SECOND / 10, `it was a flood: more than 10,000 forged packets arrived: ${forged + paused}`)
  t.ok(forged <= 2 * 251, `at most 502 forged packets were opened: ${forged}`)
  const lost = after.sent - after.answered
  t.ok(lost <= MAY_BE_LOST, `at most ${MAY_BE_LOST} of ${after.sent} datagrams were not answered: ${lost}`)
  const answeredSince = after.answeredOf(inFrames.sent)
  t.equal(answeredSince, after.sent - inFrames.sent, 'every datagram sent in frames, and sealed again, was answered')
})

/** A datagram every 20 ms, each numbered and answered. */
class HonestFlow {
  readonly #stream: DatagramStream
  readonly #sentAt: number[] = []
  readonly #answered = new Set<number>()
  #timer: NodeJS.Timeout | undefined
  /** Between a datagram and the first answer after it. */
  longestMs = 0
  #lastAnswerAt = 0

  private constructor(open: (answered: (payload: Buffer) => void) => DatagramStream) {
    this.#stream = open((payload) => this.#got(payload.readUInt32BE(0)))
  }

  static async start(session: Session): Promise<HonestFlow> {
    const opened = Promise.withResolvers<void>()
    const flow = new HonestFlow((datagram) =>
      session.openDatagrams(Buffer.from('honest'), {
        opened: opened.resolve,
        refused: (refusal) => opened.reject(new Error(refusal)),
        datagram,
        end: () => undefined,
        reset: () => undefined,
      }),
    )
    await opened.promise
    flow.#lastAnswerAt = performance.now()
    flow.#timer = setInterval(() => flow.#send(), EVERY_MS)
    return flow
  }

  figures() {
    const answeredOf = (from: number) => [...this.#answered].filter((number) => number >= from).length
    return { sent: this.#sentAt.length, answered: this.#answered.size, answeredOf }
  }

  async until(isSo: () => boolean, what: string): Promise<void> {
    for (let round = 0; round < 6_000; round += 1) {
      if (isSo()) return
      await pause(10)
    }
    throw new Error(`not within a minute: ${what}`)
  }

  /** Sends no more, and gives the last answers a moment. */
  async stop(): Promise<void> {
    clearInterval(this.#timer)
    for (let round = 0; round < 100 && this.#answered.size < this.#sentAt.length; round += 1) await pause(10)
  }

  #send(): void {
    const payload = Buffer.alloc(100)
    payload.writeUInt32BE(this.#sentAt.length)
    this.#sentAt.push(performance.now())
    this.#stream.send(payload)
  }

  #got(number: number): void {
    this.#answered.add(number)
    const now = performance.now()
    this.longestMs = Math.max(this.longestMs, now - this.#lastAnswerAt)
    this.#lastAnswerAt = now
  }
}
