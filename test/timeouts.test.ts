import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { request } from 'node:https'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { HttpInterceptor } from '../proxy/intercept/http.ts'
import type { ProxyParts } from '../proxy/intercept/proxy-listener.ts'
import { SocksInterceptor } from '../proxy/intercept/socks.ts'
import { directDialer, DirectListener } from '../proxy/paths/direct-path.ts'
import { ANSWER_BYTES, ASK, encodeQuestion } from '../proxy/relay/wire/observation.ts'
import { Observer } from '../proxy/relay/observer.ts'
import { Relay } from '../proxy/relay/server.ts'
import { openPeers } from '../proxy/tunnel/peers/peers.ts'
import { MeshError } from '../src/core/errors.ts'
import { connectSecure, createAcceptor, TUNNEL_ALPN } from '../src/core/identity/peer-tls.ts'
import { clientOptions } from '../src/core/identity/tls.ts'
import { systemClock } from '../src/core/kit/clock.ts'
import { Lifetime } from '../src/core/kit/lifetime.ts'
import { silentLog } from '../src/core/kit/log.ts'
import { askAgent, LocalApi } from '../src/agent/local-api.ts'
import { openMetrics } from '../src/core/metrics.ts'
import { Ops } from '../src/roles/ops-server.ts'
import { relayUpgrade } from '../src/orchestrator/cluster/routes.ts'
import { LinkServer, reader } from '../src/orchestrator/link/link-server.ts'
import Type from 'typebox'
import { TestMesh } from './identity/mesh.ts'
import { heldBytes } from './support/held-bytes.ts'
import { dripping, gushing, helloOfTls, insideTls, silent, type Attack, type Where } from './loris.ts'
import { keptLog, LiteralTable } from './proxy/world.ts'
import { tcp, world } from './resolver/world.ts'

/*
 * Every listener of the project under 200 connections that hold on and say next to nothing: each of them ends, others are served
 * meanwhile, and what is held for them is bounded.
 */

const CONNECTIONS = 200

t.setTimeout(280_000) // a dozen listeners, one after the other, on a machine that does other things too
/** Of buffers, at both ends of all of them: all are in this process. */
const MOST_BYTES = 32 * 1024 * 1024
const LIMIT_MS = 1_000
const timeouts = { handshakeMs: LIMIT_MS, headersMs: LIMIT_MS, bodyMs: LIMIT_MS, idleMs: LIMIT_MS }
await using mesh = await TestMesh.create()
const edge = await mesh.cluster('edge')
const [n1, n2] = [await mesh.node(edge, 'n1'), await mesh.node(edge, 'n2')]
const hello = await helloOfTls()

interface Listener {
  name: string
  attacks: Readonly<Record<string, Attack>>
  /** Opens it; `serve` is what an honest client wants, at once. */
  open: (life: Lifetime) => Promise<{ where: Where; serve: () => Promise<unknown> }>
}

const stranger = {}
const member = { key: n1.key, cert: n1.chain }
const UPGRADE = 'GET /relay?listen HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n'
const KEY = 'sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'

const tls: Listener['attacks'] = {
  silence: silent,
  'a hello byte by byte': dripping('', hello),
  'something that is not TLS': gushing('\x16\x03\x01\x3f\xff'),
}
const http = (inside: (first: string, drip: string) => Attack): Listener['attacks'] => ({
  'no request': inside('', ''),
  'a head byte by byte': inside('GET /healthz HTTP/1.1\r\nhost: x\r\n', 'x'),
  'heads without end': inside('GET /healthz HTTP/1.1\r\nhost: x\r\n', 'x-more: yes\r\n'),
  'a body that never ends': inside('POST /enrol HTTP/1.1\r\nhost: x\r\ncontent-length: 16000\r\n\r\n{', ' '),
  'a body that is refused': inside('POST /other HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{', ' '),
  'a request, and no other': inside('GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n', ''),
  'an upgrade that is refused': inside(`${UPGRADE}${KEY}`, ''),
  'an upgrade to nothing': inside(`GET // HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n`, 'x'),
})
const withinTls = (first: string, drip: string) => insideTls(stranger, first, drip)

