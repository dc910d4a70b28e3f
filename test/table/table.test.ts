import t, { type Test } from 'tap'
import type { Change, ServiceEntry } from '../../src/core/model/change.ts'
import { Table } from '../../src/core/table/table.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { entryOf, nameOf } from './world.ts'

const CART = 'shop.acme.cart.prod'
const KEY = 'shop.acme.cart'

/** A table that knows the entries, each under its key, as of number 1. */
function tableOf(entries: readonly ServiceEntry[], clock = new ManualClock()): Table {
  const table = new Table({ clock })
  for (const [key, found] of Map.groupBy(entries, ({ service }) => service.id.split('.').slice(0, 3).join('.'))) {
    table.expect(key)
    table.learn(key, { seq: 1, entries: found })
  }
  return table
}

const changed = (seq: number, entry: ServiceEntry, key = KEY): Change => ({ seq, kind: 'service', key, entry })
const gone = (seq: number, service = CART, key = KEY): Change => ({ seq, kind: 'gone', key, service })

t.test('a name resolves to the service it means', async (t) => {
  const dev = entryOf('shop.acme.cart.dev', { vip: 0xe0200 })
  const own = entryOf('shop.acme.cart.acme', { vip: 0xe0300 })
  const prod = entryOf(CART)
  const rows = [
    { why: 'a full name means its service', has: [prod, dev], name: `${CART}.any.rr`, is: CART },
    { why: 'a short name means the only service', has: [prod], name: 'shop.acme.cart.any.rr', is: CART },
    {
      why: 'a short name means the service in the namespace of the app',
      has: [prod, own],
      name: 'shop.acme.cart.any.rr',
      is: own.service.id,
    },
    {
      why: 'a short name with two services, none in the namespace of the app, means neither',
      has: [prod, dev],
      name: 'shop.acme.cart.any.rr',
      reason: /say which: dev, prod/,
    },
    {
      why: 'a namespace without the service is unknown, and those with it are named',
      has: [prod, dev],
      name: 'shop.acme.cart.test.any.rr',
      reason: /in namespace test; there is one in dev, prod/,
    },
    { why: 'an instance that exists is found', has: [prod], name: `${CART}.0.pinned`, is: CART },
    {
      why: 'an instance that does not exist is unknown',
      has: [prod],
      name: `${CART}.7.pinned`,
      reason: /no instance 7; there are 0$/,
    },
    {
      why: 'an instance that does not exist is unknown by every policy',
      has: [prod],
      name: 'shop.acme.cart.7.closest',
      reason: /no instance 7/,
    },
    {
      why: 'an instance of a service without any is unknown',
      has: [entryOf(CART, { nodes: [] })],
      name: `${CART}.0.rr`,
      reason: /it has none/,
    },
  ]
  for (const { why, has, name, is, reason } of rows) {
    const found = tableOf(has).find(nameOf(name))
    if (is !== undefined) t.match(found, { kind: 'target', target: { service: { id: is } } }, why)
    else t.match(found, { kind: 'unknown', reason }, why)
  }
  t.same(
    tableOf([prod]).find(nameOf('shop.acme.front.prod.any.rr')),
    { kind: 'unasked', key: 'shop.acme.front' },
    'a service that nobody has asked for is to be asked for',
  )
})

t.test('a service with nothing running still has its address', async (t) => {
  const table = tableOf([entryOf(CART, { nodes: [] })])
  t.match(
    table.find(nameOf(`${CART}.any.closest`)),
    { kind: 'target', target: { vip: 0xe0101 } },
    'the name has the VIP of its choice',
  )
})

t.test('a VIP stands for a service and a choice', async (t) => {
  const table = tableOf([entryOf(CART, { nodes: ['edge/n1', 'edge/n2'] })])
  const found = table.find(nameOf(`${CART}.1.closest`))
  t.equal(found.kind, 'target', 'the name of an instance has a VIP')
  if (found.kind !== 'target') return
  t.same(table.byVip(found.target.vip), found.target, 'the VIP of a name leads to what the name means')
  t.equal(table.byVip(0xe0fff), undefined, 'a VIP that nobody has means nothing')
  t.equal(table.instance(`${CART}.1`)?.node, 'edge/n2', 'an instance is found with its node')
  t.equal(table.instance(`${CART}.2`), undefined, 'an instance that does not exist is not found')
  t.equal(table.instance('nonsense'), undefined, 'what is no instance is not found')

  table.apply(changed(2, entryOf(CART, { version: 2, nodes: ['edge/n1'] })))
  t.equal(table.byVip(found.target.vip), undefined, 'the VIP of an instance that went means nothing')
  t.equal(table.instance(`${CART}.1`), undefined, 'and the instance is not found')
})

