import { spawn } from 'node:child_process'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import type { Host } from './host.ts'
import { lab } from './lab.ts'
import { lacking, sweep } from './namespace.ts'
import type { NatKind } from './nat.ts'
import { text, type Program } from './program.ts'

const skip = (await lacking()) ?? false

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

t.test('two sites with the same prefix cannot dial each other, both reach the public host', { skip }, async (t) => {
  await using net = await lab({ sites: { left: { hosts: ['a'] }, right: { hosts: ['b', 'c'] } }, publics: ['server'] })
  const [a, b, c, server] = [net.host('a'), net.host('b'), net.host('c'), net.host('server')]
  t.equal(a.address, b.address, 'the same private address on both sides')
  await using _server = await serve(server, 7000)
  await using _c = await serve(c, 7001)

  t.match(await dial(a, server.address, 7000), `peer ${net.site('left').router.address} `, 'left shows its router')
  t.match(await dial(b, server.address, 7000), `peer ${net.site('right').router.address} `, 'right shows its router')
  t.match(await dial(b, c.address, 7001), `peer ${b.address} `, 'inside a site hosts see each other')
  t.match(await dial(a, c.address, 7001, BRIEFLY), /EHOSTUNREACH|silence/, 'the address means nobody in the other site')
  t.equal(await dial(a, net.site('right').router.address, 7001, BRIEFLY), 'silence', 'a stranger is not let in')

  await a.cut()
  t.match(await dial(a, server.address, 7000, BRIEFLY), /silence|EHOSTUNREACH/, 'nothing passes a cut link')
  await a.heal()
  t.match(await dial(a, server.address, 7000), 'peer ', 'a healed link carries again')
  await net.site('right').cut()
  t.equal(await dial(b, server.address, 7000, BRIEFLY), 'silence', 'a site without its uplink is alone')
  t.match(await dial(b, c.address, 7001), 'peer ', 'but its hosts still have each other')

  const resolvConf = (await a.text(['cat', '/etc/resolv.conf'])).split('\n')[0]
  t.equal(resolvConf, 'nameserver 127.30.0.53', 'each host has its own resolver')
})

t.test('each NAT kind maps and filters as its name says', { skip }, async (t) => {
  const rows: ReadonlyArray<{ nat: NatKind; keepsPort: boolean; stranger: RegExp }> = [
    { nat: 'none', keepsPort: true, stranger: /^peer/ },
    { nat: 'full-cone', keepsPort: true, stranger: /^peer/ },
    { nat: 'address-restricted', keepsPort: true, stranger: /^silence/ },
    { nat: 'port-restricted', keepsPort: true, stranger: /^silence/ },
    { nat: 'port-restricted-rst', keepsPort: true, stranger: /^ECONNREFUSED/ },
    { nat: 'symmetric', keepsPort: false, stranger: /^silence/ },
  ]
  for (const { nat, keepsPort, stranger } of rows) {
    const prefix = nat === 'none' ? '198.51.100.0/24' : '192.168.1.0/24'
    await using net = await lab({ sites: { home: { hosts: ['a'], nat, prefix } }, publics: ['server', 'other'] })
    const [a, server, other] = [net.host('a'), net.host('server'), net.host('other')]
    await using _server = await serve(server, 7000)

    // from one port, as hole punching does; then a stranger knocks at the port the server saw
    const [, address = '', port = ''] = (await dial(a, server.address, 7000, { localPort: 7777 })).split(' ')
    t.equal(address, nat === 'none' ? a.address : net.site('home').router.address, `${nat}: the address seen`)
    t.equal(port === '7777', keepsPort, `${nat}: ${keepsPort ? 'keeps' : 'changes'} the port (${port})`)
    await using _a = await serve(a, 7777)
    t.match(
      await dial(other, address, Number(port), { timeoutMs: stranger.test('silence') ? 300 : 5_000 }),
      stranger,
      `${nat}: what a stranger gets`,
    )
  }
})

t.test('an address-restricted NAT lets in whoever was written to, from any port', { skip }, async (t) => {
  await using net = await lab({
    sites: { home: { hosts: ['a'], nat: 'address-restricted' } },
    publics: ['server', 'other'],
  })
  const [a, server, other] = [net.host('a'), net.host('server'), net.host('other')]
  await using _server = await serve(server, 7000)
  const outside = net.site('home').router.address
  await dial(a, server.address, 7000, { localPort: 7778 })
  t.equal(
    await dial(server, outside, 7778, BRIEFLY),
    'ECONNREFUSED',
    'the answer of the host inside: nobody listens there',
  )
  t.equal(await dial(other, outside, 7778, BRIEFLY), 'silence')
})

