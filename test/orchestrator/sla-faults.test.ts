import { test, type Test } from 'tap'
import { editDistance, nearest } from '../../src/core/kit/suggest.ts'
import { parseSla } from '../../src/orchestrator/sla/parse.ts'
import { documentWith, faultsOf } from './sla-documents.ts'

/** A service with one fault, where it is, and what is said of it; `why` says what is wrong. */
interface Row {
  why: string
  service: Record<string, unknown>
  path: string
  problem: RegExp
}

/** Each row has its fault, and no other. */
function faulty(t: Test, rows: readonly Row[]): void {
  for (const { why, service, path, problem } of rows) {
    const faults = faultsOf(documentWith(service))
    t.match(faults, [{ path: `applications[0].microservices[0].${path}`, problem }], why)
    t.equal(faults.length, 1, `${why}: nothing else is wrong`)
  }
}

test('a value of the wrong type or outside its bounds is refused at its path', async (t) => {
  faulty(t, [
    {
      why: 'a text where a number belongs',
      service: { memory: '4 GB' },
      path: 'memory',
      problem: /must be a number, not the string "4 GB"/,
    },
    { why: 'a number below its bounds', service: { memory: -1 }, path: 'memory', problem: /must be 0 to/ },
    {
      why: 'a share that is no percentage',
      service: { update: { max_surge: 'a quarter' } },
      path: 'update.max_surge',
      problem: /a whole number or a percentage such as "25%", not the string "a quarter"/,
    },
    {
      why: 'a fraction of a percent',
      service: { update: { max_surge: '2.5%' } },
      path: 'update.max_surge',
      problem: /a percentage such as "25%"/,
    },
    {
      why: 'more than all of them',
      service: { update: { max_unavailable: '101%' } },
      path: 'update.max_unavailable',
      problem: /must be 0% to 100%, not 101%/,
    },
    {
      why: 'both 0, one as a percentage',
      service: { update: { max_unavailable: '0%', max_surge: 0 } },
      path: 'update',
      problem: /both 0/,
    },
    {
      why: 'bandwidth of a connection without a number',
      service: { connectivity: [{ target_microservice_id: 'a.b.c', con_constraints: [{ type: 'bandwidth' }] }] },
      path: 'connectivity[0].con_constraints[0].threshold',
      problem: /is missing: what the two need, in kbit\/s/,
    },
    {
      why: 'a connection that is neither',
      service: {
        connectivity: [{ target_microservice_id: 'a.b.c', con_constraints: [{ type: 'geo', threshold: 1 }] }],
      },
      path: 'connectivity[0].con_constraints[0].type',
      problem: /must be latency or bandwidth/,
    },
    {
      why: 'a fraction where a whole number belongs',
      service: { replicas: 1.5 },
      path: 'replicas',
      problem: /whole number, not 1.5/,
    },
    {
      why: 'a number above its bounds',
      service: { replicas: 1001 },
      path: 'replicas',
      problem: /0 to 1000, not 1001/,
    },
    {
      why: 'a text where true or false belongs',
      service: { one_shot: 'yes' },
      path: 'one_shot',
      problem: /true or false, not the string "yes"/,
    },
    {
      why: 'a text where a list belongs',
      service: { cmd: 'ls -al' },
      path: 'cmd',
      problem: /must be a list, not the string "ls -al"/,
    },
    {
      why: 'a number in a list of texts',
      service: { cmd: ['ls', 5] },
      path: 'cmd[1]',
      problem: /must be a string, not the number 5/,
    },
    { why: 'a NUL inside a text', service: { cmd: ['a\0b'] }, path: 'cmd[0]', problem: /NUL/ },
    {
      why: 'a word that is none of those possible',
      service: { strategy: 'spred' },
      path: 'strategy',
      problem: /best-fit or spread.*did you mean spread/,
    },
  ])
})

