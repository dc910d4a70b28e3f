import t, { type Test } from 'tap'
import { encodeRequest, type FlowRequest } from '../../proxy/flow/request.ts'
import { Inbound, INBOUND_LIMITS, type InboundParts } from '../../proxy/inbound/inbound.ts'
import { RequestChecker } from '../../proxy/inbound/check-request.ts'
import { SHARE_LIMITS, Shares } from '../../proxy/inbound/shares.ts'
import type { IncomingStream } from '../../proxy/tunnel/contract.ts'
import { NODE_CALLER } from '../../proxy/flow/flow.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { keptLog, LiteralTable, roomy, serve } from './world.ts'
import { until } from '../support/until.ts'

const LIMITS = { ofFlows: 0.5, opensPerPeer: 5, opensPerInstance: 8, maxFlows: 8 }

t.test('flows are opened at a limited rate, by each peer and to each instance', async (t) => {
  let now = 0
  const shares = new Shares(LIMITS, () => now)
  const open = (peer: string) => shares.admit(peer, 'one')
  for (let i = 0; i < 5; i++) t.equal(open('edge/a'), undefined, 'a peer may open five flows at once')
  t.match(open('edge/a'), /this node opens/, 'its sixth is refused, and the reason names the node')
  for (let i = 0; i < 3; i++) t.equal(open('edge/b'), undefined, 'another peer has a share of its own')
  t.match(open('edge/b'), /flows to the instance/, 'the ninth flow is too many for the instance')
  now = 1_000
  t.equal(open('edge/a'), undefined, 'a second later there is room again')
})

t.test('open flows of one peer, and to one instance, leave room for the others', async (t) => {
  const shares = new Shares(LIMITS, () => 0)
  for (const instance of ['one', 'two', 'three', 'four']) shares.changeOpen('edge/a', instance, 1)
  t.match(shares.admit('edge/a', 'five'), /too many flows of this node/, 'a peer may have half of the flows')
  t.equal(shares.admit('edge/b', 'five'), undefined, 'there is room for another peer')
  for (const peer of ['edge/c', 'edge/d', 'edge/e']) shares.changeOpen(peer, 'one', 1)
  t.match(shares.admit('edge/f', 'one'), /too many flows to the instance/, 'an instance may have half of the flows')
  shares.changeOpen('edge/a', 'one', -1)
  t.equal(shares.admit('edge/a', 'six'), undefined, 'the peer may open another when one has ended')
})

t.test('flows of one peer to one instance leave room for other peers there', async (t) => {
  const shares = new Shares({ ...LIMITS, maxFlows: 16 }, () => 0) // 8 to an instance, 4 of them of one peer
  for (let i = 0; i < 4; i++) {
    t.equal(shares.admit('edge/a', 'one'), undefined, 'a peer may have four flows to one instance')
    shares.changeOpen('edge/a', 'one', 1)
  }
  t.match(shares.admit('edge/a', 'one'), /too many flows of this node to the instance/, 'its fifth is refused')
  t.equal(shares.admit('edge/b', 'one'), undefined, 'there is room for another peer at the instance')
  t.equal(shares.size, 4, 'four flows are counted')
})

const CART = 'shop.acme.cart.prod'
const SHOP = 'shop.acme.shop.prod'

/** The destination `edge/b`, whose instances listen at these ports. */
function destination(t: Test, ports: Record<string, number>, parts: Partial<InboundParts> = {}) {
  const metrics = openMetrics('agent')
  t.teardown(() => metrics.registry.clear())
  return Inbound.start({
    ...roomy(),
    table: new LiteralTable({ id: CART, on: ['edge/b'] }, { id: SHOP, on: ['edge/b'] }),
    interests: { want: async () => undefined, wantVip: async () => undefined },
    self: 'edge/b',
    endpointOf: (id) => {
      const port = ports[id]
      return port === undefined ? undefined : { host: '127.0.0.1', port }
    },
    isDraining: () => false,
    limits: { ...INBOUND_LIMITS, drainMs: 0 },
    log: keptLog(),
    metrics,
    ...parts,
  })
}

/** A request for a flow to the first instance of a service. */
function requestFor(service: string): FlowRequest {
  return { service, ordinal: 0, port: 80, protocol: 'tcp', caller: NODE_CALLER, flow: '00'.repeat(8) }
}

