import { execFile } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import type { FlowReport, GatewayReport, ResolveReport, StatusReport, TraceReport } from '../../src/client/reports.ts'
import type { Program } from '../../src/lab/program.ts'
import { freeBase, freePort } from '../../src/lab/system-tools.ts'
import { program, sla } from '../walks/mesh.ts'
import { eventually, FIRST_PORT, Machines } from './program.ts'

/** A mesh of real processes – `up` as machine `m0`, an agent joined by a token file as `m1` – and people's commands. */

const CART = 'shop.acme.cart.prod'
const NAME = `${CART}.any.rr.local`
/** Answers who it is, and which process. */
const TEXT =
  "require('http').createServer((q,r)=>r.end(process.env.HEDGEROW_INSTANCE+' '+process.pid)).listen(process.env.PORT,process.env.HOST)"

interface Row {
  id: string
  state: string
  node?: string
}

t.setTimeout(280_000)
const machines = await Machines.make()
t.teardown(() => machines[Symbol.asyncDispose]())
const base = await freeBase(FIRST_PORT)
const publicPort = await freePort()
const UP = [
  'up',
  '--name',
  'n0',
  '--listen',
  `127.0.0.1:${base}`,
  '--memory-mb',
  '4000',
  '--vcpus',
  '8',
  '--upstream',
  '127.0.0.1:9',
  // its own: another test's agent must not take the prefix while this one is down
  '--prefix',
  '127.224.0.0/12',
  '--gateway',
  `http://127.0.0.1:${publicPort}/cart.example.com=${NAME}:8080`,
]
const up = await machines.start('m0', ...UP)
let mesh: Program = up.program
const says = up.says
let firstToken = ''
let agentHealth = ''

const running = async () =>
  (await machines.json<Row[]>('m0', 'get', 'instances')).filter(({ state }) => state === 'running')

t.test('an agent joins with a token file', async (t) => {
  const minted = await machines.json<{ token: string; expiresAt: number }>('m0', 'token', 'create')
  t.ok(minted.expiresAt > Date.now() + 3_000_000, 'the token is good for an hour')
  firstToken = minted.token
  writeFileSync(machines.path('token'), `${firstToken}\n`)
  const agent = await machines.start('m1', ...agentArgs('n1', 'token'))
  agentHealth = agent.says['health'] ?? ''
  t.match(agent.says, { role: 'agent', node: 'edge/n1', health: /^http/ }, 'it says its node and where its health is')
  await eventually(async () => (await machines.json<Row[]>('m0', 'get', 'nodes')).length === 2, 'two nodes')
  const nodes = [
    { id: 'edge/n0', condition: 'alive', runtimes: ['process', 'external'] },
    { id: 'edge/n1', condition: 'alive' },
  ]
  t.match(await machines.json('m0', 'get', 'nodes'), nodes, 'both nodes are alive')
  const yaml = await machines.run('m0', 'get', 'node', '-o', 'yaml')
  t.match(parse(yaml.stdout), nodes, 'the same as YAML')
  const wide = await machines.run('m0', 'get', 'nodes', '-o', 'wide')
  t.match(wide.stdout, /^NODE .* VERSION +ARCH +AREA +LABELS +CERTIFICATE UNTIL\n/, 'with more columns')
  const watched = await machines.head('m0', 'get', 'nodes', '--watch', '-o', 'json')
  t.match(JSON.parse(watched.stdout), nodes, 'watched: one line whenever it changes, until the reader has gone')
  const table = await machines.run('m0', 'get', 'nodes', 'edge/n1')
  t.match(
    table,
    { code: 0, stdout: /^NODE +CONDITION .*\nedge\/n1 +alive .*\n$/ },
    'the table of one node has one line',
  )
})

interface BadToken {
  why: string
  token: string
  says: RegExp
  role?: 'cluster'
}

