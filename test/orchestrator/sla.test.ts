import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'tap'
import { KEYS } from '../../src/orchestrator/sla/keys.ts'
import { locationOf } from '../../src/orchestrator/sla/constraints.ts'
import { parseSla, readSlaText } from '../../src/orchestrator/sla/parse.ts'
import type { ServiceSpec } from '../../src/orchestrator/spec.ts'
import { documentWith, faultsOfText } from './sla-documents.ts'
import { specOf } from './specs.ts'

const corpus = new URL('sla-corpus/', import.meta.url)
const textOf = (name: string) => readFileSync(new URL(name, corpus), 'utf8')

test('documents written for other orchestrators are accepted unchanged', async (t) => {
  for (const name of readdirSync(corpus).filter((file) => file.startsWith('oakestra-'))) {
    const parsed = parseSla(readSlaText(textOf(name), name))
    if (parsed.kind === 'refused') t.fail(`${name} is accepted`, { found: parsed.faults })
    else t.ok(parsed.apps.length > 0, `${name} is accepted, with an app`)
  }
})

test('a document of Oakestra’s means here what it means there', async (t) => {
  const curl = parseSla(readSlaText(textOf('oakestra-curl.json'), 'oakestra-curl.json'))
  if (curl.kind === 'refused') throw new Error('refused')
  t.same(curl.warnings, [], 'no key of it is without effect')
  t.equal(curl.customer, 'Admin', 'its customer is read')
  t.match(
    curl.apps,
    [
      {
        app: 'clientserver',
        namespace: 'test',
        description: 'Simple demo with curl client and Nginx server',
        services: [
          {
            id: 'clientserver.test.curl.test',
            runtime: 'docker',
            ports: [{ port: 9080, target: 9080 }],
            memoryMb: 100,
          },
          {
            id: 'clientserver.test.nginx.test',
            ports: [{ port: 6080, target: 60, protocol: 'tcp' }],
            addresses: { 'any.rr': '10.30.30.30' },
            replicas: 1,
          },
        ],
      },
    ],
    'its app has both services with their ports, memory and addresses',
  )
})

test('arguments and a target node, as Oakestra has them', async (t) => {
  t.same(specOf({ cmd: ['cart', '-v'], args: ['-p', '80'] }).cmd, ['cart', '-v', '-p', '80'])
  t.same(
    specOf({ runtime: 'docker', code: 'nginx', cmd: [], args: ['-v'] }).cmd,
    ['-v'],
    'in place of those of the image',
  )
  const near = { type: 'direct', cluster: 'edge' }
  t.match(specOf({ target_node: 'N1;n2', constraints: [near] }).constraints, [
    near,
    { type: 'direct', nodes: ['n1', 'n2'] },
  ])
  t.same(specOf({ target_node: '' }).constraints, [])
})

test('bandwidth between two services is reserved at both ends, the larger wish once', async (t) => {
  const to = (target: string, threshold: number) => ({
    target_microservice_id: target,
    con_constraints: [{ type: 'bandwidth', threshold, rigidness: 0.9, convergence_time: 30 }],
  })
  const service = (name: string, more: object) => ({ microservice_name: name, cmd: ['true'], ...more })
  const parsed = parseSla({
    application_name: 'shop',
    application_namespace: 'acme',
    microservices: [
      service('web', { connectivity: [to('db', 1_000), to('elsewhere.acme.mail', 50)], bandwidth_out: 7 }),
      service('db', { connectivity: [to('web', 3_000)] }),
      service('idle', {}),
    ],
  })
  t.match(parsed, {
    kind: 'accepted',
    warnings: [],
    apps: [
      {
        services: [
          { name: 'web', bandwidthInKbit: 3_050, bandwidthOutKbit: 3_057, constraints: [] },
          { name: 'db', bandwidthInKbit: 3_000, bandwidthOutKbit: 3_000 },
          { name: 'idle', bandwidthInKbit: 0, bandwidthOutKbit: 0 },
        ],
      },
    ],
  })
})