async function server(life: Lifetime, upgrades: Parameters<typeof LinkServer.start>[0]['upgrades']) {
  const read = reader(Type.Object({ token: Type.String() }))
  const server = life.use(
    await LinkServer.start(
      {
        host: '127.0.0.1',
        port: 0,
        identity: edge,
        timeouts: timeouts,
        authenticate: () => {
          throw new MeshError('UNAUTHENTICATED')
        },
        upgrades,
        routes: (app) => {
          app.get('/healthz', { config: { open: true } }, () => ({ status: 'ok' }))
          app.post('/enrol', { config: { open: true }, bodyLimit: 16_384 }, ({ body }) => read(body))
          app.post('/other', () => 'never')
        },
      },
      silentLog,
    ),
  )
  const where = { host: '127.0.0.1', port: Number(new URL(server.url).port) }
  const serve = async () => {
    const asking = request(`${server.url}/healthz`, { ...clientOptions(n1), agent: false }).end()
    const [response] = (await once(asking, 'response')) as [{ statusCode: number; resume(): void }]
    response.resume()
    if (response.statusCode !== 200) throw new Error(`status ${response.statusCode}`)
  }
  return { where, serve }
}

/** What the server says first, after these bytes. */
async function said(where: Where, first: string | Buffer, bytes: number): Promise<Buffer> {
  const socket = connect(where)
  socket.write(first)
  const got: Buffer[] = []
  for await (const chunk of socket) {
    got.push(chunk as Buffer)
    if (Buffer.concat(got).length >= bytes) break
  }
  const all = Buffer.concat(got)
  if (all.length < bytes) throw new Error(`only ${all.length} bytes`)
  return all
}

function proxyParts(): ProxyParts {
  return {
    table: new LiteralTable(),
    interests: { want: async () => undefined, wantVip: async () => undefined },
    zones: ['local'],
    ranges: [],
    credentials: () => 'hush',
    onFlow: () => undefined,
    clock: systemClock,
    log: keptLog(),
    metrics: openMetrics('agent'),
  }
}

const listeners: Listener[] = [
  {
    name: 'the port of a cluster or a relay',
    attacks: {
      ...tls,
      ...http(withinTls),
      'a node that asks for nothing': insideTls(member, '', ''),
      'a node that asks for nobody': insideTls(member, `${UPGRADE.replace('listen', 'to=edge/n9')}${KEY}`, ''),
      'a node that asks for nothing there is': insideTls(member, `${UPGRADE.replace('listen', 'x')}${KEY}`, ''),
    },
    open: (life) => {
      const relay = life.use(Relay.create({ nodeRequestsPerSecond: 10_000 }, silentLog, openMetrics('cluster')))
      const take = relayUpgrade((...request) => relay.upgrade(...request))
      return server(life, { '/relay': take })
    },
  },
  { name: 'the API of the root', attacks: { ...tls, ...http(withinTls) }, open: (life) => server(life, {}) },
  {
    name: 'the tunnel port of an agent',
    attacks: {
      ...tls,
      'TLS without a certificate': insideTls({ ALPNProtocols: [TUNNEL_ALPN] }, '', ''),
      'a node without HELLO': insideTls({ ...member, ALPNProtocols: [TUNNEL_ALPN] }, '', ''),
      'a HELLO byte by byte': insideTls({ ...member, ALPNProtocols: [TUNNEL_ALPN] }, '', '\0'),
      'another protocol': insideTls({ ...member, ALPNProtocols: ['h2'] }, '', 'x'),
    },
    open: async (life) => {
      const peersOf = (identity: typeof n1, self: string) => {
        const acceptor = life.use(createAcceptor(identity))
        const options = { log: silentLog, metrics: openMetrics('agent'), clock: systemClock, drainMs: 0 }
        return life.use(
          openPeers({
            ...options,
            self,
            dialers: [directDialer()],
            secure: {
              connect: ({ stream }, node, signal) => connectSecure(stream, identity, node, signal),
              accept: ({ stream }) => acceptor.accept(stream),
            },
            accept: () => undefined,
          }),
        )
      }
      const [far, near] = [peersOf(n2, 'edge/n2'), peersOf(n1, 'edge/n1')]
      const listener = life.use(
        await DirectListener.start({ host: '127.0.0.1', port: 0 }, (raw) => far.incoming(raw), silentLog),
      )
      const where = { host: '127.0.0.1', port: listener.port }
      const reach = { id: 'edge/n2', addresses: [`127.0.0.1:${listener.port}`], relays: [] }
      return { where, serve: () => near.session(reach, AbortSignal.timeout(10_000)) }
    },
  },
  {
    name: 'the observer of a relay',
    attacks: {
      silence: silent,
      'a question byte by byte': dripping(
        '',
        encodeQuestion({ ask: ASK.where, cookie: '0'.repeat(32), token: '0'.repeat(32) }),
      ),
      'no question': gushing('?'),
    },
    open: async (life) => {
      const observer = life.use(await Observer.start({ host: '127.0.0.1', port: 0, questionMs: LIMIT_MS }, silentLog))
      const { cookie } = observer.admit()
      const where = { host: '127.0.0.1', port: observer.ports[0] }
      const question = encodeQuestion({ ask: ASK.where, cookie, token: '1'.repeat(32) })
      return { where, serve: () => said(where, question, ANSWER_BYTES) }
    },
  },
  {
    name: 'the SOCKS server',
    attacks: {
      silence: silent,
      'methods byte by byte': dripping('\x05\xff', '\x02'),
      'not SOCKS': gushing('x'),
    },
    open: async (life) => {
      const { port } = life.use(await SocksInterceptor.start({ port: 0, handshakeMs: LIMIT_MS }, proxyParts()))
      const where = { host: '127.0.0.1', port }
      return { where, serve: () => said(where, '\x05\x01\x02', 2) }
    },
  },
  {
    name: 'the HTTP server',
    attacks: {
      silence: silent,
      'a head byte by byte': dripping('CONNECT x:80 HTTP/1.1\r\nhost: x\r\n', 'x'),
      'a head without end': gushing('x'),
    },
    open: async (life) => {
      const { port } = life.use(await HttpInterceptor.start({ port: 0, handshakeMs: LIMIT_MS }, proxyParts()))
      const where = { host: '127.0.0.1', port }
      return { where, serve: () => said(where, 'CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n', 12) }
    },
  },
  {
    name: 'the socket for commands',
    attacks: { silence: silent, ...http(dripping), 'a head without end': gushing('x') },
    open: async (life) => {
      const dir = mkdtempSync(join(tmpdir(), 'hedgerow-'))
      life.defer(() => rmSync(dir, { recursive: true, force: true }))
      const api = life.use(await LocalApi.start({ dir, timeouts: timeouts }))
      api.serve({ '/status': () => ({ is: 'up' }) })
      return { where: { path: api.path }, serve: () => askAgent(api.path, '/status') }
    },
  },
  {
    name: 'the port for metrics',
    attacks: { silence: silent, ...http(dripping), 'a head without end': gushing('x') },
    open: async (life) => {
      const metrics = openMetrics('relay')
      const ready = () => ({ all: true })
      const ops = life.use(await Ops.start({ host: '127.0.0.1', port: 0, metrics, ready, timeouts: timeouts }))
      const where = { host: '127.0.0.1', port: Number(new URL(ops.address).port) }
      return {
        where,
        serve: async () => (await fetch(`${ops.address}/metrics`, { headers: { connection: 'close' } })).text(),
      }
    },
  },
  {
    name: 'DNS over TCP',
    attacks: {
      silence: silent,
      'a question byte by byte': dripping('\x0f\x00', 'x'),
      'a length that no question has': gushing('\xff'),
    },
    open: async (life) => {
      const { port, ...dns } = life.use(await world({ limits: { tcpIdleMs: LIMIT_MS } }))
      life.use(dns.resolver)
      return { where: { host: '127.0.0.1', port }, serve: () => tcp(port, {}) }
    },
  },
]