t.test('an index reassigned to another service is not taken from it', async (t) => {
  const other = entryOf('shop.acme.stock.prod', { vip: 0xe0100 })
  const table = tableOf([entryOf(CART), other])
  table.apply(gone(2))
  t.equal(table.byVip(0xe0100)?.service.id, 'shop.acme.stock.prod', 'the VIP is still that of the other service')
})

t.test('an older version never replaces a newer one', async (t) => {
  const table = tableOf([entryOf(CART, { version: 5, nodes: ['edge/n5'] })])
  const node = () => table.entry(CART)?.instances[0]?.node
  t.notOk(
    table.apply(changed(2, entryOf(CART, { version: 4, nodes: ['edge/n4'] }))),
    'an older version changes nothing',
  )
  t.equal(node(), 'edge/n5', 'the newer entry stays')
  t.notOk(table.apply(changed(3, entryOf(CART, { version: 5, nodes: ['edge/n4'] }))), 'the same again is nothing new')
  t.ok(table.apply(changed(4, entryOf(CART, { version: 6, nodes: ['edge/n6'] }))), 'a newer version is a change')
  t.equal(node(), 'edge/n6', 'and replaces the entry')
  t.notOk(table.apply(gone(3)), 'a change from before the present number is skipped')
  t.equal(node(), 'edge/n6', 'so the service stays')
})

t.test('an entry outside the interests is ignored', async (t) => {
  const table = new Table()
  t.notOk(table.apply(changed(1, entryOf(CART))), 'a service of a key that nobody asked for is no change')
  t.same(table.counts, { services: 0, instances: 0, keys: 0 }, 'and is not kept')
  table.expect(KEY)
  t.notOk(
    table.apply(changed(2, entryOf('shop.acme.stock.prod'), KEY)),
    'a service under a key that is not its own is no change',
  )
  t.equal(table.counts.services, 0, 'and is not kept either')
})

/** A table that has asked for the key of the cart, and has no answer yet. */
function asked(): Table {
  const table = new Table({ clock: new ManualClock() })
  table.expect(KEY)
  return table
}

t.test('a change overtakes the answer: the newer entry stays', async (t) => {
  const table = asked()
  table.apply(changed(11, entryOf(CART, { version: 4 })))
  t.match(table.find(nameOf(`${CART}.any.rr`)), { kind: 'unasked' }, 'until the answer is there, it may not be all')
  table.learn(KEY, {
    seq: 10,
    entries: [entryOf(CART, { version: 3 }), entryOf('shop.acme.cart.dev', { vip: 0xe0200 })],
  })
  t.equal(table.entry(CART)?.version, 4, 'the older entry of the answer is not taken')
  t.ok(table.entry('shop.acme.cart.dev'), 'the other service of the answer is')
})

t.test('a change overtakes the answer: a service added since the answer stays', async (t) => {
  const table = asked()
  table.apply(changed(11, entryOf(CART)))
  table.learn(KEY, { seq: 10, entries: [] })
  t.match(table.find(nameOf(`${CART}.any.rr`)), { kind: 'target' }, 'its name has a VIP')
})

t.test('a change overtakes the answer: a service removed since the answer does not come back', async (t) => {
  const table = asked()
  table.apply(gone(11))
  table.learn(KEY, { seq: 10, entries: [entryOf(CART)] })
  t.match(table.find(nameOf(`${CART}.any.rr`)), { kind: 'unknown' }, 'its name means nothing')
})

t.test('an answer from after the removal brings the service back', async (t) => {
  const table = asked()
  table.apply(gone(9))
  table.learn(KEY, { seq: 10, entries: [entryOf(CART)] })
  t.ok(table.entry(CART), 'the service is there')
})

t.test('a failed request leaves nothing behind', async (t) => {
  const table = asked()
  table.apply(changed(11, entryOf(CART)))
  table.unexpect(KEY)
  t.same(table.counts, { services: 0, instances: 0, keys: 0 }, 'the service that came as a change is gone')
  t.same(table.keys(), [], 'and the key is not followed')
})

