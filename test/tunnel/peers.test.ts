import { once } from 'node:events'
import { connect, createServer, type AddressInfo } from 'node:net'
import { duplexPair } from 'node:stream'
import { test } from 'tap'
import { FRAME } from '../../proxy/tunnel/wire/frame.ts'
import { encodeHello, FEATURE } from '../../proxy/tunnel/wire/hello.ts'
import { openPeers } from '../../proxy/tunnel/peers/peers.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { silentLog, type Log } from '../../src/core/kit/log.ts'
import type { EarlierProcesses } from '../../proxy/tunnel/peers/earlier-processes.ts'
import { flow, Mesh, reach, type MeshNode } from '../support/tunnel-mesh.ts'
import { accepting, listenTo, type Listener } from '../support/mux-pair.ts'
import { tlsFor } from '../support/tls.ts'
import { until } from '../support/until.ts'

const never = new AbortController().signal

/** What a new process knows of the one before it. */
function earlier({ peers }: MeshNode): EarlierProcesses {
  return {
    knows: (node) => peers.held().some(({ peer }) => peer === node),
    take: ({ session: { peer, id, incarnation }, path, via, stream, hello }) => {
      const isHeld = peers
        .held()
        .some((held) => held.peer === peer && held.id === id && held.incarnation === incarnation)
      if (isHeld) {
        stream.unshift(hello)
        peers.incoming({ path, stream, via, proven: peer })
      }
      return Promise.resolve(isHeld)
    },
  }
}

test('concurrent requests for a session share one dial', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b')
  const a = mesh.node('c/a')
  const b = mesh.node('c/b')
  t.equal(a.peers.existing('c/b'), undefined, 'at first there is no session')
  const asked = [1, 2, 3].map(() => a.peers.session(reach('c/b'), never))
  await mesh.clock.advance(0)
  const [one, two, three] = await Promise.all(asked)
  t.ok(one === two && two === three, 'all three requests get the same session')
  t.same(mesh.dials, ['direct c/a>c/b'], 'one dial was made')
  t.equal(a.peers.existing('c/b'), one, 'the session is the one that exists now')
  t.equal(b.peers.existing('c/a')?.peer, 'c/a', 'the peer is who the proof says')
  t.equal(one!.path, 'direct', 'its path is direct')
  t.equal(one!.rttMs, 0, 'the round trip is measured at once')
  t.equal(a.peers.rttMs('c/b'), 0, 'the distance of the peer is known')
  t.equal([...a.peers.all()].length, 1, 'there is one session')

  const near = await flow(mesh, a, 'c/b', 'cart')
  near.stream.write(Buffer.from('hello'))
  await mesh.clock.advance(0)
  t.equal(b.heard[0]!.text(), 'hello', 'a flow carries its bytes')
  const back = await flow(mesh, b, 'c/a')
  t.same(back.log, ['opened'], 'the other side opens on the same session')
  t.same(mesh.dials, ['direct c/a>c/b'], 'no second dial was made')
  const { bytesIn, bytesOut } = one!.report()
  t.ok(bytesIn > 0 && bytesOut > 0, 'the bytes of both directions are counted')
})

test('when both sides dial at the same time, they end up with one session', async (t) => {
  for (const first of ['a', 'b']) {
    await using mesh = new Mesh()
    mesh.up('direct c/a>c/b', 'direct c/b>c/a')
    const a = mesh.node('c/a')
    const b = mesh.node('c/b')
    const ask = {
      a: () => a.peers.session(reach('c/b'), never),
      b: () => b.peers.session(reach('c/a'), never),
    }
    const asked = first === 'a' ? [ask.a(), ask.b()] : [ask.b(), ask.a()]
    await mesh.clock.advance(0)
    await Promise.all(asked)
    t.equal([...a.peers.all()].length, 1, 'one side has one session')
    t.equal([...b.peers.all()].length, 1, 'the other side has one session')
    t.equal(a.peers.existing('c/b')?.report().carrierPaths.length, 2, 'both connections carry the one session')
    t.equal(b.peers.existing('c/a')?.report().carrierPaths.length, 2, 'the other side has both connections in it too')
    const flows = [
      await flow(mesh, a, 'c/b'),
      await flow(mesh, b, 'c/a'),
      await flow(mesh, a, 'c/b'),
      await flow(mesh, b, 'c/a'),
    ]
    t.ok(
      flows.every(({ log }) => log[0] === 'opened'),
      'flows open in both directions',
    )
    await mesh.clock.advance(20_000)
    t.ok(
      flows.every(({ log }) => log.length === 1),
      'all flows stay open',
    )
  }
})

