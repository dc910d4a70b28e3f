import { test } from 'tap'
import type { Dialer } from '../../proxy/paths/contract.ts'
import { directDialer, DirectListener } from '../../proxy/paths/direct-path.ts'
import type { Secure } from '../../proxy/tunnel/peers/connector.ts'
import { openPeers, type TunnelPeers } from '../../proxy/tunnel/peers/peers.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { flow, Mesh, reach } from '../support/tunnel-mesh.ts'
import { accepting, Listener } from '../support/mux-pair.ts'

const never = new AbortController().signal
const here = () => true

test('after a network change a silent carrier is abandoned within a second', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b')
  const a = mesh.node('c/a')
  const b = mesh.node('c/b')
  const near = await flow(mesh, a, 'c/b')
  await mesh.clock.advance(3_100)
  for (const wire of mesh.wires) wire.isSilent = true
  const dials = mesh.dials.length
  a.peers.networkChanged(here)
  await mesh.clock.advance(1_000)
  t.ok(mesh.dials.length > dials, 'another is dialled')
  near.stream.write(Buffer.from('on it goes'))
  await mesh.clock.advance(0)
  t.equal(b.heard[0]!.text(), 'on it goes')
  t.same(near.log, ['opened'])
})

test('after a network change a carrier that answers is kept', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b')
  const a = mesh.node('c/a')
  mesh.node('c/b')
  await flow(mesh, a, 'c/b')
  await mesh.clock.advance(3_100)
  const dials = mesh.dials.length
  for (let changes = 0; changes < 20; changes++) a.peers.networkChanged(here)
  await mesh.clock.advance(900)
  t.equal(mesh.dials.length, dials, 'nothing is dialled, however often it changes')
})

test('after a network change a better path is tried at once, without waiting for the schedule', async (t) => {
  await using mesh = new Mesh()
  mesh.up('relayed c/a>c/b')
  const a = mesh.node('c/a')
  mesh.node('c/b')
  await flow(mesh, a, 'c/b')
  await mesh.clock.advance(200_000)
  const dials = mesh.dials.length
  mesh.up('direct c/a>c/b')
  await mesh.clock.advance(10_000)
  t.equal(a.peers.existing('c/b')?.path, 'relayed')
  t.equal(mesh.dials.length, dials, 'minutes between two tries by now')
  a.peers.networkChanged(here)
  await mesh.clock.advance(1_500)
  t.equal(a.peers.existing('c/b')?.path, 'direct')
})

test('after a network change an unreachable node is dialled at once', async (t) => {
  await using mesh = new Mesh()
  const a = mesh.node('c/a')
  mesh.node('c/b')
  const ask = async () => {
    const asked = a.peers.session(reach('c/b'), never).catch((error: unknown) => error)
    await mesh.clock.advance(0)
    return asked
  }
  await ask()
  mesh.up('direct c/a>c/b')
  t.match(await ask(), { code: 'NO_PATH' }, 'it was tried a moment ago')
  a.peers.networkChanged(here)
  t.match(await ask(), { path: 'direct' })
})

test('the paths chosen by the operator apply to dialled and accepted connections', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b', 'relayed c/a>c/b', 'direct c/b>c/a', 'relayed c/b>c/a')
  const a = mesh.node('c/a', { allows: (path) => path === 'relayed' })
  const b = mesh.node('c/b')
  const asked = a.peers.session(reach('c/b'), never)
  await mesh.clock.advance(500)
  t.equal((await asked).path, 'relayed')
  t.same(mesh.dials, ['relayed c/a>c/b'])
  await flow(mesh, b, 'c/a')
  await mesh.clock.advance(120_000)
  t.ok(mesh.dials.includes('direct c/b>c/a'), 'the other side tries')
  t.equal(a.peers.existing('c/b')?.path, 'relayed', 'in vain')
  t.equal(b.peers.existing('c/a')?.path, 'relayed')
})

test('carriers from a removed address are cut at once, and streams continue from another', async (t) => {
  const heard: Parameters<typeof accepting>[0] = []
  const peers: TunnelPeers[] = []
  const secure = (peer: string): Secure => ({
    connect: (raw) => Promise.resolve(raw.stream),
    accept: (raw) => Promise.resolve({ peer, stream: raw.stream }),
  })
  const b = openPeers({ self: 'c/b', dialers: [], secure: secure('c/a'), accept: accepting(heard), drainMs: 0 })
  peers.push(b)
  const listener = await DirectListener.start({ host: '127.0.0.1', port: 0 }, (raw) => b.incoming(raw), silentLog)
  const a = openPeers({
    self: 'c/a',
    dialers: [directDialer()],
    secure: secure('c/b'),
    accept: accepting([]),
    drainMs: 0,
  })
  peers.push(a)
  try {
    const there = { id: 'c/b', addresses: [`127.0.0.1:${listener.port}`], relays: [] }
    const session = await a.session(there, never)
    const near = new Listener()
    const stream = session.open(Buffer.from('flow'), near)
    near.stream = stream
    while (!near.log.includes('opened')) await turn()
    const asked: string[] = []
    const isGone = (address: string) => {
      asked.push(address)
      return false
    }
    a.networkChanged(isGone)
    t.ok(
      asked.length > 0 && asked.every((address) => address === '127.0.0.1'),
      'it asks about the local address of every carrier, and about nothing else',
    )
    t.equal(a.existing('c/b'), undefined, 'no carrier is left')
    t.same(
      near.log.filter((word) => word === 'reset'),
      [],
    )
    stream.write(Buffer.from('sent meanwhile'))
    while (heard[0]!.text() === '') await turn()
    t.equal(heard[0]!.text(), 'sent meanwhile')
    t.ok(a.existing('c/b'), 'the session is up again')
  } finally {
    await listener[Symbol.asyncDispose]()
    await Promise.all(peers.map((one) => one[Symbol.asyncDispose]()))
  }
})

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

test('a node that has moved is dialled where it is now, not where it was when the session began', async (t) => {
  await using mesh = new Mesh()
  mesh.up('relayed c/b>c/a')
  const asked: string[] = []
  const where = { id: 'c/b', addresses: ['192.168.1.10:7472'], relays: [] }
  const direct: Dialer = {
    path: 'direct',
    suits: () => true,
    dial: ({ addresses }) => {
      asked.push(...addresses)
      return Promise.reject(new Error('refused'))
    },
  }
  const a = mesh.node('c/a', { dialers: [direct], reach: () => where })
  const b = mesh.node('c/b')
  await flow(mesh, b, 'c/a')
  await mesh.clock.advance(8_000)
  t.same([...new Set(asked)], ['192.168.1.10:7472'], 'a better path is tried')
  asked.length = 0
  where.addresses = ['192.168.1.77:7472']
  a.peers.networkChanged(here)
  await mesh.clock.advance(2_000)
  t.same([...new Set(asked)], ['192.168.1.77:7472'])
})
