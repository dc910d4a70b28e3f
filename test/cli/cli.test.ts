import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import t, { type Test } from 'tap'
import type { FlowReport, ResolveReport, StatusReport, TraceReport } from '../../src/client/reports.ts'
import type { Program } from '../../src/lab/program.ts'
import { freeBase } from '../../src/lab/system-tools.ts'
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

t.setTimeout(150_000)
const machines = await Machines.make()
t.teardown(() => machines[Symbol.asyncDispose]())
const base = await freeBase(FIRST_PORT)
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
  t.ok(minted.expiresAt > Date.now() + 3_000_000, 'good for an hour')
  firstToken = minted.token
  writeFileSync(machines.path('token'), `${firstToken}\n`)
  const agent = await machines.start('m1', ...agentArgs('n1', 'token'))
  agentHealth = agent.says['health'] ?? ''
  t.match(agent.says, { role: 'agent', node: 'edge/n1', health: /^http/ })
  await eventually(async () => (await machines.json<Row[]>('m0', 'get', 'nodes')).length === 2, 'two nodes')
  t.match(await machines.json('m0', 'get', 'nodes'), [
    { id: 'edge/n0', condition: 'alive', runtimes: ['process', 'external'] },
    { id: 'edge/n1', condition: 'alive' },
  ])
  const table = await machines.run('m0', 'get', 'nodes', 'edge/n1')
  t.match(table, { code: 0, stdout: /^NODE +CONDITION .*\nedge\/n1 +alive .*\n$/ }, 'a table, filtered')
})

t.test('tokens that do not count', async (t) => {
  const short = await machines.json<{ token: string; expiresAt: number }>('m0', 'token', 'create', '--ttl', '1s')
  const fresh = (await machines.json<{ token: string }>('m0', 'token', 'create')).token
  const other = await freeBase(base + 20)
  await machines.start('other', 'root', '--listen', `127.0.0.1:${other}`, '--ops-listen', `127.0.0.1:${other + 10}`)
  t.match(await machines.json('other', 'status'), { mesh: { clusters: [] } }, 'status where only a root runs')
  const foreign = await machines.json<{ token: string }>('other', 'token', 'create', '--role', 'cluster')
  t.match(await machines.run('other', 'token', 'create'), { code: 2, stderr: /no cluster has joined yet/ })
  await eventually(() => Promise.resolve(Date.now() > short.expiresAt), 'the short one has expired')

  const ourRoot = (await machines.json<{ mesh: { url: string } }>('m0', 'status')).mesh.url
  const rows = [
    { why: 'reused', token: firstToken, says: /refused: it is unknown or was already used\n[^]*hedgerow token create/ },
    { why: 'expired', token: short.token, says: /refused: it has expired [^]*hedgerow token create/ },
    {
      why: 'forged: another secret',
      token: altered(fresh, { secret: 'A'.repeat(43) }),
      says: /refused: it is unknown/,
    },
    { why: 'forged: another id', token: altered(fresh, { id: '0'.repeat(16) }), says: /refused: it is unknown/ },
    { why: 'forged: a byte flipped', token: flipped(fresh), says: /not a valid join token|refused/ },
    { why: 'cut short', token: fresh.slice(0, 60), says: /not a valid join token: it was cut short or altered/ },
    { why: 'of another mesh', token: altered(foreign.token, { url: ourRoot }), says: /error: /, role: 'cluster' },
    { why: 'for another role', token: foreign.token, says: /refused: this is a token for a cluster/ },
  ]
  const join = async ({ token, role = 'agent' }: (typeof rows)[number], at: number) => {
    const file = `bad-token-${at}`
    writeFileSync(machines.path(file), token)
    const args = role === 'agent' ? agentArgs('n9', file) : clusterArgs(file)
    return machines.run(`bad${at}`, ...args, '--log-level', 'silent')
  }
  const results = await Promise.all(rows.map(join))
  for (const [at, { why, token, says }] of rows.entries()) {
    const { code = 0, stdout = '', stderr = '' } = results[at] ?? {}
    t.equal(code, 4, `${why}: code 4 (${stderr.trim()})`)
    t.equal(stdout, '')
    t.match(stderr, says, `${why}: says so`)
    t.notOk(stderr.includes(token), 'the token itself is not repeated')
  }
  const left = rows.filter((_row, at) => existsSync(machines.path(`bad${at}/agent/identity/identity.pem`)))
  t.same(left, [], 'none of them left an identity')
  t.equal((await machines.json<Row[]>('m0', 'get', 'nodes')).length, 2, 'nobody has joined')
})

