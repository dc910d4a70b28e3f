import fc from 'fast-check'
import t from 'tap'
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
    { why: 'by its full name', has: [prod, dev], name: `${CART}.any.rr`, is: CART },
    { why: 'short: the only one', has: [prod], name: 'shop.acme.cart.any.rr', is: CART },
    {
      why: 'short: the one in the app’s namespace',
      has: [prod, own],
      name: 'shop.acme.cart.any.rr',
      is: own.service.id,
    },
    { why: 'short: neither', has: [prod, dev], name: 'shop.acme.cart.any.rr', reason: /say which: dev, prod/ },
    {
      why: 'another namespace',
      has: [prod, dev],
      name: 'shop.acme.cart.test.any.rr',
      reason: /in namespace test; there is one in dev, prod/,
    },
    { why: 'an instance that exists', has: [prod], name: `${CART}.0.pinned`, is: CART },
    { why: 'an instance that does not', has: [prod], name: `${CART}.7.pinned`, reason: /no instance 7; there are 0$/ },
    {
      why: 'a mixed choice of one that does not',
      has: [prod],
      name: 'shop.acme.cart.7.closest',
      reason: /no instance 7/,
    },
    { why: 'no instance at all', has: [entryOf(CART, { nodes: [] })], name: `${CART}.0.rr`, reason: /it has none/ },
  ]
  for (const { why, has, name, is, reason } of rows) {
    const found = tableOf(has).find(nameOf(name))
    if (is !== undefined) t.match(found, { kind: 'target', target: { service: { id: is } } }, why)
    else t.match(found, { kind: 'unknown', reason }, why)
  }
  t.same(tableOf([prod]).find(nameOf('shop.acme.front.prod.any.rr')), { kind: 'unasked', key: 'shop.acme.front' })
})

t.test('a service with nothing running still has its address', async (t) => {
  const table = tableOf([entryOf(CART, { nodes: [] })])
  t.match(table.find(nameOf(`${CART}.any.closest`)), { kind: 'target', target: { vip: 0xe0101 } })
})

t.test('a VIP stands for a service and a choice', async (t) => {
  const table = tableOf([entryOf(CART, { nodes: ['edge/n1', 'edge/n2'] })])
  const found = table.find(nameOf(`${CART}.1.closest`))
  t.equal(found.kind, 'target')
  if (found.kind !== 'target') return
  t.same(table.byVip(found.target.vip), found.target)
  t.equal(table.byVip(0xe0fff), undefined)
  t.equal(table.instance(`${CART}.1`)?.node, 'edge/n2')
  t.equal(table.instance(`${CART}.2`), undefined)
  t.equal(table.instance('nonsense'), undefined)

  table.apply(changed(2, entryOf(CART, { version: 2, nodes: ['edge/n1'] })))
  t.equal(table.byVip(found.target.vip), undefined, 'the VIP of an instance that went means nothing')
  t.equal(table.instance(`${CART}.1`), undefined)
})

t.test('an index reassigned to another service is not taken from it', async (t) => {
  const other = entryOf('shop.acme.stock.prod', { vip: 0xe0100 })
  const table = tableOf([entryOf(CART), other])
  table.apply(gone(2))
  t.equal(table.byVip(0xe0100)?.service.id, 'shop.acme.stock.prod')
})

t.test('an older version never replaces a newer one', async (t) => {
  const table = tableOf([entryOf(CART, { version: 5, nodes: ['edge/n5'] })])
  const node = () => table.entry(CART)?.instances[0]?.node
  t.notOk(table.apply(changed(2, entryOf(CART, { version: 4, nodes: ['edge/n4'] }))))
  t.equal(node(), 'edge/n5')
  t.notOk(table.apply(changed(3, entryOf(CART, { version: 5, nodes: ['edge/n4'] }))), 'the same again is nothing new')
  t.ok(table.apply(changed(4, entryOf(CART, { version: 6, nodes: ['edge/n6'] }))))
  t.equal(node(), 'edge/n6')
  t.notOk(table.apply(gone(3)), 'a change from before the present number is skipped')
  t.equal(node(), 'edge/n6')
})

t.test('an entry outside the interests is ignored', async (t) => {
  const table = new Table()
  t.notOk(table.apply(changed(1, entryOf(CART))))
  t.same(table.counts, { services: 0, instances: 0, keys: 0 })
  table.expect(KEY)
  t.notOk(
    table.apply(changed(2, entryOf('shop.acme.stock.prod'), KEY)),
    'nor a service under a key that is not its own',
  )
  t.equal(table.counts.services, 0)
})

