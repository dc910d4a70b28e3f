import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import t from 'tap'
import { parse, stringify } from 'yaml'
import { describeProcess, METRICS_ROLES, openMetrics, type MetricsRole } from '../../src/core/metrics.ts'
import { countServices } from '../../src/orchestrator/root/service-metrics.ts'
import { promtool } from './promtool.ts'

/** What Prometheus and Grafana are given: metrics, alert rules, boards. */

const EXAMPLES = resolve(import.meta.dirname, '../../examples')
const tool = promtool()
const skip = tool === undefined ? 'needs promtool (of the package prometheus)' : false

const read = (path: string) => readFileSync(join(EXAMPLES, path), 'utf8')

/** Every name that a query may use: histograms have three. */
async function names(role: MetricsRole): Promise<Set<string>> {
  const metrics = await openMetrics(role).registry.getMetricsAsJSON()
  return new Set(
    metrics.flatMap(({ name, type }) =>
      String(type) === 'histogram' ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name],
    ),
  )
}

t.test('a role shows only what it can have', async (t) => {
  const [root, cluster, relay, agent] = await Promise.all(METRICS_ROLES.map((role) => names(role)))
  const rows = [
    { name: 'hedgerow_build_info', shown: [root, cluster, relay, agent] },
    { name: 'hedgerow_certificate_expiry_timestamp_seconds', shown: [root, cluster, relay, agent] },
    { name: 'nodejs_eventloop_lag_p99_seconds', shown: [root, cluster, relay, agent] },
    { name: 'hedgerow_root_service_instances_wanted', shown: [root] },
    { name: 'hedgerow_cluster_nodes', shown: [cluster] },
    { name: 'hedgerow_relay_bytes_total', shown: [cluster, relay] },
    { name: 'hedgerow_proxy_flows_total', shown: [agent] },
    { name: 'hedgerow_dns_answers_total', shown: [agent] },
    { name: 'hedgerow_worker_instances', shown: [cluster, agent] },
  ]
  for (const { name, shown } of rows)
    for (const [at, all] of [root, cluster, relay, agent].entries())
      t.equal(all?.has(name), shown.includes(all), `${name} at ${METRICS_ROLES[at] ?? ''}`)
})

t.test('what every process says of itself', async (t) => {
  const metrics = openMetrics('relay')
  let until = new Date(5_000)
  describeProcess(metrics, { version: '1.2.3', certificateUntil: () => until, uplink: 'cluster' })
  until = new Date(7_500) // renewed meanwhile
  for (const read of metrics.beforeScrape) await read()
  const text = await metrics.registry.metrics()
  t.match(text, /hedgerow_build_info\{version="1\.2\.3",node="\d+\.\d+\.\d+",role="relay"\} 1/)
  t.match(text, /hedgerow_link_open\{tier="cluster",role="relay"\} 0/, 'also while it has never been up')
  t.match(text, /hedgerow_certificate_expiry_timestamp_seconds\{role="relay"\} 7\.5/)
})

t.test('wanted and ready by service, and of too many the rest as one', async (t) => {
  const services = ['b', 'a', 'c'].map((name) => ({ id: `${name}.n.s.n`, spec: { replicas: 2 } })) as never
  const instances = [
    { service: 'a.n.s.n', state: 'running' },
    { service: 'a.n.s.n', state: 'starting' },
    { service: 'c.n.s.n', state: 'running' },
    { service: 'c.n.s.n', state: 'running' },
  ] as never
  const isStuck = (service: string) => ({ 'a.n.s.n': false, 'c.n.s.n': true })[service]
  t.same(countServices(services, instances, isStuck), [
    { service: 'a.n.s.n', wanted: 2, ready: 1, isStuck: false },
    { service: 'b.n.s.n', wanted: 2, ready: 0 },
    { service: 'c.n.s.n', wanted: 2, ready: 2, isStuck: true },
  ])
  t.same(countServices(services, instances, isStuck, 1), [
    { service: 'a.n.s.n', wanted: 2, ready: 1, isStuck: false },
    { service: '(others)', wanted: 4, ready: 2, isStuck: true },
  ])
  t.same(countServices([], [], isStuck), [])
})

