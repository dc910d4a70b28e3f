import { once } from 'node:events'
import { createServer, type AddressInfo, connect, type Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { randomBytes } from 'node:crypto'
import t from 'tap'
import { afterRead, read } from '../../proxy/socket/after-read.ts'
import { Inlet } from '../../proxy/socket/inlet.ts'
import { Outlet } from '../../proxy/socket/outlet.ts'
import { tlsFor } from '../support/tls.ts'
import { digestOf, turns, until } from './world.ts'

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

t.test('an inlet reads chunk by chunk, and stops exactly when asked', async (t) => {
  t.test('reads into one buffer for all sockets, on the Node that this repository pins', async (t) => {
    await using one = await socketPair()
    await using two = await socketPair()
    const heard = listener()
    for (const { here, there } of [one, two]) {
      const inlet = new Inlet(here, heard.take)
      t.ok(inlet.isDirect, 'the fast way is in effect')
      inlet.start()
      there.write(randomBytes(300_000))
    }
    await until(() => Buffer.concat(heard.chunks).length === 600_000)
    t.equal(heard.memory.size, 1)
  })

  t.test('does so for TLS, in both roles', async (t) => {
    const secure = await tlsFor(['a', 'b'])
    await using pair = await socketPair()
    const [near, far] = await Promise.all([
      secure['a']!.connect({ path: 'direct', stream: pair.there, via: '' }, 'c/b', AbortSignal.timeout(5_000)),
      secure['b']!.accept({ path: 'direct', stream: pair.here, via: '' }),
    ])
    const ends = [near, far?.stream] as [TLSSocket, TLSSocket]
    const sent = randomBytes(200_000)
    for (const [at, socket] of ends.entries()) {
      const heard = listener()
      const inlet = new Inlet(socket, heard.take)
      t.ok(inlet.isDirect)
      inlet.start()
      ends[1 - at]!.write(sent)
      await until(() => heard.chunks.reduce((sum, { length }) => sum + length, 0) === sent.length)
      t.equal(digestOf(Buffer.concat(heard.chunks)), digestOf(sent))
      t.equal(heard.memory.size, 1)
    }
    for (const socket of ends) socket.destroy()
  })

  /** The same sentences for the fast way and for what is left where it is not there. */
  const ways: [way: string, wrap: (socket: Socket) => Socket][] = [
    ['direct', (socket) => socket],
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
    t.test(way, async (t) => {
      await using pair = await socketPair()
      const here = wrap(pair.here)
      const heard = listener()
      const inlet = new Inlet(here, heard.take)
      t.equal(inlet.isDirect, way === 'direct')
      let hasEnded = false
      here.on('end', () => {
        hasEnded = true
      })

      pair.there.write('one')
      await turns(20)
      t.equal(heard.text, '', 'nothing before start')
      heard.goOn = false
      inlet.start()
      await until(() => heard.text === 'one')
      pair.there.end('two')
      await turns(20)
      t.equal(heard.text, 'one', 'nothing after it said stop')
      t.notOk(hasEnded, 'not even the end')
      heard.goOn = true
      inlet.start()
      inlet.start()
      await until(() => hasEnded)
      t.equal(heard.text, 'onetwo')
      t.notOk(here.destroyed, 'the other direction is open')
      here.end()
      await once(here, 'close')
    })

    t.test(`${way}: RST is an error and a close`, async (t) => {
      await using pair = await socketPair()
      const here = wrap(pair.here)
      const failed = once(here, 'error')
      new Inlet(here, () => true).start()
      pair.there.resetAndDestroy()
      const [error] = (await failed) as [NodeJS.ErrnoException]
      t.equal(error.code, 'ECONNRESET')
      await until(() => here.closed)
    })
  }

  for (const [way, wrap] of ways) {
    t.test(`${way}: room that comes with the very chunk that took the last of it is heard`, async (t) => {
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
      t.equal(inlet.isDirect, way === 'direct')
    })
  }

  t.test('begins with what was read before', async (t) => {
    await using pair = await socketPair()
    const heard = listener()
    pair.here.unshift(Buffer.from('early '))
    const inlet = new Inlet(pair.here, heard.take)
    pair.there.write('late')
    heard.goOn = false
    inlet.start()
    await turns(20)
    t.equal(heard.text, 'early ')
    heard.goOn = true
    inlet.start()
    await until(() => heard.text === 'early late')
  })
})

t.test('an outlet copies, gathers and flushes without losing or reordering a byte', async (t) => {
  t.test('has taken all it needs when write returns', async (t) => {
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
    t.equal(digestOf(Buffer.concat(chunks)), digestOf(Buffer.concat(sent)))
  })

  t.test('a short message leaves in the same turn, small pieces keep their order behind large ones', async (t) => {
    await using pair = await socketPair()
    const outlet = new Outlet(pair.here)
    outlet.write(Buffer.from('x'))
    t.equal(pair.here.bytesWritten, 1)
    outlet.write(Buffer.alloc(10_000, 'y'))
    outlet.write(Buffer.from('z'))
    t.equal(pair.here.bytesWritten, 1, 'gathered')
    let text = ''
    pair.there.on('data', (chunk: Buffer) => {
      text += chunk.toString()
    })
    await until(() => text === `x${'y'.repeat(10_000)}z`)
  })

  t.test('says when the socket is backed up, and drain follows', async (t) => {
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
    t.ok(outlet.write(chunk))
  })

  t.test('what is left for a socket that is gone is dropped', async (t) => {
    await using pair = await socketPair()
    const outlet = new Outlet(pair.here)
    outlet.write(Buffer.alloc(10_000))
    pair.here.destroy()
    await turns(2)
    t.equal(pair.here.bytesWritten, 0)
  })
})

t.test('after a read', async (t) => {
  const order: string[] = []
  read((chunk) => {
    order.push(`took ${chunk.toString()}`)
    afterRead(() => order.push('then this'))
    order.push('still there')
  }, Buffer.from('x'))
  t.same(order, ['took x', 'still there', 'then this'])

  afterRead(() => order.push('end of the turn'))
  t.equal(order.length, 3)
  await turns(1)
  t.equal(order.at(-1), 'end of the turn')

  t.throws(() =>
    read(() => {
      afterRead(() => order.push('all the same'))
      throw new Error('broken')
    }, Buffer.from('x')),
  )
  t.equal(order.at(-1), 'all the same')
  afterRead(() => order.push('later'))
  t.not(order.at(-1), 'later', 'no read is under way any more')
  await turns(1)
})
