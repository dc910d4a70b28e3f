import { test } from 'tap'
import { FRAME, HEADER_BYTES, writeHeader } from '../../proxy/tunnel/wire/frame.ts'
import { PathHistory } from '../../proxy/tunnel/peers/path-history.ts'
import { flow, Mesh, reach } from '../support/tunnel-mesh.ts'
import { MuxPair } from '../support/mux-pair.ts'

const never = new AbortController().signal

test('a worse kind of path is preferred only when it is clearly faster', async (t) => {
  const rows: { why: string; inUse: number; other: number; isCalm?: boolean; goes: boolean }[] = [
    { why: 'a worse path that is three times as fast is preferred', inUse: 90, other: 30, goes: true },
    { why: 'a worse path that is less than twice as fast is not preferred', inUse: 59, other: 30, goes: false },
    { why: 'between two fast paths a difference is noise', inUse: 4, other: 1, goes: false },
    {
      why: 'round trips measured during a bulk transfer are not compared',
      inUse: 900,
      other: 30,
      isCalm: false,
      goes: false,
    },
  ]
  for (const { why, inUse, other, isCalm = true, goes } of rows) {
    const memory = new PathHistory()
    memory.measured('relayed', other, 0)
    memory.measured('punched', inUse, 0)
    let went: string | undefined
    for (let now = 0; now <= 12_000; now += 250) went ??= memory.fasterThan('punched', { rttMs: inUse, isCalm }, now)
    t.equal(went, goes ? 'relayed' : undefined, why)
  }
  const memory = new PathHistory()
  memory.measured('relayed', 30, 0)
  for (let now = 0; now < 9_900; now += 250)
    t.equal(
      memory.fasterThan('punched', { rttMs: 90, isCalm: true }, now),
      undefined,
      `it stays on its path after ${now} ms`,
    )
  t.equal(memory.fasterThan('punched', { rttMs: 40, isCalm: true }, 9_900), undefined, 'a gust')
  t.equal(
    memory.fasterThan('punched', { rttMs: 90, isCalm: true }, 10_100),
    undefined,
    'counted from the beginning again',
  )
  t.equal(
    memory.fasterThan('relayed', { rttMs: 500, isCalm: true }, 60_000),
    undefined,
    'a better kind is reached by an upgrade, not by a fallback',
  )
  t.equal(
    memory.fasterThan('punched', { rttMs: undefined, isCalm: true }, 60_000),
    undefined,
    'nothing is faster than a path without a measurement',
  )
  memory.shun('punched', 0)
  t.ok(memory.isPenalised('punched', 59_000), 'the path is penalised for a minute')
  t.notOk(memory.isPenalised('punched', 61_000), 'the penalty ends after a minute')
  memory.shun('punched', 61_000)
  t.ok(memory.isPenalised('punched', 61_000 + 119_000), 'twice as long the second time')
  memory.forget()
  t.notOk(memory.isPenalised('punched', 62_000), 'what is forgotten is not penalised')
})

test('a slow path of a better kind is left at both ends with its open streams, and not taken again at once', async (t) => {
  await using mesh = new Mesh()
  mesh.up('relayed c/a>c/b')
  const a = mesh.node('c/a')
  const b = mesh.node('c/b')
  const old = await flow(mesh, a, 'c/b')
  const session = a.peers.existing('c/b')!
  await mesh.clock.advance(3_000)
  t.equal(session.path, 'relayed')
  mesh.up('direct c/a>c/b')
  for (let i = 0; i < 80 && session.path === 'relayed'; i++) await mesh.clock.advance(250)
  t.equal(session.path, 'direct')
  for (const wire of mesh.wires) if (wire.path === 'direct') wire.lag = (pass) => void mesh.clock.after(60, pass)
  mesh.slow.add('direct')
  const direct = () => mesh.dials.filter((dial) => dial.startsWith('direct')).length
  for (let i = 0; i < 400 && session.path === 'direct'; i++) await mesh.clock.advance(100)
  t.equal(session.path, 'relayed')
  t.equal(b.peers.existing('c/a')?.path, 'relayed', 'at both ends')
  old.stream.write(Buffer.from('still here'))
  await mesh.clock.advance(250)
  t.equal(b.heard[0]!.text(), 'still here')
  const before = direct()
  await mesh.clock.advance(30_000)
  t.equal(direct(), before, 'for a while')
  t.equal(session.path, 'relayed')
  t.same(old.log, ['opened'])
})

