import { readdirSync, readFileSync } from 'node:fs'
import fc from 'fast-check'
import { test } from 'tap'
import { MeshError } from '../../src/core/errors.ts'
import type { Fault } from '../../src/orchestrator/sla/findings.ts'
import { KEYS, type Kind, type Level } from '../../src/orchestrator/sla/keys.ts'
import { locationOf } from '../../src/orchestrator/sla/constraints.ts'
import { parseSla, readSlaText } from '../../src/orchestrator/sla/parse.ts'
import { editDistance, nearest } from '../../src/core/kit/suggest.ts'
import type { ServiceSpec } from '../../src/orchestrator/spec.ts'
import { specOf } from './specs.ts'

const corpus = new URL('sla-corpus/', import.meta.url)
const textOf = (name: string) => readFileSync(new URL(name, corpus), 'utf8')

/** A document with these services, in an app of its own. */
function documentWith(...services: Record<string, unknown>[]): Record<string, unknown> {
  const microservices = services.map((service) => ({
    microservice_name: 'cart',
    microservice_namespace: 'prod',
    cmd: ['run'],
    ...service,
  }))
  return { applications: [{ application_name: 'shop', application_namespace: 'acme', microservices }] }
}

function faultsOf(document: unknown): Fault[] {
  const parsed = parseSla(document)
  return parsed.kind === 'refused' ? parsed.faults : []
}

function faultsOfText(text: string, name: string): Fault[] {
  try {
    readSlaText(text, name)
    return []
  } catch (error) {
    return (error as MeshError).details['faults'] as Fault[]
  }
}

test('documents written for other orchestrators are accepted unchanged', async (t) => {
  for (const name of readdirSync(corpus).filter((file) => file.startsWith('oakestra-'))) {
    const parsed = parseSla(readSlaText(textOf(name), name))
    if (parsed.kind === 'refused') t.fail(name, { found: parsed.faults })
    else t.ok(parsed.apps.length > 0, name)
  }
  const curl = parseSla(readSlaText(textOf('oakestra-curl.json'), 'oakestra-curl.json'))
  if (curl.kind === 'refused') throw new Error('refused')
  t.same(curl.warnings, [])
  t.equal(curl.customer, 'Admin')
  t.match(curl.apps, [
    {
      app: 'clientserver',
      namespace: 'test',
      description: 'Simple demo with curl client and Nginx server',
      services: [
        { id: 'clientserver.test.curl.test', runtime: 'docker', ports: [{ port: 9080, target: 9080 }], memoryMb: 100 },
        {
          id: 'clientserver.test.nginx.test',
          ports: [{ port: 6080, target: 60, protocol: 'tcp' }],
          addresses: { 'any.rr': '10.30.30.30' },
          replicas: 1,
        },
      ],
    },
  ])
  const other = parseSla(readSlaText(textOf('oakestra-correct-1.json'), 'oakestra-correct-1.json'))
  t.same(
    other.warnings.map(({ path }) => path.replace('applications[0].microservices[0].', '')),
    [
      'applications[0].applicationID',
      'bandwidth_in',
      'bandwidth_out',
      'state',
      'added_files',
      'addresses.rr_ip',
      'connectivity[0]',
      'connectivity[1]',
    ],
    'and keys without effect are reported',
  )
})

test('a service can ask to be near other services and places', async (t) => {
  const measures = { convergenceSeconds: 300 }
  const rows: { why: string; service: Record<string, unknown>; constraints: object[] }[] = [
    {
      why: 'of Oakestra’s documents',
      service: {
        connectivity: [
          { target_microservice_id: 'db', con_constraints: [{ type: 'latency', threshold: 50, rigidness: 0.9 }] },
        ],
      },
      constraints: [{ type: 'latency', service: 'shop.acme.db', threshold: 50, rigidness: 0.9, ...measures }],
    },
    {
      why: 'of another app',
      service: { constraints: [{ type: 'latency', service: 'Bank.Acme.Vault.Prod', threshold: 5 }] },
      constraints: [{ type: 'latency', service: 'bank.acme.vault.prod', threshold: 5, ...measures }],
    },
    {
      why: 'a place',
      service: { constraints: [{ type: 'latency', location: '48.1,11.6', threshold: 5 }] },
      constraints: [{ type: 'latency', location: { lat: 48.1, lon: 11.6 }, threshold: 5, ...measures }],
    },
    {
      why: 'an area, as ever',
      service: { constraints: [{ type: 'latency', area: 'munich-1', threshold: 5 }] },
      constraints: [{ type: 'latency', area: 'munich-1', threshold: 5, ...measures }],
    },
  ]
  for (const { why, service, constraints } of rows) t.same(specOf(service).constraints, constraints, why)
  t.equal(specOf({ strategy: 'latency-and-location' }).strategy, 'latency-and-location')
})