t.test('apply: what differs, warnings, and every fault at once', async (t) => {
  const file = machines.path('shop.json')
  writeFileSync(file, JSON.stringify(sla([cart(3), { ...cart(1), microservice_name: 'stock', cmdd: ['x'] }])))
  const { code, stdout, stderr } = await machines.run('m0', 'apply', '-f', file)
  t.match({ code, stdout }, { code: 0, stdout: /shop\.acme\.cart\.prod +created\nshop\.acme\.stock\.prod +created/ })
  t.match(stderr, /warning: .*microservices\[1\]\.cmdd: unknown key, ignored – did you mean cmd\?/)
  const again = await machines.json('m0', 'apply', '-f', file)
  t.match(again, {
    services: [{ id: CART, change: 'unchanged' }, { change: 'unchanged' }],
    warnings: [{ path: /cmdd/ }],
  })
  await eventually(async () => (await running()).length === 4, 'four instances run')

  const faulty = sla(
    [
      { ...cart(1), microservice_name: 'new' },
      { ...cart(1), cmd: 7, replicas: 'many', port: '99999' },
    ],
    'fresh',
  )
  writeFileSync(file, JSON.stringify(faulty))
  const refused = await machines.run('m0', 'apply', '-f', file)
  t.equal(refused.code, 2)
  for (const path of ['cmd', 'replicas', 'port'])
    t.match(refused.stderr, new RegExp(`applications\\[0\\]\\.microservices\\[1\\]\\.${path}: `))
  t.match(JSON.parse((await machines.run('m0', '-o', 'json', 'apply', '-f', file)).stderr), {
    error: 'SLA_INVALID',
    faults: [{ path: /microservices\[1\]/, problem: /./ }, {}, {}],
  })
  t.match(await machines.json('m0', 'get', 'apps'), [{ id: 'shop.acme', services: 2 }], 'nothing of it was applied')

  writeFileSync(file, JSON.stringify({ microservices: [{ ...cart(0), microservice_name: 'gift' }] }))
  t.match(await machines.run('m0', 'apply', '-f', file), {
    code: 2,
    stderr: /application_name: is missing[^]*\nName the app with --app NAME\.NAMESPACE\./,
  })
  t.match(await machines.run('m0', 'apply', '--app', 'shop.acme', '-f', file), {
    code: 0,
    stdout: /shop\.acme\.gift\.prod +created/,
  })
  t.match(await machines.run('m0', 'delete', 'service', 'shop.acme.gift.prod'), { code: 0 })

  writeFileSync(file, JSON.stringify(sla([{ ...cart(2), microservice_name: 'huge', memory: 900_000 }], 'huge')))
  const huge = await machines.run('m0', 'apply', '-f', file)
  t.match(huge, {
    code: 0,
    stdout: /huge\.acme\.huge\.prod +created/,
    stderr: /Not placed for now.*\n {2}huge\.acme\.huge\.prod\.\d and 1 more: .*memory/,
  })
  t.match(await machines.run('m0', 'delete', 'app', 'huge.acme'), { code: 0 })

  writeFileSync(machines.path('bad.yaml'), 'applications:\n  - application_name: x\n   bad: 1\n')
  t.match(await machines.run('m0', 'apply', '-f', machines.path('bad.yaml')), {
    code: 2,
    stderr: /bad\.yaml:3:1: is not YAML/,
  })
  writeFileSync(file, '{ "applications": [ }')
  t.match(await machines.run('m0', 'apply', '-f', file), { code: 2, stderr: /shop\.json:1:22: is not JSON/ })
  const clash = (name: string) => ({ ...cart(1), microservice_name: name, addresses: { rr_ip: '10.30.200.9' } })
  writeFileSync(file, JSON.stringify(sla([clash('a'), clash('b')], 'clash')))
  t.match(await machines.run('m0', 'apply', '-f', file), {
    code: 2,
    stderr: /invalid SLA document\n.*10\.30\.200\.9 is already requested at/,
  })
})