for (const { name, attacks, open } of listeners) {
  t.test(name, async (t) => {
    await using life = new Lifetime()
    const { where, serve } = await open(life)
    const kinds = Object.entries(attacks)
    const left = new Map<string, number>()
    const all = Array.from({ length: CONNECTIONS }, async (_, at) => {
      const [kind, attack] = kinds[at % kinds.length]!
      left.set(kind, (left.get(kind) ?? 0) + 1)
      await attack(where)
      left.set(kind, left.get(kind)! - 1)
    })
    await serve()
    t.ok(
      [...left.values()].some((open) => open > 0),
      'served while they are there',
    )
    const bytes = await heldBytes()
    t.ok(bytes < MOST_BYTES, `${Math.round(bytes / 1024 / 1024)} MiB of buffers are held`)
    const late = setTimeout(
      () => t.comment(`still open: ${JSON.stringify([...left].filter(([, open]) => open > 0))}`),
      20_000,
    )
    await Promise.all(all)
    clearTimeout(late)
    t.pass('all of them have ended')
    await serve()
  })
}

t.test(
  'commands are answered while a program holds thousands of silent connections to the socket of the agent',
  async (t) => {
    await using life = new Lifetime()
    const dir = mkdtempSync(join(tmpdir(), 'hedgerow-'))
    life.defer(() => rmSync(dir, { recursive: true, force: true }))
    const api = life.use(await LocalApi.start({ dir }))
    api.serve({ '/status': () => ({ is: 'up' }) })
    const flood: Socket[] = []
    life.defer(() => flood.forEach((socket) => socket.destroy()))
    while (flood.length < 2_000) {
      const some = Array.from({ length: 200 }, () =>
        connect(api.path)
          .on('error', () => undefined)
          .resume(),
      )
      flood.push(...some)
      await Promise.all(some.map((socket) => once(socket, 'connect')))
    }
    t.same(await askAgent(api.path, '/status'), { is: 'up' })
  },
)
