import { readdirSync, readFileSync, renameSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { MeshError } from '../../src/core/errors.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { KeptSecrets } from '../../src/orchestrator/worker/kept-secrets.ts'
import { mesh, sla, type FakeNode } from './mesh.ts'
import { secretsOf } from '../../src/orchestrator/spec.ts'
import { specOf } from './specs.ts'

/* Secrets: sealed at the root, and given to the nodes that run the service that names them. */

const NAME = 'shop.acme.db-password'
const VALUE = 'correct horse battery staple'
const INSTANCE = 'shop.acme.cart.prod.0'
const base64 = (text: string) => Buffer.from(text).toString('base64')

test('a secret is sealed, listed without its value, and given to the nodes of its service alone', async (t) => {
  await using world = await mesh()
  const { api } = world
  const [one, two] = [await world.node('n1'), await world.node('n2')]
  const service = { microservice_name: 'cart', secrets: ['db-password'] }
  await t.rejects(api.call('POST', '/apps', sla(service)), {
    code: 'SLA_CONFLICT',
    details: { conflicts: [{ problem: `there is no secret ${NAME}`, remedy: /hedgerow secret create shop/ }] },
  })
  const created = await api.call('POST', '/secrets', { name: NAME, value: base64(VALUE) })
  t.same(created, { name: NAME, result: 'created' })
  await t.rejects(api.call('POST', '/secrets', { name: NAME, value: base64('other') }), {
    code: 'USAGE',
    details: { reason: `there is a secret ${NAME} already` },
  })
  await api.call('POST', '/apps', sla(service))
  await world.running(1)

  t.match(await api.call('GET', '/secrets'), [{ name: NAME, bytes: VALUE.length, usedBy: ['shop.acme.cart.prod'] }])
  for (const path of ['/secrets', '/services', '/instances', '/events', '/services/shop.acme.cart.prod/revisions'])
    t.notMatch(
      JSON.stringify(await api.call('GET', path).catch(() => '')),
      new RegExp(`${VALUE}|${base64(VALUE)}`),
      path,
    )
  const dir = join(world.dir, 'root')
  for (const name of readdirSync(dir).filter((file) => statSync(join(dir, file)).isFile()))
    t.notMatch(readFileSync(join(dir, name), 'latin1'), new RegExp(`${VALUE}|${base64(VALUE)}`), `${name} on disk`)
  t.equal(statSync(join(dir, 'secrets.key')).mode & 0o777, 0o600)

  const [runs, other] = one.has.has(INSTANCE) ? [one, two] : [two, one]
  const valueAt = async (node: FakeNode) => (await node.uplink.secretsOf(INSTANCE)).map(({ value }) => String(value))
  t.same(await valueAt(runs), [VALUE])
  await t.rejects(valueAt(other), { code: 'INSTANCE_UNKNOWN' }, 'a node that does not run it')
  await api.call('POST', '/secrets', { name: NAME, value: base64('new'), replace: true })
  t.same(await valueAt(runs), ['new'])

  await t.rejects(api.call('DELETE', `/secrets/${NAME}`), {
    code: 'USAGE',
    details: { reason: /cart\.prod has the secret/ },
  })
  await world.stopRoot()
  renameSync(join(dir, 'secrets.key'), join(dir, 'elsewhere'))
  await world.startRoot()
  await t.rejects(world.api.call('POST', '/secrets', { name: 'shop.acme.other', value: 'eA==' }), {
    code: 'STATE_UNREADABLE',
    details: { reason: 'the key of the secrets is missing' },
  })
  renameSync(join(dir, 'elsewhere'), join(dir, 'secrets.key'))
  await world.api.call('DELETE', '/apps/shop.acme')
  t.same(await world.api.call('DELETE', `/secrets/${NAME}`), { deleted: [NAME] })
  await t.rejects(world.api.call('DELETE', `/secrets/${NAME}`), { code: 'SECRET_UNKNOWN' })
  for (const name of ['shop', 'shop.acme.prod.x', '../x', 'shop.acme._'])
    await t.rejects(world.api.call('POST', '/secrets', { name, value: 'eA==' }), { code: 'USAGE' }, name)
})

test('while the cluster is away, those of the start before serve; a first start waits for them', async (t) => {
  const answers: (string | Error)[] = ['one', new MeshError('LINK_CLOSED'), 'two', new MeshError('SECRET_UNKNOWN')]
  const ask = async () => {
    const answer = answers.shift()
    if (typeof answer !== 'string') throw answer
    return [{ name: 'x', value: Buffer.from(answer) }]
  }
  const said: string[] = []
  const kept = new KeptSecrets(ask, { ...systemClock, sleep: async () => undefined })
  const get = async () => {
    const found = await kept.of(INSTANCE, (line) => said.push(line), new AbortController().signal)
    return String(found[0]?.value)
  }
  t.equal(await get(), 'one')
  t.equal(await get(), 'one', 'its cluster is away')
  t.equal(await get(), 'two')
  await t.rejects(get(), { code: 'SECRET_UNKNOWN' })
  kept.forget(INSTANCE)
  answers.push(new MeshError('LINK_CLOSED'), new MeshError('REQUEST_TIMEOUT'), 'three')
  t.equal(await get(), 'three')
  t.same(said, ['waiting for its secrets: the control link is down'], 'told once')
})

test('what a document may name', (t) => {
  t.same(
    secretsOf(
      specOf({
        secrets: ['key'],
        files: [
          { path: '/k', secret: 'Key' },
          { path: '/o', secret: 'other' },
        ],
      }),
    ),
    ['key', 'other'],
  )
  t.same(specOf({ secrets: ['db-password', 'DB-Password', 'key'] }).secrets, ['db-password', 'key'])
  t.equal(specOf({}).secrets, undefined)
  t.throws(() => specOf({ secrets: ['../../etc/passwd'] }), /is not the name of a secret/)
  t.end()
})
