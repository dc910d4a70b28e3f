import { once } from 'node:events'
import { createServer, type AddressInfo, connect, type Socket } from 'node:net'
import { readdirSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import t from 'tap'
import { Splice, localStream, SocketStream } from '../../proxy/socket/splice.ts'
import { resetSocket } from '../../proxy/socket/reset.ts'
import { streamContract } from '../contracts/stream.ts'
import { Client, digestOf, serve, streamPair, turns } from './world.ts'
import { until } from '../support/until.ts'

/** Two ends of one TCP connection on loopback. */
async function socketPair(): Promise<[Socket, Socket]> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true })
  server.listen({ host: '127.0.0.1', port: 0 })
  await once(server, 'listening')
  const accepted = once(server, 'connection')
  const near = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true })
  near.pause()
  await once(near, 'connect')
  const [far] = (await accepted) as [Socket]
  server.close()
  return [near, far]
}

streamContract('local', async (near, far) => {
  const [a, b] = await socketPair()
  return {
    near: localStream(a, near),
    far: localStream(b, far),
    async [Symbol.asyncDispose]() {
      a.destroy()
      b.destroy()
    },
  }
})

/**
 *   client ═ socket │ near joint │ stream in memory │ far joint │ socket ═ instance        (what two nodes do)
 */
async function carried(allowance?: number) {
  const [app, nearSocket] = await socketPair()
  const [farSocket, instance] = await socketPair()
  const source = new Splice(allowance)
  const destination = new Splice()
  const near = new SocketStream(nearSocket, source.near)
  const far = new SocketStream(farSocket, destination.far)
  source.near.stream = near
  destination.far.stream = far
  const [out, into] = streamPair(source.far, destination.near)
  source.far.stream = out
  destination.near.stream = into
  near.start()
  far.start()
  const client = new Client(app)
  const server = new Client(instance)
  const sockets = [app, nearSocket, farSocket, instance]
  return {
    client,
    server,
    source,
    destination,
    sockets,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
    },
  }
}

/** Writes everything in chunks of random size, as fast as the socket takes it, then ends. */
async function send(socket: Socket, bytes: Buffer): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const size = 1 + Math.floor(Math.random() ** 3 * 200_000)
    if (!socket.write(bytes.subarray(at, at + size))) await once(socket, 'drain')
    at += size
  }
  socket.end()
}

t.test('every byte, in order, both ways at once, in chunks of any size', async (t) => {
  for (let round = 0; round < 4; round++) {
    await using flow = await carried()
    const there = randomBytes(1 + Math.floor(Math.random() * 4_000_000))
    const back = randomBytes(1 + Math.floor(Math.random() * 4_000_000))
    await Promise.all([
      send(flow.client.socket, there),
      send(flow.server.socket, back),
      flow.client.closed,
      flow.server.closed,
    ])
    t.equal(flow.server.digest(), digestOf(there))
    t.equal(flow.client.digest(), digestOf(back))
    t.equal(flow.source.near.bytes, there.length)
    t.equal(flow.source.far.bytes, back.length)
    t.equal(flow.source.end, 'closed')
    t.equal(flow.destination.end, 'closed')
  }
})

t.test('the server may speak first', async (t) => {
  await using flow = await carried()
  flow.server.socket.write('220 ready\r\n')
  await until(() => flow.client.text === '220 ready\r\n')
  flow.client.socket.end('QUIT\r\n')
  await flow.server.ended
  t.equal(flow.server.text, 'QUIT\r\n')
})

t.test('half-close: the client ends, the answer still comes', async (t) => {
  await using flow = await carried()
  flow.client.socket.end('question')
  await flow.server.ended
  t.equal(flow.server.text, 'question')
  const answer = randomBytes(1_000_000)
  flow.server.socket.end(answer)
  await flow.client.ended
  t.equal(flow.client.digest(), digestOf(answer))
  t.same(await Promise.all([flow.client.closed, flow.server.closed]), ['ok', 'ok'])
})

t.test('half-close: the server ends, the client goes on', async (t) => {
  await using flow = await carried()
  flow.server.socket.end('bye')
  await flow.client.ended
  flow.client.socket.end('more')
  await flow.server.ended
  t.equal(flow.server.text, 'more')
  t.same(await Promise.all([flow.client.closed, flow.server.closed]), ['ok', 'ok'])
})