t.test('promtool finds nothing in the metrics of any role', { skip }, async (t) => {
  for (const role of METRICS_ROLES) {
    const input = await openMetrics(role).registry.metrics()
    const { status, stdout, stderr } = spawnSync(tool ?? '', ['check', 'metrics'], { input, encoding: 'utf8' })
    t.same({ status, said: `${stdout}${stderr}` }, { status: 0, said: '' }, role)
  }
})

interface Rules {
  groups: { rules: { alert?: string; record?: string; expr: string; for?: string }[] }[]
}

const rules = (parse(read('prometheus/alerts.yaml')) as Rules).groups.flatMap((group) => group.rules)

t.test('promtool accepts the rules, and their tests pass', { skip }, async (t) => {
  const check = (...args: string[]) => {
    const { status, stdout, stderr } = spawnSync(tool ?? '', args, {
      cwd: join(EXAMPLES, 'prometheus'),
      encoding: 'utf8',
    })
    t.equal(status, 0, `promtool ${args.join(' ')}: ${status === 0 ? '' : `${stdout}${stderr}`}`)
  }
  check('check', 'rules', 'alerts.yaml')
  check('check', 'config', 'prometheus.yaml')
  check('test', 'rules', 'alerts.test.yaml')
})

interface Board {
  uid: string
  title: string
  panels: { title: string; targets: { expr: string }[]; gridPos: { x: number; y: number; w: number; h: number } }[]
  templating: { list: { name: string; definition?: string }[] }
}

const boards = readdirSync(join(EXAMPLES, 'grafana')).map((file) => JSON.parse(read(`grafana/${file}`)) as Board)

t.test('every metric that rules and boards name exists, at a role that can have it', async (t) => {
  const known = new Set((await Promise.all(METRICS_ROLES.map((role) => names(role)))).flatMap((one) => [...one]))
  for (const { record } of rules) if (record !== undefined) known.add(record)
  const queries = [
    ...rules.map(({ alert, record, expr }) => ({ where: alert ?? record ?? '', expr })),
    ...boards.flatMap(({ title, panels }) =>
      panels.flatMap((panel) => panel.targets.map(({ expr }) => ({ where: `${title}: ${panel.title}`, expr }))),
    ),
    ...boards.flatMap(({ title, templating }) =>
      templating.list.flatMap(({ definition }) => (definition === undefined ? [] : { where: title, expr: definition })),
    ),
  ]
  t.ok(queries.length > 80, `${queries.length} queries`)
  for (const { where, expr } of queries) {
    const bare = expr.replaceAll(/"[^"]*"/g, '""')
    const used = bare.match(/\b(?:hedgerow|nodejs|process)[a-z0-9_:]+/g) ?? []
    t.same(
      used.filter((name) => !known.has(name)),
      [],
      where,
    )
    t.ok(used.length > 0 || /\bup\{/.test(bare), `${where}: ${expr}`)
  }
})

t.test('the queries of the boards can be read, and no panel covers another', { skip }, async (t) => {
  t.same(
    boards.map(({ uid }) => uid).toSorted(),
    ['mesh', 'node', 'paths', 'service'].map((name) => `hedgerow-${name}`),
  )
  const exprs = boards.flatMap(({ panels }) => panels.flatMap(({ targets }) => targets.map(({ expr }) => expr)))
  const folder = mkdtempSync(join(tmpdir(), 'hedgerow-boards-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const group = exprs.map((expr, at) => ({ record: `panel:${at}`, expr: expr.replaceAll('$__rate_interval', '5m') }))
  writeFileSync(join(folder, 'rules.yaml'), stringify({ groups: [{ name: 'panels', rules: group }] }))
  const { status, stdout, stderr } = spawnSync(tool ?? '', ['check', 'rules', join(folder, 'rules.yaml')], {
    encoding: 'utf8',
  })
  t.equal(status, 0, `${stdout}${stderr}`)
  for (const { title, panels } of boards) {
    const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) =>
      Array.from({ length: w * h }, (_, at) => `${x + (at % w)} ${y + Math.floor(at / w)}`),
    )
    t.equal(new Set(cells).size, cells.length, `${title}: each has a place of its own`)
    t.ok(
      panels.every(({ gridPos: { x, w } }) => x + w <= 24),
      `${title}: within the width`,
    )
  }
})
