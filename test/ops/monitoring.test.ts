import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import t from 'tap'
import { parse, stringify } from 'yaml'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { describeProcess, METRICS_ROLES, openMetrics, type MetricsRole } from '../../src/core/metrics.ts'
import { freePort } from '../../src/lab/system-tools.ts'
import { countServices } from '../../src/orchestrator/root/service-metrics.ts'
import { Ops } from '../../src/roles/ops-server.ts'
import { eventually } from '../cli/program.ts'
import { prometheusFolder } from './prometheus.ts'

/** What Prometheus and Grafana are given: metrics, alert rules, boards. */

t.setTimeout(280_000) // the package is fetched where it is not installed

const EXAMPLES = resolve(import.meta.dirname, '../../examples')
const folderOfTools = prometheusFolder()
const tool = join(folderOfTools ?? '', 'promtool')
const skip = folderOfTools === undefined ? 'needs the package prometheus' : false

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
    const { status, stdout, stderr } = spawnSync(tool, ['check', 'metrics'], { input, encoding: 'utf8' })
    t.same({ status, said: `${stdout}${stderr}` }, { status: 0, said: '' }, role)
  }
})

interface Rules {
  groups: { rules: { alert?: string; record?: string; expr: string; for?: string }[] }[]
}

const rules = (parse(read('prometheus/alerts.yaml')) as Rules).groups.flatMap((group) => group.rules)

t.test('promtool accepts the rules, and their tests pass', { skip }, async (t) => {
  const check = (...args: string[]) => {
    const { status, stdout, stderr } = spawnSync(tool, args, {
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

/** What Grafana knows (its documentation of the dashboard JSON model, panels and units), of what boards of ours use. Grafana itself cannot be had here. */
const KNOWN = {
  panel: 'id type title description datasource targets fieldConfig options gridPos transformations',
  type: 'stat timeseries table',
  target: 'refId datasource expr legendFormat format instant',
  unit: 'none short ops Bps pps s h bytes percentunit',
  variable: 'datasource query',
}

t.test('boards have the fields that Grafana reads, and nothing that it would pass over', async (t) => {
  const unknown = (words: string, found: readonly string[]) => found.filter((word) => !words.split(' ').includes(word))
  for (const board of boards) {
    const { title, panels, templating } = board
    t.equal((board as unknown as { schemaVersion: number }).schemaVersion, 39, `${title}: as of Grafana 10.4`)
    t.same(
      unknown(
        KNOWN.variable,
        templating.list.map((one) => (one as unknown as { type: string }).type),
      ),
      [],
      title,
    )
    const variables = [...templating.list.map(({ name }) => name), '__rate_interval', '__all']
    const named = [...JSON.stringify(board).matchAll(/\$\{?(\w+)\}?/g)].map(([, name = '']) => name)
    t.same(
      named.filter((name) => !variables.includes(name)),
      [],
      `${title}: every variable is there`,
    )
    const ids = panels.map((panel) => (panel as unknown as { id: number }).id)
    t.equal(new Set(ids).size, panels.length, `${title}: each panel has an id of its own`)
    for (const panel of panels) {
      const { type, fieldConfig } = panel as unknown as { type: string; fieldConfig: { defaults: { unit?: string } } }
      const { unit } = fieldConfig.defaults
      t.same(unknown(KNOWN.panel, Object.keys(panel)), [], panel.title)
      t.same(unknown(KNOWN.type, [type]), [], panel.title)
      t.same(unknown(KNOWN.unit, unit === undefined ? [] : [unit]), [], panel.title)
      t.same(
        unknown(
          KNOWN.target,
          panel.targets.flatMap((target) => Object.keys(target)),
        ),
        [],
        panel.title,
      )
    }
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
  const { status, stdout, stderr } = spawnSync(tool, ['check', 'rules', join(folder, 'rules.yaml')], {
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

t.test('a real Prometheus takes the metrics, the rules and the exemplars', { skip }, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'hedgerow-prometheus-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const registries = METRICS_ROLES.map((role) => openMetrics(role))
  const [agent] = registries.slice(-1) as [ReturnType<typeof openMetrics>]
  const traceId = '0af7651916cd43dd8448eb211c80319c'
  agent.flowConnect.record('direct', 0.003)
  agent.flowConnect.mark('direct', 0.003, traceId)
  await using life = new Lifetime()
  const addresses: string[] = []
  for (const metrics of registries) {
    const ops = life.use(await Ops.start({ host: '127.0.0.1', port: 0, metrics, ready: () => ({}) }))
    addresses.push(ops.address.slice('http://'.length))
  }
  const config = parse(read('prometheus/prometheus.yaml')) as { global: object; scrape_configs: object[] }
  Object.assign(config.global, { scrape_interval: '1s', evaluation_interval: '1s' })
  Object.assign(config.scrape_configs[0] as object, { static_configs: [{ targets: addresses }] })
  writeFileSync(join(folder, 'prometheus.yaml'), stringify(config))
  cpSync(join(EXAMPLES, 'prometheus/alerts.yaml'), join(folder, 'alerts.yaml'))
  const port = await freePort()
  const program = spawn(
    join(folderOfTools ?? '', 'prometheus'),
    [
      `--config.file=${folder}/prometheus.yaml`,
      `--storage.tsdb.path=${folder}/data`,
      `--web.listen-address=127.0.0.1:${port}`,
      '--enable-feature=exemplar-storage',
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  )
  let said = ''
  program.stderr.setEncoding('utf8').on('data', (chunk: string) => (said = `${said}${chunk}`.slice(-4_000)))
  life.defer(() => ended(program))
  const ask = async <T>(path: string): Promise<T | undefined> => {
    const answer = await fetch(`http://127.0.0.1:${port}/api/v1/${path}`).catch(() => undefined)
    return answer?.ok === true ? ((await answer.json()) as { data: T }).data : undefined
  }
  const soon = async (what: string, isSo: () => Promise<boolean>) =>
    eventually(isSo, what, 60_000).catch((error: unknown) => t.fail(`${String(error)}\n${said}`))

  type Series = { result: { metric: Record<string, string>; value: [number, string] }[] }
  const query = (text: string) => ask<Series>(`query?query=${encodeURIComponent(text)}`)
  await soon('every role is scraped', async () => {
    const up = await query('count(up{job="hedgerow"} == 1)')
    return up?.result[0]?.value[1] === `${METRICS_ROLES.length}`
  })
  type RuleState = { groups: { rules: { name: string; health: string; lastError?: string }[] }[] }
  await soon('every rule is evaluated', async () => {
    const found = (await ask<RuleState>('rules'))?.groups.flatMap((group) => group.rules) ?? []
    return found.length === rules.length && found.every(({ health }) => health === 'ok')
  })
  const connected = `hedgerow_proxy_flow_connect_seconds_bucket{role="agent"}`
  type Exemplars = { exemplars: { labels: { trace_id: string } }[] }[]
  await soon('the exemplar is kept', async () => {
    const [from, until] = [Date.now() / 1_000 - 600, Date.now() / 1_000 + 600]
    const path = `query_exemplars?query=${encodeURIComponent(connected)}&start=${from}&end=${until}`
    return (await ask<Exemplars>(path))?.[0]?.exemplars[0]?.labels.trace_id === traceId
  })
  t.pass('all of it')
})

async function ended(program: ChildProcess): Promise<void> {
  if (program.exitCode !== null) return
  const exited = once(program, 'exit')
  program.kill('SIGKILL')
  await exited
}