t.test('RST from the client is RST at the server', async (t) => {
  await using flow = await carried()
  flow.client.socket.write('x')
  await until(() => flow.server.text === 'x')
  flow.client.socket.resetAndDestroy()
  t.equal(await flow.server.closed, 'ECONNRESET')
  t.equal(flow.source.end, 'near-reset')
  t.equal(flow.destination.end, 'near-reset')
})

t.test('RST from the server is RST at the client', async (t) => {
  await using flow = await carried()
  flow.client.socket.write('x')
  await until(() => flow.server.text === 'x')
  flow.server.socket.resetAndDestroy()
  t.equal(await flow.client.closed, 'ECONNRESET')
  t.equal(flow.source.end, 'far-reset')
})

t.test('RST after a half-close is still RST', async (t) => {
  await using flow = await carried()
  flow.client.socket.end('x')
  await flow.server.ended
  flow.server.socket.resetAndDestroy()
  t.equal(await flow.client.closed, 'ECONNRESET')
})

t.test('a cut is RST on both sides', async (t) => {
  await using flow = await carried()
  flow.client.socket.write('x')
  await until(() => flow.server.text === 'x')
  flow.source.cut()
  flow.source.cut()
  t.same(await Promise.all([flow.client.closed, flow.server.closed]), ['ECONNRESET', 'ECONNRESET'])
  t.equal(flow.source.end, 'cut')
})

t.test('a reader that stops, stops the writer at the other end; nothing is lost', async (t) => {
  await using flow = await carried()
  flow.server.socket.pause()
  const all = randomBytes(40_000_000)
  const sent = send(flow.client.socket, all)
  let before = -1
  await until(() => {
    const still = before === flow.source.near.bytes && before > 0
    before = flow.source.near.bytes
    return still
  })
  t.ok(flow.source.near.bytes < 30_000_000, `${flow.source.near.bytes} bytes taken for a reader that does not read`)
  flow.server.socket.resume()
  await Promise.all([sent, flow.server.ended])
  t.equal(flow.server.digest(), digestOf(all))
})

t.test('beyond the allowance nothing passes, and the answer still comes', async (t) => {
  await using flow = await carried(10)
  flow.client.socket.write('0123456')
  await until(() => flow.server.text === '0123456')
  flow.client.socket.write('789GET http://other/')
  flow.client.socket.write('and more')
  await flow.server.ended
  t.equal(flow.server.text, '0123456789')
  flow.server.socket.end('answer')
  await flow.client.ended
  t.equal(flow.client.text, 'answer')
})

t.test('exactly the allowance is not an end', async (t) => {
  await using flow = await carried(4)
  flow.client.socket.write('1234')
  await until(() => flow.server.text === '1234')
  flow.server.socket.end('answer')
  await flow.client.ended
  t.notOk(flow.server.socket.readableEnded, 'the direction of the client stays open')
})

t.test('a reset at any moment of a FIN is an RST, and leaks no descriptor', async (t) => {
  const fds = () => readdirSync('/proc/self/fd').length
  const moments: [why: string, reset: (socket: Socket) => unknown][] = [
    ['in the same turn', (socket) => resetSocket(socket)],
    ['in the next tick', (socket) => process.nextTick(() => resetSocket(socket))],
    ['a turn later', (socket) => setImmediate(() => resetSocket(socket))],
  ]
  for (const [why, reset] of moments) {
    await using served = await serve(() => undefined)
    const before = fds()
    const client = await Client.connect(served.port)
    await until(() => served.sockets.length === 1)
    const [socket] = served.sockets as [Socket]
    socket.end('x')
    reset(socket)
    await once(socket, 'close')
    client.socket.destroy()
    await client.closed
    await turns(2)
    t.equal(fds(), before, why)
  }
})

t.test('a flow leaves no listener, timer or socket behind', async (t) => {
  const fds = () => readdirSync('/proc/self/fd').length
  await turns(3)
  const before = fds()
  for (let round = 0; round < 20; round++) {
    await using flow = await carried()
    flow.client.socket.end('x')
    flow.server.socket.end('y')
    await Promise.all([flow.client.closed, flow.server.closed])
  }
  await turns(5)
  t.equal(fds(), before)
})