t.test('a change may overtake the answer to the first question', async (t) => {
  const asked = () => {
    const table = new Table({ clock: new ManualClock() })
    table.expect(KEY)
    return table
  }
  t.test('the newer entry stays', async (t) => {
    const table = asked()
    table.apply(changed(11, entryOf(CART, { version: 4 })))
    t.match(table.find(nameOf(`${CART}.any.rr`)), { kind: 'unasked' }, 'until the answer is there, it may not be all')
    table.learn(KEY, {
      seq: 10,
      entries: [entryOf(CART, { version: 3 }), entryOf('shop.acme.cart.dev', { vip: 0xe0200 })],
    })
    t.equal(table.entry(CART)?.version, 4)
    t.ok(table.entry('shop.acme.cart.dev'))
  })
  t.test('a service added since the answer stays', async (t) => {
    const table = asked()
    table.apply(changed(11, entryOf(CART)))
    table.learn(KEY, { seq: 10, entries: [] })
    t.match(table.find(nameOf(`${CART}.any.rr`)), { kind: 'target' })
  })
  t.test('a service removed since the answer does not come back', async (t) => {
    const table = asked()
    table.apply(gone(11))
    table.learn(KEY, { seq: 10, entries: [entryOf(CART)] })
    t.match(table.find(nameOf(`${CART}.any.rr`)), { kind: 'unknown' })
  })
  t.test('an answer from after the removal does bring it back', async (t) => {
    const table = asked()
    table.apply(gone(9))
    table.learn(KEY, { seq: 10, entries: [entryOf(CART)] })
    t.ok(table.entry(CART))
  })
  t.test('a failed request leaves nothing behind', async (t) => {
    const table = asked()
    table.apply(changed(11, entryOf(CART)))
    table.unexpect(KEY)
    t.same(table.counts, { services: 0, instances: 0, keys: 0 })
    t.same(table.keys(), [])
  })
  t.test('a repeated request that fails keeps what was known', async (t) => {
    const table = tableOf([entryOf(CART)])
    table.expect(KEY)
    table.unexpect(KEY)
    t.ok(table.entry(CART))
    t.same(table.keys(), [KEY])
  })
  t.test('with two requests pending, the first answer does not drop what the second needs', async (t) => {
    const table = asked()
    table.expect(KEY)
    table.apply(gone(2))
    table.learn(KEY, { seq: 0, entries: [] })
    table.learn(KEY, { seq: 1, entries: [entryOf(CART)] })
    t.equal(table.entry(CART), undefined)
  })
  t.test('a later answer without a service removes it', async (t) => {
    const table = tableOf([entryOf(CART)])
    table.expect(KEY)
    table.learn(KEY, { seq: 5, entries: [] })
    t.equal(table.entry(CART), undefined)
  })
})

t.test('a negative answer is believed for a limited time only', async (t) => {
  const clock = new ManualClock()
  const table = new Table({ clock, emptyMs: 5_000 })
  const found = () => table.find(nameOf(`${CART}.any.rr`)).kind
  table.expect(KEY)
  table.learn(KEY, { seq: 1, entries: [] })
  t.equal(found(), 'unknown')
  await clock.advance(4_999)
  t.equal(found(), 'unknown')
  await clock.advance(1)
  t.equal(found(), 'unasked')
  table.apply(changed(2, entryOf(CART)))
  t.equal(found(), 'target', 'a change says otherwise at once')
  table.apply(gone(3))
  t.equal(found(), 'unknown')
  await clock.advance(5_000)
  t.equal(found(), 'unasked')
})

t.test('the newest reachability of a node is kept while a service refers to it', async (t) => {
  const at = (id: string, version: number, address: string, nodes = ['edge/n1'], vip = 0xe0100) =>
    entryOf(id, { version, address, nodes, vip })
  const table = tableOf([at(CART, 1, 'old:1'), at('shop.acme.stock.prod', 1, 'old:1', ['edge/n1'], 0xe0200)])
  const reach = () => table.node('edge/n1')?.addresses[0]
  table.apply(changed(2, at(CART, 2, 'new:1')))
  t.equal(reach(), 'new:1')
  table.expect('shop.acme.stock')
  table.learn('shop.acme.stock', { seq: 1, entries: [at('shop.acme.stock.prod', 2, 'old:2', ['edge/n1'], 0xe0200)] })
  t.equal(reach(), 'new:1', 'an answer from before does not turn it back')
  table.apply(changed(3, at(CART, 3, 'x:1', ['edge/n2'])))
  t.equal(reach(), 'new:1', 'the other service still mentions it')
  table.apply(gone(4, 'shop.acme.stock.prod', 'shop.acme.stock'))
  t.equal(reach(), undefined)
  t.equal(table.node('edge/n2')?.addresses[0], 'x:1')
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
  t.same(heard, [
    [CART, 2],
    [CART, undefined],
  ])
})