/** From a token that has expired, one of our mesh that nobody has used, and one of another mesh. */
function badTokens(expired: string, fresh: string, foreign: string, ourRoot: string): BadToken[] {
  return [
    {
      why: 'a token that was used',
      token: firstToken,
      says: /refused: it was already used, at\s\d{4}-[^]*hedgerow token create/,
    },
    { why: 'a token that has expired', token: expired, says: /refused: it has expired [^]*hedgerow token create/ },
    {
      why: 'a token forged with another secret',
      token: altered(fresh, { secret: 'A'.repeat(43) }),
      says: /refused: it is unknown/,
    },
    {
      why: 'a token forged with another id',
      token: altered(fresh, { id: '0'.repeat(16) }),
      says: /refused: it is unknown/,
    },
    { why: 'a token with a byte flipped', token: flipped(fresh), says: /not a valid join token|refused/ },
    {
      why: 'a token cut short',
      token: fresh.slice(0, 60),
      says: /not a valid join token: it was cut short or altered/,
    },
    {
      why: 'a token of another mesh with our address',
      token: altered(foreign, { url: ourRoot }),
      says: /error: /,
      role: 'cluster',
    },
    { why: 'a token for another role', token: foreign, says: /refused: this is a token for a cluster/ },
  ]
}

/** One after the other: eight that start at once on a busy machine take longer than each may. */
async function joinWith({ token, role }: BadToken, machine: string) {
  writeFileSync(machines.path(`${machine}-token`), token)
  const args = role === 'cluster' ? clusterArgs(`${machine}-token`) : agentArgs('n9', `${machine}-token`)
  return machines.run(machine, ...args, '--log-level', 'silent')
}

t.test('a root alone has no cluster, and no token for a node', async (t) => {
  const other = await freeBase(base + 20)
  await machines.start('other', 'root', '--listen', `127.0.0.1:${other}`, '--ops-listen', `127.0.0.1:${other + 10}`)
  t.match(
    await machines.json('other', 'status'),
    { mesh: { clusters: [] } },
    'where only a root runs, status knows no cluster',
  )
  t.match(
    await machines.run('other', 'token', 'create'),
    { code: 2, stderr: /no cluster has joined yet/ },
    'without a cluster there is no token for a node',
  )
})

t.test('a join token that does not count is refused with the reason, and admits nobody', async (t) => {
  const short = await machines.json<{ token: string; expiresAt: number }>('m0', 'token', 'create', '--ttl', '1s')
  const fresh = (await machines.json<{ token: string }>('m0', 'token', 'create')).token
  const foreign = await machines.json<{ token: string }>('other', 'token', 'create', '--role', 'cluster')
  await eventually(() => Promise.resolve(Date.now() > short.expiresAt), 'the short one has expired')
  const ourRoot = (await machines.json<{ mesh: { url: string } }>('m0', 'status')).mesh.url
  const rows = badTokens(short.token, fresh, foreign.token, ourRoot)
  for (const [at, row] of rows.entries()) {
    const { why, token, says } = row
    const { code, stdout, stderr } = await joinWith(row, `bad${at}`)
    t.equal(code, 4, `${why}: code 4 (${stderr.trim()})`)
    t.equal(stdout, '', `${why}: nothing on standard output`)
    t.match(stderr, says, `${why}: says so`)
    t.notOk(stderr.includes(token), `${why}: the token itself is not repeated`)
  }
  const left = rows.filter((_row, at) => existsSync(machines.path(`bad${at}/agent/identity/identity.pem`)))
  t.same(left, [], 'none of them left an identity')
  t.equal((await machines.json<Row[]>('m0', 'get', 'nodes')).length, 2, 'nobody has joined')
})

/** Writes a document and applies it as a person does. */
function applied(document: unknown, ...flags: string[]) {
  writeFileSync(machines.path('shop.json'), typeof document === 'string' ? document : JSON.stringify(document))
  return machines.run('m0', ...flags, 'apply', '-f', machines.path('shop.json'))
}

t.test('apply creates what is new, warns of unknown keys, and changes nothing the second time', async (t) => {
  const shop = sla([cart(3), { ...cart(1), microservice_name: 'stock', cmdd: ['x'] }])
  const { code, stdout, stderr } = await applied(shop)
  t.match(
    { code, stdout },
    { code: 0, stdout: /shop\.acme\.cart\.prod +created\nshop\.acme\.stock\.prod +created/ },
    'both services are created',
  )
  t.match(
    stderr,
    /warning: .*microservices\[1\]\.cmdd: unknown key, ignored – did you mean cmd\?/,
    'the misspelt key is warned of, with the right one',
  )
  const again = await machines.json('m0', 'apply', '-f', machines.path('shop.json'))
  t.match(
    again,
    { services: [{ id: CART, change: 'unchanged' }, { change: 'unchanged' }], warnings: [{ path: /cmdd/ }] },
    'the same document again changes nothing, and is warned of again',
  )
  await eventually(async () => (await running()).length === 4, 'four instances run')
})

