import { test } from 'tap'
import { DetachedStreams } from '../../proxy/tunnel/session/failover.ts'
import { ANY_PATH, readPathRule, type PathRule } from '../../src/core/model/path-rule.ts'
import { Mesh, reach, type MeshNode } from '../support/tunnel-mesh.ts'
import { accepting, DatagramListener, Listener } from '../support/mux-pair.ts'

const never = new AbortController().signal
const rule = (text: string): PathRule => readPathRule(text)!
const BOTH = ['direct c/a>c/b', 'relayed c/a>c/b']

/** A session between a and b over these ways; what b accepts obeys the rule that its request names. */
async function pair(ways: readonly string[]): Promise<{ mesh: Mesh; a: MeshNode; b: MeshNode }> {
  const mesh = new Mesh()
  mesh.up(...ways)
  const heard: MeshNode['heard'] = []
  const a = mesh.node('c/a')
  const b = mesh.node('c/b', {
    accept: (incoming) => {
      incoming.restrictTo?.(readPathRule(incoming.request.toString()) ?? ANY_PATH)
      accepting(heard)(incoming)
    },
  })
  await ruled(mesh, a, 'any')
  return { mesh, a, b: { ...b, heard } }
}

/** Opens a flow under a rule, and waits a second for what must be dialled. */
async function ruled(mesh: Mesh, from: MeshNode, text: string) {
  const asked = from.peers.session(reach('c/b'), never, rule(text))
  asked.catch(() => undefined)
  await mesh.clock.advance(1_000)
  const session = await asked
  const listener = new Listener()
  const path = session.route(rule(text))?.path
  const stream = session.open(Buffer.from(text), listener, rule(text))
  listener.stream = stream
  await mesh.clock.advance(0)
  return Object.assign(listener, { stream, path, session })
}

function silence(mesh: Mesh, path: string, is = true): void {
  for (const wire of mesh.wires) if (wire.path === path) wire.isSilent = is
}

test('a relay-only flow uses the relay in both directions, beside a direct session', async (t) => {
  const { mesh, a, b } = await pair(BOTH)
  await using _ = mesh
  const flow = await ruled(mesh, a, 'relay-only')
  t.same([flow.path, flow.session.path], ['relayed', 'direct'])
  t.equal(b.peers.existing('c/a')?.path, 'direct', 'at the other end as well')
  silence(mesh, 'direct')
  flow.stream.write(Buffer.from('ask'))
  await mesh.clock.advance(0)
  t.equal(b.heard.at(-1)!.text(), 'ask', 'nothing of it is on the direct carrier')
  b.heard.at(-1)!.stream.write(Buffer.from('answer'))
  await mesh.clock.advance(0)
  t.equal(flow.text(), 'answer')
  silence(mesh, 'direct', false)
  silence(mesh, 'relayed')
  flow.stream.write(Buffer.from(' more'))
  await mesh.clock.advance(0)
  t.equal(b.heard.at(-1)!.text(), 'ask')
  const ordinary = await ruled(mesh, a, 'any')
  ordinary.stream.write(Buffer.from('straight'))
  await mesh.clock.advance(0)
  t.equal(b.heard.at(-1)!.text(), 'straight', 'other flows never notice')
})

test('the carrier for a rule is kept while in use and given back later', async (t) => {
  const { mesh, a } = await pair(BOTH)
  await using _ = mesh
  const flow = await ruled(mesh, a, 'relay-only')
  await mesh.clock.advance(120_000)
  const kinds = () => [...new Set(flow.session.report().carrierPaths)].toSorted().join()
  t.equal(kinds(), 'direct,relayed', 'a better path does not push it out')
  const before = mesh.dials.length
  await ruled(mesh, a, 'relay-only')
  t.equal(mesh.dials.length, before, 'one carrier for all of the rule’s flows')
  flow.stream.reset()
  a.peers.existing('c/b')
  const other = mesh.wires.filter(({ path }) => path === 'relayed').length
  t.equal(other, 1, 'the rule has one relayed connection')
})