test('the example of the slides has one mistake, reported at its place, and is accepted without it', async (t) => {
  const text = textOf('seed-slide.txt')
  t.same(faultsOfText(text, 'slide.txt'), [
    { path: 'slide.txt:25:3', problem: 'is not JSON: expected double-quoted property name', remedy: 'look at: {' },
  ])
  const mended = text
    .slice(0, text.indexOf('http://'))
    .replace('}],\n  {', '},\n  {')
    .replace(/}\n}\s*$/, '}]\n}')
  const parsed = parseSla(readSlaText(mended, 'slide.json'))
  if (parsed.kind === 'refused') throw new Error(JSON.stringify(parsed.faults))
  t.match(parsed.apps, [
    {
      app: 'preprocessing-collection',
      namespace: 'development',
      services: [
        {
          id: 'preprocessing-collection.development.preprocessing-collection.development',
          ports: [{ port: 8008, target: 8008, protocol: 'tcp' }],
          constraints: [
            { type: 'geo', location: { lat: 52.520008, lon: 13.404954 }, threshold: 5 },
            { type: 'geo', location: { lat: 48.137154, lon: 11.576124 } },
          ],
        },
      ],
    },
  ])
  t.match(
    parsed.warnings.find(({ path }) => path === 'microservice_name')?.problem,
    /a name cannot contain underscores/,
  )
})