test('a job that cannot be run is refused', async (t) => {
  const job = (more: object) => ({ one_shot: true, ...more })
  faulty(t, [
    { why: 'no job', service: { schedule: { cron: '@daily' } }, path: 'schedule', problem: /is for jobs/ },
    { why: 'no job either', service: { job: { retries: 1 } }, path: 'job', problem: /is for jobs/ },
    { why: 'never', service: job({ schedule: {} }), path: 'schedule.cron', problem: /is missing/ },
    {
      why: 'not a schedule',
      service: job({ schedule: { cron: '61 * * * *' } }),
      path: 'schedule.cron',
      problem: /"61 \* \* \* \*" is not a schedule: Invalid value for minute: 61/,
    },
    {
      why: 'seconds',
      service: job({ schedule: { cron: '0 0 3 * * *' } }),
      path: 'schedule.cron',
      problem: /has 6 fields instead of five/,
    },
    {
      why: 'another policy',
      service: job({ schedule: { cron: '@daily', concurrency: 'queue' } }),
      path: 'schedule.concurrency',
      problem: /must be forbid or replace or allow/,
    },
    {
      why: 'a deadline of no time',
      service: job({ job: { deadline_seconds: 0 } }),
      path: 'job.deadline_seconds',
      problem: /1 to 1209600/,
    },
  ])
})

test('a text that cannot be a name is refused at its path', async (t) => {
  faulty(t, [
    {
      why: 'a space in a name',
      service: { microservice_name: 'my cart' },
      path: 'microservice_name',
      problem: /"my cart" cannot be a name: has " "/,
    },
    {
      why: 'a reserved word as a name',
      service: { microservice_name: 'Closest' },
      path: 'microservice_name',
      problem: /reserved word/,
    },
    {
      why: 'a namespace of digits alone',
      service: { microservice_namespace: '12' },
      path: 'microservice_namespace',
      problem: /digits alone/,
    },
    {
      why: 'a name that is too long',
      service: { microservice_name: 'x'.repeat(64) },
      path: 'microservice_name',
      problem: /64 characters long/,
    },
    { why: 'an empty name', service: { microservice_name: '' }, path: 'microservice_name', problem: /empty/ },
  ])
})

test('a service that says nothing to run, or says it wrongly, is refused', async (t) => {
  faulty(t, [
    { why: 'no command', service: { cmd: undefined }, path: 'cmd', problem: /nothing to run/ },
    { why: 'an empty command', service: { cmd: [] }, path: 'cmd', problem: /nothing to run/ },
    { why: 'a command without a program', service: { cmd: ['', 'x'] }, path: 'cmd[0]', problem: /must name a program/ },
    {
      why: 'a container without an image',
      service: { virtualization: 'container' },
      path: 'code',
      problem: /the image/,
    },
    {
      why: 'an external service without an address',
      service: { runtime: 'external' },
      path: 'code',
      problem: /the address of the service/,
    },
    {
      why: 'an external service whose address is none',
      service: { runtime: 'external', code: 'a b:80' },
      path: 'code',
      problem: /is not host:port/,
    },
    {
      why: 'an external service without a port',
      service: { runtime: 'external', code: 'db' },
      path: 'code',
      problem: /has no port/,
    },
    {
      why: 'a word that cannot be a runtime',
      service: { runtime: '../x' },
      path: 'runtime',
      problem: /cannot be a runtime/,
    },
    {
      why: 'a variable without a value',
      service: { environment: ['A=1', 'B'] },
      path: 'environment[1]',
      problem: /"B" is not KEY=value/,
    },
    {
      why: 'a variable with a space in its name',
      service: { environment: ['a b=1'] },
      path: 'environment[0]',
      problem: /is not KEY=value/,
    },
  ])
})

