import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { createServer as createHttpServer, type IncomingMessage, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { promisify } from 'node:util'
import { MeshError } from '../../src/core/errors.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { openMetrics, type Metrics } from '../../src/core/metrics.ts'
import { vipRange } from '../../src/core/model/address.ts'
import { hasTool } from '../../src/lab/system-tools.ts'
import { FlowLedger } from '../../proxy/flow/ledger.ts'
import type { Credentials } from '../../proxy/intercept/credentials.ts'
import { HttpInterceptor } from '../../proxy/intercept/http.ts'
import type { ProxyParts } from '../../proxy/intercept/proxy-listener.ts'
import { SocksInterceptor } from '../../proxy/intercept/socks.ts'
import type { Endpoint } from '../../proxy/socket/dial.ts'
import { OUTBOUND_LIMITS } from '../../proxy/outbound/establish.ts'
import { outbound, type OutboundParts } from '../../proxy/outbound/outbound.ts'
import { createBalancer } from '../../proxy/policies/index.ts'
import { keptLog, LiteralTable, peersWith, roomy } from './world.ts'

export const CART = 'shop.acme.cart.prod'
export const NAME = `${CART}.any.rr.local`
export const RANGE = vipRange('127.16.0.0/12')
export const FRONT = 'shop.acme.front.prod.0'
export const SECRETS: Record<string, string> = { node: 'hush', [FRONT]: 'quiet', 'mail.acme.smtp.prod.0': 'still' }
export const VIP = 0xe1234

/** A node with both proxies before one HTTP server, which answers what it was asked. */
export async function node(
  serve?: (server: Server) => void,
  credentials: Credentials = (user) => (Object.hasOwn(SECRETS, user) ? SECRETS[user] : undefined),
) {
  const { web, seen, endpoint } = await webServer(serve)
  const table = new LiteralTable(
    { id: CART, ports: [80, 8080], on: ['edge/a'], vips: { 'any.rr': VIP } },
    { id: 'shop.acme.down.prod', on: ['edge/a'] },
    { id: 'shop.acme.none.prod', on: [] },
  )
  const log = keptLog()
  const metrics = openMetrics('agent')
  const ledger = await FlowLedger.start({ drainMs: 0 }, { clock: systemClock, log, metrics })
  const flows = outboundParts(table, ledger, endpoint, metrics)
  const parts: ProxyParts = {
    table,
    interests: interestsBut('shop.acme.cut'),
    zones: ['local', 'internal'],
    ranges: [RANGE],
    credentials,
    forbids: (_, port) => port === http.port || port === socks.port,
    onFlow: (flow) => void outbound(flow, flows),
    clock: systemClock,
    log,
    metrics,
  }
  const http = await HttpInterceptor.start({ port: 0 }, parts)
  const socks = await SocksInterceptor.start({ port: 0 }, parts)
  return {
    seen,
    log,
    endpoint,
    table,
    ledger,
    parts,
    http: (user = 'node', secret = SECRETS[user]) => `http://${user}:${secret}@127.0.0.1:${http.port}`,
    socks: (user = 'node', secret = SECRETS[user]) => `socks5h://${user}:${secret}@127.0.0.1:${socks.port}`,
    httpPort: http.port,
    socksPort: socks.port,
    async [Symbol.asyncDispose]() {
      await Promise.all([http.close(), socks.close()])
      web.closeAllConnections()
      web.close()
      await ledger.close()
      metrics.registry.clear()
    },
  }
}

/** The one instance: it answers with the method, the path and the number of bytes that it was sent. */
async function webServer(serve?: (server: Server) => void) {
  const seen: IncomingMessage[] = []
  const web = createHttpServer({ maxHeaderSize: 128 * 1024 }, (request, response) => {
    seen.push(request)
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => response.end(`${request.method} ${request.url} ${Buffer.concat(chunks).length}\n`))
  })
  serve?.(web)
  web.listen({ host: '127.0.0.1', port: 0 })
  await once(web, 'listening')
  return { web, seen, endpoint: { host: '127.0.0.1', port: (web.address() as AddressInfo).port } }
}

/** Every name is known at once, except this one, for which the cluster cannot be asked. */
function interestsBut(cut: string): ProxyParts['interests'] {
  return {
    want: async (key) => {
      if (key === cut) throw new MeshError('LINK_CLOSED')
    },
    wantVip: async () => undefined,
  }
}

function outboundParts(table: LiteralTable, ledger: FlowLedger, endpoint: Endpoint, metrics: Metrics): OutboundParts {
  return {
    ...roomy(),
    table,
    peers: peersWith([]),
    self: 'edge/a',
    endpointOf: (id) => (id === `${CART}.0` ? endpoint : undefined),
    clock: systemClock,
    dial: () => ({ timeoutMs: 2000 }),
    balancer: createBalancer({ rttMs: () => undefined, isHere: () => true, openFlows: (id) => ledger.openFlows(id) }),
    ledger,
    limits: OUTBOUND_LIMITS,
    metrics,
  }
}

const execute = promisify(execFile)

/** Why tests with curl are left out, where they are. */
export const noCurl = !hasTool('curl') && 'curl is not installed'

/** What curl says: its output and its exit code. */
export async function curl(...argv: string[]): Promise<{ out: string; code: number }> {
  const env = { PATH: process.env['PATH'] ?? '' }
  return execute('curl', ['-sS', '--max-time', '10', ...argv], { env }).then(
    ({ stdout }) => ({ out: stdout, code: 0 }),
    (error: { stdout: string; code: number }) => ({ out: error.stdout, code: error.code }),
  )
}
