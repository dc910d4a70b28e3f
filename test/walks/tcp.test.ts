import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import t from 'tap'
import { Client, digestOf, echo, serve, type Served, turns } from '../proxy/world.ts'
import { type Mesh, type Node, wholeMesh } from './mesh.ts'
import { until } from '../support/until.ts'

/** TCP as a program sees it, through two whole agents: as if it had connected to the instance itself. The tests share the agents. */

const NAME = 'shop.acme.cart.prod.any.rr.local'
/** Sockets and timers of carriers that may come up meanwhile. */
const CARRIERS = 16

interface Line extends AsyncDisposable {
  mesh: Mesh
  here: Node
  served: Served
  /** What the instance does with a connection; set by each test. */
  behave: (socket: Socket) => void
  vip: string
  call(): Promise<Client>
}

/** Two agents, an instance on the second, callers on the first. */
async function twoAgents(): Promise<Line> {
  const made = { behave: echo } as Line
  made.served = await serve((socket) => made.behave(socket))
  made.mesh = await wholeMesh(['here', 'there'])
  made.here = made.mesh.node('here')
  await made.mesh.apply([tcpService('cart', made.served.port)], 1)
  const [vip = ''] = await made.here.dns.resolve4(NAME)
  made.vip = vip
  made.call = () => Client.connect(8080, vip)
  made[Symbol.asyncDispose] = async () => {
    await made.mesh[Symbol.asyncDispose]()
    await made.served[Symbol.asyncDispose]()
  }
  return made
}

function tcpService(name: string, port: number): object {
  return {
    microservice_name: name,
    microservice_namespace: 'prod',
    virtualization: 'external',
    code: `127.0.0.1:${port}`,
    port: `8080:${port}`,
    constraints: [{ type: 'direct', cluster: 'edge', node: 'there' }],
    check: { type: 'tcp', interval_ms: 600_000 }, // once: its connections would be taken for flows
  }
}

/** Writes so many random bytes in chunks of random sizes, as fast as they are taken; their digest. */
async function pour(socket: Socket, bytes: number): Promise<string> {
  const hash = createHash('sha256')
  for (let left = bytes; left > 0; ) {
    const chunk = randomBytes(Math.min(left, 1 + Math.floor(Math.random() ** 4 * 200_000)))
    hash.update(chunk)
    left -= chunk.length
    if (!socket.write(chunk)) await Promise.race([once(socket, 'drain'), once(socket, 'close')])
  }
  return hash.digest('hex')
}

/** The digest of all that comes, once the other side has ended. */
async function drink(socket: Socket): Promise<string> {
  const hash = createHash('sha256')
  socket.on('data', (chunk: Buffer) => hash.update(chunk))
  await once(socket, 'end')
  return hash.digest('hex')
}

const closeOf = (socket: Socket): Promise<string> =>
  new Promise((resolve) => {
    let code = 'ok'
    socket.on('error', (error: NodeJS.ErrnoException) => (code = error.code ?? ''))
    socket.on('close', () => resolve(code))
  })

await using line = await twoAgents()

await t.test('forty flows carry every byte, in both directions at once', async (t) => {
  const served: { heard: Promise<string>; said: Promise<string> }[] = []
  line.behave = (socket) => {
    const heard = drink(socket)
    const said = pour(socket, 1_000_000).then((digest) => (socket.end(), digest))
    served.push({ heard, said })
  }
  const flows = await Promise.all(
    Array.from({ length: 40 }, async () => {
      const client = await line.call()
      const heard = drink(client.socket)
      const said = await pour(client.socket, 1_000_000)
      client.socket.end()
      return { said, heard: await heard }
    }),
  )
  const theirs = await Promise.all(served.map(async ({ heard, said }) => ({ heard: await heard, said: await said })))
  t.same(
    flows.map(({ said }) => said).toSorted(),
    theirs.map(({ heard }) => heard).toSorted(),
    'the instances receive exactly the bytes that the clients sent',
  )
  t.same(
    flows.map(({ heard }) => heard).toSorted(),
    theirs.map(({ said }) => said).toSorted(),
    'the clients receive exactly the bytes that the instances sent',
  )
})

