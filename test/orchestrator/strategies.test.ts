import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import t from 'tap'
import { isMeshError } from '../../src/core/errors.ts'
import { loadStrategies } from '../../src/roles/strategies.ts'
import { mesh, sla } from './mesh.ts'
import { until } from '../support/until.ts'

const dir = mkdtempSync(join(tmpdir(), 'hedgerow-strategies-'))
t.teardown(() => rmSync(dir, { recursive: true, force: true }))
const moduleOf = (name: string, text: string) => {
  const path = join(dir, name)
  writeFileSync(path, text)
  return path
}

t.test('the strategy in docs/scheduling.md decides where instances go, at both tiers', async (t) => {
  const page = readFileSync(resolve(import.meta.dirname, '../../docs/scheduling.md'), 'utf8')
  const [, example = ''] = /```js\n(\/\/ lowest-power\.mjs\n[^]*?)```/.exec(page) ?? []
  t.ok(example.trim().split('\n').length <= 10, 'it has ten lines at most')
  const strategies = await loadStrategies([moduleOf('lowest-power.mjs', example)])
  await using world = await mesh({ clusters: ['edge', 'west'], root: { strategies }, cluster: { strategies } })
  await world.node('a', { labels: { watts: '60' } })
  await world.node('b', { cluster: 'west', labels: { watts: '90' } })
  await world.node('c', { cluster: 'west', labels: { watts: '12' } })
  await world.known()
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', strategy: 'lowest-power' }))
  const [cart] = await world.running(1)
  t.equal(cart?.node, 'west/c')
})

t.test('a strategy that only the root offers is refused by the cluster, with the reason', async (t) => {
  const strategies = await loadStrategies([moduleOf('one.mjs', "export default { name: 'one', score: () => [1] }")])
  await using world = await mesh({ root: { strategies } })
  await world.node('a')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', strategy: 'one' }))
  await until(
    async () => (await world.instances()).some(({ detail = '' }) => /strategy one not offered/.test(detail)),
    'it says so',
  )
  const unknown = world.api.call('POST', '/apps', sla({ microservice_name: 'cart', strategy: 'onne' }))
  await t.rejects(unknown, { code: 'SLA_INVALID' }, 'one that nobody offers is a fault of the document')
})

t.test('a module that is no strategy stops the start, and a strategy that fails stops nothing', async (t) => {
  const rows: [text: string, problem: RegExp][] = [
    ['export default 3', /needs a name/],
    ["export default { name: 'Two', score: () => [] }", /needs a name/],
    ["export default { name: 'two' }", /no function score/],
    ["export default { name: 'two', score: () => [], why: 3 }", /why of the strategy two is not a function/],
    ["export default { name: 'spread', score: () => [] }", /there is a strategy spread already/],
    ['export default {', /Unexpected/],
  ]
  for (const [i, [text, problem]] of rows.entries()) {
    const path = moduleOf(`bad-${i}.mjs`, text)
    const error = await loadStrategies([path]).then(
      () => undefined,
      (reason: unknown) => reason,
    )
    t.ok(isMeshError(error, 'CONFIG_INVALID'), text)
    t.match((error as Error).message, problem)
    t.match((error as Error).message, path)
  }
  await t.rejects(loadStrategies([join(dir, 'none.mjs')]), { code: 'CONFIG_INVALID' })
  const bad = ["throw new Error('no')", "return 'abc'", 'return [NaN]', 'return new Array(99).fill(1)']
  for (const [i, body] of bad.entries()) {
    const name = `fails-${i}`
    const text = `export default { name: '${name}', score: () => { ${body} }, why: () => { throw new Error('no') } }`
    const { [name]: scorer } = await loadStrategies([moduleOf(`${name}.mjs`, text)])
    t.same(scorer?.score({} as never, {} as never), [Number.NEGATIVE_INFINITY], body)
    t.equal(scorer?.why({} as never, {} as never), `best by ${name}`)
  }
})