test('latency between two services: the tighter wish counts for both; of one that does not ask it is a preference', async (t) => {
  const to = (target: string, threshold: number, rigidness?: number) => ({
    target_microservice_id: target,
    con_constraints: [{ type: 'latency', threshold, rigidness, convergence_time: threshold }],
  })
  const service = (name: string, ...connectivity: object[]) => ({
    microservice_name: name,
    cmd: ['true'],
    connectivity,
  })
  const microservices = [
    service('web', to('api', 20, 1), to('elsewhere.acme.mail', 50)),
    service('api', to('web', 10), to('db.acme', 30)),
    service('db'),
  ]
  const parsed = parseSla({ application_name: 'shop', application_namespace: 'acme', microservices })
  const near = (name: string, threshold: number, more: object = {}) => ({
    type: 'latency',
    service: `shop.acme.${name}`,
    threshold,
    ...more,
  })
  const [web, api, db] = parsed.kind === 'accepted' ? (parsed.apps[0]?.services ?? []) : []
  t.strictSame(web?.constraints, [
    near('api', 10, { convergenceSeconds: 10 }),
    { type: 'latency', service: 'elsewhere.acme.mail', threshold: 50, convergenceSeconds: 50 },
  ])
  t.strictSame(api?.constraints, [
    near('web', 10, { convergenceSeconds: 10 }),
    near('db.acme', 30, { convergenceSeconds: 30 }),
  ])
  t.strictSame(db?.constraints, [], 'it may have to be somewhere else')
  t.strictSame(db?.prefersNear, [near('api.acme', 30)])
  t.strictSame([web?.prefersNear, api?.prefersNear], [undefined, undefined])
})

test('who is avoided avoids as well', async (t) => {
  const apart = (service?: string, over?: string) => ({ type: 'anti-affinity', service, over })
  const service = (name: string, ...constraints: object[]) => ({ microservice_name: name, cmd: ['true'], constraints })
  const microservices = [
    service('web', apart(), apart('db', 'area'), apart('api')),
    service('db', apart('web')),
    service('api', apart('web', 'node')),
  ]
  const parsed = parseSla({ application_name: 'shop', application_namespace: 'acme', microservices })
  const constraints = parsed.kind === 'accepted' ? parsed.apps[0]?.services.map((each) => each.constraints) : []
  t.strictSame(constraints, [
    [
      { type: 'anti-affinity' },
      { type: 'anti-affinity', over: 'area', service: 'shop.acme.db' },
      { type: 'anti-affinity', service: 'shop.acme.api' },
      { type: 'anti-affinity', over: 'node', service: 'shop.acme.db.acme' },
    ],
    [
      { type: 'anti-affinity', service: 'shop.acme.web' },
      { type: 'anti-affinity', over: 'area', service: 'shop.acme.web.acme' },
    ],
    [{ type: 'anti-affinity', over: 'node', service: 'shop.acme.web' }],
  ])
  const full = [service('web', apart('db')), service('db', ...Array.from({ length: 64 }, () => apart()))]
  const warned = parseSla({ application_name: 'shop', application_namespace: 'acme', microservices: full })
  t.match(warned.warnings, [
    {
      path: /microservices\[1\]\.constraints$/,
      problem: /too many: shop\.acme\.db\.acme may be placed beside shop\.acme\.web/,
    },
  ])
})

test('keys of Oakestra’s that have no effect here are reported', async (t) => {
  const other = parseSla(readSlaText(textOf('oakestra-correct-1.json'), 'oakestra-correct-1.json'))
  t.same(
    other.warnings.map(({ path }) => path.replace('applications[0].microservices[0].', '')),
    [
      'applications[0].applicationID',
      'state',
      'added_files',
      'addresses.rr_ip',
      'code', // an address, not an image
      'connectivity[0]',
      'connectivity[1]',
    ],
    'each of these keys, and no other, is warned of',
  )
})

