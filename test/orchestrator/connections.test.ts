import t from 'tap'
import { connected, disconnected } from '../../src/orchestrator/root/connections.ts'
import { parseSla } from '../../src/orchestrator/sla/parse.ts'
import type { ServiceSpec } from '../../src/orchestrator/spec.ts'
import { mesh, sla } from './mesh.ts'
import { ask } from './v1.ts'

const WEB = 'shop.acme.web.prod'
const CART = 'shop.acme.cart.prod'

/** As a document with these services says. */
function specs(...services: object[]): ServiceSpec[] {
  const parsed = parseSla(sla(...(services as Record<string, unknown>[])))
  if (parsed.kind === 'refused') throw new Error(JSON.stringify(parsed.faults))
  return parsed.apps.flatMap(({ services }) => services)
}

const web = { microservice_name: 'web' }
const cart = { microservice_name: 'cart' }
const near = (threshold: number) => ({
  connectivity: [{ target_microservice_id: 'cart.prod', con_constraints: [{ type: 'latency', threshold }] }],
})

t.test('a connection is what a document with it says', async (t) => {
  const [caller, called] = specs(web, cart) as [ServiceSpec, ServiceSpec]
  const [wantedWeb, wantedCart] = specs({ ...web, ...near(20) }, cart) as [ServiceSpec, ServiceSpec]
  const both = connected({ caller, called }, { latencyMs: 20 })
  t.same(both.caller.connectivity, [CART])
  t.match(both.caller.constraints, [{ type: 'latency', service: CART, threshold: 20 }])
  t.equal(wantedWeb.constraints.length, both.caller.constraints.length)
  t.same(both.called.prefersNear, wantedCart.prefersNear, 'the other prefers to be near')
  t.same(connected(both, { latencyMs: 20 }), both, 'twice is once')
  const tighter = connected(both, { latencyMs: 5 })
  t.match(tighter.caller.constraints, [{ threshold: 5 }])
  t.match(tighter.called.prefersNear, [{ threshold: 5 }])
  t.same(connected(tighter, {}).caller.constraints, [], 'no bound any more')
  const again = disconnected(tighter)
  t.same([again.caller, again.called], [caller, called], 'nothing of it is left')
})

t.test('who is let in', async (t) => {
  const [caller, called] = specs(web, { ...cart, allow: ['site.acme'] }) as [ServiceSpec, ServiceSpec]
  const ends = { caller, called }
  t.equal(connected(ends, {}).called, called, 'nothing changes of it')
  const let_in = connected(ends, { allow: true })
  t.same(let_in.called.allow, ['site.acme', WEB])
  t.same(connected(let_in, { allow: true }).called.allow, ['site.acme', WEB])
  t.same(connected(let_in, { allow: false }).called.allow, ['site.acme'], 'others stay')
  const open = { caller, called: { ...called, allow: ['*'] } }
  t.same(connected(open, { allow: true }).called.allow, ['*'], 'everybody is let in already')
})

t.test('it is shown before it is applied, and it replaces no instance', async (t) => {
  await using world = await mesh()
  await ask(world, '/v1/apps', { method: 'POST', body: sla({ ...web, replicas: 0 }, { ...cart, replicas: 0 }) })
  const path = `/v1/services/${WEB}/connections/${CART}`
  const before = (await ask(world, `/v1/services/${WEB}`)).body
  const dry = await ask(world, `${path}?dryRun=true`, { method: 'PUT', body: { latencyMs: 20, allow: true } })
  t.match(dry.body, {
    dryRun: true,
    services: [
      { id: WEB, change: 'updated', instances: { replaced: 0 } },
      { id: CART, change: 'updated', fields: ['connectivity', 'allow'], instances: { replaced: 0 } },
    ],
  })
  t.same((await ask(world, `/v1/services/${WEB}`)).body, before, 'nothing has changed')
  t.equal((await ask(world, path, { method: 'PUT', body: { latencyMs: 20, allow: true } })).status, 200)
  t.match((await ask(world, `/v1/services/${WEB}`)).body.spec, {
    connectivity: [CART],
    constraints: [{ type: 'latency', service: CART, threshold: 20 }],
  })
  t.match((await ask(world, `/v1/services/${CART}`)).body, { allow: [WEB] })
  t.match((await ask(world, `${path}?dryRun=true`, { method: 'DELETE' })).body.services, [{ change: 'updated' }, {}])
  t.equal((await ask(world, path, { method: 'DELETE' })).status, 200)
  t.match((await ask(world, `/v1/services/${WEB}`)).body.spec, { connectivity: [], constraints: [] })
  t.match((await ask(world, `/v1/services/${CART}`)).body, { allow: [] })
  t.equal((await ask(world, `/v1/services/${WEB}/connections/${WEB}`, { method: 'PUT', body: {} })).status, 400)
  t.equal((await ask(world, `/v1/services/${WEB}/connections/none`, { method: 'PUT', body: {} })).status, 404)
  t.equal((await ask(world, path, { method: 'PUT', body: { latencyMs: -1 } })).status, 400)
})
