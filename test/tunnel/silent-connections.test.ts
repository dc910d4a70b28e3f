import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setImmediate } from 'node:timers/promises'
import { test } from 'tap'
import { directDialer, DirectListener } from '../../proxy/paths/direct-path.ts'
import type { Secure } from '../../proxy/tunnel/peers/connector.ts'
import type { RawConnection } from '../../proxy/paths/contract.ts'
import { openPeers, type TunnelPeers } from '../../proxy/tunnel/peers/peers.ts'
import { connectSecure, createAcceptor } from '../../src/core/identity/peer-tls.ts'
import { nodeIdOf } from '../../src/core/identity/principal.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { accepting } from '../support/mux-pair.ts'
import { TestMesh } from '../identity/mesh.ts'

/** TCP connections to a tunnel port that send nothing must not keep out the nodes that do. */

const SILENT = 1_000
const never = new AbortController().signal

async function silentConnections(port: number, from: string, count: number): Promise<Socket[]> {
  const sockets = Array.from({ length: count }, () => connect({ port, host: '127.0.0.1', localAddress: from }))
  for (const socket of sockets) socket.on('error', () => undefined).resume()
  await Promise.all(sockets.map((socket) => once(socket, 'connect')))
  return sockets
}

test('honest nodes are served while strangers hold 1,000 silent connections open', async (t) => {
  await using life = new Lifetime()
  const mesh = life.use(await TestMesh.create())
  const cluster = await mesh.cluster('c')
  const [victimIdentity, oneIdentity, twoIdentity] = await Promise.all(
    ['victim', 'one', 'two'].map((name) => mesh.node(cluster, name)),
  )
  const identities = { victim: victimIdentity!, one: oneIdentity!, two: twoIdentity! }
  const idOf = (name: keyof typeof identities) => nodeIdOf(identities[name].principal as never)
  const open = (name: keyof typeof identities): TunnelPeers => {
    const identity = identities[name]
    const acceptor = life.use(createAcceptor(identity))
    const secure = {
      connect: ({ stream }, peer, signal) => connectSecure(stream, identity, peer, signal),
      accept: ({ stream }) => acceptor.accept(stream),
    } satisfies Secure
    return life.use(openPeers({ self: idOf(name), dialers: [directDialer()], secure, accept: accepting([]) }))
  }
  const victim = open('victim')
  const incoming = (raw: RawConnection) => victim.incoming(raw)
  const { port } = life.use(await DirectListener.start({ host: '127.0.0.1', port: 0 }, incoming, silentLog))
  const reach = { id: idOf('victim'), addresses: [`127.0.0.1:${port}`], relays: [] }

  const silent: Socket[] = []
  const left = () => silent.filter(({ closed, readableEnded }) => !closed && !readableEnded).length
  /** All have been taken, and most of them let go: a dial has five seconds, and a busy machine takes long for a thousand. */
  const fill = async (from: string) => {
    silent.push(...(await silentConnections(port, from, SILENT)))
    while (left() > 256) await setImmediate() // the ends here hear of it a moment later
  }
  await fill('127.0.0.2')
  const one = open('one')
  t.equal((await one.session(reach, never)).path, 'direct', 'from another address than theirs')
  await fill('127.0.0.1')
  t.equal((await open('two').session(reach, never)).path, 'direct', 'from the same address as theirs')
  t.ok(one.existing(reach.id), 'a session that is open stays')
  t.pass('no more than 256 are kept')
  for (const socket of silent) socket.destroy()
})