t.test('events say what happened to a service, by whom and why', async (t) => {
  const events = await machines.json<{ what: string; by: string; instance?: string }[]>('m0', 'events', CART)
  t.match(events[0], { what: 'applied', by: 'user', why: 'new: 3 replicas' }, 'the document first')
  const ready = events.filter(({ what, by }) => what === 'ready' && by === 'worker')
  t.equal(new Set(ready.map(({ instance }) => instance)).size, 3, 'each instance is ready')
  t.match(
    await machines.run('m0', 'events', `${CART}.0`, '--since', '1h', '-n', '1'),
    { code: 0, stdout: /^TIME .*\n\S+Z +ready +shop\.acme\.cart\.prod\.0 +edge\/n[01] +worker .*\n$/ },
    'the newest of one instance, as a table',
  )
  t.match(
    await machines.run('m0', 'events', 'shop.acme.cart.prd'),
    { code: 3, stderr: /shop\.acme\.cart\.prd was not found\nDid you mean shop\.acme\.cart\.prod\?/ },
    'a name that does not exist is not an empty list',
  )
})

t.test('apply reports every fault at once, and applies nothing of a document with one', async (t) => {
  const faulty = sla(
    [
      { ...cart(1), microservice_name: 'new' },
      { ...cart(1), cmd: 7, replicas: 'many', port: '99999' },
    ],
    'fresh',
  )
  const refused = await applied(faulty)
  t.equal(refused.code, 2, 'a document with faults is refused with code 2')
  for (const path of ['cmd', 'replicas', 'port']) {
    const place = new RegExp(`applications\\[0\\]\\.microservices\\[1\\]\\.${path}: `)
    t.match(refused.stderr, place, `the fault of ${path} is reported`)
  }
  t.match(
    JSON.parse((await applied(faulty, '-o', 'json')).stderr),
    { error: 'SLA_INVALID', faults: [{ path: /microservices\[1\]/, problem: /./ }, {}, {}] },
    'as JSON the three faults have their path and problem',
  )
  t.match(await machines.json('m0', 'get', 'apps'), [{ id: 'shop.acme', services: 2 }], 'nothing of it was applied')
})

t.test('apply asks for the app of a document without one, and takes it from --app', async (t) => {
  const gift = { microservices: [{ ...cart(0), microservice_name: 'gift' }] }
  t.match(
    await applied(gift),
    { code: 2, stderr: /application_name: is missing[^]*\nName the app with --app NAME\.NAMESPACE\./ },
    'without --app it says how to name one',
  )
  t.match(
    await machines.run('m0', 'apply', '--app', 'shop.acme', '-f', machines.path('shop.json')),
    { code: 0, stdout: /shop\.acme\.gift\.prod +created/ },
    'with --app the service is created in it',
  )
  t.match(await machines.run('m0', 'delete', 'service', 'shop.acme.gift.prod'), { code: 0 }, 'a service is deleted')
})

t.test('apply says what has no place for now, and why', async (t) => {
  const huge = await applied(sla([{ ...cart(2), microservice_name: 'huge', memory: 900_000 }], 'huge'))
  t.match(
    huge,
    {
      code: 0,
      stdout: /huge\.acme\.huge\.prod +created/,
      stderr: /Not placed for now.*\n {2}huge\.acme\.huge\.prod\.\d and 1 more: .*memory/,
    },
    'a service that no node has memory for is created, and what it lacks is said',
  )
  t.match(await machines.run('m0', 'delete', 'app', 'huge.acme'), { code: 0 }, 'an app is deleted')
})

t.test('apply refuses what is no document at its line and column, and two services with one address', async (t) => {
  writeFileSync(machines.path('bad.yaml'), 'applications:\n  - application_name: x\n   bad: 1\n')
  t.match(
    await machines.run('m0', 'apply', '-f', machines.path('bad.yaml')),
    { code: 2, stderr: /bad\.yaml:3:1: is not YAML/ },
    'YAML that is indented wrongly',
  )
  t.match(
    await applied('{ "applications": [ }'),
    { code: 2, stderr: /shop\.json:1:22: is not JSON/ },
    'JSON with a bracket that is not closed',
  )
  const clash = (name: string) => ({ ...cart(1), microservice_name: name, addresses: { rr_ip: '10.30.200.9' } })
  t.match(
    await applied(sla([clash('a'), clash('b')], 'clash')),
    { code: 2, stderr: /invalid SLA document\n.*10\.30\.200\.9 is already requested at/ },
    'one address for two services',
  )
})

