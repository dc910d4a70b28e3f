import { until } from '../support/until.ts'
import { spawn } from 'node:child_process'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Test } from 'tap'
import { docker } from '../../src/lab/docker/engine.ts'
import type { Host } from '../../src/lab/host.ts'
import { lab, type Lab, type LabSpec } from '../../src/lab/lab.ts'
import { sweep } from '../../src/lab/namespace.ts'
import type { NatKind } from '../../src/lab/nat.ts'
import { text, type Program } from '../../src/lab/program.ts'
import type { Backend } from '../../src/lab/spec.ts'
import '../support/no-orphans.ts'

/** What every lab does, whatever its hosts are. */
export async function labContract(backend: Backend, t: Test): Promise<void> {
  const bench: Bench = { backend, build: (spec) => lab({ ...spec, backend }) }
  for (const [promise, check] of Object.entries(PROMISES)) await t.test(promise, (t) => check(t, bench))
}

interface Bench {
  backend: Backend
  build: (spec: LabSpec) => Promise<Lab>
}

const PROMISES: Readonly<Record<string, (t: Test, bench: Bench) => Promise<void>>> = {
  'two sites with the same prefix cannot dial each other, both reach the public host': sitesApart,
  'a host or a site whose link is cut is alone until it is healed': cutLinks,
  'a command on a host gives its output, its code, and ends in time': programs,
  'a program is stopped or killed with its children': programsEnd,
  'a host that loses its power is silent, and comes back with nothing running': powerLoss,
  'each NAT kind maps and filters as its name says': natKinds,
  'carrier-grade NAT hides two routers, and what gets out of a site is what its egress says': edges,
  'a site has IPv4, IPv6 or both, as it says': families,
  'hosts behind one NAT meet by its outer address only with hairpin': hairpin,
  'a link changes while it runs': changingLink,
  'nothing is left behind': leavesNothing,
  'what a crash left behind is swept': sweepsCrash,
}

async function sitesApart(t: Test, { build }: Bench): Promise<void> {
  await using net = await build({
    sites: { left: { hosts: ['a'] }, right: { hosts: ['b', 'c'] } },
    publics: ['server'],
  })
  const [a, b, c, server] = [net.host('a'), net.host('b'), net.host('c'), net.host('server')]
  t.equal(a.address, b.address, 'the same private address on both sides')
  await using _server = await serve(server, 7000)
  await using _c = await serve(c, 7001)

  t.match(
    await dial(a, 'server', 7000),
    `peer ${net.site('left').router.address} `,
    'a host of the left site is seen as its router',
  )
  t.match(
    await dial(b, server.address, 7000),
    `peer ${net.site('right').router.address} `,
    'a host of the right site is seen as its router',
  )
  t.match(await dial(b, c.address, 7001), `peer ${b.address} `, 'inside a site hosts see each other')
  t.match(
    await dial(a, c.address, 7001, BRIEFLY),
    /EHOSTUNREACH|silence/,
    'the private address of the other site leads nowhere',
  )
  t.equal(
    await dial(a, net.site('right').router.address, 7001, BRIEFLY),
    'silence',
    'a stranger is not let in by the router',
  )

  const resolvConf = (await a.text(['cat', '/etc/resolv.conf'])).split('\n')[0]
  t.equal(resolvConf, 'nameserver 127.30.0.53', 'each host has its own resolver')
}

async function cutLinks(t: Test, { build }: Bench): Promise<void> {
  await using net = await build({
    sites: { left: { hosts: ['a'] }, right: { hosts: ['b', 'c'] } },
    publics: ['server'],
  })
  const [a, b, c, server] = [net.host('a'), net.host('b'), net.host('c'), net.host('server')]
  await using _server = await serve(server, 7000)
  await using _c = await serve(c, 7001)
  await a.cut()
  t.match(await dial(a, server.address, 7000, BRIEFLY), /silence|EHOSTUNREACH/, 'nothing passes a cut link')
  await a.heal()
  t.match(await dial(a, server.address, 7000), 'peer ', 'a healed link carries again')
  await net.site('right').cut()
  t.equal(await dial(b, server.address, 7000, BRIEFLY), 'silence', 'a site without its uplink is alone')
  t.match(await dial(b, c.address, 7001), 'peer ', 'but its hosts still reach each other')
}