t.test('a resumption updates the table to the state of the cluster', async (t) => {
  const dev = entryOf('shop.acme.cart.dev', { vip: 0xe0200 })
  const started = () => {
    const table = tableOf([entryOf(CART, { version: 5 }), dev])
    t.ok(
      table.resume({
        epoch: 'one',
        seq: 10,
        full: true,
        changes: [changed(9, entryOf(CART, { version: 5 })), changed(9, dev)],
      }),
    )
    return table
  }

  t.test('partial: what changed is applied, and nothing else is removed', async (t) => {
    const table = started()
    t.ok(table.resume({ epoch: 'one', seq: 20, full: false, changes: [changed(15, entryOf(CART, { version: 6 }))] }))
    t.equal(table.entry(CART)?.version, 6)
    t.ok(table.entry('shop.acme.cart.dev'))
    t.same(table.point(), { epoch: 'one', seq: 20, keys: [KEY] })
  })
  t.test('full: what is missing is removed', async (t) => {
    const table = started()
    t.ok(table.resume({ epoch: 'one', seq: 20, full: true, changes: [changed(20, dev)] }))
    t.equal(table.entry(CART), undefined)
    t.ok(table.entry('shop.acme.cart.dev'))
  })
  t.test('full: only entries under the named keys are removed', async (t) => {
    const table = started()
    t.ok(table.resume({ epoch: 'one', seq: 20, full: true, changes: [] }, []))
    t.ok(table.entry(CART))
  })
  t.test('full, in another epoch: it applies whatever the versions are', async (t) => {
    const table = started()
    t.ok(table.resume({ epoch: 'two', seq: 1, full: true, changes: [changed(1, entryOf(CART, { version: 1 }))] }))
    t.equal(table.entry(CART)?.version, 1)
    t.equal(table.entry('shop.acme.cart.dev'), undefined)
    t.ok(table.apply(changed(2, entryOf(CART, { version: 2 }))), 'and goes on from there')
  })
  for (const resumed of [
    { why: 'another epoch', epoch: 'two', seq: 30 },
    { why: 'numbers behind ours', epoch: 'one', seq: 5 },
  ]) {
    t.test(`${resumed.why}, in part: refused, nothing changed`, async (t) => {
      const table = started()
      const before = table.snapshot()
      t.notOk(table.resume({ ...resumed, full: false, changes: [changed(1, entryOf(CART, { version: 9 }))] }))
      t.same(table.snapshot(), before)
      table.restart()
      t.same(table.point(), { epoch: '', seq: 0, keys: [KEY] })
      t.ok(table.entry(CART), 'what is known stays in use')
    })
  }
  t.test('an empty table accepts any resumption', async (t) => {
    t.ok(new Table().resume({ epoch: 'one', seq: 7, full: false, changes: [] }))
  })
})

t.test('a snapshot restores the same table', async (t) => {
  const clock = new ManualClock()
  const table = tableOf([entryOf(CART, { version: 3, nodes: ['edge/n1', 'edge/n2'] })], clock)
  table.expect('shop.acme.none')
  table.learn('shop.acme.none', { seq: 1, entries: [] })
  table.resume({ epoch: 'one', seq: 10, full: false, changes: [] }, [])
  const copy = new Table({ clock })
  copy.restore(JSON.parse(JSON.stringify(table.snapshot())))
  t.same(copy.snapshot(), table.snapshot())
  t.same(copy.counts, { services: 1, instances: 2, keys: 1 }, 'without the key that held nothing')
  t.same(copy.find(nameOf(`${CART}.1.rr`)), table.find(nameOf(`${CART}.1.rr`)))
  t.same(copy.point(), { epoch: 'one', seq: 10, keys: [KEY] })
  t.throws(() => copy.restore(table.snapshot()), /empty/)
})