t.test('carrier-grade NAT, and what gets out', { skip }, async (t) => {
  await using net = await lab({
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

  t.match(
    await dial(net.host('e'), server.address, 7000),
    `peer ${net.site('carrier').router.address}`,
    'two routers, one address',
  )
  t.match(await dial(net.host('f'), server.address, 7000), 'peer', 'TCP gets out where UDP does not')
  t.match(await dial(net.host('g'), server.address, 443), 'peer', 'port 443 gets out')
  t.equal(await dial(net.host('g'), server.address, 7000, BRIEFLY), 'silence', 'another does not')
  t.equal(await dial(net.host('h'), server.address, 443, BRIEFLY), 'silence', 'nothing gets out')
  const { proxy = '' } = net.site('office')
  const connect = `http.request({ host: ${JSON.stringify(new URL(proxy).hostname)}, port: ${new URL(proxy).port}, method: 'CONNECT', path: '${server.address}:7000' })`
  const through = `const http = require('node:http'); ${connect}.on('connect', (r, s, head) => { console.log(r.statusCode, String(head)); s.on('data', (d) => console.log(String(d))) }).end()`
  t.match(
    await net.host('h').text([process.execPath, '-e', through]),
    new RegExp(`200\\s+peer ${net.site('office').router.address}`),
    'but by the proxy',
  )
})

t.test('hosts behind one NAT meet by its outer address only with hairpin', { skip }, async (t) => {
  for (const hairpin of [true, false]) {
    await using net = await lab({ sites: { home: { hosts: ['a', 'b'], hairpin } }, publics: ['server'] })
    const [a, b, server] = [net.host('a'), net.host('b'), net.host('server')]
    await using _server = await serve(server, 7000)
    const [, outside = '', port = ''] = (await dial(a, server.address, 7000, { localPort: 7777 })).split(' ')
    await using _a = await serve(a, 7777)
    const heard = await dial(b, outside, Number(port), hairpin ? {} : BRIEFLY)
    t.match(heard, hairpin ? /^peer 192\.168\.1\.1 / : /^silence|ECONNREFUSED/, hairpin ? 'with' : 'without')
  }
})

t.test('IPv6 where the site has it', { skip }, async (t) => {
  await using net = await lab({
    sites: { new: { hosts: ['a'], family: 'ipv6' }, old: { hosts: ['b'] }, both: { hosts: ['c'], family: 'both' } },
    publics: ['server'],
  })
  const [a, b, c, server] = [net.host('a'), net.host('b'), net.host('c'), net.host('server')]
  const { address6 = '' } = server
  await using _server = await serve(server, 7000, '::')
  t.match(await dial(a, address6, 7000), `peer ${a.address} `, 'its own address is seen')
  t.match(await dial(a, server.address, 7000, BRIEFLY), /ENETUNREACH|silence/, 'no IPv4 there')
  t.match(await dial(b, address6, 7000, BRIEFLY), /ENETUNREACH|EADDRNOTAVAIL|silence/, 'no IPv6 here')
  t.match(await dial(c, address6, 7000), 'peer', 'both')
  t.match(await dial(c, server.address, 7000), 'peer', 'both')
  t.equal(await dial(server, a.address, 7000, BRIEFLY), 'silence', 'strangers are not let in')
})

t.test('nothing is left behind', { skip }, async (t) => {
  const before = await machine()
  let folder = ''
  let pid = 0
  {
    await using net = await lab({ sites: { left: { hosts: ['a'] } }, publics: ['server'] })
    folder = `/etc/netns/${net.host('a').namespace}`
    t.match(await readFile(join(folder, 'resolv.conf'), 'utf8'), 'nameserver', 'its configuration is there')
    t.not(await machine(), before, 'its namespaces are there')
    t.equal(await text(['ip', '-o', 'link']), before.links, 'the root namespace got no interface')
    pid = (await serve(net.host('a'), 7000)).pid
    // a lab that could not be finished takes back what it had made
    await t.rejects(lab({ sites: { left: { hosts: ['x', 'x'] } } }), /two hosts/)
  }
  t.same(await machine(), before, 'namespaces and interfaces are gone')
  await t.rejects(readFile(join(folder, 'resolv.conf')), 'so is its configuration')
  t.ok(await hasEnded(pid), 'and the processes inside')
})

t.test('what a crash left behind is swept', { skip }, async (t) => {
  const before = await machine()
  const script = join(t.testdir(), 'crash.ts')
  const library = join(import.meta.dirname, 'lab.ts')
  await writeFile(
    script,
    `import { lab } from ${JSON.stringify(library)}
     const net = await lab({ publics: ['lost'] })
     net.host('lost').spawn(['sh', '-c', 'echo up; exec sleep 600'], {
       onLine: () => process.kill(process.pid, 'SIGKILL'),
     })`,
  )
  const child = spawn(process.execPath, [script], { stdio: 'inherit' })
  await new Promise((resolve) => child.on('exit', resolve))
  const left = (await readdir('/var/run/netns')).filter((name) => name.startsWith(`hedgerow-${child.pid}-`))
  t.equal(left.length, 2, 'the internet and a host are left')
  const pids = await text(['ip', 'netns', 'pids', left.find((name) => name.endsWith('lost')) ?? ''])
  sweep()
  t.same(await machine(), before, 'gone')
  t.ok(await hasEnded(Number(pids)), 'with the process inside')
})

/** Gone, or dead and not yet collected by its parent. */
async function hasEnded(pid: number): Promise<boolean> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => 'Z')
  return stat
    .slice(stat.lastIndexOf(')') + 1)
    .trimStart()
    .startsWith('Z')
}

/** What other test files make at the same time is not ours to judge: only names of this process and its children count. */
async function machine(): Promise<{ namespaces: string[]; links: string }> {
  const names = await readdir('/var/run/netns').catch(() => [])
  const namespaces = names.filter(
    (name) => !name.startsWith('hedgerow-') || name.startsWith(`hedgerow-${process.pid}-`),
  )
  return { namespaces: namespaces.toSorted(), links: await text(['ip', '-o', 'link']) }
}