async function programs(t: Test, { build }: Bench): Promise<void> {
  await using net = await build({ publics: ['a'] })
  const a = net.host('a')
  t.same(
    await a.exec(['sh', '-c', 'echo out; echo err >&2; exit 7']),
    { code: 7, stdout: 'out\n', stderr: 'err\n' },
    'a command gives its code and both outputs',
  )
  t.equal(
    await a.text(['sh', '-c', 'echo $WORD in $(pwd)'], { env: { WORD: 'seen' }, cwd: '/etc' }),
    'seen in /etc\n',
    'it has the environment and the directory it was given',
  )
  await t.rejects(
    a.text(['sh', '-c', 'echo no >&2; exit 3']),
    /code 3: no/,
    'one that fails is an error with what it said',
  )
  t.equal((await a.exec(['sleep', '60'], { timeoutMs: 500 })).code, -1, 'one that takes too long is ended')
  t.same(await pids(a.namespace, 'sleep 60'), [], 'and nothing of it goes on')
}

async function programsEnd(t: Test, { build }: Bench): Promise<void> {
  await using net = await build({ publics: ['a'] })
  const a = net.host('a')
  const sleepers = () => pids(a.namespace, 'sleep 60')
  t.same(await sleepers(), [], 'no such program runs before')
  const lines: string[] = []
  const started = Promise.withResolvers<void>()
  const program = a.spawn(['sh', '-c', 'trap "echo bye; exit 4" TERM; echo up; sleep 60 & wait'], {
    onLine: (line) => {
      lines.push(line)
      started.resolve()
    },
  })
  await started.promise
  await until(async () => (await sleepers()).length === 1, 'the child of the program runs')
  await program.stop()
  t.equal(program.exit, 'code 4', 'a program that is stopped may end in its own way')
  t.same(lines, ['up', 'bye'], 'its lines are heard, the last one too')
  t.same(await sleepers(), [], 'and its children end with it')
  const killed = a.spawn(['sh', '-c', 'echo up; exec sleep 60'], { onLine: () => killed.signal('SIGKILL') })
  t.equal(await killed.exited, 'SIGKILL', 'a program that is killed says by which signal')
}

async function powerLoss(t: Test, { build }: Bench): Promise<void> {
  await using net = await build({ publics: ['a', 'b'] })
  const [a, b] = [net.host('a'), net.host('b')]
  await using _server = await serve(a, 7000)
  t.match(await dial(b, a.address, 7000), 'peer', 'its service answers')
  await a.lose()
  t.match(await dial(b, a.address, 7000, BRIEFLY), /silence|EHOSTUNREACH/, 'it says nothing when its power goes')
  await a.heal()
  t.equal(await dial(b, a.address, 7000), 'ECONNREFUSED', 'it is back, and nothing runs there any more')
  await using _again = await serve(a, 7000)
  t.match(await dial(b, a.address, 7000), 'peer', 'a service that is started again answers')
}

