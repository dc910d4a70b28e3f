import t from 'tap'
import { BOX, connectionsIn, graphOf, nameFor, needsAllow, placeAt } from '../../src/page/model/connections.ts'
import { serviceRow } from './rows.ts'

const row = (name: string, ...calls: { service: string; latencyMs?: number }[]) =>
  serviceRow({ id: `shop.acme.${name}.prod`, calls })

t.test('who calls whom, and what is drawn of it', async (t) => {
  const services = [
    row('web', { service: 'shop.acme.cart', latencyMs: 20 }, { service: 'shop.acme.none.prod' }),
    row('cart', { service: 'shop.acme.db.prod' }),
    row('db', { service: 'shop.acme.web.prod' }, { service: 'shop.acme.db.prod' }),
    row('alone'),
  ]
  const connections = connectionsIn(services)
  t.same(connections, [
    { from: 'shop.acme.web.prod', to: 'shop.acme.cart.prod', latencyMs: 20 },
    { from: 'shop.acme.cart.prod', to: 'shop.acme.db.prod' },
    { from: 'shop.acme.db.prod', to: 'shop.acme.web.prod' },
  ])
  const graph = graphOf(services, connections)
  t.equal(graph.places.length, 4, 'a circle has an end')
  for (const [at, one] of graph.places.entries())
    for (const other of graph.places.slice(at + 1))
      t.ok(
        Math.abs(one.x - other.x) >= BOX.width || Math.abs(one.y - other.y) >= BOX.height,
        `${one.id} does not lie on ${other.id}`,
      )
  const [first] = graph.places
  t.equal(placeAt(graph, (first?.x ?? 0) + 5, (first?.y ?? 0) + 5)?.id, first?.id)
  t.equal(placeAt(graph, -1, -1), undefined)
  t.same(graphOf([], []).places, [])
})

t.test('who must be let in, and by which name it calls', async (t) => {
  const rows = [
    ['shop.acme.web.prod', [], false, 'of the same app'],
    ['site.acme.web.prod', [], true, 'of another'],
    ['site.acme.web.prod', ['site.acme'], false, 'its app may'],
    ['site.acme.web.prod', ['site.acme.web.prod'], false, 'it may itself'],
    ['site.acme.web.prod', ['*'], false, 'everybody may'],
    ['site.acme.web.prod', ['node'], true, 'programs of nodes are no services'],
  ] as const
  for (const [from, allow, needs, why] of rows) t.equal(needsAllow(from, serviceRow({ allow: [...allow] })), needs, why)
  t.equal(nameFor('shop.acme.cart.prod', 'rr'), 'shop.acme.cart.prod.any.rr.local')
})