test('a dead peer is noticed within four seconds while streams are open, and they wait ten seconds for another path', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b')
  const a = mesh.node('c/a')
  const b = mesh.node('c/b')
  const near = await flow(mesh, a, 'c/b')
  await mesh.clock.advance(3_000)
  for (const wire of mesh.wires) wire.isSilent = true
  mesh.ways.set('direct c/a>c/b', 'hangs')
  await mesh.clock.advance(2_500)
  t.ok(a.peers.existing('c/b'), 'after 2.5 s of silence the session is in doubt, and still there')
  const dials = mesh.dials.length
  t.ok(dials >= 4, 'another carrier is being dialled already')
  await mesh.clock.advance(2_500)
  t.equal(a.peers.existing('c/b'), undefined, 'new flows do not go there')
  t.equal([...a.peers.all()].length, 1, 'the session waits for another path')
  await mesh.clock.advance(9_000)
  t.same(near.log, ['opened'], 'the open stream waits')
  t.ok(mesh.dials.length - dials > 20, 'paths are dialled for it, twice a second each')
  await mesh.clock.advance(3_500)
  t.same(near.log, ['opened', 'reset'], 'after ten seconds without a path the stream is reset')
  t.same(b.heard[0]!.log, ['reset'], 'the other side gives up too')
  t.equal([...a.peers.all()].length, 0, 'the session is over')
})

test('without a path the error lists what was tried', async (t) => {
  await using mesh = new Mesh()
  const a = mesh.node('c/a')
  const ask = async () => {
    const asked = a.peers.session(reach('c/b'), never).catch((error: unknown) => error)
    await mesh.clock.advance(0)
    return asked
  }
  t.match(
    await ask(),
    { code: 'NO_PATH', details: { node: 'c/b', tried: ['direct: refused', 'relayed: refused'] } },
    'the error lists each path and its outcome',
  )
  t.equal(mesh.dials.length, 2, 'both paths were dialled')
  t.match(
    await ask(),
    { code: 'NO_PATH', details: { reason: 'it was tried a moment ago' } },
    'the next error says that it was tried a moment ago',
  )
  t.equal(mesh.dials.length, 2, 'no dial for those who ask at once again')
  for (let failures = 0; failures < 12; failures++) {
    await mesh.clock.advance(1_001)
    const dials = mesh.dials.length
    await ask()
    t.equal(mesh.dials.length, dials + 2, `after ${failures + 1} failures a second is enough`)
  }
  mesh.up('relayed c/a>c/b')
  const b = mesh.node('c/b')
  await mesh.clock.advance(1_001)
  t.equal((await flow(mesh, a, 'c/b')).log[0], 'opened', 'with a relay up, a flow opens')
  t.equal(b.heard.length, 1, 'the other side hears it')

  mesh.ways.set('direct c/a>c/z', 'hangs')
  mesh.ways.set('relayed c/a>c/z', 'hangs')
  const waiting = new AbortController()
  const asked = a.peers.session(reach('c/z'), waiting.signal).catch((error: unknown) => error)
  await mesh.clock.advance(100)
  waiting.abort()
  t.match(
    await asked,
    { code: 'NO_PATH', details: { reason: 'given up' } },
    'the error of a request that is given up says so',
  )
  const other = a.peers.session(reach('c/z'), never).catch((error: unknown) => error)
  await mesh.clock.advance(10_000)
  t.match(await other, { code: 'NO_PATH' }, 'a dial ends by itself')
})