t.test('get lists what there is, as tables and JSON', async (t) => {
  t.match(
    await machines.json('m0', 'get', 'services'),
    [{ id: CART, replicas: 3, ports: [{ port: 8080, protocol: 'tcp' }] }, {}],
    'two services, with replicas and ports',
  )
  t.match(await machines.json('m0', 'get', 'instance', CART), { length: 3 }, 'kinds may be written in the singular')
  t.match(
    await machines.json('m0', 'get', 'clusters'),
    [{ name: 'edge', condition: 'alive', nodes: 2 }],
    'one cluster with two nodes',
  )
  t.match(
    await machines.json('m0', 'get', 'relays'),
    [{ id: 'edge', kind: 'cluster', condition: 'alive', url: /^wss:/, nodes: Number, rttMs: Number }],
    'one relay, that of the cluster',
  )
  t.match(
    (await machines.run('m0', 'get', 'relays')).stdout,
    /^RELAY +KIND +CONDITION +NODES +RTT MS .*\nedge +cluster +alive/,
    'the table of relays has a heading and a line',
  )
  t.match(
    (await machines.run('m0', 'get', 'instances', CART)).stdout.match(/running/g),
    { length: 3 },
    'the table of instances has the three that run',
  )
  const nodes = new Set((await running()).map(({ node }) => node))
  t.same(nodes, new Set(['edge/n0', 'edge/n1']), 'instances are spread over both nodes')
})

t.test('status says how the agent and the mesh are, and resolve what a name means', async (t) => {
  const status = await machines.json<{ agent: StatusReport; mesh: object }>('m0', 'status')
  t.match(
    status,
    { agent: { node: 'edge/n0', controlLink: 'up' }, mesh: { apps: 1, instances: { running: 4 } } },
    'the agent has its link, and four instances run in the mesh',
  )
  t.match(await machines.run('m1', 'status'), { code: 0, stdout: /^AGENT[^]*edge\/n1/ }, 'where only an agent runs')

  const resolved = await machines.json<ResolveReport>('m0', 'resolve', NAME)
  t.match(
    resolved,
    { canonical: NAME, service: CART, choice: 'any.rr', ipv4: /^127\./, order: { length: 3 } },
    'a name has its service, its choice, its VIP and the order of its instances',
  )
  t.match(
    await machines.run('m0', 'resolve', NAME),
    { code: 0, stdout: new RegExp(`^${NAME}  ${resolved.ipv4}\\nports 8080/tcp`) },
    'in words: the name, its address and its ports',
  )
  t.match(
    await machines.run('m0', 'resolve', `${CART}.9.pinned.local`),
    { code: 3, stderr: /has no instance 9/ },
    'an instance that does not exist is not found',
  )
})

t.test('trace follows a flow step by step, and says where it ends', async (t) => {
  const trace = await machines.json<TraceReport>('m0', 'trace', `${NAME}:8080`)
  t.match(trace, { ok: true, instance: new RegExp(`^${CART}`), path: /local|direct/ }, 'a flow reaches an instance')
  t.same(
    trace.steps.map(({ step }) => step),
    ['name', 'vip', 'permission', 'order', 'try', 'connected'],
    'each step of it is listed, in order',
  )
  const rows = [
    {
      why: 'a port that is not served',
      target: `${NAME}:9`,
      says: { code: 1, stdout: /failed +.*does not serve port 9/ },
    },
    { why: 'a name without a port', target: NAME, says: { code: 2, stderr: /NAME:PORT/ } },
    {
      why: 'a misspelt policy',
      target: `${CART}.any.closet.local:8080`,
      says: { code: 2, stderr: /no such policy; did you mean closest/ },
    },
    {
      why: 'a service that does not exist',
      target: 'shop.acme.nope.prod.any.rr.local:80',
      says: { code: 3, stderr: /has no service nope/ },
    },
  ]
  for (const { why, target, says } of rows)
    t.match(await machines.run('m0', 'trace', target), says, `${why}: code ${says.code}`)
})

