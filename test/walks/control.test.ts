import { readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
import { isMeshError } from '../../src/core/errors.ts'
import { external, Origin, program, sla, wholeMesh, type Mesh } from './mesh.ts'
import { until } from '../support/until.ts'

/** The walk of an instance: a document is taken, placed, run, watched, moved, and leaves nothing behind. */

const NAME = 'shop.acme.cart.prod.any.rr.local'
/** A service of this run alone: its processes are looked for in the whole machine. */
const UNIQUE = `cart-${process.pid}`
const UNIQUE_NAME = NAME.replace('cart', UNIQUE)
const INSTANCE = `shop.acme.${UNIQUE}.prod`

t.test('from a document to an answer: placed on the nodes, run, reported, resolved', async (t) => {
  await using mesh = await wholeMesh(['a', 'b'])
  await mesh.apply([program('cart', 4)], 4)
  const nodes = (await mesh.control.instances()).map(({ node }) => node)
  t.same(
    nodes.map(String).toSorted((a, b) => a.localeCompare(b)),
    ['edge/a', 'edge/a', 'edge/b', 'edge/b'],
    'spread over the nodes',
  )
  t.match((await mesh.node('a').get(NAME)).body, /^shop\.acme\.cart\.prod\.\d$/)

  const before = await mesh.node('a').resolve(NAME)
  t.match(
    await mesh.control.api.call('POST', '/apps', sla([program('cart', 4)])),
    { services: [{ change: 'unchanged' }] },
    'taken twice, it changes nothing',
  )
  await mesh.control.api.call('POST', '/services/shop.acme.cart.prod/scale', { replicas: 6 })
  await mesh.control.running(6)
  t.equal((await mesh.node('a').resolve(NAME)).ipv4, before.ipv4, 'the VIP stays')
})

t.test('what an instance says it calls is known on its node before the first question', async (t) => {
  await using mesh = await wholeMesh(['a'])
  await mesh.apply([program('cart', 1, { connectivity: ['stock'] }), program('stock', 1)], 2)
  await until(async () => (await mesh.node('a').status()).services === 2, 'the table knows stock, and cart itself')
  await mesh.control.stopRoot()
  await mesh.control.stopCluster()
  t.match(await mesh.node('a').get('shop.acme.stock.prod.any.rr.local'), { body: 'shop.acme.stock.prod.0' })
})

t.test('an instance that is killed comes back where it was', async (t) => {
  await using mesh = await wholeMesh(['a'])
  await mesh.apply([program(UNIQUE, 1)], 1)
  const [pid] = pidsOf(`${INSTANCE}.0`)
  process.kill(pid as number, 'SIGKILL')
  await until(() => pidsOf(`${INSTANCE}.0`).some((other) => other !== pid), 'another process runs')
  await until(
    async () =>
      (
        await mesh
          .node('a')
          .get(UNIQUE_NAME)
          .catch(() => undefined)
      )?.status === 200,
    'it answers',
  )
  t.equal(pidsOf(`${INSTANCE}.0`).length, 1, 'and only one')
})

t.test('a lost node: its instances run elsewhere, and flows find them', async (t) => {
  await using mesh = await wholeMesh(['a', 'b'])
  await mesh.apply([program('cart', 2)], 2)
  await mesh.node('a').get(NAME)
  await mesh.stop('b')
  await until(
    async () => (await running(mesh)).every((node) => node === 'edge/a') && (await running(mesh)).length === 2,
    'both run on a',
  )
  for (let flow = 0; flow < 4; flow++) t.match(await mesh.node('a').get(NAME), { status: 200 })
})

t.test('deleted, nothing is left: no process, no name, no listener', async (t) => {
  await using mesh = await wholeMesh(['a'])
  await mesh.apply([program(UNIQUE, 2, { drain_seconds: 0 })], 2)
  await mesh.node('a').get(UNIQUE_NAME)
  t.not((await mesh.node('a').status()).listeners, 0)
  await mesh.control.api.call('DELETE', '/apps/shop.acme')
  await until(async () => (await mesh.control.instances()).length === 0, 'no instance is known')
  await until(() => pidsOf(`${INSTANCE}.0`).length + pidsOf(`${INSTANCE}.1`).length === 0, 'no process runs')
  await until(async () => (await mesh.node('a').status()).listeners === 0, 'no listener is open')
  await until(
    async () =>
      (await mesh
        .node('a')
        .dns.resolve4(UNIQUE_NAME)
        .catch(({ code }: { code: string }) => code)) === 'ENOTFOUND',
    'the name is gone',
  )
})

t.test('what no node can run says so, with counted reasons, and runs once one can', async (t) => {
  await using origin = await Origin.start('late')
  await using mesh = await wholeMesh(['a'])
  await mesh.apply([external('cart', origin, 'later')])
  await until(
    async () =>
      (await mesh.control.instances()).some(
        ({ state, detail }) => state === 'unplaceable' && /nodes?: 1 /.test(detail ?? ''),
      ),
    'it cannot be placed',
  )
  await mesh.start('later')
  await mesh.control.running(1)
  t.match(await mesh.control.instances(), [{ node: 'edge/later', state: 'running' }])
})

t.test('a document with faults is refused whole, with all of them', async (t) => {
  await using mesh = await wholeMesh([])
  const bad = [
    program('cart', 1, { port: 'eighty' }),
    program('Cart', 1),
    program('any', 1, { replicas: -1, memry: 5 }),
  ]
  const refusal: unknown = await mesh.apply(bad).catch((error: unknown) => error)
  t.ok(isMeshError(refusal, 'SLA_INVALID'), 'the document is refused as a whole')
  const faults = isMeshError(refusal) ? (refusal.details['faults'] as Array<{ path: string }>) : []
  const paths = faults.map(({ path }) => path.replace('applications[0].microservices', ''))
  for (const path of ['[0].port', '[1].microservice_name', '[2].microservice_name', '[2].replicas'])
    t.ok(paths.includes(path), `${path} of ${paths.join(' ')}`)
  t.same(await mesh.control.api.call('GET', '/services'), [], 'nothing was applied')
})

async function running(mesh: Mesh): Promise<Array<string | undefined>> {
  return (await mesh.control.instances()).filter(({ state }) => state === 'running').map(({ node }) => node)
}

/** Processes that run an instance, as the kernel knows them. */
function pidsOf(instance: string): number[] {
  const mark = `HEDGEROW_INSTANCE=${instance}\0`
  return numbers().filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/environ`, 'latin1').includes(mark)
    } catch {
      return false // ended meanwhile
    }
  })
}

function numbers(): number[] {
  return readdirSync('/proc').flatMap((name) => (/^\d+$/.test(name) ? [Number(name)] : []))
}