async function natKinds(t: Test, { build }: Bench): Promise<void> {
  const rows: ReadonlyArray<{ nat: NatKind; keepsPort: boolean; stranger: RegExp }> = [
    { nat: 'none', keepsPort: true, stranger: /^peer/ },
    { nat: 'full-cone', keepsPort: true, stranger: /^peer/ },
    { nat: 'address-restricted', keepsPort: true, stranger: /^silence/ },
    { nat: 'port-restricted', keepsPort: true, stranger: /^silence/ },
    { nat: 'port-restricted-rst', keepsPort: true, stranger: /^ECONNREFUSED/ },
    { nat: 'symmetric', keepsPort: false, stranger: /^silence/ },
  ]
  const prefixOf = (nat: NatKind) => (nat === 'none' ? { prefix: '198.51.100.0/24' } : {})
  const sites = Object.fromEntries(rows.map(({ nat }) => [nat, { hosts: [`in-${nat}`], nat, ...prefixOf(nat) }]))
  await using net = await build({ sites, publics: ['server', 'other'] })
  const [server, other] = [net.host('server'), net.host('other')]
  await using _server = await serve(server, 7000)
  for (const { nat, keepsPort, stranger } of rows) {
    const a = net.host(`in-${nat}`)
    // from one port, as hole punching does; then a stranger connects to the port the server saw
    const [, address = '', port = ''] = (await dial(a, server.address, 7000, { localPort: 7777 })).split(' ')
    t.equal(
      address,
      nat === 'none' ? a.address : net.site(nat).router.address,
      `${nat}: the server sees the address of the ${nat === 'none' ? 'host' : 'router'}`,
    )
    t.equal(port === '7777', keepsPort, `${nat}: ${keepsPort ? 'keeps' : 'changes'} the port (${port})`)
    await using _a = await serve(a, 7777)
    const timeout = { timeoutMs: stranger.test('silence') ? 300 : 5_000 }
    t.match(await dial(other, address, Number(port), timeout), stranger, `${nat}: a stranger gets ${stranger}`)
    if (nat !== 'address-restricted') continue
    t.match(
      await dial(server, address, 7777),
      'peer',
      'address-restricted: who was written to is let in, from any port',
    )
  }
}

async function edges(t: Test, { build }: Bench): Promise<void> {
  await using net = await build({
    sites: {
      carrier: { hosts: [], prefix: '100.64.0.0/24' },
      customer: { hosts: ['e'], behind: 'carrier' },
      mute: { hosts: ['f'], egress: 'no-udp' },
      web: { hosts: ['g'], egress: 'only-443' },
      office: { hosts: ['h'], egress: 'only-proxy' },
    },
    publics: ['server'],
  })
  const server = net.host('server')
  await using _plain = await serve(server, 7000)
  await using _web = await serve(server, 443)
  const from = (host: string, address: string, port: number, options?: DialOptions) =>
    dial(net.host(host), address, port, options)

  t.match(
    await from('e', server.address, 7000),
    net.site('carrier').router.address,
    'behind two routers the outer one is seen',
  )
  t.match(await from('f', server.address, 7000), 'peer', 'TCP gets out where UDP does not')
  t.match(await from('g', server.address, 443), 'peer', 'port 443 gets out')
  t.equal(await from('g', server.address, 7000, BRIEFLY), 'silence', 'another port does not')
  t.equal(await from('h', server.address, 443, BRIEFLY), 'silence', 'nothing gets out of an office on its own')
  t.match(
    await through(net.host('h'), net.site('office').proxy ?? '', `${server.address}:7000`),
    new RegExp(`200\\s+peer .*${net.site('office').router.address}`),
    'but by its proxy',
  )
}

async function families(t: Test, { build }: Bench): Promise<void> {
  await using net = await build({
    sites: {
      old: { hosts: ['e'] },
      new: { hosts: ['six'], family: 'ipv6' },
      both: { hosts: ['two'], family: 'both' },
    },
    publics: ['server'],
  })
  const server = net.host('server')
  const { address6 = '' } = server
  await using _plain = await serve(server, 7000, '::')
  const from = (host: string, address: string, options?: DialOptions) => dial(net.host(host), address, 7000, options)

  const six = net.host('six')
  t.match(await from('six', address6), `peer ${six.address} `, 'by IPv6 the own address of a host is seen')
  t.match(await from('six', server.address, BRIEFLY), /ENETUNREACH|silence/, 'a site of IPv6 has no IPv4')
  t.match(await from('e', address6, BRIEFLY), /ENETUNREACH|EADDRNOTAVAIL|silence/, 'a site of IPv4 has no IPv6')
  t.match(await from('two', address6), 'peer', 'a site of both gets out by IPv6')
  t.match(await from('two', server.address), 'peer', 'a site of both gets out by IPv4')
  t.equal(await dial(server, six.address, 7000, BRIEFLY), 'silence', 'by IPv6 strangers are not let in either')
}

