import t from 'tap'
import { mesh, sla } from './mesh.ts'
import { until } from '../support/until.ts'

t.test('a service that must be near another is placed by network coordinates', async (t) => {
  await using world = await mesh()
  const at = (ms: number) => ({ coordinate: { at: [ms, 0, 0], height: 0.1, error: 0.1 } })
  await world.node('home', at(0))
  const near = await world.node('near', at(5))
  await world.node('far', at(100))
  const unsure = await world.node('unsure')
  const db = { microservice_name: 'db', constraints: [{ type: 'direct', node: 'home' }] }
  const web = {
    microservice_name: 'web',
    replicas: 3,
    fixed_port: true,
    connectivity: [
      { target_microservice_id: 'db', con_constraints: [{ type: 'latency', threshold: 20, rigidness: 1 }] },
    ],
  }
  await world.api.call('POST', '/apps', sla(db))
  await world.running(1)
  await world.api.call('POST', '/apps', sla(web))
  const webs = async () => (await world.instances()).filter(({ id }) => id.includes('.web.'))
  const nodes = (rows: Array<{ state: string; node?: string }>) =>
    rows.flatMap(({ state, node }) => (state === 'running' && node !== undefined ? [node] : [])).toSorted()

  await world.running(3)
  t.same(nodes(await webs()), ['edge/home', 'edge/near'])
  await until(async () => (await webs()).some(({ state }) => state === 'unplaceable'), 'the third fits nowhere')
  const third = (await webs()).find(({ state }) => state === 'unplaceable')
  t.match(third?.detail, /1 more than 20 ms from shop\.acme\.db/)
  t.match(third?.detail, /1 latency to shop\.acme\.db not measured yet/)
  t.ok(unsure.wishes.has('shop.acme.db'), 'it is asked to measure')

  unsure.coordinate = at(12).coordinate
  unsure.uplink.factsChanged()
  await world.running(4)
  t.same(nodes(await webs()), ['edge/home', 'edge/near', 'edge/unsure'], 'once it knows')

  await near.stop()
  const isBound = async () =>
    (await webs()).some(({ state, detail = '' }) => state === 'lost' && /no other can take it/.test(detail))
  await until(isBound, 'it is bound to its node, and not placed again')
  t.same(nodes(await webs()), ['edge/home', 'edge/unsure'], 'a lost one does not go far either')
})

t.test('a service of another document goes nowhere near one that avoids it', async (t) => {
  await using world = await mesh()
  await world.node('a')
  await world.node('b')
  const billing = sla({ microservice_name: 'web', constraints: [{ type: 'anti-affinity', service: 'shop.acme.db' }] })
  Object.assign(billing.applications[0] ?? {}, { application_name: 'billing' })
  await world.api.call('POST', '/apps', billing)
  await world.running(1)
  await world.api.call('POST', '/apps', sla({ microservice_name: 'db', strategy: 'best-fit' })) // the fullest node, if it may
  await world.running(2)
  const nodes = (await world.instances()).map(({ node = '' }) => node)
  t.same(new Set(nodes), new Set(['edge/a', 'edge/b']))
})

t.test('the same where the one that avoids it is in another cluster', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'far'] })
  await world.node('x', { cluster: 'far', area: 'west' })
  await world.node('a', { area: 'west' })
  await world.node('b', { area: 'east' })
  await world.known()
  const here = (cluster: string) => ({ type: 'clusters', allowed: [cluster] })
  const apart = { type: 'anti-affinity', service: 'shop.acme.db', over: 'area' }
  const billing = sla({ microservice_name: 'web', constraints: [here('far'), apart] })
  Object.assign(billing.applications[0] ?? {}, { application_name: 'billing' })
  await world.api.call('POST', '/apps', billing)
  await world.running(1)
  await world.api.call('POST', '/apps', sla({ microservice_name: 'db', constraints: [here('edge')] }))
  const rows = await world.running(2)
  t.same(rows.map(({ node = '' }) => node).toSorted(), ['edge/b', 'far/x'], 'a has the smaller id')
})