await t.test('a client that has ended its half still receives the answer', async (t) => {
  line.behave = (socket) => {
    void drink(socket).then((digest) => socket.end(digest))
  }
  using client = await line.call()
  const body = randomBytes(300_000)
  client.socket.end(body)
  await client.ended
  t.equal(client.text, digestOf(body), 'the answer, the digest of what the client sent, arrives after the half-close')
})

await t.test('a client may go on sending after the instance has ended its half', async (t) => {
  const heard = Promise.withResolvers<string>()
  line.behave = (socket) => {
    socket.end('that is all from me')
    void drink(socket).then(heard.resolve)
  }
  using client = await line.call()
  await client.ended
  t.equal(client.text, 'that is all from me', 'the client receives what the instance sent before it ended its half')
  const body = randomBytes(300_000)
  client.socket.end(body)
  t.equal(await heard.promise, digestOf(body), 'the instance receives all that the client sends after that')
  t.equal(await client.closed, 'ok', 'with both halves ended, the client sees a close without an error')
})

await t.test('a server that speaks first is heard before the client sends a byte', async (t) => {
  line.behave = (socket) => {
    socket.write('220 ready\r\n')
    socket.resume().on('end', () => socket.end())
  }
  using client = await line.call()
  await until(() => client.bytes > 0, 'it has spoken')
  t.equal(client.text, '220 ready\r\n', 'the client receives the greeting without having sent anything')
  client.socket.end()
  await client.closed
})

await t.test('bytes sent one by one come back in order', async (t) => {
  line.behave = echo
  using client = await line.call()
  client.socket.setNoDelay(true)
  const text = randomBytes(500).toString('hex')
  for (const [i, letter] of text.split('').entries()) {
    client.socket.write(letter)
    if (i % 3 === 0) await turns(1)
  }
  client.socket.end()
  await client.ended
  t.equal(client.text, text, 'the echo of 1,000 single letters is the text that was sent')
})

await t.test('an RST by the client is an RST at the instance, also with bytes on their way', async (t) => {
  for (const first of [0, 200_000]) {
    const closed = Promise.withResolvers<string>()
    let heard = 0
    line.behave = (socket) => {
      void closeOf(socket).then(closed.resolve)
      socket.on('data', (chunk: Buffer) => (heard += chunk.length))
      socket.write('hello')
    }
    using client = await line.call()
    if (first > 0) client.socket.write(randomBytes(first))
    await until(() => client.bytes > 0 && heard === first, 'both have heard')
    client.socket.resetAndDestroy()
    t.equal(await closed.promise, 'ECONNRESET', `the instance sees a reset when the client resets after ${first} bytes`)
  }
})

await t.test('an RST by the instance is an RST at the client, and what was sent before it arrives', async (t) => {
  line.behave = (socket) => {
    socket.write('part of an ans', () => setImmediate(() => socket.once('data', () => socket.resetAndDestroy())))
  }
  using client = await line.call()
  await until(() => client.bytes > 0, 'it has spoken')
  client.socket.write('go')
  t.equal(await client.closed, 'ECONNRESET', 'the client sees a reset')
  t.equal(client.text, 'part of an ans', 'the client has received what the instance sent before its reset')
})

await t.test('an RST by a client that has ended its half is an error at the instance', async (t) => {
  const closed = Promise.withResolvers<string>()
  line.behave = (socket) => {
    // after the end of the other side, an RST is told to those who write
    const talking = setInterval(() => socket.write('still here'), 5)
    void closeOf(socket).then((code) => (clearInterval(talking), closed.resolve(code)))
    socket.resume()
  }
  using client = await line.call()
  client.socket.end('x')
  await until(() => client.bytes > 0, 'it goes on')
  client.socket.resetAndDestroy()
  t.match(await closed.promise, /ECONNRESET|EPIPE/, 'the instance, which still writes, sees the reset of the client')
})

