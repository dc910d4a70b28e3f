import { once } from 'node:events'
import { connect as connectTcp, createServer, type AddressInfo, type Socket } from 'node:net'
import { connect, type TLSSocket } from 'node:tls'
import t from 'tap'
import { clientOptions } from '../../src/core/identity/tls.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { LinkServer } from '../../src/orchestrator/link/link-server.ts'
import { TestMesh } from '../identity/mesh.ts'
import { closed as closedBy } from '../support/closed.ts'

await using mesh = await TestMesh.create()
const edge = await mesh.cluster('edge')
const node = await mesh.node(edge, 'n1')

const UPGRADE = 'GET /link HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n'

/** A cable to the server on which the client's second flight, which ends its handshake, waits until the test lets it pass. */
async function heldCable(port: number): Promise<{ port: number; held: Promise<void>; release(): void; close(): void }> {
  const held = Promise.withResolvers<void>()
  const pieces: Buffer[] = []
  const sockets: Socket[] = []
  let isReleased = false
  let count = 0
  const cable = createServer((near) => {
    const far = connectTcp(port, '127.0.0.1')
    sockets.push(near, far)
    far
      .on('error', () => near.destroy())
      .on('close', () => near.destroy())
      .pipe(near)
    near.on('error', () => far.destroy()).on('close', () => far.destroy())
    near.on('data', (piece: Buffer) => {
      count += 1
      if (count === 1 || isReleased) return far.write(piece)
      pieces.push(piece)
      return held.resolve()
    })
  }).listen(0, '127.0.0.1')
  await once(cable, 'listening')
  const release = () => {
    isReleased = true
    for (const piece of pieces) sockets[1]?.write(piece)
  }
  const close = () => {
    cable.close()
    for (const socket of sockets) socket.destroy()
  }
  return { port: (cable.address() as AddressInfo).port, held: held.promise, release, close }
}

for (const [name, first] of [
  ['asks nothing', ''],
  ['asks for a link', UPGRADE],
] as const) {
  t.test(
    `a server that closes while a client that then ${name} is in its handshake leaves no connection`,
    async (t) => {
      const server = await LinkServer.start(
        {
          host: '127.0.0.1',
          port: 0,
          identity: edge,
          authenticate: () => undefined,
          upgrades: { '/link': () => t.fail('a link is accepted') },
          routes: () => undefined,
        },
        silentLog,
      )
      const cable = await heldCable(Number(new URL(server.url).port))
      const client: TLSSocket = connect({ ...clientOptions(node), host: '127.0.0.1', port: cable.port })
      const ended = closedBy(client)
      client.write(first)
      await cable.held
      const closed = server[Symbol.asyncDispose]()
      await new Promise((resolve) => setImmediate(resolve))
      cable.release()
      await closed
      await ended
      t.pass('closed, and the client knows')
      cable.close()
    },
  )
}