test('a session moves to a nearer relay at both ends with its open streams', async (t) => {
  await using mesh = new Mesh()
  mesh.up('relayed c/a>c/b')
  const asked: string[] = []
  let nearest = 'wss://a/relay'
  const a = mesh.node('c/a', {
    reach: (id) => ({ id, addresses: [], relays: ['wss://a/relay', 'wss://b/relay'] }),
    nearer: (node, relay) => {
      asked.push(`${node} ${relay}`)
      return relay === nearest ? undefined : nearest
    },
  })
  const b = mesh.node('c/b')
  const old = await flow(mesh, a, 'c/b')
  await mesh.clock.advance(9_000)
  t.equal(mesh.wires.length, 1, 'not at once')
  await mesh.clock.advance(3_000)
  t.equal(mesh.wires.length, 2, 'one more, before the other is left')
  t.equal(asked.at(-1), 'c/b wss://a/relay')
  old.stream.write(Buffer.from('on it goes'))
  mesh.wires[0]!.isSilent = true
  await mesh.clock.advance(250)
  t.equal(b.heard[0]!.text(), 'on it goes', 'through the nearer one')
  nearest = 'wss://b/relay'
  await mesh.clock.advance(40_000)
  t.equal(asked.at(-1), 'c/b wss://a/relay', 'it stays for a while, wherever the wind blows')
  await mesh.clock.advance(30_000)
  t.equal(asked.at(-1), 'c/b wss://b/relay')
  t.same(old.log, ['opened'])
})

test('no stream waits for a hole punch', async (t) => {
  await using mesh = new Mesh()
  const dialled: string[] = []
  const a = mesh.node('c/a', {
    dialers: [
      {
        path: 'punched',
        suits: () => true,
        dial: () => {
          dialled.push('punched')
          return Promise.reject(new Error('no'))
        },
      },
    ],
  })
  const asked = a.peers.session(reach('c/b'), never).catch((error: unknown) => error)
  await mesh.clock.advance(1_000)
  t.match(await asked, { code: 'NO_PATH' })
  t.same(dialled, [])
})

test('signals are exchanged over a session', async (t) => {
  await using mesh = new Mesh()
  mesh.up('direct c/a>c/b', 'direct c/a>c/old')
  const heard: string[] = []
  const signalled = (from: string, payload: Buffer) => heard.push(`${from}: ${payload.toString()}`)
  const a = mesh.node('c/a', { signalled })
  mesh.node('c/b', { signalled })
  mesh.node('c/old')
  t.notOk(a.peers.signal('c/b', Buffer.from('x')), 'there is no session')
  await flow(mesh, a, 'c/b')
  await flow(mesh, a, 'c/old')
  t.ok(a.peers.signal('c/b', Buffer.from('hello')), 'a signal goes to a peer with a session')
  t.notOk(a.peers.signal('c/old', Buffer.from('hello')), 'an older agent would not know')
  await mesh.clock.advance(0)
  t.same(heard, ['c/a: hello'])
  for (let i = 0; i < 200; i++) a.peers.signal('c/b', Buffer.from('again'))
  await mesh.clock.advance(0)
  t.equal(heard.length, 30, 'too many at once are dropped, and the session lives')
  await mesh.clock.advance(1_000)
  for (let i = 0; i < 200; i++) a.peers.signal('c/b', Buffer.from('again'))
  await mesh.clock.advance(0)
  t.equal(heard.length, 40, 'ten a second')
})

test('a signal that is too long breaks the carrier', async (t) => {
  const pair = new MuxPair()
  const [link] = pair.links
  const frame = (bytes: number) => {
    const out = Buffer.alloc(HEADER_BYTES + bytes)
    writeHeader(out, 0, FRAME.SIGNAL, 0, bytes)
    return out
  }
  link!.far.receive(frame(2_048))
  t.throws(() => link!.far.receive(frame(2_049)), { code: 'FRAME_INVALID' })
})
