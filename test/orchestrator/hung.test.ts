import t from 'tap'
import { mesh, sla } from './mesh.ts'
import { until } from '../support/until.ts'

t.setTimeout(280_000) // a busy machine takes several times as long
const SERVICE = 'shop.acme.cart.prod'

t.test('a program that keeps hanging is moved, or tried again where it was when no other node has room', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', memory: 1_000 }))
  await world.running(1)
  const assigned = n1.assigned.length
  n1.say(`${SERVICE}.0`, 'failed', 'it does not answer, also after 3 restarts')
  await until(() => n1.assigned.length > assigned, 'the only node gets it again')
  await world.running(1)
  const n2 = await world.node('n2')
  n1.say(`${SERVICE}.0`, 'failed', 'it does not answer, also after 3 restarts')
  await until(() => n2.has.size === 1, 'another node gets it')
  await until(() => n1.has.size === 0, 'and the first ends it')
  await until(
    async () => (await world.instances()).every(({ node, state }) => node === 'edge/n2' && state === 'running'),
    'it runs there',
  )
  t.equal(n2.assigned.length, 1, 'once')
})