test('a worse path carries flows until a better one comes up, and then they move', async (t) => {
  await using mesh = new Mesh()
  mesh.up('relayed c/a>c/b')
  mesh.ways.set('direct c/a>c/b', 'hangs')
  const a = mesh.node('c/a')
  const b = mesh.node('c/b')
  const asked = a.peers.session(reach('c/b'), never)
  await mesh.clock.advance(149)
  t.same(mesh.dials, ['direct c/a>c/b'], 'the better path has a head start')
  await mesh.clock.advance(1)
  const session = await asked
  t.equal(session.path, 'relayed', 'the session begins through the relay')
  const old = await flow(mesh, a, 'c/b')
  mesh.ways.set('direct c/a>c/b', 'refuses')
  await mesh.clock.advance(10_000)
  t.equal(mesh.dials.filter((dial) => dial.startsWith('direct')).length, 3, 'tried again after 1 s, and 5 s later')
  t.equal(session.path, 'relayed', 'it stays there while the direct path refuses')
  mesh.up('direct c/a>c/b')
  await mesh.clock.advance(16_000)
  t.equal(session.path, 'direct', 'it moves to the direct path when that is up')
  t.equal(b.peers.existing('c/a')?.path, 'direct', 'it has moved at the other end too')
  const young = await flow(mesh, a, 'c/b')
  t.same([old.log, young.log], [['opened'], ['opened']], 'the old flow is not disturbed')
  old.stream.write(Buffer.from('still here'))
  await mesh.clock.advance(0)
  t.equal(b.heard[0]!.text(), 'still here', 'the old flow still carries bytes')
  const relayed = mesh.wires.find(({ path }) => path === 'relayed')!
  t.ok(relayed.near.destroyed, 'the carrier of the worse path is closed')
  b.heard[0]!.stream.write(Buffer.from('and here'))
  await mesh.clock.advance(0)
  t.equal(old.text(), 'and here', 'the old flow still carries bytes back')
  t.same([old.log, young.log], [['opened', 'data'], ['opened']], 'neither flow was disturbed')
})

test('a second carrier comes with the first streams, and takes over when the first breaks', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b', 'direct c/b>c/a')
  const a = mesh.node('c/a')
  const b = mesh.node('c/b', { reach })
  const first = await flow(mesh, a, 'c/b')
  const session = a.peers.existing('c/b')!
  t.equal(session.report().carrierPaths.length, 1, 'before a second has passed there is one carrier')
  await mesh.clock.advance(1_000)
  t.equal(session.report().carrierPaths.length, 2, 'after a second there are two carriers')
  await mesh.clock.advance(30_000)
  t.equal(session.report().carrierPaths.length, 2, 'no third carrier comes')
  const second = await flow(mesh, a, 'c/b')
  mesh.wires[0]!.break()
  await mesh.clock.advance(0)
  first.stream.write(Buffer.from('on the other carrier'))
  await mesh.clock.advance(0)
  t.same([first.log, second.log], [['opened'], ['opened']], 'when the first carrier breaks, both flows go on')
  t.equal(b.heard[0]!.text(), 'on the other carrier', 'bytes arrive on the other carrier')
  t.equal(a.peers.existing('c/b'), session, 'the session lives on')
  const third = await flow(mesh, a, 'c/b')
  t.same(third.log, ['opened'], 'a new flow opens')
  await mesh.clock.advance(6_000)
  t.equal(session.report().carrierPaths.length, 2, 'a second carrier has come again')
  for (const wire of mesh.wires) wire.break()
  second.stream.write(Buffer.from('while there was none'))
  await mesh.clock.advance(0)
  t.same([second.log.at(-1), third.log.at(-1)], ['opened', 'opened'], 'when both carriers break, the flows go on')
  t.equal(a.peers.existing('c/b'), session, 'a new carrier was there at once')
  t.equal(b.heard[1]!.text(), 'while there was none', 'bytes that were written without a carrier arrive')
  t.same((await flow(mesh, a, 'c/b')).log, ['opened'], 'a new flow opens after that')
})