t.test('get, status, resolve, trace, exec, flows, peers: tables and JSON', async (t) => {
  t.match(await machines.json('m0', 'get', 'services'), [
    { id: CART, replicas: 3, ports: [{ port: 8080, protocol: 'tcp' }] },
    {},
  ])
  t.match(await machines.json('m0', 'get', 'instance', CART), { length: 3 }, 'kinds in the singular too')
  t.match(await machines.json('m0', 'get', 'clusters'), [{ name: 'edge', condition: 'alive', nodes: 2 }])
  t.match(await machines.json('m0', 'get', 'relays'), [
    { id: 'edge', kind: 'cluster', condition: 'alive', url: /^wss:/, nodes: Number, rttMs: Number },
  ])
  t.match(
    (await machines.run('m0', 'get', 'relays')).stdout,
    /^RELAY +KIND +CONDITION +NODES +RTT MS .*\nedge +cluster +alive/,
  )
  t.match((await machines.run('m0', 'get', 'instances', CART)).stdout.match(/running/g), { length: 3 })
  const nodes = new Set((await running()).map(({ node }) => node))
  t.same(nodes, new Set(['edge/n0', 'edge/n1']), 'spread over both')

  const status = await machines.json<{ agent: StatusReport; mesh: object }>('m0', 'status')
  t.match(status, { agent: { node: 'edge/n0', controlLink: 'up' }, mesh: { apps: 1, instances: { running: 4 } } })
  t.match(await machines.run('m1', 'status'), { code: 0, stdout: /^AGENT[^]*edge\/n1/ }, 'where only an agent runs')

  const resolved = await machines.json<ResolveReport>('m0', 'resolve', NAME)
  t.match(resolved, { canonical: NAME, service: CART, choice: 'any.rr', ipv4: /^127\./, order: { length: 3 } })
  t.match(await machines.run('m0', 'resolve', NAME), {
    code: 0,
    stdout: new RegExp(`^${NAME}  ${resolved.ipv4}\\nports 8080/tcp`),
  })

  const trace = await machines.json<TraceReport>('m0', 'trace', `${NAME}:8080`)
  t.match(trace, { ok: true, instance: new RegExp(`^${CART}`), path: /local|direct/ })
  t.same(
    trace.steps.map(({ step }) => step),
    ['name', 'vip', 'permission', 'order', 'try', 'connected'],
  )
  t.match(await machines.run('m0', 'trace', `${NAME}:9`), { code: 1, stdout: /failed +.*does not serve port 9/ })
  t.match(await machines.run('m0', 'trace', NAME), { code: 2, stderr: /NAME:PORT/ })
  t.match(await machines.run('m0', 'trace', `${CART}.any.closet.local:8080`), {
    code: 2,
    stderr: /no such policy; did you mean closest/,
  })
  t.match(await machines.run('m0', 'resolve', `${CART}.9.pinned.local`), {
    code: 3,
    stderr: /has no instance 9/,
  })
  t.match(await machines.run('m0', 'trace', 'shop.acme.nope.prod.any.rr.local:80'), {
    code: 3,
    stderr: /has no service nope/,
  })

  const fetched = await machines.run(
    'm0',
    'exec',
    '--',
    process.execPath,
    '-e',
    FETCH,
    `http://${CART}.1.pinned.local:8080/`,
  )
  t.match(fetched, { code: 0, stdout: new RegExp(`^${CART}.1 \\d+`) }, `exec reaches a name (${fetched.stderr})`)
  t.match(await machines.run('m0', 'exec', 'sh', '-c', 'exit 7'), { code: 7 })
  t.match(await machines.run('m0', 'exec', '--', 'sh', '-c', 'kill -9 $$'), { code: 137 })
  t.match(await machines.run('m0', 'exec', '--', 'no-such-program'), {
    code: 127,
    stderr: 'no-such-program: command not found\n',
  })

  for (const [signal, code] of [
    ['SIGHUP', 129],
    ['SIGTERM', 143],
    ['SIGUSR2', 140],
  ] as const) {
    const program = machines.background('m0', 'exec', '--', 'sh', '-c', 'echo $$; exec sleep 999')
    await eventually(() => Promise.resolve(program.lines.length > 0), 'it runs')
    process.kill(program.pid, signal) // exec alone, as a supervisor does
    t.equal(await program.exited, `code ${code}`, `${signal} is passed on`)
    t.notOk(isAlive(Number(program.lines[0])), 'and leaves no orphan')
  }

  const flows = await machines.json<FlowReport[]>('m0', 'flows', '--recent')
  t.ok(
    flows.some(
      ({ caller, name, ended }) =>
        caller === 'edge/n0' && name === `${CART}.1.pinned.local:8080` && ended !== undefined,
    ),
  )
  t.match(await machines.run('m0', 'flows', '--recent'), { code: 0, stdout: /^ID +CALLER[^]*edge\/n0/ })
  t.match(await machines.json('m0', 'peers'), [{ node: 'edge/n1', path: 'direct' }])
})

