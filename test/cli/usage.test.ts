import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { chmodSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer as createHttpServer } from 'node:http'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { parse } from 'yaml'
import { mintToken } from '../../src/core/identity/token.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import type { NetcheckReport } from '../../src/client/reports.ts'
import { freeBase } from '../../src/lab/system-tools.ts'
import { run } from '../../src/lab/program.ts'
import { FIRST_PORT, Machines } from './program.ts'
import { LAUNCHER } from '../support/launcher.ts'
import { noOtherUsers } from '../support/other-users.ts'

/** What can go wrong before anything runs: typed wrongly, configured wrongly, state that cannot be used. */

t.setTimeout(280_000) // a process for each command

t.test('what is typed wrongly is answered with what is right, code 2', async (t) => {
  await using machines = await Machines.make()
  const rows = [
    { args: ['gett'], says: /unknown command 'gett'[^]*Did you mean get/ },
    {
      args: ['get'],
      says: /missing required argument 'kind'\nUsage: hedgerow get \[options\] <kind> \[filter\]\nRun `hedgerow get --help`/,
    },
    { args: ['token', 'creat'], says: /Did you mean create\?[^]*`hedgerow token --help` for the list of commands/ },
    { args: ['get', 'nodez'], says: /unknown kind "nodez"\nDid you mean nodes\?/ },
    {
      args: ['get', 'pods'],
      says: /unknown kind "pods"\nUse one of: apps, services, instances, runs, nodes, clusters, relays, links, volumes\./,
    },
    { args: ['get', 'nodes', '--bogus'], says: /unknown option '--bogus'/ },
    { args: ['-o', 'yml', 'get', 'nodes'], says: /-o cannot be "yml"\nUse one of: table, wide, json, yaml\./ },
    { args: ['apply'], says: /required option '-f, --file <file>'/ },
    {
      args: ['apply', '-f', '/nowhere.yaml'],
      says: /cannot read \/nowhere.yaml: no such file or directory\nName a file/,
    },
    {
      args: ['scale', 'shop.acme.cart.prod', 'three'],
      says: /"three" is not a number of instances\nExpected a whole number/,
    },
    {
      args: ['rollback', 'shop.acme.cart.prod', '--to', 'two'],
      says: /--to cannot be "two"\nExpected the number of a revision/,
    },
    { args: ['delete', 'pod', 'x'], says: /unknown kind "pod"\n/ },
    { args: ['delete', 'node', 'n1'], says: /"n1" is not the name of a node\nExpected cluster\/node/ },
    { args: ['logs', 'shop.acme.cart.prod.0', '-n', 'all'], says: /--tail cannot be "all"\nExpected a whole number/ },
    { args: ['token'], says: /Usage: hedgerow token/ },
    {
      args: ['token', 'create', '--role', 'king'],
      says: /--role cannot be "king"\nUse one of: node, relay, cluster\./,
    },
    {
      args: ['token', 'create', '--ttl', '0'],
      says: /--ttl cannot be "0"\nExpected whole seconds, or a duration such as 30m/,
    },
    { args: ['up', '--listen', 'nonsense'], says: /"nonsense" is not host:port\nExpected host:port/ },
    { args: ['agent', '--paths', 'no-relay'], says: /agent\.paths: must be any, direct-only, relay-only/ },
    { args: ['agent', '--port-mapping', 'on'], says: /agent\.portMapping: must be one of auto, off/ },
    { args: ['agent', '--label', 'gpu'], says: /--label cannot be "gpu"\nExpected key=value\./ },
    { args: ['agent', '--token', 'X'], says: /a token is not given as an argument[^]*--token-file FILE/ },
    { args: ['cluster', '--token', 'X'], says: /a token is not given as an argument[^]*HEDGEROW_TOKEN/ },
    { args: ['agent', '--token-file', '/nowhere'], says: /cannot read \/nowhere: no such file/ },
    {
      args: ['apply', '-f', 'examples/shop/shop.yaml', '--app', 'shop'],
      says: /--app cannot be "shop"\nExpected NAME\.NAMESPACE/,
    },
  ]
  const results = await Promise.all(rows.map(async (row) => ({ ...row, ...(await machines.run('none', ...row.args)) })))
  for (const { args, says, code, stdout, stderr } of results) {
    t.same({ code, stdout }, { code: 2, stdout: '' }, `${args.join(' ')}: code 2, nothing on stdout`)
    t.match(stderr, says, `${args.join(' ')}: says it`)
    t.notMatch(stderr, /^\s+at /m, 'no stack trace')
  }
  t.same(readdirSync(machines.dir), [], 'and nothing was written')
})