t.test('a repeated request that fails keeps what was known', async (t) => {
  const table = tableOf([entryOf(CART)])
  table.expect(KEY)
  table.unexpect(KEY)
  t.ok(table.entry(CART), 'the service stays')
  t.same(table.keys(), [KEY], 'and the key is followed')
})

t.test('with two requests pending, the first answer does not drop what the second needs', async (t) => {
  const table = asked()
  table.expect(KEY)
  table.apply(gone(2))
  table.learn(KEY, { seq: 0, entries: [] })
  table.learn(KEY, { seq: 1, entries: [entryOf(CART)] })
  t.equal(table.entry(CART), undefined, 'the removal from after both answers still counts')
})

t.test('a later answer without a service removes it', async (t) => {
  const table = tableOf([entryOf(CART)])
  table.expect(KEY)
  table.learn(KEY, { seq: 5, entries: [] })
  t.equal(table.entry(CART), undefined, 'the service is gone')
})

t.test('a negative answer is believed for a limited time only', async (t) => {
  const clock = new ManualClock()
  const table = new Table({ clock, emptyMs: 5_000 })
  const found = () => table.find(nameOf(`${CART}.any.rr`)).kind
  table.expect(KEY)
  table.learn(KEY, { seq: 1, entries: [] })
  t.equal(found(), 'unknown', 'an empty answer is believed')
  await clock.advance(4_999)
  t.equal(found(), 'unknown', 'for just under five seconds')
  await clock.advance(1)
  t.equal(found(), 'unasked', 'after five seconds it is to be asked again')
  table.apply(changed(2, entryOf(CART)))
  t.equal(found(), 'target', 'a change says otherwise at once')
  table.apply(gone(3))
  t.equal(found(), 'unknown', 'so does its removal')
  await clock.advance(5_000)
  t.equal(found(), 'unasked', 'which is believed for five seconds too')
})

t.test('the newest reachability of a node is kept while a service refers to it', async (t) => {
  const at = (id: string, version: number, address: string, nodes = ['edge/n1'], vip = 0xe0100) =>
    entryOf(id, { version, address, nodes, vip })
  const table = tableOf([at(CART, 1, 'old:1'), at('shop.acme.stock.prod', 1, 'old:1', ['edge/n1'], 0xe0200)])
  const reach = () => table.node('edge/n1')?.addresses[0]
  table.apply(changed(2, at(CART, 2, 'new:1')))
  t.equal(reach(), 'new:1', 'a newer entry brings the newer address')
  table.expect('shop.acme.stock')
  table.learn('shop.acme.stock', { seq: 1, entries: [at('shop.acme.stock.prod', 2, 'old:2', ['edge/n1'], 0xe0200)] })
  t.equal(reach(), 'new:1', 'an answer from before does not turn it back')
  table.apply(changed(3, at(CART, 3, 'x:1', ['edge/n2'])))
  t.equal(reach(), 'new:1', 'the other service still mentions it')
  table.apply(gone(4, 'shop.acme.stock.prod', 'shop.acme.stock'))
  t.equal(reach(), undefined, 'a node that no service mentions is forgotten')
  t.equal(table.node('edge/n2')?.addresses[0], 'x:1', 'the node of the service that stays is kept')
})

t.test('listeners are notified of each swap after it is done', async (t) => {
  const table = tableOf([entryOf(CART)])
  const heard: unknown[] = []
  const stop = table.onChange((service, entry) => {
    heard.push([service, entry?.version])
    t.equal(table.entry(service), entry, 'the table says the same')
  })
  table.apply(changed(2, entryOf(CART, { version: 2 })))
  table.apply(changed(3, entryOf(CART, { version: 2 })))
  table.apply(gone(4))
  stop()
  table.apply(changed(5, entryOf(CART, { version: 3 })))
  t.same(
    heard,
    [
      [CART, 2],
      [CART, undefined],
    ],
    'each change is heard once, what is no change and what comes after the stop is not',
  )
})

const dev = entryOf('shop.acme.cart.dev', { vip: 0xe0200 })