test('the carrier of a rule that nobody uses is closed', async (t) => {
  const { mesh, a } = await pair(BOTH)
  await using _ = mesh
  const flow = await ruled(mesh, a, 'relay-only')
  flow.stream.reset()
  await mesh.clock.advance(50_000)
  t.ok(flow.session.report().carrierPaths.includes('relayed'), 'kept warm')
  await mesh.clock.advance(20_000)
  t.notOk(
    flow.session.report().carrierPaths.includes('relayed'),
    'the relayed carrier is closed when nothing has used it for long',
  )
})

test('when a relay dies, its flow waits for another and never goes direct, and without one only that flow ends', async (t) => {
  const { mesh, a, b } = await pair(BOTH)
  await using _ = mesh
  const flow = await ruled(mesh, a, 'relay-only')
  const ordinary = await ruled(mesh, a, 'any')
  const [onRelay] = b.heard.slice(-2)
  mesh.ways.set('relayed c/a>c/b', 'refuses')
  for (const wire of mesh.wires) if (wire.path === 'relayed') wire.break()
  flow.stream.write(Buffer.from('kept'))
  await mesh.clock.advance(3_000)
  t.equal(onRelay!.text(), '')
  mesh.up('relayed c/a>c/b')
  await mesh.clock.advance(2_000)
  t.equal(onRelay!.text(), 'kept', 'another carrier was dialled for it')
  t.same(flow.log, ['opened'])
  mesh.ways.set('relayed c/a>c/b', 'refuses')
  for (const wire of mesh.wires) if (wire.path === 'relayed') wire.break()
  await mesh.clock.advance(12_000)
  t.same([flow.log.at(-1), onRelay!.log.at(-1)], ['reset', 'reset'], 'at both ends')
  ordinary.stream.write(Buffer.from('still here'))
  await mesh.clock.advance(0)
  t.equal(b.heard.at(-1)!.text(), 'still here')
})

test('a direct-only flow is refused with a reason where only the relay works', async (t) => {
  const { mesh, a } = await pair(['relayed c/a>c/b'])
  await using _ = mesh
  t.equal(a.peers.existing('c/b')?.path, 'relayed')
  t.equal(
    a.peers.existing('c/b', rule('direct-only')),
    undefined,
    'the session is not offered to flows whose rule forbids its path',
  )
  const refused = await ruled(mesh, a, 'direct-only').catch((error: unknown) => error)
  t.match(refused, {
    code: 'PATH_FORBIDDEN',
    details: { node: 'c/b', paths: 'direct-only', tried: ['direct: refused'] },
  })
  mesh.up('direct c/a>c/b')
  await mesh.clock.advance(1_000)
  const flow = await ruled(mesh, a, 'direct-only')
  t.same([flow.path, flow.session.path], ['direct', 'direct'], 'a better path than the session’s is for all')
})

test('a route says what holds for the carrier of the rule, not for the session', async (t) => {
  const { mesh, a } = await pair(BOTH)
  await using _ = mesh
  const { session } = await ruled(mesh, a, 'relay-only')
  const silentMs = (text: string) => session.route(rule(text))?.silentMs
  t.same([silentMs('any'), silentMs('relay-only')], [0, 0])
  silence(mesh, 'relayed')
  session.open(Buffer.from('x'), new Listener(), rule('relay-only'))
  await mesh.clock.advance(300)
  t.equal(silentMs('relay-only'), 300, 'the relay owes an answer')
  t.equal(silentMs('any'), 0, 'the direct carrier owes none')
  t.equal(session.route(rule('relay-only'))?.path, 'relayed')
  t.equal(
    session.route(rule('no-direct no-relayed')),
    undefined,
    'no carrier for a rule that forbids every path there is',
  )
})