t.test('help, and a version', async (t) => {
  await using machines = await Machines.make()
  const alone = await machines.run('none', '--help')
  t.match(alone, { code: 0, stdout: /Usage: hedgerow/ })
  const commands = [...alone.stdout.matchAll(/^ {2}([a-z][a-z-]*) /gm)].map(([, name = '']) => name)
  const known =
    'up root cluster relay agent restart token secret ca login logout whoami user api-token org audit apply get scale history rollback migrate cordon uncordon drain delete resolve trace peers flows gateway logs events explain status top dashboard check netcheck backup restore bug-report exec with-proxy lab completion upgrade version help'
  t.same(commands, known.split(' '))
  t.same(
    alone.stdout.split('\n').filter((line) => line.length > 80),
    [],
    'it fits a terminal of 80 columns',
  )
  for (const asked of ['--version', 'version'])
    t.match(await machines.run('none', asked), { code: 0, stdout: /^\d+\.\d+\.\d+\n$/ }, asked)
  t.match(await machines.run('none', 'get', '--help'), { code: 0, stdout: /<kind>[^]*\[filter\][^]*--output/ })
})

t.test('colour and characters beyond ASCII are for terminals that have them', async (t) => {
  await using machines = await Machines.make()
  const onTerminal = async (env: Record<string, string>) => {
    const command = [process.execPath, LAUNCHER, '--state', machines.path('none')].join(' ')
    const argv = ['script', '-qec', `${command} -o yml version; ${command} up --help`, '/dev/null']
    const usual = { TERM: 'xterm', LANG: 'C.UTF-8', LC_ALL: '' }
    const none = { NO_COLOR: undefined, FORCE_COLOR: undefined, NODE_DISABLE_COLORS: undefined, CI: undefined }
    return (await run(argv, { env: { ...none, ...usual, ...env }, timeoutMs: 30_000 })).stdout
  }
  const [usual, noColor, ascii] = await Promise.all([
    onTerminal({}),
    onTerminal({ NO_COLOR: '1' }),
    onTerminal({ LANG: 'C', TERM: 'dumb' }),
  ])
  t.ok(usual.startsWith('\u001b[31merror:'))
  t.match(usual, /error:[^]*the node’s name/)
  t.match(noColor, /^error:[^]*the node’s name/, 'NO_COLOR')
  t.match(ascii, /^error:[^]*the node's name/, 'a terminal without colour, a locale without UTF-8')
})

t.test('where nothing runs, commands say so, code 5', async (t) => {
  await using machines = await Machines.make()
  const rows = [['peers'], ['check'], ['exec', '--', 'true'], ['trace', 'a.b:1']]
  const results = await Promise.all(rows.map(async (args) => ({ args, ...(await machines.run('none', ...args)) })))
  for (const { args, code, stderr } of results) {
    t.equal(code, 5, args.join(' '))
    t.match(
      stderr,
      /(?:cannot reach the agent at \/.*agent\.sock|nothing runs with the state directory \/.*)\n.*--state/,
      'and what to look at',
    )
  }
  const { code, stderr } = await machines.run('none', 'peers', '-o', 'json')
  t.equal(code, 5)
  t.match(
    JSON.parse(stderr),
    { error: 'NOT_RUNNING', what: 'agent', remedy: /./ },
    'with -o json, the error is JSON too',
  )
  const status = await machines.run('none', 'status')
  t.match(status, { code: 5, stderr: /nothing runs with the state directory \/.*\nStart with `hedgerow up`/ })
  t.notMatch(status.stderr, /hedgerow status/, 'status does not advise status')
})

t.test('no credential, one that may not be read, and a root that is away are three different errors', async (t) => {
  await using machines = await Machines.make()
  t.match(await machines.run('none', 'get', 'nodes'), {
    code: 4,
    stderr: /no admin credential here: \/.*root\/admin\.json does not exist\n.*--credential/,
  })
  mkdirSync(machines.path('there/root'), { recursive: true })
  const file = machines.path('there/root/admin.json')
  writeFileSync(file, 'not JSON')
  t.match(await machines.run('there', 'get', 'nodes'), { code: 4, stderr: /the file is not an admin credential/ })
  writeFileSync(
    file,
    JSON.stringify({ url: `https://127.0.0.1:${await freeBase(FIRST_PORT + 3_000)}`, ca: '', token: 'x' }),
  )
  t.match(await machines.run('there', 'get', 'nodes'), {
    code: 5,
    stderr: /cannot reach the root at https:.*: connection refused\nIs it running/,
  })
  await t.test('one that may not be read', { skip: noOtherUsers }, async (t) => {
    chmodSync(machines.dir, 0o755)
    chmodSync(machines.path('there'), 0o755)
    chmodSync(machines.path('there/root'), 0o755)
    chmodSync(file, 0o600)
    const argv = ['setpriv', '--reuid=65534', '--clear-groups', process.execPath, LAUNCHER]
    const { code, stderr } = await run([...argv, '--state', machines.path('there'), 'get', 'nodes'], {
      timeoutMs: 30_000,
    })
    t.equal(code, 4)
    t.match(stderr, /permission denied: \/.*admin\.json\nRun the command as the user/)
    chmodSync(machines.path('there'), 0o700)
    const status = await run([...argv, '--state', machines.path('there'), 'status'], { timeoutMs: 30_000 })
    t.equal(status.code, 4)
    t.match(status.stderr, /permission denied: \/.*there\/root\nRun the command as the user/, 'not: nothing runs')
  })
})

t.test('with -o json a usage error is JSON too, wherever the option stands', async (t) => {
  await using machines = await Machines.make()
  const rows = [
    ['gett', '-o', 'json'],
    ['--output', 'json', 'get'],
    ['get', 'nodes', '--bogus', '--output=json'],
    ['-ojson', 'scale', 'a', 'three'],
    ['-o', 'json', 'token'],
  ]
  const results = await Promise.all(rows.map(async (args) => ({ args, ...(await machines.run('none', ...args)) })))
  for (const { args, code, stdout, stderr } of results) {
    t.same({ code, stdout }, { code: 2, stdout: '' }, args.join(' '))
    t.match(JSON.parse(stderr), { error: 'USAGE', message: /./, remedy: /./ })
  }
  const { stderr } = await machines.run('none', 'get', '-o', 'yaml')
  t.match(parse(stderr), { error: 'USAGE', remedy: /Usage: hedgerow get [^]*hedgerow get --help/ }, 'as YAML too')
})

t.test('a configuration file: every fault at once, each with its path', async (t) => {
  await using machines = await Machines.make()
  const file = machines.path('faulty.yaml')
  writeFileSync(file, 'agent: { resolver: { prot: 53 }, maxFlows: -3, mode: both, prefix: 10.0.0.0/8 }\nrot: {}\n')
  const { code, stderr } = await machines.run('none', 'up', '--config', file, '--memory-mb', 'lots', '--name', 'A B')
  t.equal(code, 2)
  const faults = [
    /unknown key "rot"; did you mean "root"\?/,
    /unknown key "prot" in agent\.resolver; did you mean "port"\?/,
    /agent\.maxFlows: must be at least 1/,
    /agent\.mode: must be one of loopback, host/,
    /agent\.prefix: must be auto, or an IPv4 range/,
    /agent\.memoryMb: must be a number/,
    /agent\.name: must be a name/,
  ]
  for (const fault of faults) t.match(stderr, fault)

  writeFileSync(file, 'root:\n  listen: x\n bad: 1\n')
  t.match(await machines.run('none', 'up', '--config', file), {
    code: 2,
    stderr: /invalid configuration in \/.*faulty\.yaml, line 3: /,
  })
  writeFileSync(file, '- root\n')
  t.match(await machines.run('none', 'up', '--config', file), { code: 2, stderr: /the file is not a mapping/ })
  t.match(await machines.run('none', 'up', '--config', '/nowhere'), { code: 2, stderr: /\/nowhere/ })
})

t.test('a state directory that cannot be used is left as it is', async (t) => {
  await using machines = await Machines.make()
  writeFileSync(machines.path('file'), 'a regular file')
  const below = ['up', 'root', 'cluster', 'agent'].map(async (role) => ({
    role,
    ...(await machines.run('file/below', role, '--log-level', 'silent')),
  }))
  for (const { role, code, stderr } of await Promise.all(below)) {
    t.equal(code, 1, `${role} below a regular file`)
    t.match(stderr, /the state cannot be used: \/.*file\/below[^]*write/)
  }

  const base = await freeBase(FIRST_PORT + 2_000)
  const root = ['root', '--listen', `127.0.0.1:${base}`, '--ops-listen', `127.0.0.1:${base + 10}`]
  await (await machines.start('mesh', ...root)).program.stop()
  const rows = [
    { file: 'root/root.db', role: root },
    { file: 'root/authority/authority.pem', role: root },
    { file: 'agent/identity/identity.pem', role: ['agent'] },
    { file: 'cluster/cluster.db', role: ['cluster', '--listen', '127.0.0.1:0', '--ops-listen', '127.0.0.1:0'] },
  ]
  for (const { file, role } of rows) {
    const path = machines.path('mesh', file)
    mkdirSync(join(path, '..'), { recursive: true })
    writeFileSync(path, 'not what it was '.repeat(400))
    const before = digest(path)
    const { code, stderr } = await machines.run('mesh', ...role, '--log-level', 'silent')
    t.equal(code, 1, `${file} is damaged: code 1`)
    t.match(stderr, /saved state is damaged/)
    t.ok(stderr.includes(path), 'the file is named')
    t.match(stderr, /nothing was overwritten/i)
    t.equal(digest(path), before, 'and is the same, byte for byte')
    if (file === 'root/root.db')
      for (const name of ['root.db', 'root.db-wal', 'root.db-shm'])
        rmSync(machines.path('mesh/root', name), { force: true })
  }
})

t.test('a port that is taken is named', async (t) => {
  await using machines = await Machines.make()
  const base = await freeBase(FIRST_PORT + 2_000)
  await using taken = createServer().listen(base, '127.0.0.1')
  t.match(await machines.run('m', 'up', '--listen', `127.0.0.1:${base}`, '--log-level', 'silent'), {
    code: 1,
    stderr: new RegExp(`cannot listen on 127.0.0.1:${base}: address already in use\n.*--listen`),
  })
  t.ok(taken.listening, 'whoever has the port keeps it')
})

t.test('an agent that waits for a cluster that says nothing ends when it is told to', async (t) => {
  await using machines = await Machines.make()
  const asked = Promise.withResolvers<void>()
  const silent = createServer(() => asked.resolve()).listen(0, '127.0.0.1')
  t.teardown(() => silent.close())
  await once(silent, 'listening')
  const url = `https://127.0.0.1:${(silent.address() as AddressInfo).port}`
  const minted = mintToken({ role: 'node', url, fingerprint: '0'.repeat(64), ttlSeconds: 60, clock: systemClock })
  writeFileSync(machines.path('token'), minted.token, { mode: 0o600 })
  const agent = machines.background('m', 'agent', '--token-file', machines.path('token'))
  await asked.promise
  agent.signal('SIGTERM')
  t.equal(await agent.exited, 'code 130')
})

function digest(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex')
}

t.test('netcheck says what the machine knows by itself where no agent runs', async (t) => {
  await using machines = await Machines.make()
  const report = await machines.json<NetcheckReport>('none', 'netcheck')
  t.ok(Array.isArray(report.local.addresses), 'the addresses of the machine are listed')
  t.match(report.local.settings, { 'net/ipv4/tcp_congestion_control': String })
  t.match(
    report.findings.find(({ check }) => check === 'agent'),
    { ok: true, finding: /not running/ },
  )
  const { code, stdout } = await machines.run('none', 'netcheck')
  t.equal(code, report.findings.every(({ ok }) => ok) ? 0 : 1)
  t.match(stdout, /IPv4: [^]*agent: not running/)
  const tune = await machines.run('none', 'netcheck', '--tune')
  t.equal(tune.code, 0)
  t.match(
    tune.stdout,
    /^(?:#.*\n|(?:sysctl -w|ip -[46] route change|modprobe) .*\n)+$/,
    'what would tune it, as a script',
  )
})

t.test('peers names the relay of a relayed path, and prints nothing that a terminal would obey', async (t) => {
  await using machines = await Machines.make()
  const one = { rttMs: 4.2, carriers: 1, streams: 0, bytesIn: 0, bytesOut: 0, datagrams: 'frames' }
  const peers = [
    { ...one, node: 'edge/far', path: 'relayed', relay: 'wss://relay.example.org:7471', carrierPaths: ['relayed'] },
    { ...one, node: '\u001b[31mRED\u001b]0;PWNED\u0007', path: 'direct', carrierPaths: ['direct'] },
  ]
  mkdirSync(machines.path('m/agent'), { recursive: true })
  const agent = createHttpServer((_request, response) => response.end(JSON.stringify(peers)))
  t.teardown(() => agent.close())
  await once(agent.listen(machines.path('m/agent/agent.sock')), 'listening')
  const { code, stdout } = await machines.run('m', 'peers')
  t.equal(code, 0)
  t.match(stdout, /^edge\/far +relayed by relay\.example\.org:7471 +4\.20 /m)
  t.notMatch(stdout.replaceAll('\n', ''), /\p{Cc}/u)
})

t.test('an empty state: each role says how to get a token, and how to hand it over', async (t) => {
  await using machines = await Machines.make()
  const rows = [
    { role: 'agent', says: /`hedgerow token create`.*--token-file/ },
    { role: 'cluster', says: /`hedgerow token create --role cluster`.*--token-file/ },
    { role: 'relay', says: /`hedgerow token create --role relay`.*--token-file/ },
  ]
  const results = await Promise.all(
    rows.map(async (row) => ({ ...row, ...(await machines.run(row.role, row.role, '--log-level', 'silent')) })),
  )
  for (const { role, says, code, stderr } of results) {
    t.equal(code, 4, role)
    t.match(stderr, says)
    t.notMatch(stderr, /Hedgerow/, 'a command keeps its case')
  }
})
