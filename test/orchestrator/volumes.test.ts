import { existsSync, linkSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { systemClock } from '../../src/core/kit/clock.ts'
import { folderSize } from '../../src/orchestrator/worker/folder-size.ts'
import { NodeVolumes } from '../../src/orchestrator/worker/node-volumes.ts'
import type { Runtime, RuntimeVolumes } from '../../src/orchestrator/worker/runtime.ts'
import { VolumeFolders } from '../../src/orchestrator/worker/volume-folders.ts'
import { mesh, sla } from './mesh.ts'
import { specOf } from './specs.ts'
import { ask } from './v1.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { until } from '../support/until.ts'

const DATA = 'shop.acme.data'
const { signal } = new AbortController()

function place() {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-volumes-'))
  return { dir, [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }) }
}

t.test('volumes of programs are listed with their size and who has them, and removed when nobody does', async (t) => {
  using here = place()
  const spec = specOf({ volumes: [{ volume_id: 'data', mount_path: '/data' }] })
  const folders = new VolumeFolders(join(here.dir, 'v'), undefined)
  const users = [{ instance: 'shop.acme.cart.prod.0', spec }]
  const runtimes = [{ name: 'process', volumes: folders } as unknown as Runtime]
  const volumes = new NodeVolumes({ runtimes, users: () => users, clock: systemClock, signal })
  t.same(await volumes.list(signal), [], 'there are none yet')
  await t.rejects(volumes.remove('process', DATA), { code: 'VOLUME_UNKNOWN' })
  users.push({ instance: 'shop.acme.cart.prod.1', spec: specOf({}) })

  const given = await folders.give(spec, undefined)
  writeFileSync(join(given?.folders[0] ?? '', 'kept'), Buffer.alloc(100_000))
  t.match(await volumes.list(signal), [
    { name: DATA, runtime: 'process', bytes: Number, inUseBy: ['shop.acme.cart.prod.0'] },
  ])
  await t.rejects(volumes.remove('process', '../v'), { code: 'VOLUME_UNKNOWN' })
  await t.rejects(volumes.remove('docker', DATA), { code: 'VOLUME_UNKNOWN' })
  const inUse = { code: 'VOLUME_IN_USE', details: { volume: DATA, by: 'shop.acme.cart.prod.0' } }
  await t.rejects(volumes.remove('process', DATA), inUse)
  t.ok(existsSync(join(given?.folders[0] ?? '', 'kept')))
  users.length = 0
  await volumes.remove('process', DATA)
  t.same(await volumes.list(signal), [], 'it is gone at once')
  await until(() => readdirSync(join(here.dir, 'v')).every((name) => name === 'shop.acme'), 'its files go')

  mkdirSync(join(here.dir, 'v/.removed-1/deep'), { recursive: true }) // the agent was killed meanwhile
  t.same(await folders.list(), [])
  folders.tidy(new Set())
  await until(() => !existsSync(join(here.dir, 'v/.removed-1')), 'the next start goes on')
})

t.test('what a folder takes of the disk', async (t) => {
  using here = place()
  const one = join(here.dir, 'one')
  mkdirSync(join(here.dir, 'deep'))
  writeFileSync(one, Buffer.alloc(50_000, 1))
  const before = (await folderSize(here.dir, signal)) ?? 0
  t.ok(before >= 50_000)
  linkSync(one, join(here.dir, 'deep/same'))
  t.equal(await folderSize(here.dir, signal), before, 'a file with two names counts once')
  symlinkSync('/', join(here.dir, 'deep/out'))
  t.ok(((await folderSize(here.dir, signal)) ?? 0) - before < 8_192, 'links lead nowhere')
  t.equal(await folderSize(join(here.dir, 'none'), signal), 0)
  await t.rejects(folderSize(here.dir, AbortSignal.abort()))
})

t.test('sizes are measured rarely, one measurement at a time, and a list does not wait for long ones', async (t) => {
  const clock = new ManualClock()
  let measurements = 0
  let measured = Promise.withResolvers<ReadonlyMap<string, number>>()
  const kept: RuntimeVolumes = {
    list: async () => [DATA],
    sizes: () => {
      measurements++
      return measured.promise
    },
    remove: async () => undefined,
  }
  const away: RuntimeVolumes = { ...kept, list: () => Promise.reject(new Error('the engine is away')) }
  const runtimes = [
    { name: 'docker', volumes: kept },
    { name: 'process', volumes: away },
  ] as unknown as Runtime[]
  const volumes = new NodeVolumes({ runtimes, users: () => [], clock, signal })
  const lists = [volumes.list(signal), volumes.list(signal)]
  await until(() => measurements > 0, 'a measurement')
  await clock.advance(1_000)
  for (const list of lists) t.same(await list, [{ name: DATA, runtime: 'docker', inUseBy: [] }], 'without its size')
  measured.resolve(new Map([[DATA, 5]]))
  await until(async () => (await volumes.list(signal))[0]?.bytes === 5, 'its size')
  t.equal(measurements, 1)
  measured = Promise.withResolvers()
  await clock.advance(300_000)
  t.match(await volumes.list(signal), [{ bytes: 5 }], 'the last one, while it is measured again')
  t.equal(measurements, 2)
  measured.reject(new Error('the engine is away'))
  await volumes.list(signal)
  t.match(await volumes.list(signal), [{ bytes: 5 }])
})

t.test('operators list the volumes of all nodes, and delete one that nobody uses', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'far'] })
  const node = await world.node('n1')
  await world.node('f1', { cluster: 'far' })
  const volumes = [{ volume_id: 'data', mount_path: '/data' }]
  const document = sla({ microservice_name: 'cart', constraints: [{ type: 'direct', node: 'edge/n1' }], volumes })
  await world.api.call('POST', '/apps', document)
  await world.running(1)
  const id = `${DATA}/edge/n1/process`
  const { body } = await ask(world, `/v1/volumes?name=${DATA}`)
  t.same(body.items, [
    { id, node: 'edge/n1', name: DATA, runtime: 'process', bytes: 4_096, inUseBy: ['shop.acme.cart.prod.0'] },
    { id: `${DATA}/far/f1/process`, node: 'far/f1', name: DATA, runtime: 'process', bytes: 4_096, inUseBy: [] },
  ])
  t.match((await ask(world, '/v1/volumes?limit=1')).body, { items: [{ id }], next: String })
  const remove = (path: string) => ask(world, `/v1/volumes/${path}`, { method: 'DELETE' })
  t.match(await remove(id), { status: 409, body: { code: 'VOLUME_IN_USE', details: { by: 'shop.acme.cart.prod.0' } } })
  t.match(await remove(`${DATA}/far/f1/process`), { status: 200, body: { deleted: [`${DATA}/far/f1/process`] } })
  t.match(await remove(`${DATA}/far/f1/process`), { status: 404, body: { code: 'VOLUME_UNKNOWN' } })
  t.match(await remove(`${DATA}/none/f1/process`), { status: 404, body: { code: 'VOLUME_UNKNOWN' } })
  t.match(await remove(`${DATA}/far/none/process`), { status: 404, body: { code: 'NODE_UNKNOWN' } })
  for (const wrong of [`..%2f${DATA}/far/f1/process`, `${DATA}/far/f1/other`, 'data/far/f1/process'])
    t.equal((await remove(wrong)).status, 400, wrong)
  t.ok(node.volumes.has(DATA))
  await world.api.call('DELETE', '/apps/shop.acme')
  await until(() => node.has.size === 0, 'nothing has it')
  t.equal((await remove(id)).status, 200)
  t.notOk(node.volumes.has(DATA))
})