t.test('logs, to the end and as they come', async (t) => {
  t.match(await machines.run('m0', 'logs', `${CART}.0`), { code: 0, stdout: /started, process \d+/ })
  const [line = ''] = (await machines.run('m0', 'logs', `${CART}.0`, '-o', 'json')).stdout.split('\n')
  t.match(JSON.parse(line), { instance: `${CART}.0`, time: /^\d{4}-/, text: /./ })
  t.match(await machines.run('m0', 'logs', `${CART}.77`), { code: 3, stderr: /instance .* was not found/ })
  t.match(await machines.run('m0', 'logs', CART), {
    code: 3,
    stderr: /that is a service with 3 instances\nChoose one of: shop\.acme\.cart\.prod\.0, /,
  })
  const follower = machines.background('m0', 'logs', '-f', `${CART}.0`)
  await eventually(() => Promise.resolve(follower.lines.some((line) => line.includes('started'))), 'it follows')
  follower.signal('SIGINT')
  t.equal(await follower.exited, 'code 0', 'interrupted, it ends quietly')
  t.notMatch(follower.lines.join('\n'), /error/i)
  const { stdout, stderr } = await machines.head('m0', 'get', 'services', '-o', 'json')
  t.match({ stdout, stderr }, { stdout: '[\n', stderr: '' }, 'a closed pipe is no error')
})

t.test('scale, and what there is not', async (t) => {
  t.match(
    await machines.run('m0', 'scale', 'shop.acme.cart', '2'),
    { code: 0, stdout: `${CART}: 2 instances wanted\n` },
    'a short name, since the app has one service of that name',
  )
  await eventually(async () => (await running()).length === 3, 'one is gone')
  t.match(await machines.json('m0', 'scale', CART, '3'), { id: CART, replicas: 3 })
  await eventually(async () => (await running()).length === 4, 'and is back')
  t.match(await machines.run('m0', 'scale', 'shop.acme.nope.prod', '2'), {
    code: 3,
    stderr: /service .* was not found/,
  })
  t.match(await machines.run('m0', 'scale', CART, '5000'), { code: 2, stderr: /replicas/ })
  t.match(await machines.run('m0', 'delete', 'app', 'nope.acme'), { code: 3, stderr: /app .* was not found/ })
  t.match(await machines.run('m0', 'delete', 'node', 'edge/n7'), { code: 3, stderr: /node .* was not found/ })
})

