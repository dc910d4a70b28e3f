import { EventEmitter, once } from 'node:events'
import { createServer as createHttpServer, get } from 'node:http'
import { connect, type AddressInfo, type Server, type Socket } from 'node:net'
import t from 'tap'
import { Admission, admitHttp, sourceOf } from '../../src/core/kit/admission.ts'
import { heard } from '../support/heard.ts'
import { until } from '../support/until.ts'

/** Something with an end, in place of a socket. */
class Connection extends EventEmitter {
  readonly name: string
  isClosed = false

  constructor(name: string) {
    super()
    this.name = name
  }

  destroy(): this {
    this.isClosed = true
    this.emit('close')
    return this
  }
}

function world(limits: ConstructorParameters<typeof Admission>[0]) {
  const admission = new Admission(limits)
  const enter = (name: string, source: string) => {
    const connection = new Connection(name)
    return { connection, ...admission.enter(connection, source) }
  }
  return { admission, enter }
}

t.test('one silent connection too many closes the oldest of the largest source', (t) => {
  const { admission, enter } = world({ most: 4 })
  const flood = [1, 2, 3].map((i) => enter(`flood ${i}`, 'attacker'))
  const honest = enter('honest', 'client')
  const newcomer = enter('newcomer', 'another client')
  t.same(
    [...flood, honest, newcomer].map(({ connection }) => connection.isClosed),
    [true, false, false, false, false],
  )
  t.equal(admission.size, 4)
  t.equal(admission.evicted, 1)
  t.end()
})

t.test('a source that floods loses its own connections only', (t) => {
  const { admission, enter } = world({ most: 10 })
  const honest = enter('honest', 'client')
  for (let i = 0; i < 1_000; i++) enter(`flood ${i}`, 'attacker')
  t.notOk(honest.connection.isClosed, 'a flood from elsewhere does not close the honest connection')
  t.equal(admission.size, 10)
  t.end()
})

t.test('a flood from many addresses closes the oldest', (t) => {
  const { enter } = world({ most: 10 })
  const all = Array.from({ length: 30 }, (_, i) => enter(`${i}`, `source ${i}`))
  t.same(
    all.flatMap(({ connection }) => (connection.isClosed ? [] : connection.name)),
    all.slice(-10).map(({ connection }) => connection.name),
  )
  t.end()
})

t.test('a program that comes from many addresses of this machine is one source, and so are its users', async (t) => {
  const uidOf = ({ remotePort }: { remotePort?: number | undefined }) => ((remotePort ?? 0) < 1_000 ? 1 : 2)
  const admission = new Admission({ most: 20, users: { userOf: async (ends) => uidOf(ends) } })
  const enter = (remoteAddress: string, remotePort: number) => {
    const connection = new Connection(remoteAddress)
    admission.enter(connection, { localAddress: '127.0.0.1', localPort: 80, remoteAddress, remotePort })
    return connection
  }
  const honest = [enter('127.0.0.1', 1), enter('127.0.0.1', 2)]
  const flood = []
  for (let i = 0; i < 200; i++) {
    flood.push(enter(`127.1.0.${i}`, 1_000 + i))
    await Promise.resolve()
  }
  t.same(
    honest.map(({ isClosed }) => isClosed),
    [false, false],
    'the two connections of the other user are kept',
  )
  t.equal(flood.filter(({ isClosed }) => !isClosed).length, 18, 'the flood has the other places')
})

t.test('one source may be limited to less than the total', (t) => {
  const { enter } = world({ most: 10, mostOfOne: 2 })
  const three = [1, 2, 3].map((i) => enter(`${i}`, 'client'))
  t.same(
    three.map(({ connection }) => connection.isClosed),
    [true, false, false],
  )
  t.end()
})

t.test('an active connection is not counted, and counts as the newest when it falls silent', (t) => {
  const { admission, enter } = world({ most: 2 })
  const first = enter('first', 'client')
  first.active()
  t.equal(admission.size, 0)
  const second = enter('second', 'client')
  first.silent()
  enter('third', 'client')
  t.notOk(first.connection.isClosed, 'a connection that became silent again is not the oldest')
  t.ok(second.connection.isClosed, 'it was silent for longest')
  first.connection.destroy()
  first.silent()
  t.equal(admission.size, 1, 'a closed connection does not come back')
  t.end()
})

t.test('the source of an IPv6 connection is its /64', (t) => {
  for (const [remoteAddress, source] of [
    ['10.0.0.7', '10.0.0.7'],
    ['::ffff:10.0.0.7', '10.0.0.7'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
    ['2001:db8::6', '2001:db8:0:0::/64'],
    ['::1', '0:0:0:0::/64'],
    ['fe80::1%eth0', 'fe80:0:0:0::/64'],
    ['2001:db8:1:2::', '2001:db8:1:2::/64'],
    [undefined, ''],
  ] as const)
    t.equal(sourceOf({ remoteAddress }), source)
  t.end()
})

t.test('an HTTP server answers during a flood of silent connections', async (t) => {
  const server = createHttpServer((_request, response) => response.end('ok'))
  const admission = new Admission({ most: 50 })
  admitHttp(server, admission)
  const port = await listening(server)
  const flood: Socket[] = []
  for (let i = 0; i < 500; i++) flood.push(connect({ port, host: '127.0.0.1' }).on('error', () => undefined))
  await Promise.all(flood.map(async (socket) => socket.connecting && (await once(socket, 'connect'))))
  t.equal(await bodyOf(port), 'ok', 'from the address of the flood')
  t.ok(admission.size <= 50, `${admission.size} silent connections are kept`)
  t.ok(admission.evicted >= 450, `${admission.evicted} silent connections were closed`)
  for (const socket of flood) socket.destroy()
  await closed(server)
})

t.test('a request that is being served is never closed for a newcomer', async (t) => {
  const arrived = Promise.withResolvers<() => void>()
  const server = createHttpServer((_request, response) => arrived.resolve(() => void response.end('ok')))
  const admission = new Admission({ most: 2 })
  admitHttp(server, admission)
  const port = await listening(server)
  const body = bodyOf(port)
  const finish = await arrived.promise
  const flood = Array.from({ length: 20 }, () => connect({ port, host: '127.0.0.1' }).on('error', () => undefined))
  await Promise.all(flood.map((socket) => once(socket, 'connect')))
  await until(() => admission.evicted >= 18)
  finish()
  t.equal(await body, 'ok')
  for (const socket of flood) socket.destroy()
  await closed(server)
})

t.test('an upgrade that nothing listens to is still answered', async (t) => {
  const server = createHttpServer((_request, response) => response.end('ok'))
  admitHttp(server, new Admission({ most: 10 }))
  const port = await listening(server)
  const socket = connect({ port, host: '127.0.0.1' })
  socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: nothing\r\n\r\n')
  const answer = await heard(socket)
  t.match(answer.toString(), /^HTTP\/1\.1 200/)
  socket.destroy()
  await closed(server)
})

async function listening(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

function bodyOf(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    get({ port, host: '127.0.0.1', agent: false }, (response) => {
      let body = ''
      response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk))
      response.on('end', () => resolve(body))
    }).on('error', reject)
  })
}

async function closed(server: Server): Promise<void> {
  const end = once(server, 'close')
  server.close()
  await end
}
