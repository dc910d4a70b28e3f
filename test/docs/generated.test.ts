import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import t from 'tap'
import { EXAMPLE, PAGES } from '../../.config/docs/pages.ts'
import { defaults } from '../../src/config/defaults.ts'
import { resolveConfig } from '../../src/config/resolve.ts'
import type { PartialConfig } from '../../src/config/schema.ts'
import { parse } from 'yaml'

const ROOT = resolve(import.meta.dirname, '../..')

t.test('the generated pages are what the code says now; npm run docs writes them', async (t) => {
  for (const [path, page] of Object.entries(PAGES))
    t.equal(readFileSync(resolve(ROOT, path), 'utf8'), await page(), path)
})

t.test('every key of the configuration is described', async (t) => {
  const rows = readFileSync(resolve(ROOT, 'docs/configuration.md'), 'utf8')
    .split('\n')
    .filter((row) => row.startsWith('| `'))
  t.ok(rows.length > 40, `the page has ${rows.length} keys`)
  for (const row of rows) t.match(row, /^\| `\S+` \| .+ \| .+ \|$/)
})

t.test('the example of a configuration file is one', async (t) => {
  t.match(resolveConfig(defaults('host'), parse(EXAMPLE) as PartialConfig), {
    agent: { name: 'gateway', labels: { gpu: 'none' }, resolver: { ttlSeconds: 10, port: 0 } },
  })
})