test('a check that cannot be made is refused', async (t) => {
  faulty(t, [
    {
      why: 'a check of a UDP port',
      service: { port: '80;53/udp', check: { port: 53 } },
      path: 'check.port',
      problem: /must be a TCP port.*80 only/,
    },
    {
      why: 'a liveness probe that is none of the two kinds',
      service: { port: 80, livenessProbe: { exec: { command: ['true'] } } },
      path: 'livenessProbe',
      problem: /needs httpGet or tcpSocket/,
    },
    {
      why: 'a liveness probe of both kinds',
      service: { port: 80, livenessProbe: { httpGet: {}, tcpSocket: {} } },
      path: 'livenessProbe',
      problem: /has both/,
    },
    {
      why: 'a liveness probe of a port that the service does not have',
      service: { port: 80, livenessProbe: { tcpSocket: { port: 81 } } },
      path: 'livenessProbe.tcpSocket.port',
      problem: /must be a TCP port of the service, which has 80 only/,
    },
    {
      why: 'a check of a service without ports',
      service: { check: {} },
      path: 'check',
      problem: /no TCP port/,
    },
    {
      why: 'an HTTP check whose path does not begin with a slash',
      service: { port: 80, check: { type: 'http', path: 'x y' } },
      path: 'check.path',
      problem: /begin with \//,
    },
  ])
})

test('a constraint that cannot be understood is refused', async (t) => {
  faulty(t, [
    {
      why: 'a word that is no type of constraint',
      service: { constraints: [{ type: 'direkt' }] },
      path: 'constraints[0].type',
      problem: /did you mean direct/,
    },
    {
      why: 'a constraint without a type',
      service: { constraints: [{}] },
      path: 'constraints[0].type',
      problem: /is missing/,
    },
    {
      why: 'a text where a constraint belongs',
      service: { constraints: ['x'] },
      path: 'constraints[0]',
      problem: /must be an object/,
    },
    {
      why: 'a direct constraint that names no node',
      service: { constraints: [{ type: 'direct', node: ' ; ' }] },
      path: 'constraints[0]',
      problem: /neither a node nor a cluster/,
    },
    {
      why: 'a clusters constraint that names no cluster',
      service: { constraints: [{ type: 'clusters' }] },
      path: 'constraints[0].allowed',
      problem: /a clusters constraint needs it/,
    },
    {
      why: 'a geo constraint with the name of a town for its location',
      service: { constraints: [{ type: 'geo', location: 'Munich' }] },
      path: 'constraints[0].location',
      problem: /is not a location/,
    },
  ])
})

test('a latency constraint that cannot be measured is refused', async (t) => {
  faulty(t, [
    {
      why: 'a latency constraint without a threshold',
      service: { constraints: [{ type: 'latency', service: 'stock' }] },
      path: 'constraints[0].threshold',
      problem: /is missing: a latency constraint needs it/,
    },
    {
      why: 'a latency constraint with the name of a town for its location',
      service: { constraints: [{ type: 'latency', location: 'Munich', threshold: 5 }] },
      path: 'constraints[0].location',
      problem: /"Munich" is not a location/,
    },
    {
      why: 'a latency constraint to what is not the name of a service',
      service: { constraints: [{ type: 'latency', service: 'a.b.c.d.e', threshold: 5 }] },
      path: 'constraints',
      problem: /"a.b.c.d.e" is not the name of a service/,
    },
    {
      why: 'a latency constraint of a connection without a threshold',
      service: { connectivity: [{ target_microservice_id: 'cart', con_constraints: [{ type: 'latency' }] }] },
      path: 'connectivity[0].con_constraints[0].threshold',
      problem: /is missing: the highest latency allowed/,
    },
  ])
})

test('who may call, whom a service calls and by which paths must be understood', async (t) => {
  faulty(t, [
    {
      why: 'a caller that is neither a node nor a service',
      service: { allow: ['shop'] },
      path: 'allow[0]',
      problem: /"shop" is not a caller/,
    },
    {
      why: 'a number where the name of a service belongs',
      service: { connectivity: [5] },
      path: 'connectivity[0]',
      problem: /name of a service, not the number 5/,
    },
    {
      why: 'a connection without its target',
      service: { connectivity: [{}] },
      path: 'connectivity[0].target_microservice_id',
      problem: /is missing/,
    },
    {
      why: 'a word that is no path rule',
      service: { paths: 'never-relayed' },
      path: 'paths',
      problem: /"never-relayed" is not a path rule/,
    },
  ])
})