test('closing lets open streams finish before it ends them', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b', 'direct c/b>c/a')
  const a = mesh.node('c/a')
  const b = mesh.node('c/b', { drainMs: 5_000 })
  const near = await flow(mesh, a, 'c/b')
  let isClosed = false
  const closing = b.peers[Symbol.asyncDispose]().then(() => {
    isClosed = true
  })
  await mesh.clock.advance(1_000)
  t.same(near.log, ['opened'], 'open streams go on')
  near.stream.write(Buffer.from('last words'))
  const late = t.rejects(
    a.peers.session(reach('c/b'), never),
    { code: 'NO_PATH' },
    'a closing node takes no new sessions',
  )
  await mesh.clock.advance(1_000)
  await late
  t.equal(b.heard[0]!.text(), 'last words', 'bytes of an open stream still arrive')
  t.notOk(isClosed, 'closing waits for the open stream')
  near.stream.end()
  b.heard[0]!.stream.end()
  await mesh.clock.advance(300)
  await closing
  t.equal(a.peers.existing('c/b'), undefined, 'the other node has no session any more')
  t.same(near.log, ['opened', 'end'], 'its stream has ended without a reset')
  await t.rejects(b.peers.session(reach('c/a'), never), { code: 'NO_PATH' }, 'the closed node opens no session')

  const c = mesh.node('c/c', { drainMs: 2_000 })
  mesh.up('direct c/a>c/c')
  const stuck = await flow(mesh, a, 'c/c')
  const ended = c.peers[Symbol.asyncDispose]()
  await mesh.clock.advance(1_900)
  t.same(stuck.log, ['opened'], 'a stream that does not end goes on while it may')
  await mesh.clock.advance(3_000)
  await ended
  t.same(stuck.log, ['opened', 'reset'], 'a stream that does not end is reset after two seconds')
})

test('a disconnected node loses everything at once', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b')
  const a = mesh.node('c/a')
  const b = mesh.node('c/b')
  const near = await flow(mesh, a, 'c/b')
  b.peers.cut('c/a')
  b.peers.cut('c/unknown')
  await mesh.clock.advance(0)
  t.same(near.log, ['opened', 'reset'], 'the stream is reset at the other node')
  t.same(b.heard[0]!.log, ['reset'], 'the stream is reset here')
  t.equal(b.peers.existing('c/a'), undefined, 'the session is gone')

  const hello = encodeHello({
    version: 1,
    carrier: 1,
    windowBytes: 9_999,
    features: 0,
    incarnation: '66'.repeat(8),
    session: '66'.repeat(16),
  })
  const underWay = mesh.raw('c/evil', 'c/b')
  await mesh.clock.advance(0)
  b.peers.cut('c/evil')
  underWay.write(hello)
  await mesh.clock.advance(0)
  t.ok(underWay.destroyed, 'a connection that was under way is closed too')
  t.equal(b.peers.existing('c/evil'), undefined, 'no session came of it')
})

test('a connection that lost the race sends nothing to the peer', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b', 'relayed c/a>c/b')
  let isSlow = true
  const a = mesh.node('c/a', {
    secure: {
      connect: async (raw) => {
        if (raw.path === 'direct' && isSlow) await mesh.clock.sleep(1_000)
        return raw.stream
      },
      accept: () => Promise.reject(new Error('nobody dials')),
    },
  })
  const b = mesh.node('c/b')
  const asked = a.peers.session(reach('c/b'), never)
  await mesh.clock.advance(2_000)
  const session = await asked
  t.equal(session.path, 'relayed', 'the relay has won')
  t.equal(b.peers.existing('c/a')?.report().carrierPaths.length, 1, 'the peer has one carrier')
  t.ok(mesh.wires.find(({ path }) => path === 'direct')!.near.destroyed, 'the direct connection that lost is closed')
  isSlow = false
  await mesh.clock.advance(6_000)
  t.equal(session.path, 'direct', 'the direct path has its chance later')
})

