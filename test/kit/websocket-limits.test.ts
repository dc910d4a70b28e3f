import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import { connect, type AddressInfo, type Socket } from 'node:net'
import t from 'tap'
import type { Channel } from '../../src/core/kit/websocket.ts'
import { LINK_LIMITS, WebSocketAcceptor, type WebSocketLimits } from '../../src/core/kit/websocket-acceptor.ts'
import { heard } from '../support/heard.ts'
import { until } from '../support/until.ts'

const MIB = 1024 * 1024

/** A server whose peers name themselves in the path, so that no certificate is needed here. */
class Site implements AsyncDisposable {
  readonly channels: Channel[] = []
  readonly messages: string[] = []
  readonly #server: Server

  private constructor(server: Server, limits: WebSocketLimits) {
    this.#server = server
    const acceptor = new WebSocketAcceptor(limits)
    server.on('upgrade', (request, socket, head) =>
      acceptor.acceptText({ request, socket, head, peer: request.url ?? '' }, (channel) => {
        this.channels.push(channel)
        channel.onText((text) => this.messages.push(text))
      }),
    )
  }

  static async start(limits: WebSocketLimits): Promise<Site> {
    const server = createServer()
    const site = new Site(server, limits)
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return site
  }

  /** A WebSocket written by hand, so that it can misbehave. */
  async dial(peer: string): Promise<Socket> {
    const { port } = this.#server.address() as AddressInfo
    const socket = connect({ port, host: '127.0.0.1' })
    socket.on('error', () => undefined)
    const key = randomBytes(16).toString('base64')
    const upgrade = 'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13'
    socket.write(`GET /${peer} HTTP/1.1\r\nHost: x\r\n${upgrade}\r\nSec-WebSocket-Key: ${key}\r\n\r\n`)
    await heard(socket)
    socket.resume()
    return socket
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.#server, 'close')
    this.#server.closeAllConnections()
    this.#server.close()
    for (const channel of this.channels) channel.close()
    await closed
  }
}

/** The head of a masked text frame, with a mask of zeros. */
function frameHead(bytes: number): Buffer {
  const head = Buffer.alloc(14)
  head.writeUInt8(0x81, 0)
  head.writeUInt8(0x80 | 127, 1)
  head.writeBigUInt64BE(BigInt(bytes), 2)
  return head
}

function message(bytes: number): Buffer {
  return Buffer.concat([frameHead(bytes), Buffer.alloc(bytes, 'x')])
}

/** Sends until the other side closes. */
async function pour(socket: Socket, bytes: number): Promise<void> {
  const chunk = Buffer.alloc(64 * 1024)
  const closed = new Promise((resolve) => socket.once('close', resolve))
  for (let sent = 0; sent < bytes && !socket.destroyed; sent += chunk.length)
    if (!socket.write(chunk)) await Promise.race([new Promise((resolve) => socket.once('drain', resolve)), closed])
}

t.test('an endless first message is cut off far below the limit of later messages', async (t) => {
  await using site = await Site.start(LINK_LIMITS)
  const socket = await site.dial('n1')
  socket.write(frameHead(15 * MIB))
  await pour(socket, 15 * MIB)
  await until(() => socket.destroyed)
  t.same(site.messages, [])
})

t.test('one peer holds no more than its share, over all its connections', async (t) => {
  const limits = { ...LINK_LIMITS, messageBytes: 2 * MIB, unfinishedBytes: 3 * MIB }
  await using site = await Site.start(limits)
  const sockets = await Promise.all([1, 2, 3].map(() => site.dial('n1')))
  for (const socket of sockets) socket.write(message(2)) // the greeting
  await until(() => site.messages.length === 3)
  for (const socket of sockets) {
    socket.write(frameHead(2 * MIB))
    socket.write(Buffer.alloc(1.25 * MIB))
  }
  await until(() => sockets.some(({ destroyed }) => destroyed))
  t.equal(sockets.filter(({ destroyed }) => destroyed).length, 1, 'the one that went beyond')
  const other = await site.dial('n2')
  other.write(message(MIB))
  await until(() => site.messages.length === 4)
  t.pass('another peer is not concerned')
})

t.test('one connection more than a peer may have closes its oldest', async (t) => {
  await using site = await Site.start(LINK_LIMITS)
  const other = await site.dial('n2')
  const sockets: Socket[] = []
  for (let i = 0; i < 25; i++) sockets.push(await site.dial('n1'))
  await until(() => sockets.filter(({ destroyed }) => destroyed).length === 21)
  t.same(
    sockets.map(({ destroyed }) => destroyed).lastIndexOf(true),
    20,
    'the newest four stay: a node whose old links hang can always come back',
  )
  t.notOk(other.destroyed, 'the connection of another peer stays')
})

t.test('a measuring channel accepts only tiny messages', async (t) => {
  await using site = await Site.start({ messageBytes: 125, connections: 8, unfinishedBytes: 16 * 1024 })
  const socket = await site.dial('n1')
  socket.write(frameHead(15 * MIB))
  await until(() => socket.destroyed)
  t.pass('refused by its head')
})

t.test('large messages are accepted after a peer has sent its greeting', async (t) => {
  await using site = await Site.start(LINK_LIMITS)
  const socket = await site.dial('n1')
  socket.write(message(10))
  socket.write(message(8 * MIB))
  await until(() => site.messages.length === 2)
  t.equal(site.messages[1]?.length, 8 * MIB)
  socket.destroy()
})