test('rules that leave no path are refused without dialling', async (t) => {
  const { mesh, a } = await pair(BOTH)
  await using _ = mesh
  const dials = mesh.dials.length
  const none = { text: 'relay-only and direct-only', allowed: new Set<string>(), preferred: new Set<string>() }
  t.match(await a.peers.session(reach('c/b'), never, none).catch((error: unknown) => error), {
    code: 'PATH_FORBIDDEN',
    details: { reason: 'no path is left' },
  })
  t.equal(mesh.dials.length, dials, 'nothing is tried')
})

test('a preferred path is dialled while flows continue on another', async (t) => {
  const { mesh, a, b } = await pair(BOTH)
  await using _ = mesh
  const first = a.peers.existing('c/b', rule('prefer-relayed'))
  t.equal(first?.route(rule('prefer-relayed'))?.path, 'direct', 'nobody waits')
  const later = await ruled(mesh, a, 'prefer-relayed')
  t.equal(later.path, 'relayed')
  mesh.ways.set('relayed c/a>c/b', 'refuses')
  for (const wire of mesh.wires) if (wire.path === 'relayed') wire.break()
  later.stream.write(Buffer.from('goes on'))
  await mesh.clock.advance(500)
  t.equal(b.heard.at(-1)!.text(), 'goes on', 'without it any other does')
  const dials = mesh.dials.length
  for (let flows = 0; flows < 50; flows++) a.peers.existing('c/b', rule('prefer-relayed'))
  await mesh.clock.advance(900)
  t.ok(mesh.dials.length <= dials + 1, 'and it is not dialled for each of them')
})

test('without a session only the paths that the rule allows are dialled', async (t) => {
  await using mesh = new Mesh()
  mesh.up(...BOTH)
  const a = mesh.node('c/a')
  mesh.node('c/b')
  const flow = await ruled(mesh, a, 'relay-only')
  t.same([flow.path, mesh.dials[0]], ['relayed', 'relayed c/a>c/b'])
})

test('UDP packets leave their carrier only where the rule allows every path they may take', async (t) => {
  const sent: number[] = []
  const link = {
    send: (stream: number) => sent.push(stream) > 0,
    attached: () => undefined,
    detached: () => undefined,
    offered: () => undefined,
    tick: () => undefined,
    mode: 'sealed' as const,
    sealedWith: undefined,
    close: () => undefined,
  }
  await using mesh = new Mesh()
  mesh.up(...BOTH)
  const a = mesh.node('c/a', { sealed: { link: () => link } })
  const heard: string[] = []
  mesh.node('c/b', {
    accept: (incoming) => {
      incoming.acceptDatagrams({
        datagram: (payload) => void heard.push(payload.toString()),
        end: () => undefined,
        reset: () => undefined,
      })
    },
  })
  for (const text of ['any', 'direct-only', 'relay-only', 'no-punched', 'prefer-relayed']) {
    const { session } = await ruled(mesh, a, text)
    const stream = session.openDatagrams(Buffer.from(text), new DatagramListener(), rule(text))
    await mesh.clock.advance(0)
    t.ok(stream.send(Buffer.from(text)), text)
    await mesh.clock.advance(0)
  }
  t.equal(sent.length, 2, 'any and direct-only')
  t.same(heard, ['relay-only', 'no-punched', 'prefer-relayed'], 'the others in frames')
})

test('each detached stream is returned once when it has waited too long', async (t) => {
  const detached = new DetachedStreams<{ carrier: object | undefined; state: string; rule: PathRule }>()
  const waiting = () => ({ carrier: undefined as object | undefined, state: 'open', rule: rule('relay-only') })
  const [placed, closed, early, late] = [waiting(), waiting(), waiting(), waiting()]
  for (const [stream, at] of [
    [placed, 0],
    [closed, 0],
    [early, 10],
    [late, 20],
  ] as const)
    detached.add(stream, at)
  detached.add(early, 99) // it waits since 10
  placed.carrier = {}
  closed.state = 'closed'
  t.equal(detached.first, early)
  t.same(detached.late(5), [])
  t.same(detached.late(15), [early])
  t.equal(detached.first, late, 'each is notified once')
})