test('a service can ask to be near other services and places', async (t) => {
  const measures = { convergenceSeconds: 300 }
  const rows: { why: string; service: Record<string, unknown>; constraints: object[] }[] = [
    {
      why: 'latency to a service, as Oakestra’s documents write it',
      service: {
        connectivity: [
          { target_microservice_id: 'db', con_constraints: [{ type: 'latency', threshold: 50, rigidness: 0.9 }] },
        ],
      },
      constraints: [{ type: 'latency', service: 'shop.acme.db', threshold: 50, rigidness: 0.9, ...measures }],
    },
    {
      why: 'latency to a service of another app',
      service: { constraints: [{ type: 'latency', service: 'Bank.Acme.Vault.Prod', threshold: 5 }] },
      constraints: [{ type: 'latency', service: 'bank.acme.vault.prod', threshold: 5, ...measures }],
    },
    {
      why: 'latency to a place',
      service: { constraints: [{ type: 'latency', location: '48.1,11.6', threshold: 5 }] },
      constraints: [{ type: 'latency', location: { lat: 48.1, lon: 11.6 }, threshold: 5, ...measures }],
    },
    {
      why: 'latency with the area that the node must be in',
      service: { constraints: [{ type: 'latency', area: 'munich-1', threshold: 5 }] },
      constraints: [{ type: 'latency', area: 'munich-1', threshold: 5, ...measures }],
    },
  ]
  for (const { why, service, constraints } of rows) t.same(specOf(service).constraints, constraints, why)
  const { strategy } = specOf({ strategy: 'latency-and-location' })
  t.equal(strategy, 'latency-and-location', 'and the strategy that looks at the distance can be chosen')
})

test('the example of the slides has one mistake, reported at its place, and is accepted without it', async (t) => {
  const text = textOf('seed-slide.txt')
  const mistake = {
    path: 'slide.txt:25:3',
    problem: 'is not JSON: expected double-quoted property name',
    remedy: 'look at: {',
  }
  t.same(faultsOfText(text, 'slide.txt'), [mistake], 'the brace that is missing is reported at its line and column')
  const mended = text
    .slice(0, text.indexOf('http://'))
    .replace('}],\n  {', '},\n  {')
    .replace(/}\n}\s*$/, '}]\n}')
  const parsed = parseSla(readSlaText(mended, 'slide.json'))
  if (parsed.kind === 'refused') throw new Error(JSON.stringify(parsed.faults))
  const id = 'preprocessing-collection.development.preprocessing-collection.development'
  const constraints = [
    { type: 'geo', location: { lat: 52.520008, lon: 13.404954 }, threshold: 5 },
    { type: 'geo', location: { lat: 48.137154, lon: 11.576124 } },
  ]
  t.match(
    parsed.apps,
    [
      {
        app: 'preprocessing-collection',
        namespace: 'development',
        services: [{ id, ports: [{ port: 8008, target: 8008, protocol: 'tcp' }], constraints }],
      },
    ],
    'without the mistake its service has a port and two places to be near',
  )
  t.match(
    parsed.warnings.find(({ path }) => path === 'microservice_name')?.problem,
    /a name cannot contain underscores/,
    'the underscores of its name are warned of',
  )
})

test('a document may be one app or one service', async (t) => {
  const service = { microservice_name: 'Cart', microservice_namespace: 'Prod', cmd: ['run'] }
  const rows = [
    { why: 'one service alone is its own app', document: service, id: 'cart.prod.cart.prod' },
    {
      why: 'one service may name its app',
      document: { ...service, application_name: 'shop', application_namespace: 'acme' },
      id: 'shop.acme.cart.prod',
    },
    {
      why: 'one app without the list of apps',
      document: { application_name: 'shop', application_namespace: 'acme', microservices: [service] },
      id: 'shop.acme.cart.prod',
    },
    {
      why: 'a service without a namespace has that of its app',
      document: {
        application_name: 'shop',
        application_namespace: 'acme',
        microservices: [{ microservice_name: 'cart', cmd: ['run'] }],
      },
      id: 'shop.acme.cart.acme',
    },
  ]
  for (const { why, document, id } of rows) {
    const parsed = parseSla(document)
    t.equal(parsed.kind === 'accepted' ? parsed.apps[0]?.services[0]?.id : JSON.stringify(parsed.faults), id, why)
  }
})