async function hairpin(t: Test, { build }: Bench): Promise<void> {
  const sites = { loops: { hosts: ['a', 'b'], hairpin: true }, not: { hosts: ['c', 'd'] } }
  await using net = await build({ sites, publics: ['server'] })
  await using _server = await serve(net.host('server'), 7000)
  for (const { site, heard } of [
    { site: 'loops', heard: /^peer 192\.168\.1\.1 / },
    { site: 'not', heard: /^silence|ECONNREFUSED/ },
  ]) {
    const [one, other] = net.site(site).hosts as [Host, Host]
    const [, outside = '', port = ''] = (await dial(one, 'server', 7000, { localPort: 7777 })).split(' ')
    await using _one = await serve(one, 7777)
    t.match(
      await dial(other, outside, Number(port), site === 'not' ? BRIEFLY : {}),
      heard,
      `the NAT of ${site} ${site === 'not' ? 'leads nowhere' : 'leads back in'}`,
    )
  }
}

async function changingLink(t: Test, { build }: Bench): Promise<void> {
  await using net = await build({ sites: { left: { hosts: ['a'] } }, publics: ['server'], conditions: { left: {} } })
  const [a, left, { address }] = [net.host('a'), net.site('left'), net.host('server')]
  await using _server = await serve(net.host('server'), 7000)
  t.not(left.kind, 'plain', 'a link with conditions is not a plain one')
  await left.change({ delayMs: 200 })
  t.equal(await dial(a, address, 7000, BRIEFLY), 'silence', 'with 200 ms each way no reply comes within 300 ms')
  t.match(await dial(a, address, 7000), 'peer', 'but it comes')
  await left.change({ lossPercent: 100 })
  t.equal(await dial(a, address, 7000, BRIEFLY), 'silence', 'with all packets lost no reply comes')
  await left.change({})
  t.match(await dial(a, address, 7000), 'peer', 'without conditions it carries as before')
  t.same(left.conditions, {}, 'and says that it has none')
}

async function leavesNothing(t: Test, { backend, build }: Bench): Promise<void> {
  const before = await machineOf(backend)
  let folder = ''
  let inside: number[] = []
  {
    await using net = await build({ sites: { left: { hosts: ['a'] } }, publics: ['server'] })
    folder = `/etc/netns/${net.host('a').namespace}`
    t.match(await readFile(join(folder, 'resolv.conf'), 'utf8'), 'nameserver', 'its configuration is there')
    t.notSame(await machineOf(backend), before, 'its namespaces are there')
    t.equal(await text(['ip', '-o', 'link']), before.links, 'the root namespace got no interface')
    await serve(net.host('a'), 7000)
    inside = await pids(net.host('a').namespace)
    t.ok(inside.length > 0, 'a program runs inside')
    // a lab that could not be finished takes back what it had made
    await t.rejects(
      build({ sites: { left: { hosts: ['x'] } }, links: 'user-space', conditions: { x: { jitterMs: 5 } } }),
      'a lab that cannot be finished is not begun',
    )
  }
  t.same(await machineOf(backend), before, 'namespaces, containers and interfaces are gone')
  await t.rejects(readFile(join(folder, 'resolv.conf')), { code: 'ENOENT' }, 'its configuration is gone')
  for (const pid of inside) t.ok(await hasEnded(pid), `process ${pid} inside has ended`)
}

async function sweepsCrash(t: Test, { backend }: Bench): Promise<void> {
  const before = await machineOf(backend)
  const script = join(t.testdir(), 'crash.ts')
  const library = join(import.meta.dirname, '../../src/lab/lab.ts')
  await writeFile(
    script,
    `import { lab } from ${JSON.stringify(library)}
     const net = await lab({ publics: ['lost'], backend: ${JSON.stringify(backend)} })
     net.host('lost').spawn(['sh', '-c', 'echo up; exec sleep 600'], {
       onLine: () => process.kill(process.pid, 'SIGKILL'),
     })`,
  )
  const child = spawn(process.execPath, [script], { stdio: 'inherit' })
  await new Promise((resolve) => child.on('exit', resolve))
  const isIts = (name: string) => name.startsWith(`hedgerow-${child.pid}-`)
  const left = (await readdir('/var/run/netns')).filter(isIts)
  t.equal(left.length, 2, 'the internet and a host are left')
  if (backend === 'docker') t.equal((await containers(isIts)).length, 2, 'and containers')
  const inside = await pids(left.find((name) => name.endsWith('lost')) ?? '')
  t.ok(inside.length > 0, 'so is its program')
  sweep()
  t.same(await machineOf(backend), before, 'nothing of this process was swept')
  t.same((await readdir('/var/run/netns').catch(() => [])).filter(isIts), [], 'its namespaces are gone')
  if (backend === 'docker') t.same(await containers(isIts), [], 'its containers are gone')
  for (const pid of inside) t.ok(await hasEnded(pid), `process ${pid} inside has ended`)
}

