import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import t from 'tap'
import { external, Origin, program, wholeMesh } from './mesh.ts'
import { until } from '../support/until.ts'

/** The walk of a UDP flow: a name, a VIP, datagrams to an instance on another node and back. */

async function bind(address = '127.0.0.1', port = 0): Promise<Socket & AsyncDisposable> {
  const socket = createSocket({ type: 'udp4', recvBufferSize: 4 * 1024 * 1024 })
  socket.bind({ address, port, exclusive: true })
  await once(socket, 'listening')
  return Object.assign(socket, {
    async [Symbol.asyncDispose]() {
      socket.close()
      await once(socket, 'close')
    },
  })
}

async function ask(client: Socket, payload: Buffer | string, address: string, port: number): Promise<Buffer> {
  const answered = once(client, 'message')
  client.send(payload, port, address)
  const [answer, from] = (await answered) as [Buffer, { address: string; port: number }]
  if (from.address !== address || from.port !== port) throw new Error(`answered from ${from.address}:${from.port}`)
  return answer
}

t.test('datagrams of every size, between two nodes', async (t) => {
  await using echo = await bind()
  echo.on('message', (payload, { port, address }) => echo.send(payload, port, address))
  await using mesh = await wholeMesh(['here', 'there'])
  await using origin = await Origin.start('unused')
  const target = echo.address().port
  const ports = [{ port: 5353, target, protocol: 'udp', name: 'echo' }]
  await mesh.apply([{ ...external('mirror', origin, 'there'), port: undefined, code: '127.0.0.1', ports }], 1)
  const here = mesh.node('here')
  const name = 'shop.acme.mirror.prod.any.closest.local'
  const [address = ''] = await here.dns.resolve4(name)
  t.match(await here.dns.resolveSrv(`_echo._udp.${name}`), [{ port: 5353 }])

  await using client = await bind()
  for (const size of [0, 1, 1_200, 1_472, 1_473, 9_000, 65_507]) {
    const payload = Buffer.alloc(size, size % 251)
    t.ok((await ask(client, payload, address, 5353)).equals(payload), `${size} bytes`)
  }

  const heard: number[] = []
  let sent = 0
  const more = () => {
    while (sent < 2_000 && sent - heard.length < 16) {
      const packet = Buffer.alloc(1_200)
      packet.writeUInt32BE(sent++)
      client.send(packet, 5353, address)
    }
  }
  client.on('message', (packet) => {
    heard.push(packet.readUInt32BE())
    more()
  })
  more()
  await until(() => heard.length === 2_000, 'all are back')
  t.same(
    heard,
    Array.from({ length: 2_000 }, (_, i) => i),
    'on a quiet path none is lost, and the order is kept',
  )

  const open = (await here.flows()).find(({ ended }) => ended === undefined)
  t.match(open, { protocol: 'udp', caller: 'edge/here', name: /:5353\/udp$/, node: 'edge/there', path: 'direct' })
  t.match(await here.trace(`${name}:5353/udp`), { ok: true, node: 'edge/there', steps: [{}, { what: /:5353\/udp$/ }] })
  t.match(await here.trace(`${name}:5353`), { ok: false, steps: [{}, {}, { what: /does not serve port 5353$/ }] })
})

t.test('replicas of a program that only speaks UDP: each client keeps its own', async (t) => {
  await using mesh = await wholeMesh(['a', 'b'])
  const speaker =
    "const s = require('dgram').createSocket('udp4');" +
    's.on("message", (m, f) => s.send(process.env.HEDGEROW_INSTANCE, f.port, f.address));' +
    's.bind(process.env.PORT, process.env.HOST)'
  const spread = { cmd: [process.execPath, '-e', speaker], port: '5353/udp' }
  await mesh.apply([program('oracle', 3, spread)], 3)
  const node = mesh.node('a')
  const [address = ''] = await node.dns.resolve4('shop.acme.oracle.prod.any.rr.local')
  const clients = await Promise.all(Array.from({ length: 6 }, () => bind()))
  const counts = new Map<string, number>()
  for (const client of clients) {
    const first = (await ask(client, 'who?', address, 5353)).toString()
    counts.set(first, (counts.get(first) ?? 0) + 1)
    for (let i = 0; i < 5; i++) t.equal((await ask(client, 'who?', address, 5353)).toString(), first)
  }
  t.same([...counts.values()], [2, 2, 2], 'round robin counts flows, not datagrams')
  const [one] = (await node.dns.resolve4('shop.acme.oracle.prod.1.pinned.local')) as [string]
  t.equal((await ask(clients[0] as Socket, 'who?', one, 5353)).toString(), 'shop.acme.oracle.prod.1')
  await Promise.all(clients.map((client) => client[Symbol.asyncDispose]()))
})
