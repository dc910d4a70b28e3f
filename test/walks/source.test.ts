import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createServer, type Socket } from 'node:net'
import { once } from 'node:events'
import t from 'tap'
import { hasTool } from '../../src/lab/system-tools.ts'
import { dialInstance, type DialOptions } from '../../proxy/socket/dial.ts'
import { get, type Mesh, program, wholeMesh } from './mesh.ts'
import { until } from '../support/until.ts'

/**
 * The instance sees who calls: the calling instance's own VIP as its peer's address, which PTR turns into a name.
 * In a namespace of its own the same is done in host mode.
 */

const IN_HOST_MODE = process.env['SOURCE_TEST_MODE'] === 'host'
/** A fixed port of this process: what listens in an instance is found without asking. */
const base = 20_000 + (createHash('sha256').update(`${process.pid}`).digest().readUInt16BE(0) % 8_000)

/** Tells the address it is called from. */
const CART = "require('http').createServer((q,r)=>r.end(q.socket.remoteAddress)).listen(process.env.PORT,'127.0.0.1')"
/** Calls what its own caller names, and tells the answer; Node takes the proxy of the environment. */
const FRONT = `
  const http = require('http')
  http.createServer((q, r) => {
    http.get('http://' + q.headers.host + q.url, (a) => a.pipe(r)).on('error', (e) => r.end(e.message))
  }).listen(${base}, '127.0.0.1')
`

async function mesh(): Promise<Mesh> {
  const made = await wholeMesh(['a'])
  await made.start('b', IN_HOST_MODE ? { mode: 'host' } : {}) // one for each machine: they would share the IPv6 prefix
  return made
}

t.test('an instance that calls another is seen under its own name', async (t) => {
  await using it = await mesh()
  const on = (node: string) => ({ constraints: [{ type: 'direct', cluster: 'edge', node }] })
  await it.apply(
    [
      program('front', 1, { ...on('a'), cmd: [process.execPath, '-e', FRONT], port: `${base}`, fixed_port: true }),
      program('cart', 1, { ...on('b'), cmd: [process.execPath, '-e', CART] }),
      program('near', 1, { ...on('a'), cmd: [process.execPath, '-e', CART] }),
    ],
    3,
  )
  const rows = [
    ['cart', 'b'],
    ['near', 'a'],
  ] as const
  for (const [name, node] of rows) {
    let seen = ''
    await until(async () => {
      const asked = { host: '127.0.0.1', port: base, name: `shop.acme.${name}.prod.any.rr.local:8080` }
      seen = (await get(asked)).body
      return !seen.startsWith('127.0.0.1')
    }, `${name} sees the VIP of front, not ${seen}`)
    t.match(
      seen,
      IN_HOST_MODE && node === 'b' ? /^10\.30\./ : /^127\.\d+\.\d+\.\d+$/,
      `${name}, on ${node}, is called from ${seen}`,
    )
    const names = await it.node(node).dns.reverse(seen)
    t.match(names[0], /^shop\.acme\.front\.prod\.0\.pinned\./, `which is ${names[0]}`)
  }
})

if (IN_HOST_MODE) {
  t.test('VIPs of host mode as sources: towards this machine only, and without when ports run out', async (t) => {
    const ip = (line: string) => spawnSync('ip', line.split(' ')).status
    ip('addr add 192.168.55.1/32 dev lo')
    ip('route add local 10.30.0.0/16 dev lo')
    spawnSync('sh', ['-c', 'echo 40000 40003 > /proc/sys/net/ipv4/ip_local_port_range'])
    const sockets: Socket[] = []
    const server = createServer((socket) => sockets.push(socket)).listen(9_000, '0.0.0.0')
    await once(server, 'listening')
    const dial = (host: string, options: Partial<DialOptions> = {}): Promise<string> =>
      new Promise((resolve) => {
        dialInstance(
          { host, port: 9_000 },
          { timeoutMs: 2_000, from: '10.30.1.2', ...options },
          {
            connected: (socket) => {
              sockets.push(socket)
              resolve(socket.localAddress ?? '')
            },
            failed: (refusal, reason) => resolve(`${refusal} ${reason}`),
          },
        )
      })
    t.equal(await dial('127.0.0.1'), '10.30.1.2')
    t.equal(await dial('192.168.55.1'), '10.30.1.2', 'an address of an interface')
    const more: string[] = []
    for (let i = 0; i < 7; i++) more.push(await dial('127.0.0.1'))
    t.same(more, ['10.30.1.2', '10.30.1.2', ...Array<string>(4).fill('127.0.0.1'), 'unreachable EADDRINUSE'])
    for (const socket of sockets) socket.destroy()
    server.close()
  })
} else {
  const skip = !hasTool('ip') && 'ip is not installed'
  t.test('in host mode', { skip }, async (t) => {
    if (spawnSync('unshare', ['-Urn', 'true']).status !== 0) return t.comment('no user namespaces here')
    const argv = ['-Urn', 'sh', '-c', 'ip link set lo up && exec "$0" "$@"', process.execPath, import.meta.filename]
    const env = { ...process.env, SOURCE_TEST_MODE: 'host' }
    const ran = spawnSync('unshare', argv, { encoding: 'utf8', timeout: 60_000, env })
    t.equal(ran.status, 0, `${ran.stdout}${ran.stderr}`)
    return undefined
  })
}
