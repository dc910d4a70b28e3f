import { once } from 'node:events'
import { connect, type AddressInfo, createServer, type Socket } from 'node:net'
import t from 'tap'
import { LoopbackInterceptor } from '../../proxy/intercept/loopback.ts'
import { UserLimits } from '../../proxy/flow/user-limits.ts'
import { NODE_CALLER } from '../../proxy/flow/flow.ts'
import { Admission } from '../../src/core/kit/admission.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { LocalUsers } from '../../src/core/kit/local-users.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { vipToIPv4 } from '../../src/core/model/address.ts'
import { noOtherUsers, OTHER_UID, silentUser } from '../support/other-users.ts'
import { nextVip, OWN_RANGE } from '../support/own-vips.ts'
import '../support/no-orphans.ts'
import { freePort } from '../../src/lab/system-tools.ts'
import { keptLog, LiteralTable } from './world.ts'
import { heard } from '../support/heard.ts'
import { until } from '../support/until.ts'

/** What one user of the machine may take of the agent, while others keep theirs. */

const CART = 'shop.acme.cart.prod'
t.test('below half of the capacity nobody is asked; above it a user has at most three quarters', async (t) => {
  const asked: string[] = []
  const users = {
    userOf: async ({ remoteAddress }: { remoteAddress?: string | undefined }) => (
      asked.push('x'), remoteAddress === '127.0.0.9' ? 9 : 1
    ),
  }
  const log = keptLog()
  const limits = new UserLimits({ capacity: 8, log, users })
  const server = createServer((socket) => void socket.on('error', () => undefined).resume())
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const sockets: Socket[] = []
  const enter = async (from: string) => {
    const accepted = once(server, 'connection') as Promise<[Socket]>
    sockets.push(connect({ port, host: '127.0.0.1', localAddress: from }))
    const [socket] = await accepted
    sockets.push(socket)
    return limits.enter(socket)
  }
  for (let i = 0; i < 3; i++) t.equal(await enter('127.0.0.1'), true, 'admitted while few are open')
  t.same(asked, [], 'while few are open')
  for (let i = 0; i < 3; i++) t.equal(await enter('127.0.0.1'), true, 'up to six of eight')
  t.equal(await enter('127.0.0.1'), false, 'refused beyond the share of one user')
  t.equal(await enter('127.0.0.9'), true, 'another user has room')
  t.equal(asked.length, 8, 'each connection is asked about once')
  t.match(log.lines, [{ sentence: 'new flows of one user are refused', fields: { user: 'uid 1', open: 6 } }])
  for (const socket of sockets) socket.destroy()
  await until(() => sockets.every(({ closed }) => closed))
  t.equal(await enter('127.0.0.1'), true, 'closed ones do not count')
  for (const socket of sockets) socket.destroy()
  server.close()
})

t.test('a user that opens silent connections to a VIP leaves room for others', { skip: noOtherUsers }, async (t) => {
  const port = await freePort()
  const vip = nextVip()
  const log = keptLog()
  const metrics = openMetrics('agent')
  t.teardown(() => metrics.registry.clear())
  let flows = 0
  await using _ = await LoopbackInterceptor.start({ range: OWN_RANGE }, () => NODE_CALLER, {
    table: new LiteralTable({
      id: CART,
      on: ['edge/b'],
      ports: [port],
      vips: { 'any.rr': vip },
      requested: ['any.rr'],
    }),
    userLimits: new UserLimits({ capacity: 40, log }),
    clock: systemClock,
    log,
    metrics,
    onFlow: ({ socket }) => {
      flows += 1
      socket.on('error', () => undefined).pipe(socket)
    },
  })
  const host = vipToIPv4(OWN_RANGE, vip)
  using flood = silentUser(host, port, 100)
  await until(() => flood.state.peak > 30 && flows === 30 && flood.state.open === 30)
  const socket = connect({ host, port })
  socket.write('hello')
  const answer = await heard(socket)
  t.equal(answer.toString(), 'hello', 'a call of another user')
  t.equal(flows, 31, 'the call of another user is one more flow')
  t.match(await log.line('new flows of one user are refused'), { fields: { user: `uid ${OTHER_UID}` } })
  socket.destroy()
})

t.test('silent connections of one user do not close those of another', { skip: noOtherUsers }, async (t) => {
  const known = new LocalUsers()
  let told = 0
  const userOf: LocalUsers['userOf'] = (ends) => known.userOf(ends).finally(() => void (told += 1))
  const admission = new Admission({ most: 60, users: { userOf } }, 10_000)
  const server = createServer((socket) => {
    socket.on('error', () => undefined).resume()
    admission.enter(socket, socket)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const own = Array.from({ length: 10 }, () => connect({ port, host: '127.0.0.1' }).resume())
  await until(() => admission.size === 10)
  // as many as take half of the places, so that it is known whose they are before more come
  using first = silentUser('127.0.0.1', port, 30)
  await until(() => first.state.open === 30)
  using second = silentUser('127.0.0.1', port, 15)
  await until(() => second.state.open === 15 && admission.size === 55)
  await until(() => told === 55) // /proc/net/tcp was read
  using flood = silentUser('127.0.0.1', port, 40)
  await until(() => admission.evicted >= 35)
  t.ok(
    own.every(({ readableEnded, destroyed }) => !readableEnded && !destroyed),
    'the oldest of all are kept',
  )
  t.ok(flood.state.peak > 0, 'the flood was served as far as there was room')
  for (const socket of own) socket.destroy()
  server.close()
})