test('a restarted peer gets a new session, and the old one ends at once', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b', 'direct c/b>c/a')
  const a = mesh.node('c/a')
  mesh.node('c/b')
  const old = await flow(mesh, a, 'c/b')
  for (const wire of mesh.wires) wire.isSilent = true // it lost power: nothing says so
  const b = mesh.node('c/b')
  const young = await flow(mesh, b, 'c/a')
  t.same(young.log, [], 'the old process is asked first')
  await mesh.clock.advance(1_001)
  t.same(young.log, ['opened'], 'when the old process does not answer within a second, the new one is served')
  t.same(old.log, ['opened', 'reset'], 'the stream of the old process is reset')
  t.same((await flow(mesh, a, 'c/b')).log, ['opened'], 'flows to the new process open')
  t.equal(b.heard.length, 1, 'the new process hears one flow')
})

for (const isPrompt of [true, false])
  test(`two processes with one identity: the first keeps its session, the second is named (prompt: ${isPrompt})`, async (t) => {
    await using mesh = new Mesh()
    mesh.isPrompt = isPrompt
    mesh.up('direct c/a>c/b', 'direct c/b>c/a')
    const warnings: string[] = []
    const log: Log = { ...silentLog, warn: (message) => void warnings.push(message), child: () => log }
    const metrics = openMetrics('agent')
    const a = mesh.node('c/a', { reach, log, metrics })
    const first = mesh.node('c/b', { reach })
    const kept = await flow(mesh, a, 'c/b')
    const second = mesh.node('c/b', { reach })
    for (let round = 0; round < 20; round += 1) {
      second.peers.session(reach('c/a'), never).catch(() => undefined)
      await mesh.clock.advance(1_500)
    }
    t.same(kept.log, ['opened'], 'the flow of the first process goes on')
    kept.stream.write(Buffer.from('still here'))
    await mesh.clock.advance(100)
    t.equal(first.heard[0]!.text(), 'still here', 'the flow of the first process carries bytes')
    t.same(warnings, ['another process uses the identity of a node'], 'the log warns once')
    t.ok(a.peers.hasDuplicate('c/b'), 'it is known that two processes use the identity')
    t.match(await metrics.registry.metrics(), /hedgerow_tunnel_duplicates_total\{[^}]*\} [1-9]/, 'a metric counts it')

    // the cluster has accepted the second one: the first gives way, and flows go to the second
    first.peers.identityTaken(true)
    await mesh.clock.advance(5_000)
    t.same(kept.log, ['opened', 'reset'], 'the flow of the first process is reset when that gives way')
    t.same((await flow(mesh, a, 'c/b')).log, ['opened'], 'new flows open')
    t.equal(second.heard.length, 1, 'the second process hears them')
    await t.rejects(
      first.peers.session(reach('c/a'), never),
      { code: 'NO_PATH' },
      'the first process opens no session any more',
    )
    await mesh.clock.advance(70_000)
    t.notOk(a.peers.hasDuplicate('c/b'), 'after a minute it is forgotten')
  })

