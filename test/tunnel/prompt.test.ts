import type { Duplex } from 'node:stream'
import { test } from 'tap'
import { FRAME } from '../../proxy/tunnel/wire/frame.ts'
import { encodeHello, FEATURE, type Hello } from '../../proxy/tunnel/wire/hello.ts'
import { flow, Mesh, reach, type MeshNode } from '../support/tunnel-mesh.ts'
import { Listener } from '../support/mux-pair.ts'

/*
 * OPEN right behind the first HELLO: what it saves, and that no answer puts streams where they do not belong.
 */

const never = new AbortController().signal
/** What wires of a slow path take, one way (mesh.ts). */
const LAG_MS = 60

test('the first stream needs one round trip where the peer is known, otherwise two', async (t) => {
  for (const { isPrompt, openedAfter } of [
    { isPrompt: true, openedAfter: 2 },
    { isPrompt: false, openedAfter: 4 },
  ]) {
    await using mesh = new Mesh()
    mesh.isPrompt = isPrompt
    mesh.up('direct c/a>c/b')
    mesh.slow.add('direct')
    const a = mesh.node('c/a')
    const b = mesh.node('c/b')
    const listener = opened(a, 'c/b', Buffer.alloc(3_000, 'q'))
    for (let flights = 1; flights < openedAfter; flights++) {
      await mesh.clock.advance(LAG_MS)
      t.same(listener.log, [], `${flights} flights are not enough`)
    }
    await mesh.clock.advance(LAG_MS)
    t.same(listener.log, ['opened'], `${openedAfter} flights`)
    await mesh.clock.advance(LAG_MS)
    t.equal(b.heard[0]?.text().length, 3_000, 'and nothing is lost of what was said before that')
    t.equal(a.peers.existing('c/b')?.report().carrierPaths.length, 1, `one carrier after ${openedAfter} flights`)
  }
})

test('data sent before the answer is bounded by what every peer accepts', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b')
  mesh.slow.add('direct')
  const a = mesh.node('c/a')
  const b = mesh.node('c/b')
  opened(a, 'c/b', Buffer.alloc(3_000, 'q'))
  await mesh.clock.advance(LAG_MS)
  t.equal(b.heard[0]?.text().length, 1_024, 'no more is sent early than every peer accepts')
})

test('both sides may dial at the same time and send before either has answered', async (t) => {
  for (const order of [
    ['a', 'b'],
    ['b', 'a'],
  ]) {
    await using mesh = new Mesh()
    mesh.up('direct c/a>c/b', 'direct c/b>c/a')
    mesh.slow.add('direct')
    const nodes: Record<string, MeshNode> = { a: mesh.node('c/a'), b: mesh.node('c/b') }
    const flows = order.map((one) => opened(nodes[one]!, one === 'a' ? 'c/b' : 'c/a', Buffer.from(`from ${one}`)))
    await mesh.clock.advance(LAG_MS)
    const late = opened(nodes['a']!, 'c/b', Buffer.from('a bit later'))
    await mesh.clock.advance(4 * LAG_MS)
    for (const { log } of [...flows, late]) t.same(log, ['opened'], order.join())
    t.same(nodes['b']!.heard.map((one) => one.text()).toSorted(), ['a bit later', 'from a'])
    t.same(
      nodes['a']!.heard.map((one) => one.text()),
      ['from b'],
    )
    t.equal([...nodes['a']!.peers.all()].length, 1, 'one session, over both connections')
    t.equal([...nodes['b']!.peers.all()].length, 1, 'the same session at the other node')
    t.equal(nodes['a']!.peers.existing('c/b')?.report().carrierPaths.length, 2, 'that session has both connections')
    nodes['b']!.heard[0]?.stream.write(Buffer.from('answer'))
    await mesh.clock.advance(20_000)
    t.ok(
      [...flows, late].every(({ log }) => log.filter((word) => word !== 'data').length === 1),
      'and they stay',
    )
  }
})

test('when the peer still has a session that we have lost, streams continue in it', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b')
  const a = mesh.node('c/a')
  const b = mesh.node('c/b')
  const old = await flow(mesh, a, 'c/b')
  for (const wire of mesh.wires) wire.isSilent = true // the peer does not hear of it
  a.peers.cut('c/b')
  t.same(old.log, ['opened', 'reset'])
  const young = opened(a, 'c/b', Buffer.from('anew'))
  await mesh.clock.advance(1_000)
  t.same(young.log, ['opened'])
  t.equal(b.heard[1]?.text(), 'anew')
  t.equal([...b.peers.all()].length, 1, 'it is the one that the peer had')
  await mesh.clock.advance(20_000)
  t.same(young.log, ['opened'])
})

test('when a peer does not answer, the streams end and the next dial waits for HELLO', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b')
  const a = mesh.node('c/a')
  const heard = captured(mesh)
  const first = opened(a, 'c/b')
  await mesh.clock.advance(0)
  t.ok(a.peers.existing('c/b'), 'it is used at once')
  heard[0]?.destroy()
  await mesh.clock.advance(0)
  t.same(first.log, ['refused unreachable'])
  t.equal(a.peers.existing('c/b'), undefined, 'the session that was never agreed on is gone')
  t.equal([...a.peers.all()].length, 0, 'and not waited for')
  void a.peers.session(reach('c/b'), never).catch(() => undefined)
  await mesh.clock.advance(1_000)
  t.equal(heard.length, 2, 'the next session dials anew')
  t.equal(a.peers.existing('c/b'), undefined, 'until it answers')
  heard[1]?.write(encodeHello(answerTo(await helloOf(heard[1]))))
  await mesh.clock.advance(0)
  t.ok(a.peers.existing('c/b'), 'the session exists once the peer has answered')
})