test('an address that cannot be given is refused', async (t) => {
  faulty(t, [
    {
      why: 'a text that is no IPv4 address',
      service: { addresses: { rr_ip: '10.30.30' } },
      path: 'addresses.rr_ip',
      problem: /not an IPv4 address/,
    },
    {
      why: 'an address that the agents keep for themselves',
      service: { addresses: { rr_ip: '10.30.0.53' } },
      path: 'addresses.rr_ip',
      problem: /reserved for the agents/,
    },
    {
      why: 'addresses of instances without their end',
      service: { addresses: { instances: [{ from: 0 }] } },
      path: 'addresses.instances[0]',
      problem: /from, to and start/,
    },
    {
      why: 'addresses of instances that end before they begin',
      service: { addresses: { instances: [{ from: 3, to: 1, start: '10.30.1.1' }] } },
      path: 'addresses.instances[0]',
      problem: /covers -1 instances/,
    },
    {
      why: 'one address for two choices of a service',
      service: { addresses: { rr_ip: '10.30.1.1', closest_ip: '10.30.1.1' } },
      path: 'addresses.closest_ip',
      problem: /10.30.1.1 is already requested at .*rr_ip/,
    },
  ])
})

const service = { microservice_name: 'cart', cmd: ['run'] }
const app = { application_name: 'shop', application_namespace: 'acme', microservices: [service] }

function refused(t: Test, rows: { why: string; document: unknown; path: string; problem: RegExp }[]): void {
  for (const { why, document, path, problem } of rows) {
    t.match(faultsOf(document), [{ path, problem }], why)
    t.equal(faultsOf(document).length, 1, `${why}: nothing else is wrong`)
  }
}

test('a document of the wrong shape is refused with the reason', async (t) => {
  refused(t, [
    { why: 'no document at all', document: undefined, path: 'document', problem: /must be an object/ },
    { why: 'a list where the document belongs', document: [app], path: 'document', problem: /must be an object/ },
    { why: 'an empty document', document: {}, path: 'applications', problem: /is missing/ },
    { why: 'a document without an app', document: { applications: [] }, path: 'applications', problem: /is empty/ },
    {
      why: 'one app where the list of apps belongs',
      document: { applications: app },
      path: 'applications',
      problem: /must be a list/,
    },
    {
      why: 'null where an app belongs',
      document: { applications: [app, null] },
      path: 'applications[1]',
      problem: /not nothing/,
    },
    {
      why: 'a version that is not supported',
      document: { sla_version: 'v3.0', applications: [app] },
      path: 'sla_version',
      problem: /"v3.0" is not a supported version/,
    },
    {
      why: 'an app without a name',
      document: { applications: [{ ...app, application_name: undefined }] },
      path: 'applications[0].application_name',
      problem: /is missing/,
    },
    {
      why: 'an app without a namespace',
      document: { applications: [{ ...app, application_namespace: undefined }] },
      path: 'applications[0].application_namespace',
      problem: /is missing/,
    },
  ])
})