t.test('with-proxy runs a program that reaches names, and ends as it does', async (t) => {
  const url = `http://${CART}.1.pinned.local:8080/`
  const fetched = await machines.run('m0', 'with-proxy', '--', process.execPath, '-e', FETCH, url)
  t.match(fetched, { code: 0, stdout: new RegExp(`^${CART}.1 \\d+`) }, `it reaches a name (${fetched.stderr})`)
  const byOldWord = await machines.run('m0', 'exec', 'sh', '-c', 'exit 7')
  t.match(byOldWord, { code: 7, stderr: /is called `with-proxy` now/ }, 'its code is passed on, also by its old word')
  t.match(await machines.run('m0', 'exec', `${CART}.0`), { code: 2, stderr: /Write it after two dashes/ })
  const inside = await machines.run('m0', 'exec', `${CART}.0`, '--', 'sh', '-c', 'echo $HEDGEROW_INSTANCE; exit 7')
  t.match(inside, { code: 7, stdout: `${CART}.0\n`, stderr: '' }, 'and exec runs one in an instance')
  const killed = await machines.run('m0', 'with-proxy', '--', 'sh', '-c', 'kill -9 $$')
  t.match(killed, { code: 137 }, 'a program that is killed gives 128 and its signal, as a shell does')
  t.match(
    await machines.run('m0', 'with-proxy', '--', 'no-such-program'),
    { code: 127, stderr: 'no-such-program: command not found\n' },
    'a program that does not exist gives 127, as a shell does',
  )
  for (const [signal, code] of [
    ['SIGHUP', 129],
    ['SIGTERM', 143],
    ['SIGUSR2', 140],
  ] as const) {
    const program = machines.background('m0', 'with-proxy', '--', 'sh', '-c', 'echo $$; exec sleep 999')
    await eventually(() => Promise.resolve(program.lines.length > 0), 'it runs')
    process.kill(program.pid, signal) // it alone, as a supervisor does
    t.equal(await program.exited, `code ${code}`, `${signal} is passed on`)
    t.notOk(isAlive(Number(program.lines[0])), `${signal} leaves no orphan`)
  }
})

t.test('flows and peers list what the agent carries and whom it knows', async (t) => {
  const flows = await machines.json<FlowReport[]>('m0', 'flows', '--recent')
  const isOurs = ({ caller, name, ended }: FlowReport) =>
    caller === 'edge/n0' && name === `${CART}.1.pinned.local:8080` && ended !== undefined
  t.ok(flows.some(isOurs), 'the flow of that program is among the recent ones, and has ended')
  t.match(
    await machines.run('m0', 'flows', '--recent'),
    { code: 0, stdout: /^ID +CALLER[^]*edge\/n0/ },
    'the table of flows has a heading and the caller',
  )
  t.match(
    await machines.json('m0', 'peers'),
    [{ node: 'edge/n1', path: 'direct' }],
    'the other node is dialled directly',
  )
})

t.test('a client outside the mesh reaches a service by its host name, through the gateway', async (t) => {
  const get = (host: string) =>
    promisify(execFile)('curl', ['-sS', '-H', `Host: ${host}`, `http://127.0.0.1:${publicPort}/`]).then(
      ({ stdout }) => stdout,
    )
  t.match(await get('cart.example.com'), new RegExp(`^${CART}\\.\\d \\d+$`))
  t.match(await get('other.example.com'), /no service has the host name/)
  const at = { listen: `127.0.0.1:${publicPort}`, host: 'cart.example.com', target: `${NAME}:8080` }
  const [route, ...others] = await machines.json<GatewayReport[]>('m0', 'gateway')
  t.match({ route, others }, { route: { ...at, problem: undefined }, others: [] })
  t.match(await machines.run('m0', 'gateway'), { code: 0, stdout: /^LISTEN +PROTOCOL +HOST[^]*cart\.example\.com/ })
  t.match(await machines.json('m0', 'status'), { agent: { gateway: [`http://127.0.0.1:${publicPort}`] } })
  const flows = await machines.json<FlowReport[]>('m0', 'flows', '--recent')
  t.match(
    flows.find(({ caller }) => caller.includes(' by ')),
    { caller: '127.0.0.1 by edge/n0', name: `${NAME}:8080` },
  )
})