test('a document may be one app or one service', async (t) => {
  const service = { microservice_name: 'Cart', microservice_namespace: 'Prod', cmd: ['run'] }
  const rows = [
    { why: 'one service', document: service, id: 'cart.prod.cart.prod' },
    {
      why: 'with an app',
      document: { ...service, application_name: 'shop', application_namespace: 'acme' },
      id: 'shop.acme.cart.prod',
    },
    {
      why: 'one app',
      document: { application_name: 'shop', application_namespace: 'acme', microservices: [service] },
      id: 'shop.acme.cart.prod',
    },
    {
      why: 'the namespace of the app',
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

test('every default is filled in, and every key of ours is read', async (t) => {
  t.same(specOf({ cmd: ['run'] }), {
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
  } satisfies ServiceSpec)
  t.match(
    specOf({
      runtime: 'external',
      virtualization: 'container',
      code: 'db.example:5432',
      port: '15432',
      replicas: 0,
      strategy: 'best-fit',
      allow: ['*', 'Node', 'Other.Ns', 'other.ns.web.prod'],
      check: { type: 'http', path: '/ok', interval_ms: 100, timeout_ms: 50 },
      drain_seconds: 0,
      paths: 'relay-only',
      workdir: '/srv',
      fixed_port: true,
      vcpus: 0.5,
      connectivity: ['other.ns.web', 'cart'],
    }),
    {
      runtime: 'external',
      ports: [{ port: 15432, target: 5432 }],
      replicas: 0,
      strategy: 'best-fit',
      allow: ['*', 'node', 'other.ns', 'other.ns.web.prod'],
      check: { kind: 'http', port: 15432, path: '/ok', intervalMs: 100, timeoutMs: 50 },
      drainSeconds: 0,
      paths: 'relay-only',
      workdir: '/srv',
      fixedPorts: true,
      vcpus: 0.5,
      connectivity: ['other.ns.web', 'shop.acme.cart'],
    },
  )
})

test('ports are read in every form they are written in', async (t) => {
  const tcp = (port: number, target = port) => ({ port, target, protocol: 'tcp' as const })
  const rows: { port?: unknown; ports?: unknown; found?: unknown; fault?: RegExp }[] = [
    { port: '80', found: [tcp(80)] },
    { port: 80, found: [tcp(80)] },
    { port: '', found: [] },
    { port: '80:60', found: [tcp(80, 60)] },
    { port: '6080:60/tcp', found: [tcp(6080, 60)] },
    { port: '53:53/udp;80:8080', found: [{ port: 53, target: 53, protocol: 'udp' }, tcp(80, 8080)] },
    { port: ' 80 ; 81/TCP; ', found: [tcp(80), tcp(81)] },
    { port: '53/udp;53/tcp', found: [{ port: 53, target: 53, protocol: 'udp' }, tcp(53)] },
    {
      ports: [80, '81:82', { port: 83, name: 'HTTP', protocol: 'udp' }],
      found: [tcp(80), tcp(81, 82), { port: 83, target: 83, protocol: 'udp', name: 'http' }],
    },
    { port: '80', ports: [{ port: 81, target: 9 }], found: [tcp(80), tcp(81, 9)] },
    { port: '80', ports: [{ port: 81, proxyProtocol: 'v2' }], found: [tcp(80), { ...tcp(81), proxyProtocol: 'v2' }] },
    { ports: [{ port: 53, protocol: 'udp', proxyProtocol: 'v2' }], fault: /works for TCP only/ },
    { ports: [{ port: 80, proxyProtocol: 'v1' }], fault: /must be v2/ },
    { port: '80;80:81', fault: /port 80\/tcp is listed twice/ },
    { port: '80', ports: [80], fault: /twice/ },
    { port: 'http', fault: /"http" is not a port/ },
    { port: '80-90', fault: /"80-90" is not a port/ },
    { port: '0', fault: /port 0 is outside/ },
    { port: 65_536, fault: /port 65536 is outside/ },
    { port: '80:99999', fault: /port 99999 is outside/ },
    { port: '80/sctp', fault: /is not a port/ },
    { port: -1, fault: /"-1" is not a port/ },
    { port: 1.5, fault: /"1.5" is not a port/ },
    { port: true, fault: /not true/ },
    { port: ['80'], fault: /not a list/ },
    { port: '1;'.repeat(2000), fault: /4000 characters/ },
    { ports: '80', fault: /must be a list/ },
    { ports: [{ target: 80 }], fault: /is missing/ },
    { ports: [{ port: '80' }], fault: /must be a whole number, not the string "80"/ },
    { ports: [{ port: 80, name: 'a b' }], fault: /SRV/ },
    { ports: Array.from({ length: 65 }, (_, i) => i + 1), fault: /64 is the limit/ },
  ]
  for (const { found, fault, ...service } of rows) {
    const faults = faultsOf(documentWith(service))
    const why = JSON.stringify(service).slice(0, 60)
    if (fault === undefined) t.same(specOf(service).ports, found, why)
    else t.match(faults.map(({ problem }) => problem).join('\n'), fault, why)
  }
})

test('each fault has its path and says what is wrong', async (t) => {
  const at = 'applications[0].microservices[0]'
  const rows: { why: string; service: Record<string, unknown>; path: string; problem: RegExp }[] = [
    { why: 'type', service: { memory: '4 GB' }, path: 'memory', problem: /must be a number, not the string "4 GB"/ },
    { why: 'range', service: { memory: -1 }, path: 'memory', problem: /must be 0 to/ },
    { why: 'whole', service: { replicas: 1.5 }, path: 'replicas', problem: /whole number, not 1.5/ },
    { why: 'too many', service: { replicas: 1001 }, path: 'replicas', problem: /0 to 1000, not 1001/ },
    { why: 'flag', service: { one_shot: 'yes' }, path: 'one_shot', problem: /true or false, not the string "yes"/ },
    { why: 'list', service: { cmd: 'ls -al' }, path: 'cmd', problem: /must be a list, not the string "ls -al"/ },
    { why: 'in a list', service: { cmd: ['ls', 5] }, path: 'cmd[1]', problem: /must be a string, not the number 5/ },
    { why: 'NUL', service: { cmd: ['a\0b'] }, path: 'cmd[0]', problem: /NUL/ },
    {
      why: 'word',
      service: { strategy: 'spred' },
      path: 'strategy',
      problem: /best-fit or spread.*did you mean spread/,
    },
    {
      why: 'name',
      service: { microservice_name: 'my cart' },
      path: 'microservice_name',
      problem: /"my cart" cannot be a name: has " "/,
    },
    { why: 'reserved', service: { microservice_name: 'Closest' }, path: 'microservice_name', problem: /reserved word/ },
    {
      why: 'digits',
      service: { microservice_namespace: '12' },
      path: 'microservice_namespace',
      problem: /digits alone/,
    },
    {
      why: 'long',
      service: { microservice_name: 'x'.repeat(64) },
      path: 'microservice_name',
      problem: /64 characters long/,
    },
    { why: 'empty', service: { microservice_name: '' }, path: 'microservice_name', problem: /empty/ },
    { why: 'nothing to run', service: { cmd: undefined }, path: 'cmd', problem: /nothing to run/ },
    { why: 'empty cmd', service: { cmd: [] }, path: 'cmd', problem: /nothing to run/ },
    { why: 'no program', service: { cmd: ['', 'x'] }, path: 'cmd[0]', problem: /must name a program/ },
    { why: 'no image', service: { virtualization: 'container' }, path: 'code', problem: /the image/ },
    { why: 'no place', service: { runtime: 'external' }, path: 'code', problem: /the address of the service/ },
    { why: 'bad place', service: { runtime: 'external', code: 'a b:80' }, path: 'code', problem: /is not host:port/ },
    { why: 'no port', service: { runtime: 'external', code: 'db' }, path: 'code', problem: /has no port/ },
    { why: 'runtime', service: { runtime: '../x' }, path: 'runtime', problem: /cannot be a runtime/ },
    {
      why: 'environment',
      service: { environment: ['A=1', 'B'] },
      path: 'environment[1]',
      problem: /"B" is not KEY=value/,
    },
    {
      why: 'environment key',
      service: { environment: ['a b=1'] },
      path: 'environment[0]',
      problem: /is not KEY=value/,
    },
    {
      why: 'paths',
      service: { paths: 'never-relayed' },
      path: 'paths',
      problem: /"never-relayed" is not a path rule/,
    },
    {
      why: 'latency without a measure',
      service: { constraints: [{ type: 'latency', service: 'stock' }] },
      path: 'constraints[0].threshold',
      problem: /is missing: a latency constraint needs it/,
    },
    {
      why: 'latency to nowhere',
      service: { constraints: [{ type: 'latency', location: 'Munich', threshold: 5 }] },
      path: 'constraints[0].location',
      problem: /"Munich" is not a location/,
    },
    {
      why: 'latency to an unknown service',
      service: { constraints: [{ type: 'latency', service: 'a.b.c.d.e', threshold: 5 }] },
      path: 'constraints',
      problem: /"a.b.c.d.e" is not the name of a service/,
    },
    {
      why: 'a connection without a measure',
      service: { connectivity: [{ target_microservice_id: 'cart', con_constraints: [{ type: 'latency' }] }] },
      path: 'connectivity[0].con_constraints[0].threshold',
      problem: /is missing: the highest latency allowed/,
    },
    { why: 'allow', service: { allow: ['shop'] }, path: 'allow[0]', problem: /"shop" is not a caller/ },
    {
      why: 'check port',
      service: { port: '80;53/udp', check: { port: 53 } },
      path: 'check.port',
      problem: /must be a TCP port.*80 only/,
    },
    { why: 'check without ports', service: { check: {} }, path: 'check', problem: /no TCP port/ },
    {
      why: 'check path',
      service: { port: 80, check: { type: 'http', path: 'x y' } },
      path: 'check.path',
      problem: /begin with \//,
    },
    {
      why: 'constraint type',
      service: { constraints: [{ type: 'direkt' }] },
      path: 'constraints[0].type',
      problem: /did you mean direct/,
    },
    { why: 'no constraint type', service: { constraints: [{}] }, path: 'constraints[0].type', problem: /is missing/ },
    { why: 'no constraint', service: { constraints: ['x'] }, path: 'constraints[0]', problem: /must be an object/ },
    {
      why: 'direct',
      service: { constraints: [{ type: 'direct', node: ' ; ' }] },
      path: 'constraints[0]',
      problem: /neither a node nor a cluster/,
    },
    {
      why: 'clusters',
      service: { constraints: [{ type: 'clusters' }] },
      path: 'constraints[0].allowed',
      problem: /a clusters constraint needs it/,
    },
    {
      why: 'place',
      service: { constraints: [{ type: 'geo', location: 'Munich' }] },
      path: 'constraints[0].location',
      problem: /is not a location/,
    },
    {
      why: 'connectivity',
      service: { connectivity: [5] },
      path: 'connectivity[0]',
      problem: /name of a service, not the number 5/,
    },
    {
      why: 'no target',
      service: { connectivity: [{}] },
      path: 'connectivity[0].target_microservice_id',
      problem: /is missing/,
    },
    {
      why: 'address',
      service: { addresses: { rr_ip: '10.30.30' } },
      path: 'addresses.rr_ip',
      problem: /not an IPv4 address/,
    },
    {
      why: 'kept address',
      service: { addresses: { rr_ip: '10.30.0.53' } },
      path: 'addresses.rr_ip',
      problem: /reserved for the agents/,
    },
    {
      why: 'instances',
      service: { addresses: { instances: [{ from: 0 }] } },
      path: 'addresses.instances[0]',
      problem: /from, to and start/,
    },
    {
      why: 'backwards',
      service: { addresses: { instances: [{ from: 3, to: 1, start: '10.30.1.1' }] } },
      path: 'addresses.instances[0]',
      problem: /covers -1 instances/,
    },
    {
      why: 'twice in one service',
      service: { addresses: { rr_ip: '10.30.1.1', closest_ip: '10.30.1.1' } },
      path: 'addresses.closest_ip',
      problem: /10.30.1.1 is already requested at .*rr_ip/,
    },
  ]
  for (const { why, service, path, problem } of rows) {
    const faults = faultsOf(documentWith(service))
    t.match(faults, [{ path: `${at}.${path}`, problem }], why)
    t.equal(faults.length, 1, `${why}: nothing else`)
  }
})

test('a document of the wrong shape is refused with the reason', async (t) => {
  const service = { microservice_name: 'cart', cmd: ['run'] }
  const app = { application_name: 'shop', application_namespace: 'acme', microservices: [service] }
  const rows: { why: string; document: unknown; path: string; problem: RegExp }[] = [
    { why: 'nothing', document: undefined, path: 'document', problem: /must be an object/ },
    { why: 'a list', document: [app], path: 'document', problem: /must be an object/ },
    { why: 'empty', document: {}, path: 'applications', problem: /is missing/ },
    { why: 'no apps', document: { applications: [] }, path: 'applications', problem: /is empty/ },
    { why: 'not apps', document: { applications: app }, path: 'applications', problem: /must be a list/ },
    { why: 'no app', document: { applications: [app, null] }, path: 'applications[1]', problem: /not nothing/ },
    {
      why: 'version',
      document: { sla_version: 'v3.0', applications: [app] },
      path: 'sla_version',
      problem: /"v3.0" is not a supported version/,
    },
    {
      why: 'no name',
      document: { applications: [{ ...app, application_name: undefined }] },
      path: 'applications[0].application_name',
      problem: /is missing/,
    },
    {
      why: 'no namespace',
      document: { applications: [{ ...app, application_namespace: undefined }] },
      path: 'applications[0].application_namespace',
      problem: /is missing/,
    },
    {
      why: 'the same app',
      document: { applications: [app, { ...app, application_name: 'SHOP' }] },
      path: 'applications[1].application_name',
      problem: /"SHOP" in namespace "acme" is already defined at applications\[0\]/,
    },
    {
      why: 'the same service',
      document: { applications: [{ ...app, microservices: [service, { ...service, microservice_name: 'Cart' }] }] },
      path: 'applications[0].microservices[1].microservice_name',
      problem: /"cart" in namespace "acme" is already defined at applications\[0\].microservices\[0\]/,
    },
    {
      why: 'one address, two services',
      document: documentWith(
        { addresses: { rr_ip: '10.30.1.1' } },
        { microservice_name: 'stock', addresses: { closest_ip: '10.30.1.1' } },
      ),
      path: 'applications[0].microservices[1].addresses.closest_ip',
      problem: /10.30.1.1 is already requested at applications\[0\].microservices\[0\].addresses.rr_ip/,
    },
  ]
  for (const { why, document, path, problem } of rows) {
    t.match(faultsOf(document), [{ path, problem }], why)
    t.equal(faultsOf(document).length, 1, `${why}: nothing else`)
  }
})

test('all faults are reported at once, and nothing is accepted in part', async (t) => {
  const parsed = parseSla({
    applications: [
      {
        application_name: 'a b',
        application_namespace: 'acme',
        microservices: [{ microservice_name: 'cart', memory: 'much' }],
      },
      {
        application_name: 'good',
        application_namespace: 'acme',
        microservices: [{ microservice_name: 'rr', port: 'x', replicas: -1 }],
      },
    ],
  })
  if (parsed.kind === 'accepted') throw new Error('accepted')
  t.notOk('apps' in parsed)
  t.same(parsed.faults.map(({ path }) => path).sort(), [
    'applications[0].application_name',
    'applications[0].microservices[0].cmd',
    'applications[0].microservices[0].memory',
    'applications[1].microservices[0].cmd',
    'applications[1].microservices[0].microservice_name',
    'applications[1].microservices[0].port',
    'applications[1].microservices[0].replicas',
  ])
})

test('an unknown key is ignored with a warning that names the likely one', async (t) => {
  const warningsOf = (document: unknown) => parseSla(document).warnings
  const rows = [
    { key: 'replica', remedy: 'did you mean replicas?' },
    { key: 'vcpu', remedy: 'did you mean vcpus?' },
    { key: 'memroy', remedy: 'did you mean memory?' },
    { key: 'Environment', remedy: 'did you mean environment?' },
    { key: 'fixedPort', remedy: 'did you mean fixed_port?' },
    { key: 'application_name', remedy: 'application_name belongs in an entry of applications' },
    { key: 'interval_ms', remedy: 'interval_ms belongs in check' },
    { key: 'colour', remedy: undefined },
    { key: '__proto__x', remedy: undefined },
    { key: 'constructor', remedy: undefined },
  ]
  for (const { key, remedy } of rows) {
    const expected = { path: `applications[0].microservices[0].${key}`, problem: 'unknown key, ignored' }
    t.same(warningsOf(documentWith({ [key]: 2 })), [remedy === undefined ? expected : { ...expected, remedy }], key)
  }
  t.match(warningsOf({ ...documentWith({}), replicas: 2 }), [
    { path: 'replicas', remedy: 'replicas belongs in an entry of microservices' },
  ])
  t.match(
    warningsOf(
      JSON.parse('{"__proto__": {"a": 1}, "microservice_name": "a", "microservice_namespace": "b", "cmd": ["c"]}'),
    ),
    [{ path: '__proto__', problem: 'unknown key, ignored' }],
  )
  t.same(
    warningsOf(documentWith({ state: '', added_files: [], bandwidth_in: 0, privileged: false })),
    [],
    'a form filled in with nothing',
  )
  t.match(warningsOf(documentWith({ runtime: 'proces' })), [{ remedy: 'did you mean process?' }])
  t.same(warningsOf(documentWith({ runtime: 'unikernel', code: 'x' })), [], 'a node may offer it')
  t.match(warningsOf(documentWith({ environment: ['PORT=80', 'HEDGEROW_NODE=x'] })), [
    { remedy: /fixed_port/ },
    { problem: /HEDGEROW_/ },
  ])
  t.match(warningsOf(documentWith({ addresses: { rr_ip: '192.168.178.4' } })), [
    { problem: /another address is assigned/ },
  ])
  t.match(warningsOf(documentWith({ connectivity: ['stock'] })), [
    { problem: /"stock" is not a service of this document/ },
  ])
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
  t.same(addresses, {
    'any.rr': '10.30.1.1',
    'any.closest': '10.31.0.5',
    '0.pinned': '10.30.2.255',
    '1.pinned': '10.30.3.0',
    '2.pinned': '10.30.3.1',
    '7.pinned': '10.16.0.1',
  })
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
  t.same(services?.[1]?.connectivity, ['shop.acme.cart', 'shop.acme.cart.prod', 'x.y.z', 'x.y.z.w'])
})

test('a location is latitude and longitude, in either order', async (t) => {
  const munich = { lat: 48.137, lon: 11.576 }
  for (const text of ['48.137,11.576', '(48.137,11.576)', ' ( 48.137 , 11.576 ) ', '11.576; 48.137']) {
    t.same(locationOf(text), munich, text)
  }
  t.same(locationOf('-33.8,-151'), { lat: -33.8, lon: -151 })
  for (const text of ['', '48', '91,0', '0,181', '1,2,3', '48.137.1,11', 'a,b'])
    t.equal(locationOf(text), undefined, text)
})

test('a text is read as JSON or YAML, and mistakes have their line and column', async (t) => {
  const yaml = `# the shop\napplications:\n  - application_name: shop\n    application_namespace: acme\n    microservices:\n      - microservice_name: cart\n        cmd: [run, "\${PORT}"]\n        workdir:\n        port: 80\n`
  const parsed = parseSla(readSlaText(yaml, 'shop.yaml'))
  t.match(parsed, { kind: 'accepted', apps: [{ services: [{ cmd: ['run', '${PORT}'], ports: [{ port: 80 }] }] }] })
  t.match(readSlaText('{applications: [], }', 'flow.yaml'), { applications: [] }, 'flow style is YAML too')
  t.match(readSlaText('\ufeff{"a": 1}', 'mark.json'), { a: 1 })
  const rows: { why: string; text: string; name: string; path: string; problem: RegExp }[] = [
    { why: 'indent', text: 'a: 1\n b: 2\n', name: 's.yaml', path: 's.yaml:1:4', problem: /is not YAML/ },
    {
      why: 'two documents',
      text: 'a: 1\n---\nb: 2\n',
      name: 's.yaml',
      path: 's.yaml:2:1',
      problem: /several documents/,
    },
    { why: 'cut', text: '{"a": [1', name: 's.json', path: 's.json:1:9', problem: /is not JSON/ },
    { why: 'end', text: '{\n "a":', name: 's.json', path: 's.json:2:6', problem: /unexpected end/ },
    { why: 'empty', text: ' \n', name: 's.json', path: 's.json', problem: /is empty/ },
    { why: 'deep', text: '['.repeat(100_000), name: 's.json', path: 's.json', problem: /more than 64 levels/ },
    {
      why: 'deep lists',
      text: `${'- '.repeat(50_000)}x`,
      name: 's.yaml',
      path: 's.yaml',
      problem: /more than 64 levels/,
    },
    { why: 'large', text: `a: ${'x'.repeat(1_100_000)}`, name: 's.yaml', path: 's.yaml', problem: /larger than/ },
    {
      why: 'alias bomb',
      text: `a: &a [x,x,x,x,x,x,x,x,x]\n${['b', 'c', 'd', 'e', 'f', 'g', 'h'].map((c, i) => `${c}: &${c} [${`*${'abcdefgh'[i]},`.repeat(9)}]`).join('\n')}\n`,
      name: 's.yaml',
      path: 's.yaml',
      problem: /alias/,
    },
  ]
  for (const { why, text, name, path, problem } of rows) t.match(faultsOfText(text, name), [{ path, problem }], why)
})

test('YAML merge keys are merged, and the keys of the object itself win', async (t) => {
  const text = (second: string) => `
application_name: shop
application_namespace: acme
microservices:
  - &base { microservice_name: a, cmd: [run], memory: 100, vcpus: 2, environment: [A=1] }
  - &other { microservice_name: x, cmd: [other], storage: 7 }
  - ${second}
`
  const specOf = (second: string) => {
    const parsed = parseSla(readSlaText(text(second), 'shop.yaml'))
    t.same(parsed.warnings, [], second)
    return parsed.kind === 'accepted' ? parsed.apps[0]?.services[2] : parsed.faults
  }
  t.match(specOf('{ <<: *base, microservice_name: b, memory: 200 }'), {
    name: 'b',
    memoryMb: 200,
    vcpus: 2,
    cmd: ['run'],
  })
  t.match(specOf('{ microservice_name: b, memory: 200, <<: *base }'), { name: 'b', memoryMb: 200, vcpus: 2 }, 'last')
  t.match(specOf('{ <<: [*other, *base], microservice_name: b }'), { cmd: ['other'], storageMb: 7, vcpus: 2 }, 'a list')
  t.match(faultsOfText(text('{ <<: 5 }'), 's.yaml'), [{ problem: /merge sources must be maps/ }])
  t.match(faultsOfText('a: &a { b: *a }', 's.yaml'), [{ problem: /part of/ }], 'an object inside itself')
})

test('a key that occurs twice is a fault with line and column, in JSON as in YAML', async (t) => {
  const rows: { why: string; text: string; paths: string[]; key?: string }[] = [
    { why: 'YAML', text: 'replicas: 3\nb: 2\nreplicas: 1\n', paths: ['3:1'] },
    { why: 'YAML, quoted', text: '"replicas": 3\nreplicas: 1\n', paths: ['2:1'] },
    { why: 'YAML, merged twice', text: 'a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\n', paths: ['4:3'], key: '<<' },
    { why: 'JSON', text: '{\n  "replicas": 3,\n  "b": [],\n  "replicas": 1\n}', paths: ['4:3'] },
    { why: 'JSON in one line', text: '{"replicas": 3, "replicas": 1}', paths: ['1:17'] },
    { why: 'JSON, escaped', text: '{"replicas": 3, "repl\\u0069cas": 1}', paths: ['1:17'] },
    { why: 'JSON, inside a list', text: '[{"a": {"replicas": 1, "replicas" : 2}}, {"replicas": 1}]', paths: ['1:24'] },
    { why: 'JSON, several', text: '{"replicas":1,"replicas":2,"replicas":3}', paths: ['1:15', '1:28'] },
    { why: 'flow YAML', text: '{replicas: 1, replicas: 2}', paths: ['1:15'] },
  ]
  for (const { why, text, paths, key = 'replicas' } of rows) {
    for (const name of ['s.yaml', 's.json', 'standard input', 's.txt']) {
      const faults = faultsOfText(text, name)
      t.same(
        faults.map(({ path }) => path),
        paths.map((path) => `${name}:${path}`),
        `${why}, as ${name}`,
      )
      for (const { problem } of faults) t.equal(problem, `the key "${key}" occurs twice in one object`)
    }
  }
  t.same(readSlaText('{"a": {"k": 1}, "b": {"k": 1}, "c": ["k", "k"], "k": "k\\"k:"}', 's'), {
    a: { k: 1 },
    b: { k: 1 },
    c: ['k', 'k'],
    k: 'k"k:',
  })
})

test('a text means the same whatever its file is called', async (t) => {
  const texts = ['a: 1\n', '{"a": 1}', '{a: 1, b: [2, ], }', '- a\n', '{"a": 1,}']
  for (const text of texts) {
    const [first, ...others] = ['s.yaml', 's.json', 's'].map((name) => JSON.stringify(readSlaText(text, name)))
    for (const other of others) t.equal(other, first, text)
  }
})

test('the nearest known word is suggested', async (t) => {
  t.equal(editDistance('kitten', 'sitting'), 3)
  t.equal(editDistance('memroy', 'memory'), 1, 'swapped neighbours')
  t.equal(editDistance('', 'abc'), 3)
  t.equal(nearest('x'.repeat(1000), ['x']), undefined)
  t.equal(nearest('port', ['ports', 'port']), 'port')
})

/** What a key may hold, and what it may not, in equal parts. */
function valueOf(kind: Kind, depth: number): fc.Arbitrary<unknown> {
  const wild = fc.oneof(
    fc.string(),
    fc.double(),
    fc.boolean(),
    fc.constant(null),
    fc.array(fc.jsonValue(), { maxLength: 3 }),
    fc.object({ maxDepth: 2 }),
  )
  switch (kind.type) {
    case 'text':
      return fc.oneof(wild, fc.string(), fc.constantFrom('a', 'cart', '10.30.1.1', '80:80', '1,2'))
    case 'number':
      return fc.oneof(wild, fc.integer({ min: -1, max: 10 }))
    case 'flag':
      return fc.oneof(wild, fc.boolean())
    case 'choice':
      return fc.oneof(wild, fc.constantFrom(...kind.words))
    case 'list':
      return fc.oneof(
        wild,
        fc.array(kind.of === 'text' ? fc.string() : fc.jsonValue({ maxDepth: 2 }), { maxLength: 4 }),
      )
    case 'object':
    case 'any':
      return depth > 0 ? fc.oneof(wild, fc.jsonValue()) : wild
    default:
      return kind satisfies never
  }
}

function objectAt(
  level: Level,
  nested: Record<string, fc.Arbitrary<unknown>> = {},
): fc.Arbitrary<Record<string, unknown>> {
  const known = KEYS[level].map(({ name, kind }) => [name, nested[name] ?? valueOf(kind, 1)] as const)
  const record = fc.record(Object.fromEntries(known), { requiredKeys: [] })
  return fc.tuple(record, fc.dictionary(fc.string(), fc.jsonValue(), { maxKeys: 2 })).map(([a, b]) => ({ ...b, ...a }))
}

const listOf = (level: Level, nested = {}) =>
  fc.oneof(fc.array(objectAt(level, nested), { maxLength: 3 }), fc.jsonValue())
const microservices = listOf('microservice', {
  ports: listOf('port'),
  check: objectAt('check'),
  constraints: listOf('constraint'),
  connectivity: listOf('connectivity'),
  addresses: objectAt('addresses', { instances: listOf('instances') }),
})
/** Sound services, each with up to two keys that hold anything at all. */
const sound = fc.record(
  {
    microservice_name: fc.constantFrom('cart', 'Stock', 'a-b', 'x1'),
    cmd: fc.constant(['run', '${PORT}']),
    port: fc.constantFrom(80, '80', '80:60;53/udp', ''),
    memory: fc.integer({ min: 0, max: 9 }),
    replicas: fc.integer({ min: 0, max: 5 }),
    check: fc.constantFrom({}, { type: 'http', path: '/x' }),
    allow: fc.constantFrom([], ['*'], ['a.b']),
    addresses: fc.constantFrom({}, { rr_ip: '10.30.9.9' }, { instances: [{ from: 0, to: 3, start: '10.30.8.1' }] }),
    constraints: fc.constantFrom([], [{ type: 'geo', location: '1,2' }], [{ type: 'direct', node: 'n1' }]),
    connectivity: fc.constantFrom([], ['cart'], [{ target_microservice_id: '1', con_constraints: [] }]),
  },
  { requiredKeys: ['microservice_name', 'cmd'] },
)
const nearlySound = fc
  .tuple(
    fc.array(sound, { minLength: 1, maxLength: 2 }),
    fc.array(fc.tuple(fc.nat(), fc.jsonValue()), { maxLength: 2 }),
  )
  .map(([services, changes]) => {
    const keys = KEYS.microservice.map(({ name }) => name)
    const changed = Object.fromEntries(changes.map(([at, value]) => [keys[at % keys.length] as string, value]))
    return documentWith({ ...services[0], ...changed }, ...services.slice(1))
  })
const documents = fc.oneof(
  objectAt('document', { applications: listOf('application', { microservices }) }),
  objectAt('application', { microservices }),
  objectAt('microservice'),
  nearlySound,
  nearlySound,
  fc.anything(),
)

test('any document is accepted or refused with faults, and never changed', { timeout: 60_000 }, async (t) => {
  let accepted = 0
  fc.assert(
    fc.property(documents, (document) => {
      const before = JSON.stringify(document, (_, value: unknown) =>
        typeof value === 'bigint' ? String(value) : value,
      )
      const parsed = parseSla(document)
      if (parsed.kind === 'accepted') accepted += 1
      const isTold =
        parsed.kind === 'accepted'
          ? parsed.apps.every(({ services }) => services.every(isWhole))
          : parsed.faults.length > 0
      return (
        isTold &&
        before === JSON.stringify(document, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value))
      )
    }),
    { numRuns: 1500, seed: 2 },
  )
  t.ok(accepted > 40 && accepted < 1400, `both happen: ${accepted} of 1500 accepted`)
})

test('any text is read or refused with faults', async (t) => {
  const yamlish = fc.array(
    fc.constantFrom(
      'a',
      ':',
      ' ',
      '\n',
      '- ',
      '[',
      ']',
      '{',
      '}',
      '"',
      "'",
      '&x',
      '*x',
      '|',
      '>',
      '#',
      '?',
      '!',
      '%',
      ',',
      '\t',
      '1',
    ),
  )
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        yamlish.map((words) => words.join('')),
      ),
      fc.constantFrom('a.json', 'a.yaml', 'stdin'),
      (text, name) => {
        try {
          parseSla(readSlaText(text, name))
          return true
        } catch (error) {
          return (
            error instanceof MeshError &&
            (error.details['faults'] as Fault[]).every(({ path }) => path.startsWith(name))
          )
        }
      },
    ),
    { numRuns: 1500, seed: 3 },
  )
  t.pass()
})