test('every default is filled in', async (t) => {
  const defaults: ServiceSpec = {
    id: 'shop.acme.cart.prod',
    app: 'shop',
    appNamespace: 'acme',
    name: 'cart',
    namespace: 'prod',
    runtime: 'process',
    code: '',
    cmd: ['run'],
    environment: [],
    ports: [],
    fixedPorts: false,
    memoryMb: 0,
    vcpus: 0,
    vgpus: 0,
    vtpus: 0,
    storageMb: 0,
    bandwidthInKbit: 0,
    bandwidthOutKbit: 0,
    arch: [],
    replicas: 1,
    oneShot: false,
    strategy: 'spread',
    allow: [],
    drainSeconds: 10,
    constraints: [],
    connectivity: [],
    addresses: {},
  }
  t.same(specOf({ cmd: ['run'] }), defaults, 'a service that says only its command has these values')
})

test('every key of ours is read', async (t) => {
  const service = specOf({
    runtime: 'external',
    virtualization: 'container',
    code: 'db.example:5432',
    port: '15432',
    replicas: 0,
    strategy: 'best-fit',
    allow: ['*', 'Node', 'Other.Ns', 'other.ns.web.prod'],
    check: { type: 'http', path: '/ok', interval_ms: 100, timeout_ms: 50 },
    livenessProbe: { httpGet: { path: '/live' }, periodSeconds: 5, failureThreshold: 2 },
    drain_seconds: 0,
    paths: 'relay-only',
    workdir: '/srv',
    fixed_port: true,
    vcpus: 0.5,
    connectivity: ['other.ns.web', 'cart'],
  })
  const read = {
    runtime: 'external',
    ports: [{ port: 15432, target: 5432 }],
    replicas: 0,
    strategy: 'best-fit',
    allow: ['*', 'node', 'other.ns', 'other.ns.web.prod'],
    check: { kind: 'http', port: 15432, path: '/ok', intervalMs: 100, timeoutMs: 50 },
    liveness: {
      kind: 'http',
      port: 15432,
      path: '/live',
      initialDelayMs: 0,
      intervalMs: 5_000,
      timeoutMs: 1_000,
      failures: 2,
    },
    drainSeconds: 0,
    paths: 'relay-only',
    workdir: '/srv',
    fixedPorts: true,
    vcpus: 0.5,
    connectivity: ['other.ns.web', 'shop.acme.cart'],
  }
  t.match(service, read, 'each key has the value that the document gives it')
})

test('keys of jobs are read', async (t) => {
  const schedule = { cron: ' 0 3 * * * ', concurrency: 'replace', start_within_seconds: 60 }
  t.match(specOf({ one_shot: true, job: { retries: 0, backoff_seconds: 1.5, deadline_seconds: 60 }, schedule }), {
    oneShot: true,
    job: { retries: 0, backoffSeconds: 1.5, deadlineSeconds: 60 },
    schedule: { cron: '0 3 * * *', concurrency: 'replace', startWithinSeconds: 60 },
  })
  const plain = specOf({ one_shot: true, job: {}, schedule: { cron: '@daily', concurrency: 'forbid' } })
  t.same([plain.job, plain.schedule], [undefined, { cron: '@daily' }], 'defaults are not written')
})