t.test('logs, to the end and as they come', async (t) => {
  const logs = await machines.run('m0', 'logs', `${CART}.0`)
  t.match(logs, { code: 0, stdout: /started, process \d+/ }, 'the log says when the process started')
  const [line = ''] = (await machines.run('m0', 'logs', `${CART}.0`, '-o', 'json')).stdout.split('\n')
  t.match(
    JSON.parse(line),
    { instance: `${CART}.0`, time: /^\d{4}-/, text: /./ },
    'as JSON a line has its instance and time',
  )
  const unknown = await machines.run('m0', 'logs', `${CART}.77`)
  t.match(unknown, { code: 3, stderr: /instance .* was not found/ }, 'an instance that does not exist is not found')
  const all = await machines.run('m0', 'logs', 'shop.acme.cart')
  t.equal(all.code, 0)
  for (const number of [0, 1, 2])
    t.match(
      all.stdout,
      new RegExp(`^${CART}\\.${number} \\S+ hedgerow: started, process \\d+$`, 'm'),
      'of a service, each line with its instance',
    )
  t.match(await machines.run('m0', 'logs', 'shop.acme.crt.prod'), {
    code: 3,
    stderr: 'Did you mean shop.acme.cart.prod?',
  })
  const ofAll = machines.background('m0', 'logs', '-f', CART, '-o', 'json')
  await eventually(() => {
    const shown = ofAll.lines.map((line) => (JSON.parse(line) as { instance: string }).instance)
    return Promise.resolve([0, 1, 2].every((number) => shown.includes(`${CART}.${number}`)))
  }, 'it follows all')
  ofAll.signal('SIGINT')
  t.equal(await ofAll.exited, 'code 0', 'interrupted, it ends quietly')
  const follower = machines.background('m0', 'logs', '-f', `${CART}.0`)
  await eventually(() => Promise.resolve(follower.lines.some((line) => line.includes('started'))), 'it follows')
  follower.signal('SIGINT')
  t.equal(await follower.exited, 'code 0', 'interrupted, it ends quietly')
  t.notMatch(follower.lines.join('\n'), /error/i, 'and without an error')
  const { stdout, stderr } = await machines.head('m0', 'get', 'services', '-o', 'json')
  t.match({ stdout, stderr }, { stdout: '[\n', stderr: '' }, 'a closed pipe is no error')
})

t.test('scale changes how many are wanted, and what does not exist is not found', async (t) => {
  t.match(
    await machines.run('m0', 'scale', 'shop.acme.cart', '2'),
    { code: 0, stdout: `${CART}: 2 instances wanted\n` },
    'a short name is enough, since the app has one service of that name',
  )
  await eventually(async () => (await running()).length === 3, 'one is gone')
  t.match(
    await machines.json('m0', 'scale', CART, '3'),
    { id: CART, replicas: 3 },
    'as JSON it says what is wanted now',
  )
  await eventually(async () => (await running()).length === 4, 'and is back')
  const rows = [
    {
      why: 'a service that does not exist',
      args: ['scale', 'shop.acme.nope.prod', '2'],
      code: 3,
      says: /service .* was not found/,
    },
    { why: 'more replicas than are allowed', args: ['scale', CART, '5000'], code: 2, says: /replicas/ },
    { why: 'an app that does not exist', args: ['delete', 'app', 'nope.acme'], code: 3, says: /app .* was not found/ },
    { why: 'a node without its cluster', args: ['delete', 'node', 'n1'], code: 2, says: /Did you mean edge\/n1\?/ },
    { why: 'a node that does not exist', args: ['delete', 'node', 'edge/n7'], code: 3, says: /node .* was not found/ },
  ]
  for (const { why, args, code, says } of rows)
    t.match(await machines.run('m0', ...args), { code, stderr: says }, `${why}: code ${code}`)
})

t.test('a port that another program holds on a VIP: check names it, with the remedy', async (t) => {
  const before = await machines.run('m1', 'check')
  t.match(before, { code: 0, stdout: /ok +control link: up/ }, `before, all is well: ${before.stdout}`)
  const { agent } = await machines.json<{ agent: StatusReport }>('m1', 'status')
  const [, second] = agent.prefix.split('.').map(Number)
  const vip = `127.${(second ?? 0) + 14}.200.1` // what 10.30.200.1 of the SLA is on this node
  await using taken = createServer().listen(8080, vip)
  const service = { ...cart(1), addresses: { rr_ip: '10.30.200.1' } }
  writeFileSync(machines.path('held.json'), JSON.stringify(sla([service], 'held')))
  t.match(await machines.run('m0', 'apply', '-f', machines.path('held.json')), { code: 0 }, 'the service is applied')
  writeFileSync(machines.path('clash.json'), JSON.stringify(sla([service], 'clash')))
  t.match(
    await machines.run('m0', 'apply', '-f', machines.path('clash.json')),
    { code: 4, stderr: /conflicts with what is already deployed\n.*addresses: 10\.30\.200\.1 for any\.rr: / },
    'an address that another service has is refused',
  )
  const held = 'held.acme.cart.prod.any.rr.local'
  await eventually(async () => (await machines.run('m1', 'resolve', held)).stdout.includes(vip), 'the name has its VIP')
  t.ok(taken.listening, 'the other program keeps its port')
  const { code, stdout } = await machines.run('m1', 'check')
  if (/servers may use every port/.test(stdout)) {
    t.equal(code, 0, 'where VIPs take no ports from the machine, the other program is in nobody’s way')
  } else {
    t.equal(code, 1, 'a port that is held makes check fail')
    t.match(
      stdout,
      new RegExp(`fail listener ${vip}:8080: .*\\n +\\S+`),
      'it says the address, the reason, and on the next line the remedy',
    )
    const checks = await machines.run('m1', 'check', '-o', 'json')
    t.equal(checks.code, 1, 'as JSON too')
    t.match(
      (JSON.parse(checks.stdout) as { ok: boolean }[]).filter(({ ok }) => !ok).at(-1),
      { check: `listener ${vip}:8080`, remedy: /./ },
      'as JSON it has the address and the remedy',
    )
  }
  t.match(
    await machines.json('m0', 'delete', 'app', 'held.acme'),
    { deleted: ['held.acme.cart.prod'] },
    'its app is deleted again',
  )
})