test('a node is restarted for an upgrade: the old process finishes its flows beside the new one', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b', 'direct c/b>c/a')
  const a = mesh.node('c/a')
  const predecessor = mesh.node('c/b', { drainMs: 20_000, reach })
  const old = await flow(mesh, a, 'c/b')
  predecessor.peers.drain()
  await mesh.clock.advance(0)
  const heir = mesh.node('c/b')
  const young = await flow(mesh, a, 'c/b')
  t.same(young.log, ['opened'], 'a flow opens during the restart')
  t.equal(heir.heard.length, 1, 'new flows go to the new process')
  t.equal([...a.peers.all()].length, 2, 'there is a session with each process')
  t.same(old.log, ['opened'], 'the old flow goes on')
  old.stream.write(Buffer.from('as before'))
  await mesh.clock.advance(0)
  t.equal(predecessor.heard[0]!.text(), 'as before', 'the old flow carries bytes')

  // all carriers of the old session die: only the old process can bring another one
  const theirs = mesh.wires[0]!
  theirs.break()
  await mesh.clock.advance(2_000)
  predecessor.heard[0]!.stream.write(Buffer.from('still here'))
  await mesh.clock.advance(2_000)
  t.equal(old.text(), 'still here', 'a flow of the old process outlives its carriers')
  t.same(young.log, ['opened'], 'the new flow is not disturbed')

  old.stream.end()
  predecessor.heard[0]!.stream.end()
  const closing = predecessor.peers[Symbol.asyncDispose]()
  await mesh.clock.advance(3_000)
  await closing
  t.equal([...a.peers.all()].length, 1, 'the old session goes with its last flow')
  t.same((await flow(mesh, a, 'c/b')).log, ['opened'], 'new flows open after the restart')
  t.equal(heir.heard.length, 2, 'the new process hears them')
})

test('when both nodes are restarted and their path dies, both generations keep their flows', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b', 'direct c/b>c/a')
  const old = { a: mesh.node('c/a', { drainMs: 0, reach }), b: mesh.node('c/b', { drainMs: 0, reach }) }
  const oldFlow = await flow(mesh, old.a, 'c/b')
  old.a.peers.drain()
  old.b.peers.drain()
  const young = {
    a: mesh.node('c/a', { isBeside: true, reach, earlier: earlier(old.a) }),
    b: mesh.node('c/b', { isBeside: true, reach, earlier: earlier(old.b) }),
  }
  const youngFlow = await flow(mesh, young.a, 'c/b')
  t.same(youngFlow.log, ['opened'], 'a flow between the new processes opens')

  for (const wire of mesh.wires) wire.break()
  await mesh.clock.advance(20_000) // the old processes dial, reach the new ones, and are passed on to each other
  t.same(youngFlow.log, ['opened'], 'the new flow goes on')
  t.same(oldFlow.log, ['opened'], 'the old flow goes on')
  for (const { peers } of [old.a, old.b, young.a, young.b])
    t.equal([...peers.all()].length, 1, 'each process has one session')
  youngFlow.stream.write(Buffer.from('still here'))
  oldFlow.stream.write(Buffer.from('as before'))
  await mesh.clock.advance(1_000)
  t.equal(young.b.heard[0]!.text(), 'still here', 'the new flow carries bytes')
  t.equal(old.b.heard[0]!.text(), 'as before', 'the old flow carries bytes')
})

test('a restarted node that cannot dial is reached by its peer, in both of its processes', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b') // c/b dials nobody
  const a = mesh.node('c/a', { reach })
  const old = mesh.node('c/b', { drainMs: 0 })
  const oldFlow = await flow(mesh, a, 'c/b')
  old.peers.drain()
  await mesh.clock.advance(0)
  mesh.node('c/b', { isBeside: true, earlier: earlier(old) })
  const youngFlow = await flow(mesh, a, 'c/b')
  for (const wire of mesh.wires) wire.break()
  await mesh.clock.advance(20_000)
  t.same(youngFlow.log, ['opened'], 'the new flow goes on')
  t.same(oldFlow.log, ['opened'], 'the old flow goes on')
  oldFlow.stream.write(Buffer.from('as before'))
  await mesh.clock.advance(1_000)
  t.equal(old.heard[0]!.text(), 'as before', 'the old flow carries bytes')
  t.equal([...a.peers.all()].length, 2, 'there is a session with each process')
})