test('silence after HELLO closes the connection', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b')
  const a = mesh.node('c/a')
  const heard = captured(mesh)
  const first = opened(a, 'c/b')
  await mesh.clock.advance(6_000)
  t.same(first.log, ['refused unreachable'])
  t.ok(heard[0]?.destroyed || heard[0]?.readableEnded, 'the connection that got no answer is closed')
})

test('impossible answers are refused', async (t) => {
  const rows: ReadonlyArray<{ why: string; answer: Partial<Hello> }> = [
    { why: 'an answer that contradicts what was promised', answer: { features: FEATURE.resume } },
    { why: 'an answer with too small a window', answer: { windowBytes: 10 } },
  ]
  for (const { why, answer } of rows) {
    await using mesh = new Mesh()
    mesh.up('direct c/a>c/b')
    const a = mesh.node('c/a')
    const heard = captured(mesh)
    const first = opened(a, 'c/b')
    await mesh.clock.advance(0)
    heard[0]?.write(encodeHello({ ...answerTo(await helloOf(heard[0])), ...answer }))
    await mesh.clock.advance(0)
    t.same(first.log, ['refused unreachable'], why)
    t.equal([...a.peers.all()].length, 0, why)
  }
})

test('when two answers put the streams in two sessions, the streams end', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b')
  const a = mesh.node('c/a')
  const heard = captured(mesh)
  const first = opened(a, 'c/b')
  await mesh.clock.advance(0)
  const proposal = await helloOf(heard[0])
  // another process of the peer dials us meanwhile, and that is agreed on
  const other = mesh.raw('c/b', 'c/a')
  other.write(encodeHello({ ...answerTo(proposal), session: '77'.repeat(16), incarnation: '77'.repeat(8), carrier: 2 }))
  await mesh.clock.advance(0)
  t.equal([...a.peers.all()].length, 1, 'it has become what was agreed on')
  heard[0]?.write(encodeHello(answerTo(proposal)))
  await mesh.clock.advance(0)
  t.same(first.log, ['refused unreachable'])
  t.equal([...a.peers.all()].length, 0, 'no session is left')
})

test('a path that lost the race is not waited for until it arrives or the network changes', async (t) => {
  await using mesh = new Mesh()
  mesh.up('relayed c/a>c/b')
  mesh.ways.set('direct c/a>c/b', 'hangs')
  const a = mesh.node('c/a')
  mesh.node('c/b')
  const ask = () => void a.peers.session(reach('c/b'), never).catch(() => undefined)
  ask()
  await mesh.clock.advance(149)
  t.same(mesh.dials, ['direct c/a>c/b'], 'it has its head start')
  await mesh.clock.advance(1)
  t.equal(a.peers.existing('c/b')?.path, 'relayed')
  const again = async () => {
    a.peers.cut('c/b')
    mesh.dials.length = 0
    ask()
    await mesh.clock.advance(0)
    return mesh.dials
  }
  t.same(await again(), ['direct c/a>c/b', 'relayed c/a>c/b'], 'at once')
  a.peers.networkChanged(() => true)
  t.same(await again(), ['direct c/a>c/b'], 'in another network it may be different')
  await mesh.clock.advance(150)
  mesh.up('direct c/a>c/b')
  t.equal((await again()).length, 2, 'the path that has come back is dialled as well')
  t.equal(a.peers.existing('c/b')?.path, 'direct')
  t.same(await again(), ['direct c/a>c/b'], 'it has arrived')
})

// ── what the tests stand on ──

/** A stream that is opened, and written to, as soon as there is a session. */
function opened(from: MeshNode, to: string, bytes?: Buffer): Listener {
  const listener = new Listener()
  void from.peers.session(reach(to), never).then((session) => {
    const stream = session.open(Buffer.from('flow'), listener)
    listener.stream = stream
    if (bytes !== undefined) stream.write(bytes)
  })
  return listener
}

/** A node `c/b` that does nothing by itself: the far ends of connections to it. */
function captured(mesh: Mesh): Duplex[] {
  const ends: Duplex[] = []
  mesh.node('c/b', {
    secure: {
      connect: () => Promise.reject(new Error('it does not dial')),
      accept: ({ stream }) => {
        ends.push(stream)
        return new Promise(() => undefined)
      },
    },
  })
  return ends
}

function answerTo({ session, carrier }: Pick<Hello, 'session' | 'carrier'>): Hello {
  const features = FEATURE.resume | FEATURE.early
  return { version: 1, carrier, windowBytes: 99_999, features, incarnation: '66'.repeat(8), session }
}

/** What a node has proposed on this connection. */
async function helloOf(end: Duplex | undefined): Promise<Pick<Hello, 'session' | 'carrier'>> {
  const bytes = (end?.read() ?? Buffer.alloc(0)) as Buffer
  if (bytes[0] !== FRAME.HELLO) throw new Error('no HELLO')
  return { carrier: bytes.readUInt16BE(10), session: bytes.toString('hex', 28, 44) }
}