t.test('a port that another program holds on a VIP: check names it, with the remedy', async (t) => {
  t.match(await machines.run('m1', 'check'), { code: 0, stdout: /ok +control link: up/ })
  const { agent } = await machines.json<{ agent: StatusReport }>('m1', 'status')
  const [, second] = agent.prefix.split('.').map(Number)
  const vip = `127.${(second ?? 0) + 14}.200.1` // what 10.30.200.1 of the SLA is on this node
  await using taken = createServer().listen(8080, vip)
  const service = { ...cart(1), addresses: { rr_ip: '10.30.200.1' } }
  writeFileSync(machines.path('held.json'), JSON.stringify(sla([service], 'held')))
  t.match(await machines.run('m0', 'apply', '-f', machines.path('held.json')), { code: 0 })
  writeFileSync(machines.path('clash.json'), JSON.stringify(sla([service], 'clash')))
  t.match(
    await machines.run('m0', 'apply', '-f', machines.path('clash.json')),
    { code: 4, stderr: /conflicts with what is already deployed\n.*addresses: 10\.30\.200\.1 for any\.rr: / },
    'an address that another service has',
  )
  const held = 'held.acme.cart.prod.any.rr.local'
  await eventually(async () => (await machines.run('m1', 'resolve', held)).stdout.includes(vip), 'the name has its VIP')
  t.ok(taken.listening)
  const { code, stdout } = await machines.run('m1', 'check')
  if (/servers may use every port/.test(stdout)) {
    t.equal(code, 0, 'where VIPs take no ports from the machine, the other program is in nobody’s way')
  } else {
    t.equal(code, 1)
    t.match(
      stdout,
      new RegExp(`fail listener ${vip}:8080: .*\\n +\\S+`),
      'the address, the reason, and on the next line the remedy',
    )
    const checks = await machines.run('m1', 'check', '-o', 'json')
    t.match(checks.code, 1)
    t.match((JSON.parse(checks.stdout) as { ok: boolean }[]).filter(({ ok }) => !ok).at(-1), {
      check: `listener ${vip}:8080`,
      remedy: /./,
    })
  }
  t.match(await machines.json('m0', 'delete', 'app', 'held.acme'), { deleted: ['held.acme.cart.prod'] })
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
    t.same([health?.status, ready?.status, metrics?.status], [200, 200, 200], role)
    t.match(await ready?.json(), { ready: true })
    const text = (await metrics?.text()) ?? ''
    t.match(text, /^nodejs_eventloop_lag_seconds/m, 'with the delay of the event loop')
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
      args.join(' '),
    )
  await Promise.all(rows.map(second))
  t.match(await machines.json('m0', 'trace', `${NAME}:8080`), { ok: true })
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
  t.equal(before.pids.filter(isAlive).length, 3)
  process.kill(mesh.pid, 'SIGKILL') // the process alone: its instances are on their own now
  await mesh.exited
  t.equal((await machines.run('m0', 'status')).code, 5)

  mesh = (await machines.start('m0', ...UP)).program
  await eventually(async () => (await running()).length === 4, 'all instances run again')
  t.same(await addresses(), before.addresses, 'the same addresses')
  const after = await pids()
  t.equal(after.filter(isAlive).length, 3)
  t.same(
    before.pids.filter((pid) => isAlive(pid) && !after.includes(pid)),
    [],
    'no process of before that nobody knows',
  )

  t.match(await machines.run('m0', 'delete', 'service', 'shop.acme.stock.prod'), { code: 0, stdout: /deleted/ })
  t.match(await machines.run('m0', 'delete', 'app', 'shop.acme'), { code: 0, stdout: 'app shop.acme deleted\n' })
  await eventually(async () => (await machines.json<Row[]>('m0', 'get', 'instances')).length === 0, 'all have ended')
  await eventually(() => Promise.resolve(!after.some(isAlive)), 'and so have their processes')
  t.match(await machines.run('m0', 'delete', 'node', 'edge/n1'), { code: 0 })
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
  t.ok(families.length > 20, `${role} has its metrics`)
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
    if (!/^[a-z0-9+._-]*$/i.test(value) || /\.acme|edge\/|127\./.test(value))
      wrong.push(`${label}="${value}": an id, not a word`)
  }
  t.same(wrong, [], `${role}: named by the conventions, labels from a few words`)
}
