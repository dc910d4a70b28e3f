import t from 'tap'
import { encodeRequest } from '../../proxy/flow/request.ts'
import { Inbound, INBOUND_LIMITS } from '../../proxy/inbound/inbound.ts'
import { RequestChecker } from '../../proxy/inbound/check-request.ts'
import { SHARE_LIMITS, Shares } from '../../proxy/inbound/shares.ts'
import { NODE_CALLER } from '../../proxy/flow/flow.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { keptLog, LiteralTable, roomy, serve, until } from './world.ts'

const LIMITS = { ofFlows: 0.5, opensPerPeer: 5, opensPerInstance: 8, maxFlows: 8 }

t.test('flows are opened at a limited rate, by each peer and to each instance', async (t) => {
  let now = 0
  const shares = new Shares(LIMITS, () => now)
  const open = (peer: string) => shares.admit(peer, 'one')
  for (let i = 0; i < 5; i++) t.equal(open('edge/a'), undefined)
  t.match(open('edge/a'), /this node opens/)
  for (let i = 0; i < 3; i++) t.equal(open('edge/b'), undefined, 'the other peer has its own share')
  t.match(open('edge/b'), /flows to the instance/, 'until the instance has enough')
  now = 1_000
  t.equal(open('edge/a'), undefined)
})

t.test('open flows of one peer, and to one instance, leave room for the others', async (t) => {
  const shares = new Shares(LIMITS, () => 0)
  for (const instance of ['one', 'two', 'three', 'four']) shares.changeOpen('edge/a', instance, 1)
  t.match(shares.admit('edge/a', 'five'), /too many flows of this node/)
  t.equal(shares.admit('edge/b', 'five'), undefined)
  for (const peer of ['edge/c', 'edge/d', 'edge/e']) shares.changeOpen(peer, 'one', 1)
  t.match(shares.admit('edge/f', 'one'), /too many flows to the instance/)
  shares.changeOpen('edge/a', 'one', -1)
  t.equal(shares.admit('edge/a', 'six'), undefined)
})

t.test('flows of one peer to one instance leave room for other peers there', async (t) => {
  const shares = new Shares({ ...LIMITS, maxFlows: 16 }, () => 0) // 8 to an instance, 4 of them of one peer
  for (let i = 0; i < 4; i++) {
    t.equal(shares.admit('edge/a', 'one'), undefined)
    shares.changeOpen('edge/a', 'one', 1)
  }
  t.match(shares.admit('edge/a', 'one'), /too many flows of this node to the instance/)
  t.equal(shares.admit('edge/b', 'one'), undefined)
  t.equal(shares.size, 4)
})

const CART = 'shop.acme.cart.prod'
const SHOP = 'shop.acme.shop.prod'

t.test('a peer that floods one instance with OPENs takes nothing from the others', async (t) => {
  await using cart = await serve(() => undefined)
  await using shop = await serve(() => undefined)
  const ports: Record<string, number> = { [`${CART}.0`]: cart.port, [`${SHOP}.0`]: shop.port }
  const log = keptLog()
  const metrics = openMetrics('agent')
  t.teardown(() => metrics.registry.clear())
  await using inbound = await Inbound.start({
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
    log,
    metrics,
  })
  const outcomes = { accepted: 0, overloaded: 0, other: 0 }
  const ask = (peer: string, service: string, settled: (outcome: string) => void) =>
    inbound.take({
      peer,
      path: 'direct',
      request: encodeRequest({
        service,
        ordinal: 0,
        port: 80,
        protocol: 'tcp',
        caller: NODE_CALLER,
        flow: '00'.repeat(8),
      }),
      accept: () => {
        settled('accepted')
        return { write: () => true, end: () => undefined, reset: () => undefined, consumed: () => undefined }
      },
      acceptDatagrams: () => t.fail('no datagrams were asked for') as never,
      refuse: (refusal) => settled(refusal),
      onGone: () => undefined,
    })
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
  t.same(honest, ['accepted', 'accepted'], 'another peer, at another instance and at the same')
  await until(() => outcomes.accepted + outcomes.overloaded + outcomes.other === flood)
  t.equal(outcomes.other, 0)
  const seconds = (performance.now() - startedAt) / 1_000
  const most = SHARE_LIMITS.opensPerPeer * (1 + seconds)
  t.ok(outcomes.accepted <= most, `${outcomes.accepted} reached the instance in ${seconds} s`)
  t.ok(outcomes.overloaded > 0)
  t.ok(log.lines.length < 20, `${log.lines.length} log lines about ${flood} refusals`)
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
  const ask = (peer: string, service: string) =>
    checker.check(peer, {
      service,
      ordinal: 0,
      port: 80,
      protocol: 'tcp',
      caller: NODE_CALLER,
      flow: '00'.repeat(8),
    })
  const invented = Array.from({ length: 1_000 }, (_, i) => ask('edge/evil', `s${i}.acme.none.prod`))
  const under = asked.length
  t.ok(under < 32, `${under} questions at the same time`)
  const honest = ask('edge/a', CART)
  t.equal(asked.length, under + 1, 'another peer still gets an answer')
  held.resolve()
  t.ok((await Promise.all([...invented, honest])).every(({ kind }) => kind === 'refused'))
  for (let i = 0; i < 1_000; i++) await ask('edge/evil', `t${i}.acme.none.prod`)
  const all = asked.length
  t.ok(all < 256, `${all} names are kept as unknown`)
  await ask('edge/a', SHOP)
  t.equal(asked.length, all + 1, 'and one more of another peer')
})

t.test('where few files may be open, peers share those', async (t) => {
  const metrics = openMetrics('agent')
  t.teardown(() => metrics.registry.clear())
  await using cart = await serve(() => undefined)
  await using inbound = await Inbound.start({
    ...roomy(),
    descriptors: { reserve: () => true, usable: 20 },
    table: new LiteralTable({ id: CART, on: ['edge/b'] }),
    interests: { want: async () => undefined, wantVip: async () => undefined },
    self: 'edge/b',
    endpointOf: () => ({ host: '127.0.0.1', port: cart.port }),
    isDraining: () => false,
    limits: { ...INBOUND_LIMITS, drainMs: 0 },
    log: keptLog(),
    metrics,
  })
  const outcomes: string[] = []
  for (let i = 0; i < 40; i++) {
    inbound.take({
      peer: 'edge/a',
      path: 'direct',
      request: encodeRequest({
        service: CART,
        ordinal: 0,
        port: 80,
        protocol: 'tcp',
        caller: NODE_CALLER,
        flow: '00'.repeat(8),
      }),
      accept: () => {
        outcomes.push('accepted')
        return { write: () => true, end: () => undefined, reset: () => undefined, consumed: () => undefined }
      },
      acceptDatagrams: () => t.fail('no datagrams were asked for') as never,
      refuse: (refusal) => void outcomes.push(refusal),
      onGone: () => undefined,
    })
  }
  await until(() => outcomes.length === 40)
  t.equal(
    outcomes.filter((outcome) => outcome === 'accepted').length,
    12,
    '15 are for one peer or instance, 12 for both',
  )
})