test('what is no carrier of an earlier process is greeted by the new one, however it arrives', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b', 'direct c/c>c/b')
  const a = mesh.node('c/a', { reach })
  const old = mesh.node('c/b', { drainMs: 0 })
  await flow(mesh, a, 'c/b')
  old.peers.drain()
  await mesh.clock.advance(0)
  const young = mesh.node('c/b', { isBeside: true, earlier: earlier(old) })
  t.same(
    (await flow(mesh, mesh.node('c/c', { reach }), 'c/b')).log,
    ['opened'],
    'a node that had no session reaches the new process',
  )

  const stranger = mesh.raw('c/a', 'c/b') // of the node that the earlier process has a session with
  const hello = encodeHello({
    carrier: 1,
    version: 1,
    windowBytes: 65_536,
    session: '0'.repeat(32),
    incarnation: '1'.repeat(16),
    features: FEATURE.resume,
  })
  for (const byte of hello) {
    stranger.write(Buffer.of(byte))
    await mesh.clock.advance(0)
  }
  await mesh.clock.advance(100)
  t.equal([...young.peers.all()].length, 2, 'the new process has a session with both nodes')
  for (const garbage of [Buffer.from('GET / HTTP/1.1'), Buffer.from([FRAME.HELLO, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1])]) {
    const broken = mesh.raw('c/a', 'c/b')
    broken.write(garbage)
    await mesh.clock.advance(100)
    t.ok(broken.destroyed, `${JSON.stringify(garbage.toString('latin1'))} closes the connection`)
  }
  const silent = mesh.raw('c/a', 'c/b')
  await mesh.clock.advance(5_001)
  t.ok(silent.destroyed, 'a connection that says nothing is closed after five seconds')
})

test('a session without streams gives its carriers back after a quarter of an hour', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b')
  const a = mesh.node('c/a')
  const b = mesh.node('c/b')
  const near = await flow(mesh, a, 'c/b')
  near.stream.end()
  b.heard[0]!.stream.end()
  await mesh.clock.advance(14 * 60_000)
  t.ok(a.peers.existing('c/b'), 'after fourteen minutes the session is kept')
  await mesh.clock.advance(2 * 60_000)
  t.equal(a.peers.existing('c/b'), undefined, 'after sixteen minutes it is given back')
  t.equal([...b.peers.all()].length, 0, 'it is given back at the other side too')
  t.same((await flow(mesh, a, 'c/b')).log, ['opened'], 'the next flow dials again, and opens')
})

test('connections that prove nothing or send nothing are closed', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b')
  const a = mesh.node('c/a')
  const b = mesh.node('c/b', { limits: { unproven: 3 } })
  const strangers = [1, 2, 3, 4].map(() => {
    const [near, far] = duplexPair()
    near.on('error', () => undefined)
    b.peers.incoming({ path: 'direct', stream: far, via: 'a stranger' })
    return far
  })
  await mesh.clock.advance(0)
  t.same(
    strangers.map(({ destroyed }) => destroyed),
    [true, false, false, false],
    'the oldest makes room for the fourth',
  )
  await mesh.clock.advance(5_000)
  t.ok(
    strangers.every(({ destroyed }) => destroyed),
    'all are closed after five seconds without a proof',
  )

  const silent = mesh.raw('c/a', 'c/b')
  await mesh.clock.advance(4_000)
  t.notOk(silent.destroyed, 'a connection that says nothing is kept for four seconds')
  await mesh.clock.advance(1_500)
  t.ok(silent.destroyed, 'a connection without HELLO is closed after five seconds')

  const rude = mesh.raw('c/a', 'c/b')
  rude.write('GET / HTTP/1.1\r\n\r\n')
  await mesh.clock.advance(0)
  t.ok(rude.destroyed, 'a connection that does not begin with HELLO is closed at once')

  const self = mesh.raw('c/b', 'c/b')
  await mesh.clock.advance(0)
  t.ok(self.destroyed, 'nobody is their own peer')
  t.equal((await flow(mesh, a, 'c/b')).log[0], 'opened', 'all others are served')
})