test('addresses are read by choice', async (t) => {
  const { addresses } = specOf({
    addresses: {
      rr_ip: '10.30.1.1',
      closest_ip: '10.31.0.5',
      rr_ip_v6: 'fd00::1',
      instances: [
        { from: 0, to: 2, start: '10.30.2.255' },
        { from: 7, to: 7, start: '10.16.0.1' },
      ],
    },
  })
  const expected = {
    'any.rr': '10.30.1.1',
    'any.closest': '10.31.0.5',
    '0.pinned': '10.30.2.255',
    '1.pinned': '10.30.3.0',
    '2.pinned': '10.30.3.1',
    '7.pinned': '10.16.0.1',
  }
  t.same(addresses, expected, 'each choice has its address, instances count up from the start, IPv6 is left out')
})

test('connectivity names services of the app, of the document, or of other apps', async (t) => {
  const parsed = parseSla(
    documentWith(
      { microserviceID: 'id-1' },
      {
        microservice_name: 'stock',
        connectivity: [
          'cart',
          'Cart.Prod',
          { target_microservice_id: 'id-1' },
          'x.y.z',
          'x.y.z.w',
          { target_microservice_id: '' },
        ],
      },
    ),
  )
  const services = parsed.kind === 'accepted' ? parsed.apps[0]?.services : []
  t.same(
    services?.[1]?.connectivity,
    ['shop.acme.cart', 'shop.acme.cart.prod', 'x.y.z', 'x.y.z.w'],
    'a name is completed by its app and an id by the document; a target named twice is listed once, an empty one is left out',
  )
})

test('a location is latitude and longitude, in either order', async (t) => {
  const munich = { lat: 48.137, lon: 11.576 }
  for (const text of ['48.137,11.576', '(48.137,11.576)', ' ( 48.137 , 11.576 ) ', '11.576; 48.137']) {
    t.same(locationOf(text), munich, `"${text}" is Munich`)
  }
  t.same(locationOf('-33.8,-151'), { lat: -33.8, lon: -151 }, 'south and west are negative')
  for (const text of ['', '48', '91,0', '0,181', '1,2,3', '48.137.1,11', 'a,b'])
    t.equal(locationOf(text), undefined, `"${text}" is no location`)
})

test('a very large document is read in a short time', { timeout: 30_000 }, async (t) => {
  const services = Array.from({ length: 500 }, (_, i) => ({
    microservice_name: `s${i}`,
    cmd: ['run'],
    connectivity: Array.from({ length: 250 }, (_, j) => `s${(i + j) % 500}`),
    ...Object.fromEntries(Array.from({ length: 200 }, (_, j) => [`unknown${j}`, 1])),
  }))
  const parsed = parseSla({ application_name: 'shop', application_namespace: 'acme', microservices: services })
  t.equal(parsed.kind, 'accepted', 'a document of 500 services is accepted')
  t.ok(parsed.warnings.length <= 201, 'warnings are listed up to a limit')
  t.match(parsed.warnings.at(-1), { problem: /^\d+ more$/ }, 'the last line says how many more there are')
})

test('all services of a large document may be of one application', async (t) => {
  const documentOf = (count: number) => ({
    application_name: 'shop',
    application_namespace: 'acme',
    microservices: Array.from({ length: count }, (_, i) => ({ microservice_name: `s${i}`, cmd: ['run'] })),
  })
  t.equal(parseSla(documentOf(20_000)).kind, 'accepted')
  const { kind, ...found } = parseSla(documentOf(20_001))
  t.equal(kind, 'refused')
  t.match(found, { faults: [{ problem: /^has 20001 entries; 20000 is the limit/ }] })
})

test('every key on the page of keys has a meaning', async (t) => {
  for (const [level, keys] of Object.entries(KEYS)) {
    t.equal(new Set(keys.map(({ name }) => name)).size, keys.length, `${level}: no key twice`)
    for (const { name, meaning } of keys) if (meaning === '') t.fail(`${level}.${name} means nothing`)
  }
})