t.test('health and metrics of every role', async (t) => {
  const places = {
    root: says['rootHealth'],
    cluster: says['clusterHealth'],
    'agent n0': says['health'],
    'agent n1': agentHealth,
  }
  for (const [role, url] of Object.entries(places)) {
    const [health, ready, metrics] = await Promise.all(
      ['/healthz', '/readyz', '/metrics'].map((path) => fetch(`${url}${path}`)),
    )
    t.same(
      [health?.status, ready?.status, metrics?.status],
      [200, 200, 200],
      `${role}: health, readiness and metrics answer`,
    )
    t.match(await ready?.json(), { ready: true }, `${role}: it is ready`)
    const text = (await metrics?.text()) ?? ''
    t.match(text, /^nodejs_eventloop_lag_seconds/m, `${role}: the delay of the event loop is measured`)
    lint(t, text, role)
  }
})

t.test('a second hedgerow in the same place is told so, and disturbs nothing', async (t) => {
  const elsewhere = `127.0.0.1:${await freeBase(base + 40)}`
  const rows = [
    {
      args: ['m0', 'up', '--listen', elsewhere],
      says: /an agent is already running with this state directory[^]*Stop it/,
    },
    { args: ['m2', 'up', '--listen', `127.0.0.1:${base}`], says: /cannot listen on / },
    { args: ['m1', 'agent'], says: /an agent is already running with this state directory[^]*Stop it/ },
  ]
  const second = async ({ args: [machine = '', ...args], says }: (typeof rows)[number]) =>
    t.match(
      await machines.run(machine, ...args, '--log-level', 'silent'),
      { code: 1, stdout: '', stderr: says },
      `${args.join(' ')}: refused with the reason`,
    )
  await Promise.all(rows.map(second))
  t.match(await machines.json('m0', 'trace', `${NAME}:8080`), { ok: true }, 'the first goes on as before')
})

t.test('kill -9, and start again: services, addresses, instances are there; nothing is orphaned', async (t) => {
  const names = [0, 1, 2].map((n) => `${CART}.${n}.pinned.local`)
  const addresses = () =>
    Promise.all(names.map(async (name) => (await machines.json<ResolveReport>('m0', 'resolve', name)).ipv4))
  const pids = async () => {
    const url = (name: string) => `http://${name}:8080/`
    const { stdout } = await machines.run('m0', 'exec', '--', process.execPath, '-e', FETCH, ...names.map(url))
    return stdout
      .trim()
      .split('\n')
      .map((line) => Number(line.split(' ')[1]))
  }
  const before = { addresses: await addresses(), pids: await pids() }
  t.equal(before.pids.filter(isAlive).length, 3, 'three processes run before')
  process.kill(mesh.pid, 'SIGKILL') // the process alone: its instances are on their own now
  await mesh.exited
  t.equal((await machines.run('m0', 'status')).code, 5, 'while it is down, status says that nothing runs')

  mesh = (await machines.start('m0', ...UP)).program
  await eventually(async () => (await running()).length === 4, 'all instances run again')
  t.same(await addresses(), before.addresses, 'the names have the same addresses')
  const after = await pids()
  t.equal(after.filter(isAlive).length, 3, 'three processes run afterwards')
  t.same(
    before.pids.filter((pid) => isAlive(pid) && !after.includes(pid)),
    [],
    'no process of before runs on unknown to anybody',
  )

  t.match(
    await machines.run('m0', 'delete', 'service', 'shop.acme.stock.prod'),
    { code: 0, stdout: /deleted/ },
    'a service can be deleted',
  )
  t.match(
    await machines.run('m0', 'delete', 'app', 'shop.acme'),
    { code: 0, stdout: 'app shop.acme deleted\n' },
    'an app can be deleted',
  )
  await eventually(async () => (await machines.json<Row[]>('m0', 'get', 'instances')).length === 0, 'all have ended')
  await eventually(() => Promise.resolve(!after.some(isAlive)), 'and so have their processes')
  t.match(await machines.run('m0', 'delete', 'node', 'edge/n1'), { code: 0 }, 'a node can be deleted')
  await eventually(async () => (await machines.json<Row[]>('m0', 'get', 'nodes')).length === 1, 'the node is gone')
})

