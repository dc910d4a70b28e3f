import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import t from 'tap'
import { OwnAddresses } from '../../src/agent/own-addresses.ts'
import { ownListeners } from '../../src/core/kit/own-listeners.ts'
import { vipRange } from '../../src/core/model/address.ts'

const own = new OwnAddresses(vipRange('127.16.0.0/12'))

async function tcp(host: string) {
  const server = createServer()
  await ownListeners.within(() => once(server.listen({ host, port: 0 }), 'listening'))
  const { port } = server.address() as AddressInfo
  return {
    port,
    async [Symbol.asyncDispose]() {
      if (!server.listening) return
      server.close()
      await once(server, 'close')
    },
  }
}

t.test('a listener of this process is forbidden where it listens, and only there', async (t) => {
  await using server = await tcp('127.0.0.1')
  const { port } = server
  const rows: [address: string, forbidden: boolean, why: string][] = [
    ['127.0.0.1', true, 'where it listens'],
    ['::ffff:127.0.0.1', true, 'the same, as IPv6 sockets write it'],
    ['0.0.0.0', true, 'which leads to whatever listens on this machine'],
    ['127.0.0.2', false, 'another program may listen there'],
    ['::1', false, 'and there'],
  ]
  for (const [address, forbidden, why] of rows) t.equal(own.forbids(address, port, 'tcp'), forbidden, why)
  t.notOk(own.forbids('127.0.0.1', port, 'udp'), 'the same number in UDP is another port')
  await server[Symbol.asyncDispose]()
  t.notOk(own.forbids('127.0.0.1', port, 'tcp'), 'a closed one may be a program’s')
})

t.test('a server of the program around us is no listener of a role', async (t) => {
  const server = createServer()
  await once(server.listen({ host: '127.0.0.1', port: 0 }), 'listening')
  const { port } = server.address() as AddressInfo
  t.notOk(own.forbids('127.0.0.1', port, 'tcp'), 'it may be a service')
  server.close()
})

t.test('a listener on every address is forbidden at each address of this machine', async (t) => {
  await using server = await tcp('0.0.0.0')
  t.ok(own.forbids('127.0.0.1', server.port, 'tcp'), 'at the address of loopback')
  t.ok(own.forbids('127.99.0.1', server.port, 'tcp'), 'at every other address of 127.0.0.0/8')
  t.notOk(own.forbids('192.0.2.1', server.port, 'tcp'), 'not on another machine')
})

t.test('port 53 of a program of the user’s own is allowed while our name server has port 53 elsewhere', async (t) => {
  ownListeners.adopt(t, [{ protocol: 'udp', address: '127.30.0.53', port: 53 }])
  t.teardown(() => ownListeners.forget(t))
  t.notOk(own.forbids('127.0.0.1', 53, 'udp'), 'another address with the same port is allowed')
  t.ok(own.forbids('127.30.0.53', 53, 'udp'), 'the address of our name server is forbidden')
})

t.test('UDP sockets are listed; those of single flows are not', async (t) => {
  const socket = ownListeners.within(() => createSocket('udp4'))
  const flow = ownListeners.within(() => ownListeners.unlisted(() => createSocket('udp4')))
  for (const each of [socket, flow]) await new Promise<void>((resolve) => each.bind(0, '127.0.0.1', resolve))
  t.ok(own.forbids('127.0.0.1', socket.address().port, 'udp'), 'a UDP listener is forbidden')
  t.notOk(own.forbids('127.0.0.1', flow.address().port, 'udp'), 'the socket of one flow is not listed')
  for (const each of [socket, flow]) {
    each.close()
    await once(each, 'close')
  }
})

t.test('what another thread listens at is forbidden until that thread ends', async (t) => {
  const thread = {}
  ownListeners.adopt(thread, [{ protocol: 'tcp', address: '127.0.0.1', port: 7470 }])
  t.ok(own.forbids('127.0.0.1', 7470, 'tcp'), 'forbidden while the thread runs')
  ownListeners.forget(thread)
  t.notOk(own.forbids('127.0.0.1', 7470, 'tcp'), 'allowed once the thread has ended')
})

t.test('a thread is notified of each change of its own list', async (t) => {
  let changes = 0
  const stop = ownListeners.onChange(() => changes++)
  const before = ownListeners.list().length
  const server = await tcp('127.0.0.1')
  t.equal(ownListeners.list().length, before + 1)
  await server[Symbol.asyncDispose]()
  t.equal(ownListeners.list().length, before)
  t.equal(changes, 2)
  stop()
})