/** A table with two services of the cart, resumed in epoch one at number 10. */
function started(t: Test): Table {
  const table = tableOf([entryOf(CART, { version: 5 }), dev])
  t.ok(
    table.resume({
      epoch: 'one',
      seq: 10,
      full: true,
      changes: [changed(9, entryOf(CART, { version: 5 })), changed(9, dev)],
    }),
    'a full resumption is accepted',
  )
  return table
}

t.test('a partial resumption: what changed is applied, and nothing else is removed', async (t) => {
  const table = started(t)
  t.ok(
    table.resume({ epoch: 'one', seq: 20, full: false, changes: [changed(15, entryOf(CART, { version: 6 }))] }),
    'it is accepted',
  )
  t.equal(table.entry(CART)?.version, 6, 'the change is applied')
  t.ok(table.entry('shop.acme.cart.dev'), 'the other service stays')
  t.same(table.point(), { epoch: 'one', seq: 20, keys: [KEY] }, 'the next one starts from here')
})

t.test('a full resumption: what is missing is removed', async (t) => {
  const table = started(t)
  t.ok(table.resume({ epoch: 'one', seq: 20, full: true, changes: [changed(20, dev)] }), 'it is accepted')
  t.equal(table.entry(CART), undefined, 'the service that it does not hold is gone')
  t.ok(table.entry('shop.acme.cart.dev'), 'the other stays')
})

t.test('a full resumption: only entries under the named keys are removed', async (t) => {
  const table = started(t)
  t.ok(table.resume({ epoch: 'one', seq: 20, full: true, changes: [] }, []), 'it is accepted')
  t.ok(table.entry(CART), 'a service of a key that was not resumed stays')
})

t.test('a full resumption in another epoch: it applies whatever the versions are', async (t) => {
  const table = started(t)
  t.ok(
    table.resume({ epoch: 'two', seq: 1, full: true, changes: [changed(1, entryOf(CART, { version: 1 }))] }),
    'it is accepted',
  )
  t.equal(table.entry(CART)?.version, 1, 'the lower version of the new epoch is taken')
  t.equal(table.entry('shop.acme.cart.dev'), undefined, 'what it does not hold is gone')
  t.ok(table.apply(changed(2, entryOf(CART, { version: 2 }))), 'changes of the new epoch are taken from there on')
})

for (const resumed of [
  { why: 'another epoch', epoch: 'two', seq: 30 },
  { why: 'numbers behind ours', epoch: 'one', seq: 5 },
]) {
  t.test(`a partial resumption of ${resumed.why} is refused, and nothing is changed`, async (t) => {
    const table = started(t)
    const before = table.snapshot()
    t.notOk(
      table.resume({ ...resumed, full: false, changes: [changed(1, entryOf(CART, { version: 9 }))] }),
      'it is refused',
    )
    t.same(table.snapshot(), before, 'the table is as before')
    table.restart()
    t.same(table.point(), { epoch: '', seq: 0, keys: [KEY] }, 'after a restart a full one is asked for')
    t.ok(table.entry(CART), 'what is known stays in use')
  })
}

t.test('an empty table accepts any resumption', async (t) => {
  t.ok(new Table().resume({ epoch: 'one', seq: 7, full: false, changes: [] }), 'it is accepted')
})

t.test('a snapshot restores the same table', async (t) => {
  const clock = new ManualClock()
  const table = tableOf([entryOf(CART, { version: 3, nodes: ['edge/n1', 'edge/n2'] })], clock)
  table.expect('shop.acme.none')
  table.learn('shop.acme.none', { seq: 1, entries: [] })
  table.resume({ epoch: 'one', seq: 10, full: false, changes: [] }, [])
  const copy = new Table({ clock })
  copy.restore(JSON.parse(JSON.stringify(table.snapshot())))
  t.same(copy.snapshot(), table.snapshot(), 'the copy has the same snapshot')
  t.same(
    copy.counts,
    { services: 1, instances: 2, keys: 1 },
    'the copy holds the service and its instances, without the key that held nothing',
  )
  t.same(copy.find(nameOf(`${CART}.1.rr`)), table.find(nameOf(`${CART}.1.rr`)), 'a name means the same in it')
  t.same(copy.point(), { epoch: 'one', seq: 10, keys: [KEY] }, 'it resumes from the same number')
  t.throws(() => copy.restore(table.snapshot()), /empty/, 'only an empty table can be restored')
})
