import { once } from 'node:events'
import { createServer, type AddressInfo, connect, type Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { randomBytes } from 'node:crypto'
import t from 'tap'
import { afterRead, read } from '../../proxy/socket/after-read.ts'
import { Inlet } from '../../proxy/socket/inlet.ts'
import { Outlet } from '../../proxy/socket/outlet.ts'
import { tlsFor } from '../support/tls.ts'
import { digestOf, turns } from './world.ts'
import { until } from '../support/until.ts'

interface Pair extends AsyncDisposable {
  /** Accepted, paused. */
  here: Socket
  there: Socket
}

async function socketPair(): Promise<Pair> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const accepted = once(server, 'connection')
  const there = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true })
  const [here] = (await accepted) as [Socket]
  server.close()
  for (const socket of [here, there]) socket.on('error', () => undefined)
  return {
    here,
    there,
    async [Symbol.asyncDispose]() {
      here.destroy()
      there.destroy()
    },
  }
}

/** Keeps what it is given, as copies; `goOn` is what it answers. */
function listener() {
  const heard = {
    chunks: [] as Buffer[],
    goOn: true,
    memory: new Set<ArrayBufferLike>(),
    get text(): string {
      return Buffer.concat(heard.chunks).toString()
    },
    take: (chunk: Buffer): boolean => {
      heard.memory.add(chunk.buffer)
      heard.chunks.push(Buffer.from(chunk))
      return heard.goOn
    },
  }
  return heard
}

// ── an inlet reads chunk by chunk, and stops exactly when asked ──

t.test('inlets read into one buffer for all sockets, on the Node that this repository pins', async (t) => {
  await using one = await socketPair()
  await using two = await socketPair()
  const heard = listener()
  for (const { here, there } of [one, two]) {
    const inlet = new Inlet(here, heard.take)
    t.ok(inlet.isDirect, 'the inlet reads the fast way, without events')
    inlet.start()
    there.write(randomBytes(300_000))
  }
  await until(() => Buffer.concat(heard.chunks).length === 600_000)
  t.equal(heard.memory.size, 1, 'the chunks of both sockets lie in one buffer')
})

t.test('an inlet reads the fast way from TLS, as client and as server', async (t) => {
  const secure = await tlsFor(['a', 'b'])
  await using pair = await socketPair()
  const [near, far] = await Promise.all([
    secure['a']!.connect({ path: 'direct', stream: pair.there, via: '' }, 'c/b', AbortSignal.timeout(30_000)),
    secure['b']!.accept({ path: 'direct', stream: pair.here, via: '' }),
  ])
  const ends = [near, far?.stream] as [TLSSocket, TLSSocket]
  const sent = randomBytes(200_000)
  for (const [at, socket] of ends.entries()) {
    const role = at === 0 ? 'the client' : 'the server'
    const heard = listener()
    const inlet = new Inlet(socket, heard.take)
    t.ok(inlet.isDirect, `${role} reads the fast way, without events`)
    inlet.start()
    ends[1 - at]!.write(sent)
    await until(() => heard.chunks.reduce((sum, { length }) => sum + length, 0) === sent.length)
    t.equal(digestOf(Buffer.concat(heard.chunks)), digestOf(sent), `${role} reads exactly what was sent`)
    t.equal(heard.memory.size, 1, `all chunks that ${role} reads lie in one buffer`)
  }
  for (const socket of ends) socket.destroy()
})

/** The fast way, and what is left where it is not there: the same tests hold for both. */
const ways: [way: string, wrap: (socket: Socket) => Socket][] = [
  ['the fast way', (socket) => socket],
  [
    "by 'data' events",
    (socket) => {
      // as on a Node that has no such method: the handle is asked for it by name
      Object.defineProperty((socket as unknown as { _handle: object })._handle, 'useUserBuffer', { value: undefined })
      return socket
    },
  ],
]
for (const [way, wrap] of ways) {
  t.test(`an inlet that reads ${way} starts and stops exactly when asked`, async (t) => {
    await using pair = await socketPair()
    const here = wrap(pair.here)
    const heard = listener()
    const inlet = new Inlet(here, heard.take)
    t.equal(inlet.isDirect, way === 'the fast way', `the inlet reads ${way}`)
    let hasEnded = false
    here.on('end', () => {
      hasEnded = true
    })

    pair.there.write('one')
    await turns(20)
    t.equal(heard.text, '', 'nothing is read before start')
    heard.goOn = false
    inlet.start()
    await until(() => heard.text === 'one')
    pair.there.end('two')
    await turns(20)
    t.equal(heard.text, 'one', 'nothing more is read after the listener has said stop')
    t.notOk(hasEnded, 'nor is the end of the stream told then')
    heard.goOn = true
    inlet.start()
    inlet.start()
    await until(() => hasEnded)
    t.equal(heard.text, 'onetwo', 'a second start goes on with the next byte')
    t.notOk(here.destroyed, 'the other direction stays open after the end of this one')
    here.end()
    await once(here, 'close')
  })

  t.test(`an RST is an error and a close where an inlet reads ${way}`, async (t) => {
    await using pair = await socketPair()
    const here = wrap(pair.here)
    const failed = once(here, 'error')
    new Inlet(here, () => true).start()
    pair.there.resetAndDestroy()
    const [error] = (await failed) as [NodeJS.ErrnoException]
    t.equal(error.code, 'ECONNRESET', 'the socket reports the reset')
    await until(() => here.closed)
  })
}