test('what may be there once is refused the second time, with the place of the first', async (t) => {
  refused(t, [
    {
      why: 'one app twice, in other letters',
      document: { applications: [app, { ...app, application_name: 'SHOP' }] },
      path: 'applications[1].application_name',
      problem: /"SHOP" in namespace "acme" is already defined at applications\[0\]/,
    },
    {
      why: 'one service twice, in other letters',
      document: { applications: [{ ...app, microservices: [service, { ...service, microservice_name: 'Cart' }] }] },
      path: 'applications[0].microservices[1].microservice_name',
      problem: /"cart" in namespace "acme" is already defined at applications\[0\].microservices\[0\]/,
    },
    {
      why: 'one address for two services',
      document: documentWith(
        { addresses: { rr_ip: '10.30.1.1' } },
        { microservice_name: 'stock', addresses: { closest_ip: '10.30.1.1' } },
      ),
      path: 'applications[0].microservices[1].addresses.closest_ip',
      problem: /10.30.1.1 is already requested at applications\[0\].microservices\[0\].addresses.rr_ip/,
    },
  ])
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
  t.notOk('apps' in parsed, 'no app is accepted, not even the one without a fault in its name')
  t.same(
    parsed.faults.map(({ path }) => path).sort(),
    [
      'applications[0].application_name',
      'applications[0].microservices[0].cmd',
      'applications[0].microservices[0].memory',
      'applications[1].microservices[0].cmd',
      'applications[1].microservices[0].microservice_name',
      'applications[1].microservices[0].port',
      'applications[1].microservices[0].replicas',
    ],
    'each of the seven faults is reported, in both apps',
  )
})

const warningsOf = (document: unknown) => parseSla(document).warnings

test('an unknown key is ignored with a warning that names the likely one', async (t) => {
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
    t.same(
      warningsOf(documentWith({ [key]: 2 })),
      [remedy === undefined ? expected : { ...expected, remedy }],
      `of "${key}" is said: ${remedy ?? 'unknown, and no guess'}`,
    )
  }
  t.match(
    warningsOf({ ...documentWith({}), replicas: 2 }),
    [{ path: 'replicas', remedy: 'replicas belongs in an entry of microservices' }],
    'a key of a service at the top of the document is sent to its place',
  )
  const proto = '{"__proto__": {"a": 1}, "microservice_name": "a", "microservice_namespace": "b", "cmd": ["c"]}'
  t.match(
    warningsOf(JSON.parse(proto)),
    [{ path: '__proto__', problem: 'unknown key, ignored' }],
    '__proto__ is an unknown key like any other',
  )
})

test('files and volumes have places that are theirs alone', async (t) => {
  const docker = { runtime: 'docker', code: 'nginx', cmd: [] }
  const file = { path: '/etc/cart', content: '' }
  const data = { volume_id: 'data', mount_path: '/data' }
  const files = (...all: object[]) => ({ ...docker, files: all })
  const volumes = (...all: object[]) => ({ ...docker, volumes: all })
  const absolute = /must be an absolute path without "\.\."/
  faulty(t, [
    { why: 'no path', service: files({ content: '' }), path: 'files[0].path', problem: /is missing/ },
    { why: 'a way up', service: files({ ...file, path: '/a/../b' }), path: 'files[0].path', problem: absolute },
    { why: 'a relative path', service: files({ ...file, path: 'a' }), path: 'files[0].path', problem: absolute },
    {
      why: 'the root',
      service: volumes({ ...data, mount_path: '/' }),
      path: 'volumes[0].mount_path',
      problem: absolute,
    },
    { why: 'a line end', service: files({ ...file, path: '/a\n' }), path: 'files[0].path', problem: absolute },
    { why: 'nothing in it', service: files({ path: '/a' }), path: 'files[0]', problem: /either content or secret/ },
    { why: 'both', service: files({ ...file, secret: 'a' }), path: 'files[0]', problem: /either content or secret/ },
    {
      why: 'no secret',
      service: files({ path: '/a', secret: 'a.b' }),
      path: 'files[0].secret',
      problem: /not the name of a/,
    },
    { why: 'one place', service: files(file, file), path: 'files[1].path', problem: /"\/etc\/cart" is taken/ },
    {
      why: 'a file in a file',
      service: files(file, { ...file, path: '/etc/cart/a' }),
      path: 'files[1].path',
      problem: /cannot both be there/,
    },
    {
      why: 'what every container has',
      service: files({ ...file, path: '/etc/resolv.conf' }),
      path: 'files[0].path',
      problem: /is taken/,
    },
    {
      why: 'a volume that is a file',
      service: { ...volumes({ ...data, mount_path: '/etc' }), files: [{ ...file, path: '/etc' }] },
      path: 'files[0].path',
      problem: /is taken/,
    },
    { why: 'no name', service: volumes({ mount_path: '/a' }), path: 'volumes[0].volume_id', problem: /is missing/ },
    { why: 'no place', service: volumes({ volume_id: 'a' }), path: 'volumes[0].mount_path', problem: /is missing/ },
    {
      why: 'a folder of the node that is none',
      service: volumes({ ...data, host_path: '../a' }),
      path: 'volumes[0].host_path',
      problem: absolute,
    },
    {
      why: 'too much text',
      service: files(...[1, 2].map((i) => ({ path: `/${i}`, content: 'x'.repeat(200_000) }))),
      path: 'files',
      problem: /are 400000 bytes in all; 262144 is the limit/,
    },
  ])
})