test('an authenticated peer that sends garbage loses its session only', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b')
  const a = mesh.node('c/a')
  const b = mesh.node('c/b')
  const innocent = await flow(mesh, a, 'c/b')
  const carriers = [1, 2].map(() => {
    const evil = mesh.raw('c/evil', 'c/b')
    const hello = {
      version: 1,
      carrier: 1,
      windowBytes: 9_999,
      features: 0,
      incarnation: '66'.repeat(8),
      session: '66'.repeat(16),
    }
    evil.write(encodeHello(hello))
    return evil
  })
  await mesh.clock.advance(0)
  t.equal(b.peers.existing('c/evil')?.report().carrierPaths.length, 2, 'the peer has two carriers in one session')
  const open = Buffer.alloc(8)
  open[0] = FRAME.OPEN
  open[7] = b.id < 'c/evil' ? 2 : 1
  carriers[0]!.write(open)
  await mesh.clock.advance(0)
  t.equal(b.heard.length, 2, 'the stream of the peer is heard')
  carriers[1]!.write(Buffer.alloc(100, 0xff))
  await mesh.clock.advance(0)
  t.ok(
    carriers.every(({ destroyed }) => destroyed),
    'all its carriers are closed',
  )
  t.same(b.heard[1]!.log, ['reset'], 'its stream is reset')
  t.equal(b.peers.existing('c/evil'), undefined, 'its session is gone')
  t.same(innocent.log, ['opened'], 'the flow of another peer goes on')

  const many = Array.from({ length: 10 }, (_, i) => {
    const one = mesh.raw('c/greedy', 'c/b')
    one.write(
      encodeHello({
        version: 1,
        carrier: i,
        windowBytes: 9_999,
        features: 0,
        incarnation: '77'.repeat(8),
        session: '77'.repeat(16),
      }),
    )
    return one
  })
  await mesh.clock.advance(0)
  t.equal(many.filter(({ destroyed }) => !destroyed).length, 8, 'a session has at most eight carriers')
})

test('sessions work over real TCP and TLS', async (t) => {
  const secure = await tlsFor(['a', 'b'])
  const heard: Parameters<typeof accepting>[0] = []
  const metrics = openMetrics('agent')
  const b = openPeers({ self: 'c/b', dialers: [], secure: secure['b']!, accept: accepting(heard) })
  const server = createServer((stream) => b.incoming({ path: 'direct', stream, via: 'test' }))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const a = openPeers({
    self: 'c/a',
    secure: secure['a']!,
    accept: (incoming) => incoming.refuse('not-here'),
    metrics,
    dialers: [
      {
        path: 'direct',
        suits: () => true,
        dial: async () => {
          const stream = connect(port, '127.0.0.1')
          await once(stream, 'connect')
          return { path: 'direct', stream, via: `127.0.0.1:${port}` }
        },
      },
    ],
  })
  await t.rejects(
    a.session(reach('c/z'), never),
    { code: 'NO_PATH' },
    'an address only counts with the right node behind it',
  )
  const session = await a.session(reach('c/b'), never)
  const near = listenTo(session as never, 'tls')
  const sent = Buffer.alloc(6_000_000)
  for (let at = 0; at < sent.length; at += 4) sent.writeUInt32LE(at, at)
  for (let at = 0; at < sent.length; at += 50_000) near.stream.write(sent.subarray(at, at + 50_000))
  near.stream.end()
  await until(() => heard[0] !== undefined)
  const far = heard[0] as Listener
  await until(() => far.log.includes('end'))
  t.ok(Buffer.concat(far.chunks).equals(sent), 'batches are not overwritten before they are sent')
  t.ok(session.rttMs! > 0, 'the distance is measured')
  t.match(
    await metrics.registry.metrics(),
    /hedgerow_tunnel_sessions_open\{path="direct",role="agent"\} 1/,
    'a metric counts the open session',
  )
  heard[0]!.stream.end()
  await until(() => session.streams === 0)
  await a[Symbol.asyncDispose]()
  await b[Symbol.asyncDispose]()
  server.close()
  metrics.registry.clear()
})