await t.test('an RST by an instance that has ended its half is an error at the client', async (t) => {
  line.behave = (socket) => {
    socket.end('bye')
    socket.once('data', () => socket.resetAndDestroy())
  }
  using client = await line.call()
  await client.ended
  const talking = setInterval(() => client.socket.write('but'), 5)
  t.match(await client.closed, /ECONNRESET|EPIPE/, 'the client, which still writes, sees the reset of the instance')
  clearInterval(talking)
})

await t.test('a reader that stops makes the writer stop, and no byte is missing when it reads on', async (t) => {
  const reader = Promise.withResolvers<Socket>()
  line.behave = (socket) => {
    socket.pause()
    reader.resolve(socket)
  }
  using client = await line.call()
  const body = randomBytes(64 * 1024 * 1024)
  client.socket.end(body)
  const stopped = await reader.promise
  const taken = async () => (await line.here.flows()).find(({ ended }) => ended === undefined)?.bytesSent ?? 0
  let before = -1
  await until(async () => {
    await new Promise((resolve) => setTimeout(resolve, 150))
    const now = await taken()
    const isStill = now === before && now > 0
    before = now
    return isStill
  }, 'no more bytes are taken from the client')
  // a window here, what waits on the carrier there, and what the two kernels hold for the two sockets
  t.ok(
    before < 16 * 1024 * 1024,
    `less than 16 MiB are taken while the reader rests: ${before} of ${body.length} bytes`,
  )
  const digest = drink(stopped)
  stopped.resume()
  t.equal(await digest, digestOf(body), 'the reader receives every byte once it reads on')
  stopped.end()
})

await t.test('clients that vanish leave no socket, no stream and no timer behind', async (t) => {
  await until(async () => (await line.here.status()).flowsOpen === 0, 'earlier flows are over')
  const before = await resources(line)
  line.behave = (socket) => {
    socket.write(randomBytes(100_000))
    socket.on('end', () => socket.end())
    socket.resume()
  }
  const clients = await Promise.all(Array.from({ length: 60 }, () => line.call()))
  await until(() => clients.every(({ bytes }) => bytes > 0), 'all have heard')
  for (const [i, { socket }] of clients.entries()) vanish(socket, i)
  const early = Array.from({ length: 20 }, () => connect(8080, line.vip))
  for (const socket of early) socket.on('error', () => undefined).destroy() // gone before an instance has answered
  await until(async () => (await line.here.status()).flowsOpen === 0, 'no flow is open')
  // carriers come and go by themselves: some sockets more are theirs, eighty would be the clients'
  const left = async () =>
    Object.entries(await resources(line)).filter(([kind, count]) => count > (before[kind] ?? 0) + CARRIERS)
  await until(
    async () => (await left()).length === 0,
    'no more sockets and timers are left than before',
    async () => JSON.stringify(await left()),
  )
  t.equal((await resources(line))['streams'], 0, 'no stream is left between the agents')
  t.equal((await resources(line))['instance'], 0, 'every connection at the instance is closed')
})

/** Three ways to go by turns: a reset, a close, and a close with bytes on their way. */
function vanish(socket: Socket, turn: number): void {
  if (turn % 3 === 0) socket.resetAndDestroy()
  else if (turn % 3 === 1) socket.destroy()
  else {
    socket.pause()
    socket.write(randomBytes(50_000))
    socket.destroy()
  }
}

/** What the process holds, and the streams between the agents. */
async function resources(line: Line): Promise<Record<string, number>> {
  const counts: Record<string, number> = {}
  for (const kind of process.getActiveResourcesInfo()) {
    if (kind === 'TCPSocketWrap' || kind === 'TCPServerWrap' || kind === 'Timeout')
      counts[kind] = (counts[kind] ?? 0) + 1
  }
  counts['streams'] = (await line.here.peers()).reduce((sum, { streams }) => sum + streams, 0)
  counts['instance'] = line.served.sockets.filter(({ closed }) => !closed).length
  return counts
}