/** Prints what each address answers. */
const FETCH =
  '(async()=>{for(const u of process.argv.slice(1))console.log(await(await fetch(u)).text())})().catch(e=>{console.error(e);process.exit(1)})'

function cart(replicas: number): Record<string, unknown> {
  return { ...program('cart', replicas), cmd: [process.execPath, '-e', TEXT], drain_seconds: 0 }
}

function agentArgs(name: string, tokenFile: string): string[] {
  const offers = ['--memory-mb', '4000', '--vcpus', '8', '--upstream', '127.0.0.1:9']
  return ['agent', '--name', name, '--listen', '127.0.0.1:0', '--token-file', machines.path(tokenFile), ...offers]
}

function clusterArgs(tokenFile: string): string[] {
  const listen = ['--listen', '127.0.0.1:0', '--ops-listen', '127.0.0.1:0']
  return ['cluster', '--name', 'west', ...listen, '--token-file', machines.path(tokenFile)]
}

const BEGIN = 'hedgerow-join.'

function altered(token: string, change: object): string {
  const content = JSON.parse(Buffer.from(token.slice(BEGIN.length), 'base64url').toString()) as object
  return BEGIN + Buffer.from(JSON.stringify({ ...content, ...change })).toString('base64url')
}

/** One bit of the secret, which is the last thing in a token. */
function flipped(token: string): string {
  const bytes = Buffer.from(token.slice(BEGIN.length), 'base64url')
  const at = bytes.length - 8
  bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at)
  return BEGIN + bytes.toString('base64url')
}

/** A zombie has ended too: who adopted it may take its time. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}

/** Prometheus conventions: https://prometheus.io/docs/practices/naming/ */
function lint(t: Test, text: string, role: string): void {
  const families = [...text.matchAll(/^# HELP (hedgerow_\S+) (.*)\n# TYPE \S+ (\S+)$/gm)]
  t.ok(families.length >= 10, `${role} has its metrics`)
  const wrong: string[] = []
  for (const [, name = '', help = '', type] of families) {
    if (!/^[A-Z].*\.$/.test(help)) wrong.push(`${name}: the help is not a sentence: ${help}`)
    if (!/^hedgerow_[a-z]+(_[a-z]+)+$/.test(name)) wrong.push(`${name}: not hedgerow_<room>_<thing>`)
    if ((type === 'counter') !== name.endsWith('_total')) wrong.push(`${name}: ${type}, and its ending says otherwise`)
    if (type === 'histogram' && !/_(seconds|bytes)$/.test(name)) wrong.push(`${name}: a histogram without a base unit`)
    if (/_(ms|milliseconds|kb|mb|percent)(_|$)/.test(name)) wrong.push(`${name}: not a base unit`)
    const series = text.split('\n').filter((line) => line.startsWith(`${name}{`))
    if (type !== 'histogram' && series.length > 60) wrong.push(`${name}: ${series.length} series`)
  }
  const labels = [...text.matchAll(/^hedgerow_\S*?\{(.*)\}/gm)].flatMap(([, all = '']) => [
    ...all.matchAll(/([a-z_]+)="([^"]*)"/g),
  ])
  for (const [, label, value = ''] of labels) {
    if (label === 'service') continue // at the root, which shows only so many; at an agent, what it runs
    if (!/^[a-z0-9+._-]*$/i.test(value) || /\.acme|edge\/|127\./.test(value))
      wrong.push(`${label}="${value}": an id, not a word`)
  }
  t.same(wrong, [], `${role}: named by the conventions, labels from a few words`)
}