/**
 * What a lab may leave nothing of. What other test files make at the same time is not ours to judge: only this process's names
 * count.
 */
async function machineOf(backend: Backend) {
  return {
    namespaces: await namespaces(),
    links: await text(['ip', '-o', 'link']),
    containers: backend === 'docker' ? await containers() : [],
  }
}

/** Answers `peer <address> <port>`, or connects and prints what it hears. */
const SPEAKER = `
const net = require('node:net')
const [mode, host, port, local, timeout] = process.argv.slice(1)
if (mode === 'serve') net.createServer((s) => { s.on('error', () => {}); s.end('peer ' + s.remoteAddress + ' ' + s.remotePort) })
  .listen(Number(port), host, () => console.log('ready'))
else net.connect({ host, port: Number(port), localPort: Number(local) || undefined, timeout: Number(timeout) })
  .on('data', (d) => console.log(String(d))).on('timeout', function () { console.log('silence'); this.destroy() })
  .on('error', (e) => console.log(e.code))
`

function serve(host: Host, port: number, address = '0.0.0.0'): Promise<Program> {
  return new Promise((resolve, reject) => {
    const server = host.spawn([process.execPath, '-e', SPEAKER, 'serve', address, String(port)], {
      onLine: (line) => (line === 'ready' ? resolve(server) : reject(new Error(line))),
    })
  })
}

interface DialOptions {
  localPort?: number
  timeoutMs?: number
}

/** Where nothing is expected to answer; everything here is one machine. */
const BRIEFLY = { timeoutMs: 300 }

async function dial(from: Host, address: string, port: number, options: DialOptions = {}): Promise<string> {
  const { localPort = 0, timeoutMs = 5_000 } = options
  const argv = [process.execPath, '-e', SPEAKER, 'dial', address, String(port), String(localPort), String(timeoutMs)]
  return (await from.text(argv)).trim()
}

function through(from: Host, proxy: string, target: string): Promise<string> {
  const { hostname: host, port } = new URL(proxy)
  const options = JSON.stringify({ host, port, method: 'CONNECT', path: target })
  const heard = "s.on('data', (d) => console.log(String(d)))"
  const script = `require('node:http').request(${options}).on('connect', (r, s, head) => { console.log(r.statusCode, String(head)); ${heard} }).end()`
  return from.text([process.execPath, '-e', script])
}

/** Processes inside a namespace, all or those of a command line. */
async function pids(namespace: string, command?: string): Promise<number[]> {
  const all = (await text(['ip', 'netns', 'pids', namespace])).split('\n').filter(Boolean).map(Number)
  if (command === undefined) return all
  const lines = await Promise.all(all.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')))
  return all.filter((_, index) => lines[index]?.split('\0').join(' ').trim() === command)
}

/** Gone, or dead and not yet collected by its parent. */
async function hasEnded(pid: number): Promise<boolean> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => 'Z')
  return stat
    .slice(stat.lastIndexOf(')') + 1)
    .trimStart()
    .startsWith('Z')
}

async function namespaces(): Promise<string[]> {
  const names = await readdir('/var/run/netns').catch(() => [])
  return names.filter(isOurs).toSorted()
}

async function containers(which: (name: string) => boolean = isOurs): Promise<string[]> {
  const said = await docker(['ps', '--all', '--filter', 'label=hedgerow.lab', '--format', '{{.Names}}'])
  return said.split('\n').filter(which).toSorted()
}

function isOurs(name: string): boolean {
  return name.startsWith(`hedgerow-${process.pid}-`)
}