t.test('whatever is lost, late or renumbered, the table ends up equal to that of the cluster', async (t) => {
  const services = ['a.x.s.p', 'a.x.s.q', 'a.x.t.p', 'b.x.s.p']
  const keys = ['a.x.s', 'a.x.t', 'b.x.s']
  const step = fc.oneof(
    { weight: 5, arbitrary: fc.record({ kind: fc.constant('put'), which: fc.nat({ max: 3 }) }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('delete'), which: fc.nat({ max: 3 }) }) },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant('ask'), which: fc.nat({ max: 2 }) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('forget'), which: fc.nat({ max: 2 }) }) },
    { weight: 4, arbitrary: fc.record({ kind: fc.constant('changes'), which: fc.nat({ max: 3 }) }) },
    { weight: 4, arbitrary: fc.record({ kind: fc.constant('answer'), which: fc.constant(0) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('reconnect'), which: fc.nat({ max: 1 }) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('renumber'), which: fc.constant(0) }) },
  )
  let reconnects = 0
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const table = new Table({ clock: new ManualClock() })
      // the cluster
      let epoch = 'e0'
      let seq = 0
      let versions = 0
      const log: Change[] = []
      const truth = new Map<string, ServiceEntry>()
      const keyOf = (id: string) => id.slice(0, id.lastIndexOf('.'))
      const under = (key: string) => [...truth.values()].filter(({ service }) => keyOf(service.id) === key)
      // the link: changes come in order; answers come in order, but may be overtaken by changes
      let subscribed = new Set<string>()
      let changes: Change[] = []
      let answers: Array<{ key: string; seq: number; entries: ServiceEntry[] }> = []
      const publish = (change: Change) => {
        log.push(change)
        if (subscribed.has(change.key)) changes.push(change)
      }
      const reconnect = (full: boolean) => {
        reconnects += 1
        changes = []
        for (const { key } of answers) table.unexpect(key)
        answers = []
        const point = table.point()
        subscribed = new Set(point.keys)
        const all = full || point.epoch !== epoch
        const entries = point.keys.flatMap(under).map((entry) => changed(seq, entry, keyOf(entry.service.id)))
        const missed = log.filter((change) => change.seq > point.seq && subscribed.has(change.key))
        if (!table.resume({ epoch, seq, full: all, changes: all ? entries : missed }, point.keys))
          throw new Error('refused')
      }
      const deliverAnswer = () => {
        const answer = answers.shift()
        if (answer !== undefined) table.learn(answer.key, answer)
      }
      reconnect(true)
      for (const { kind, which } of steps) {
        const id = services[which] as string
        const key = keys[which] as string
        if (kind === 'put') {
          const entry = entryOf(id, { version: ++versions, vip: 0xe0100 + which * 64 })
          truth.set(id, entry)
          publish(changed(++seq, entry, keyOf(id)))
        } else if (kind === 'delete' && truth.delete(id)) publish(gone(++seq, id, keyOf(id)))
        else if (kind === 'ask') {
          table.expect(key)
          subscribed.add(key)
          answers.push({ key, seq, entries: under(key) })
        } else if (kind === 'forget' && !answers.some((answer) => answer.key === key)) {
          table.forget([key])
          subscribed.delete(key)
        } else if (kind === 'changes') for (const change of changes.splice(0, which)) table.apply(change)
        else if (kind === 'answer') deliverAnswer()
        else if (kind === 'reconnect') reconnect(which === 1)
        else if (kind === 'renumber') {
          epoch = `e${Number(epoch.slice(1)) + 1}`
          seq = 0
          versions = 0
          log.length = 0
          for (const [id, entry] of truth) truth.set(id, { ...entry, version: ++versions })
          reconnect(false)
        }
      }
      for (const change of changes) table.apply(change)
      while (answers.length > 0) deliverAnswer()
      const known = [...truth.values()].filter(({ service }) => table.keys().includes(keyOf(service.id)))
      const byId = (a: ServiceEntry, b: ServiceEntry) => (a.service.id < b.service.id ? -1 : 1)
      const [held, expected] = [[...table.services()].sort(byId), known.sort(byId)]
      if (JSON.stringify(held) !== JSON.stringify(expected)) throw new Error('the table is not what the cluster holds')
      for (const { service } of expected) {
        for (const vip of Object.values(service.vips))
          if (table.byVip(vip as number)?.service !== service) throw new Error('VIP')
      }
      if (table.counts.instances !== expected.length) throw new Error('the count of instances drifted')
    }),
    { numRuns: 2_000 },
  )
  t.ok(reconnects > 2_000, `${reconnects} resumptions`)
})