/** An OPEN of this peer for the first instance of the service; `settled` is told what becomes of it. */
function openingOf(t: Test, peer: string, service: string, settled: (outcome: string) => void): IncomingStream {
  return {
    peer,
    path: 'direct',
    request: encodeRequest(requestFor(service)),
    accept: () => {
      settled('accepted')
      return { write: () => true, end: () => undefined, reset: () => undefined, consumed: () => undefined }
    },
    acceptDatagrams: () => t.fail('no datagrams were asked for') as never,
    refuse: settled,
    onGone: () => undefined,
  }
}

t.test('a peer that floods one instance with OPENs takes nothing from the others', async (t) => {
  await using cart = await serve(() => undefined)
  await using shop = await serve(() => undefined)
  const log = keptLog()
  await using inbound = await destination(t, { [`${CART}.0`]: cart.port, [`${SHOP}.0`]: shop.port }, { log })
  const ask = (peer: string, service: string, settled: (outcome: string) => void) =>
    inbound.take(openingOf(t, peer, service, settled))
  const outcomes = { accepted: 0, overloaded: 0, other: 0 }
  const flood = 20_000
  const startedAt = performance.now()
  for (let i = 0; i < flood; i++) {
    ask('edge/evil', CART, (outcome) => {
      if (outcome === 'accepted' || outcome === 'overloaded') outcomes[outcome] += 1
      else outcomes.other += 1
    })
  }
  const honest = await Promise.all([
    new Promise((resolve) => ask('edge/a', SHOP, resolve)),
    new Promise((resolve) => ask('edge/a', CART, resolve)),
  ])
  t.same(honest, ['accepted', 'accepted'], 'another peer is accepted, at another instance and at the same')
  await until(() => outcomes.accepted + outcomes.overloaded + outcomes.other === flood)
  t.equal(outcomes.other, 0, 'each OPEN of the flood is accepted, or refused as overloaded')
  const seconds = (performance.now() - startedAt) / 1_000
  const most = SHARE_LIMITS.opensPerPeer * (1 + seconds)
  t.ok(outcomes.accepted <= most, `at most ${most} reached the instance in ${seconds} s: ${outcomes.accepted}`)
  t.ok(outcomes.overloaded > 0, 'some OPENs of the flood were refused')
  t.ok(log.lines.length < 20, `fewer than 20 log lines tell of ${flood} OPENs: ${log.lines.length}`)
})

t.test('what one peer invents leaves questions to the cluster for the others', async (t) => {
  const asked: string[] = []
  const held = Promise.withResolvers<void>()
  const checker = new RequestChecker({
    table: new LiteralTable(),
    interests: { want: (key) => (asked.push(key), held.promise), wantVip: async () => undefined },
    self: 'edge/b',
    endpointOf: () => undefined,
    isDraining: () => false,
  })
  const ask = (peer: string, service: string) => checker.check(peer, requestFor(service))
  const invented = Array.from({ length: 1_000 }, (_, i) => ask('edge/evil', `s${i}.acme.none.prod`))
  const under = asked.length
  t.ok(under < 32, `fewer than 32 questions are under way at the same time: ${under}`)
  const honest = ask('edge/a', CART)
  t.equal(asked.length, under + 1, 'a question of another peer is asked all the same')
  held.resolve()
  const answers = await Promise.all([...invented, honest])
  t.ok(
    answers.every(({ kind }) => kind === 'refused'),
    'requests for services that the cluster does not know are refused',
  )
  for (let i = 0; i < 1_000; i++) await ask('edge/evil', `t${i}.acme.none.prod`)
  const all = asked.length
  t.ok(all < 256, `fewer than 256 names are kept as unknown: ${all}`)
  await ask('edge/a', SHOP)
  t.equal(asked.length, all + 1, 'a new name of another peer is asked for all the same')
})

t.test('where few files may be open, peers share those', async (t) => {
  await using cart = await serve(() => undefined)
  const descriptors = { reserve: () => true, usable: 20 }
  await using inbound = await destination(t, { [`${CART}.0`]: cart.port }, { descriptors })
  const outcomes: string[] = []
  for (let i = 0; i < 40; i++) inbound.take(openingOf(t, 'edge/a', CART, (outcome) => void outcomes.push(outcome)))
  await until(() => outcomes.length === 40)
  const accepted = outcomes.filter((outcome) => outcome === 'accepted').length
  t.equal(accepted, 12, 'of 20 files one peer may use 12 for one instance')
})
