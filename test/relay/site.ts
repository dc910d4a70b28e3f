import { once } from 'node:events'
import { createServer, type Server } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import type { RelayLimits } from '../../proxy/relay/limits.ts'
import { Relay } from '../../proxy/relay/server.ts'
import type { RelayCredentials } from '../../proxy/paths/relays/relayed-dialer.ts'
import type { Identity } from '../../src/core/identity/contract.ts'
import { clientOptions, principalOf, serverOptions, tend } from '../../src/core/identity/tls.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { asksForBytes } from '../../src/core/kit/upgrade.ts'
import { refuseUpgrade, WebSocketAcceptor } from '../../src/core/kit/websocket-acceptor.ts'
import { openMetrics, type Metrics } from '../../src/core/metrics.ts'

type AcceptBytes = (this: WebSocketAcceptor, ...args: Parameters<WebSocketAcceptor['acceptBytes']>) => void

export const credentialsOf =
  (identity: Identity): RelayCredentials =>
  () => ({ tls: clientOptions(identity) })

/** A relay behind its https server, as a cluster has it, and what passes through it. */
export class RelaySite implements AsyncDisposable {
  readonly relay: Relay
  readonly metrics: Metrics
  /** Every leg the relay ever opened. */
  readonly legs: Duplex[] = []
  readonly #server: Server
  readonly #restore: () => void

  private constructor(server: Server, relay: Relay, metrics: Metrics) {
    this.#server = server
    this.relay = relay
    this.metrics = metrics
    const acceptBytes = Object.getOwnPropertyDescriptor(WebSocketAcceptor.prototype, 'acceptBytes')
      ?.value as AcceptBytes
    const { legs } = this
    WebSocketAcceptor.prototype.acceptBytes = function (upgrade, onStream) {
      acceptBytes.call(this, upgrade, (stream) => {
        legs.push(stream)
        onStream(stream)
      })
    }
    this.#restore = () => {
      WebSocketAcceptor.prototype.acceptBytes = acceptBytes
    }
  }

  static async start(
    cluster: Identity,
    limits: Partial<RelayLimits> = {},
    port = 0,
    { knowsBytes = true } = {},
  ): Promise<RelaySite> {
    const metrics = openMetrics('cluster')
    const relay = Relay.create(limits, silentLog, metrics)
    const server = createServer(serverOptions(cluster, { requestClient: true }))
    const site = new RelaySite(server, relay, metrics)
    tend(server, cluster)
    server.on('upgrade', (request, socket: Duplex, head) => {
      if (asksForBytes(request) && !knowsBytes) return refuseUpgrade(socket, '426 Upgrade Required', 'websocket')
      if (asksForBytes(request)) site.legs.push(socket)
      try {
        relay.upgrade(request, socket, head, principalOf(socket))
      } catch {
        refuseUpgrade(socket, '401 Unauthorized', 'who is it')
      }
    })
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
    return site
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  get url(): string {
    return `wss://127.0.0.1:${this.port}/relay`
  }

  /** What the relay writes to its legs from now on. */
  watch(seen: Buffer[]): void {
    for (const leg of this.legs) {
      const write = leg.write.bind(leg) as (chunk: Buffer, written: () => void) => boolean
      leg.write = ((chunk: Buffer, written: () => void) => {
        seen.push(Buffer.from(chunk))
        return write(chunk, written)
      }) as Duplex['write']
    }
  }

  /** Resolves once the node is known here. */
  async knows(node: string): Promise<void> {
    while (![...this.relay.listening].includes(node)) await turn()
  }

  /** Resolves once the claim holds. */
  async until(claim: () => boolean | Promise<boolean>): Promise<void> {
    while (!(await claim())) await turn()
  }

  async open(): Promise<number> {
    return (await this.metrics.relayConnections.get()).values[0]?.value ?? 0
  }

  async bytes(): Promise<number> {
    return (await this.metrics.relayBytes.get()).values[0]?.value ?? 0
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#restore()
    await this.relay[Symbol.asyncDispose]()
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