test('a value that has no effect here, or not the one expected, is warned of', async (t) => {
  const rows: { why: string; service: Record<string, unknown>; warnings: object[] }[] = [
    {
      why: 'keys without effect that are filled in with nothing deserve no warning',
      service: { state: '', added_files: [], bandwidth_in: 0, privileged: false },
      warnings: [],
    },
    {
      why: 'arguments follow `cmd`',
      service: { code: 'server.js', cmd: undefined, args: ['-v'] },
      warnings: [{ path: 'applications[0].microservices[0].args', problem: /without `cmd`/ }],
    },
    {
      why: 'a misspelt runtime is named with the right word',
      service: { runtime: 'proces' },
      warnings: [{ remedy: 'did you mean process?' }],
    },
    {
      why: 'a program has volumes of its own, for reading and writing',
      service: { volumes: [{ volume_id: 'data', mount_path: '/data', read_only: true }] },
      warnings: [{ path: 'applications[0].microservices[0].volumes[0].read_only' }],
    },
    {
      why: 'a volume as Oakestra has it is a folder of the node',
      service: {
        runtime: 'docker',
        code: 'nginx',
        volumes: [{ volume_id: 'data', csi_driver: 'csi.example', mount_path: '/data', config: { a: 1 } }],
      },
      warnings: [{ problem: /csi_driver has no effect/ }, { problem: /config has no effect/ }],
    },
    {
      why: 'a runtime that a node may offer deserves no warning',
      service: { runtime: 'unikernel', code: 'x' },
      warnings: [],
    },
    {
      why: 'variables that the agent sets itself are warned of',
      service: { environment: ['PORT=80', 'HEDGEROW_NODE=x'] },
      warnings: [{ remedy: /fixed_port/ }, { problem: /HEDGEROW_/ }],
    },
    {
      why: 'an address outside the VIPs is warned of',
      service: { addresses: { rr_ip: '192.168.178.4' } },
      warnings: [{ problem: /another address is assigned/ }],
    },
    {
      why: 'a connection to a service that the document does not have is warned of',
      service: { connectivity: ['stock'] },
      warnings: [{ problem: /"stock" is not a service of this document/ }],
    },
  ]
  for (const { why, service, warnings } of rows) {
    const found = warningsOf(documentWith(service))
    if (warnings.length === 0) t.same(found, [], why)
    else t.match(found, warnings, why)
  }
})

test('the nearest known word is suggested', async (t) => {
  t.equal(editDistance('kitten', 'sitting'), 3, 'two letters changed and one added are three edits')
  t.equal(editDistance('memroy', 'memory'), 1, 'swapped neighbours are one edit')
  t.equal(editDistance('', 'abc'), 3, 'three letters added are three edits')
  t.equal(nearest('x'.repeat(1000), ['x']), undefined, 'a word that is far from all known ones gets no suggestion')
  t.equal(nearest('port', ['ports', 'port']), 'port', 'the word itself is nearer than its plural')
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
    t.match(
      parsed,
      { kind: 'refused', faults: [{ path: 'application_name', remedy: `write "${offered}"` }] },
      `for "${given}" the name "${offered}" is offered`,
    )
  }
})