function isWhole(spec: ServiceSpec): boolean {
  const ports = spec.ports.every(({ port, target }) => port >= 1 && port <= 65_535 && target >= 1 && target <= 65_535)
  return ports && /^([a-z0-9-]+\.){3}[a-z0-9-]+$/.test(spec.id) && spec.replicas >= 0 && spec.replicas <= 1_000
}

test('a very large document is read in a short time', { timeout: 30_000 }, async (t) => {
  const services = Array.from({ length: 500 }, (_, i) => ({
    microservice_name: `s${i}`,
    cmd: ['run'],
    connectivity: Array.from({ length: 250 }, (_, j) => `s${(i + j) % 500}`),
    ...Object.fromEntries(Array.from({ length: 200 }, (_, j) => [`unknown${j}`, 1])),
  }))
  const parsed = parseSla({ application_name: 'shop', application_namespace: 'acme', microservices: services })
  t.equal(parsed.kind, 'accepted')
  t.ok(parsed.warnings.length <= 201, 'listed up to a limit')
  t.match(parsed.warnings.at(-1), { problem: /^\d+ more$/ })
})

test('every key on the page of keys has a meaning', async (t) => {
  for (const [level, keys] of Object.entries(KEYS)) {
    t.equal(new Set(keys.map(({ name }) => name)).size, keys.length, `${level}: no key twice`)
    for (const { name, meaning } of keys) if (meaning === '') t.fail(`${level}.${name} means nothing`)
  }
})

test('a name that cannot be one comes with a spelling that can', async (t) => {
  const rows = [
    ['Example Application', 'example-application'],
    ['my cart', 'my-cart'],
    ['Café!', 'cafe'],
    ['--a--', 'a'],
  ] as const
  for (const [given, offered] of rows) {
    const parsed = parseSla({ application_name: given, application_namespace: 't', microservices: [] })
    t.match(parsed, { kind: 'refused', faults: [{ path: 'application_name', remedy: `write "${offered}"` }] }, given)
  }
})