for (const [way, wrap] of ways) {
  t.test(`an inlet that reads ${way} goes on when started within the chunk that told it to stop`, async (t) => {
    await using pair = await socketPair()
    const heard = listener()
    heard.goOn = false
    const inlet = new Inlet(wrap(pair.here), (chunk) => {
      afterRead(() => inlet.start()) // as when a carrier is flushed, and the stream drains
      return heard.take(chunk)
    })
    inlet.start()
    pair.there.write('one')
    await until(() => heard.text === 'one')
    pair.there.write('two')
    await until(() => heard.text === 'onetwo')
    t.equal(heard.text, 'onetwo', 'the second chunk is read too')
    t.equal(inlet.isDirect, way === 'the fast way', `the inlet reads ${way}`)
  })
}

t.test('an inlet begins with what was read before', async (t) => {
  await using pair = await socketPair()
  const heard = listener()
  pair.here.unshift(Buffer.from('early '))
  const inlet = new Inlet(pair.here, heard.take)
  pair.there.write('late')
  heard.goOn = false
  inlet.start()
  await turns(20)
  t.equal(heard.text, 'early ', 'the bytes put back come first, and it stops after them when told to')
  heard.goOn = true
  inlet.start()
  await until(() => heard.text === 'early late')
})

// ── an outlet copies, gathers and flushes without losing or reordering a byte ──

t.test('an outlet has taken all it needs when write returns', async (t) => {
  await using pair = await socketPair()
  const outlet = new Outlet(pair.here)
  const sent: Buffer[] = []
  const scratch = Buffer.alloc(100_000)
  let received = 0
  const chunks: Buffer[] = []
  pair.there.pause().on('data', (chunk: Buffer) => {
    received += chunk.length
    chunks.push(chunk)
  })
  let total = 0
  for (let round = 0; round < 300; round++) {
    const size = 1 + Math.floor(Math.random() ** 3 * scratch.length)
    const chunk = randomBytes(size)
    sent.push(chunk)
    total += size
    chunk.copy(scratch)
    outlet.write(scratch.subarray(0, size))
    scratch.fill(0)
    if (round === 150) pair.there.resume() // backed up until now
    if (round % 7 === 0) await turns(1)
  }
  outlet.flush()
  await until(() => received === total)
  t.equal(
    digestOf(Buffer.concat(chunks)),
    digestOf(Buffer.concat(sent)),
    'the bytes arrive as they were at the call of write, though the buffer was cleared after it',
  )
})

t.test(
  'an outlet sends a short message in the same turn, and small pieces keep their order behind large ones',
  async (t) => {
    await using pair = await socketPair()
    const outlet = new Outlet(pair.here)
    outlet.write(Buffer.from('x'))
    t.equal(pair.here.bytesWritten, 1, 'the short message is written at once')
    outlet.write(Buffer.alloc(10_000, 'y'))
    outlet.write(Buffer.from('z'))
    t.equal(pair.here.bytesWritten, 1, 'what follows in the same turn is gathered first')
    let text = ''
    pair.there.on('data', (chunk: Buffer) => {
      text += chunk.toString()
    })
    await until(() => text === `x${'y'.repeat(10_000)}z`)
  },
)

t.test('an outlet says when the socket is backed up, and drain follows', async (t) => {
  await using pair = await socketPair()
  const outlet = new Outlet(pair.here)
  pair.there.pause()
  const chunk = Buffer.alloc(16_384)
  let writes = 0
  while (outlet.write(chunk)) {
    writes += 1
    if (writes % 8 === 0) await turns(1)
  }
  const drained = once(pair.here, 'drain')
  pair.there.resume()
  await drained
  t.ok(outlet.write(chunk), 'after drain there is room again')
})

t.test('an outlet drops what is left for a socket that is gone', async (t) => {
  await using pair = await socketPair()
  const outlet = new Outlet(pair.here)
  outlet.write(Buffer.alloc(10_000))
  pair.here.destroy()
  await turns(2)
  t.equal(pair.here.bytesWritten, 0, 'nothing is written to a destroyed socket')
})

// ── what waits for the end of a read ──

t.test('what is put off during a read runs when the read is over', async (t) => {
  const order: string[] = []
  read((chunk) => {
    order.push(`took ${chunk.toString()}`)
    afterRead(() => order.push('then this'))
    order.push('still there')
  }, Buffer.from('x'))
  t.same(order, ['took x', 'still there', 'then this'], 'it runs after the listener has returned')
})

t.test('what is put off outside a read runs at the end of the turn', async (t) => {
  const order: string[] = []
  afterRead(() => order.push('end of the turn'))
  t.same(order, [], 'it does not run at once')
  await turns(1)
  t.same(order, ['end of the turn'], 'it has run by the next turn')
})

t.test('what is put off during a read runs although the listener throws', async (t) => {
  const order: string[] = []
  const broken = () =>
    read(() => {
      afterRead(() => order.push('all the same'))
      throw new Error('broken')
    }, Buffer.from('x'))
  t.throws(broken, { message: 'broken' }, 'the error of the listener reaches the caller')
  t.same(order, ['all the same'], 'what was put off has run')
  afterRead(() => order.push('later'))
  t.same(order, ['all the same'], 'the read counts as over: what is put off now waits for the end of the turn')
  await turns(1)
})
