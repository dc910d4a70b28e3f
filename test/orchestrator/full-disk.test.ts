import t from 'tap'
import { MeshError } from '../../src/core/errors.ts'
import { Store } from '../../src/core/kit/store.ts'
import { mesh, sla } from './mesh.ts'
import { until } from '../support/until.ts'

/** Root and cluster whose disk is full for a while: they stay, refuse what must be written, and know everything when there is room. */
t.setTimeout(280_000)

t.test('a full disk ends neither root nor cluster, and what nodes say meanwhile is not lost', async (t) => {
  await using world = await mesh()
  const [n1, n2] = [await world.node('n1'), await world.node('n2')]
  await world.node('n3')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 3 }))
  await world.running(3)
  const [[ended], [lost]] = [[...n1.has.values()], [...n2.has.values()]]
  if (ended === undefined || lost === undefined) throw new Error('they are not spread')

  // eslint-disable-next-line typescript/unbound-method -- called with what it is of
  const { transaction } = Store.prototype
  let refused = 0
  const full = t.capture(Store.prototype, 'transaction', function (this: Store, work: () => unknown) {
    return transaction.call(this, () => {
      work()
      refused += 1
      throw new MeshError('DISK_FULL', { path: this.path })
    })
  })
  const scale = world.api.call('POST', '/services/shop.acme.cart.prod/scale', { replicas: 4 })
  n1.has.delete(ended.instance)
  n1.uplink.report({ instance: ended.instance, generation: ended.generation, state: 'failed', restarts: 0 })
  await n2.stop()
  await t.rejects(scale, { code: 'DISK_FULL' })
  await until(() => refused > 3 && !n1.uplink.isUp, 'they have tried to write, and the node is put off')
  full.restore()

  await until(
    () => n1.assigned.filter(({ instance }) => instance === ended.instance).length === 2,
    'n1 runs it again',
    () => world.instances(),
  )
  const isElsewhere = ({ id, node }: { id: string; node?: string }) => id === lost.instance && node !== n2.id
  await until(async () => (await world.running(3)).some(isElsewhere), 'what n2 ran is placed elsewhere')
})
