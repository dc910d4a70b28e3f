import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { request } from 'node:https'
import { connect } from 'node:net'
import { HttpInterceptor } from '../../proxy/intercept/http.ts'
import type { ProxyParts } from '../../proxy/intercept/proxy-listener.ts'
import { SocksInterceptor } from '../../proxy/intercept/socks.ts'
import { DirectListener } from '../../proxy/paths/direct-path.ts'
import { Observer } from '../../proxy/relay/observer.ts'
import { UdpPort } from '../../proxy/tunnel/sealed/udp-port.ts'
import { MeshError } from '../../src/core/errors.ts'
import { clientOptions } from '../../src/core/identity/tls.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { LinkServer } from '../../src/orchestrator/link/link-server.ts'
import { Ops } from '../../src/roles/ops-server.ts'
import { TestMesh } from '../identity/mesh.ts'
import { LiteralTable } from '../proxy/world.ts'
import { world } from '../resolver/world.ts'

/* Every kind of listener of this program that has an address and a port, opened as the roles open it. */

export interface At {
  host: string
  port: number
}

export interface OpenListener {
  port: number
  /** Resolves when it serves a client; rejects when the client is not answered. */
  ask: () => Promise<unknown>
  close: () => Promise<void>
}

export interface ListenerKind {
  name: string
  protocol: 'tcp' | 'udp'
  /** What becomes of it when its port is taken. */
  taken: 'refused' | 'another port'
  open: (at: At) => Promise<OpenListener>
}

await using mesh = await TestMesh.create()
const edge = await mesh.cluster('edge')
const node = await mesh.node(edge, 'n1')
const metrics = openMetrics('agent')

function connected({ host, port }: At): () => Promise<void> {
  return async () => {
    const socket = connect({ host, port, timeout: 2_000 })
    socket.on('timeout', () => socket.destroy(new Error('no answer')))
    await once(socket, 'connect').finally(() => socket.destroy())
  }
}

const proxy: ProxyParts = {
  table: new LiteralTable(),
  interests: { want: () => new Promise(() => undefined), wantVip: () => new Promise(() => undefined) },
  zones: ['local'],
  ranges: [],
  credentials: () => undefined,
  onFlow: () => undefined,
  clock: systemClock,
  log: silentLog,
  metrics,
}

export const EVERY_LISTENER: readonly ListenerKind[] = [
  {
    name: 'health',
    protocol: 'tcp',
    taken: 'refused',
    open: async (at) => {
      const ops = await Ops.start({ ...at, metrics, ready: () => ({}) })
      return {
        port: Number(new URL(ops.address).port),
        ask: () => fetch(`${ops.address}/healthz`, { signal: AbortSignal.timeout(2_000) }).then((it) => it.text()),
        close: () => ops[Symbol.asyncDispose](),
      }
    },
  },
  {
    name: 'control (root, cluster, relay)',
    protocol: 'tcp',
    taken: 'refused',
    open: async (at) => {
      const server = await LinkServer.start(
        {
          ...at,
          identity: edge,
          authenticate: () => {
            throw new MeshError('UNAUTHENTICATED')
          },
          upgrades: {},
          routes: (app) => void app.get('/healthz', { config: { open: true } }, () => ({ status: 'ok' })),
        },
        silentLog,
      )
      const ask = async () => {
        const asking = request(`${server.url}/healthz`, { ...clientOptions(node), agent: false, timeout: 2_000 }).end()
        asking.on('timeout', () => asking.destroy(new Error('no answer')))
        const [response] = (await once(asking, 'response')) as [{ resume(): void }]
        response.resume()
      }
      return { port: Number(new URL(server.url).port), ask, close: () => server[Symbol.asyncDispose]() }
    },
  },
  {
    name: 'tunnel',
    protocol: 'tcp',
    taken: 'refused',
    open: async (at) => {
      const listener = await DirectListener.start(at, ({ stream }) => stream.destroy(), silentLog)
      const { port } = listener
      return { port, ask: connected({ ...at, port }), close: () => listener[Symbol.asyncDispose]() }
    },
  },
  {
    name: 'datagrams of the tunnel',
    protocol: 'udp',
    taken: 'another port',
    open: async (at) => {
      let received = Promise.withResolvers<void>()
      const onPacket = () => received.resolve()
      const port = await UdpPort.start({ ...at, addresses: () => [], onPacket }, silentLog)
      const ask = async () => {
        received = Promise.withResolvers()
        port.send(Buffer.from('x'), 1, { host: at.host, port: port.port }) // to itself: both directions
        await Promise.race([received.promise, silence()])
      }
      return { port: port.port, ask, close: () => port[Symbol.asyncDispose]() }
    },
  },
  {
    name: 'name server',
    protocol: 'udp',
    taken: 'refused',
    open: async (at) => {
      const { resolver, port, [Symbol.asyncDispose]: close } = await world({ listen: at })
      const ask = async () => {
        await connected({ ...at, port: resolver.address.port })()
        await answersDatagram({ ...at, port: resolver.address.port })
      }
      return { port, ask, close: () => Promise.resolve(close()) }
    },
  },
  ...([SocksInterceptor, HttpInterceptor] as const).map(
    (kind, index): ListenerKind => ({
      name: ['SOCKS proxy', 'HTTP proxy'][index] ?? '',
      protocol: 'tcp',
      taken: 'refused',
      open: async (at) => {
        const listener = await kind.start(at, proxy)
        const { port } = listener
        return { port, ask: connected({ ...at, port }), close: () => listener.close() }
      },
    }),
  ),
  {
    name: 'observer of a relay',
    protocol: 'tcp',
    taken: 'another port',
    open: async (at) => {
      const observer = await Observer.start(at, silentLog)
      const [port] = observer.ports
      return { port, ask: connected({ ...at, port }), close: () => observer[Symbol.asyncDispose]() }
    },
  },
]

/** A question without a question in it: FORMERR, from whoever speaks DNS. */
async function answersDatagram({ host, port }: At): Promise<void> {
  const socket = createSocket('udp4')
  try {
    const answer = once(socket, 'message')
    socket.send(Buffer.from('123400000000000000000000', 'hex'), port, host)
    await Promise.race([answer, silence()])
  } finally {
    socket.close()
  }
}

function silence(): Promise<never> {
  return new Promise((_, reject) => void setTimeout(() => reject(new Error('no answer')), 2_000).unref())
}
