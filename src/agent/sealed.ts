import { lookup } from 'node:dns/promises'
import { isDialable } from '../../proxy/paths/addresses.ts'
import type { Address } from '../../proxy/tunnel/sealed/contract.ts'
import { SealedUdp } from '../../proxy/tunnel/sealed/endpoint.ts'
import { UdpPort } from '../../proxy/tunnel/sealed/udp-port.ts'
import type { AgentContext } from './context.ts'
import type { NodeIdentity } from './node-identity.ts'
import { reachableAt } from './own-addresses.ts'
import type { TunnelEndpoint } from './tunnel-endpoint.ts'
import type { Later } from '../core/kit/later.ts'

/** The other user of the UDP port: what observes our NAT. */
interface SharedPort {
  /** Addresses at which observers see the port. */
  udpAddresses(): string[]
  /** Takes a packet that is an answer of an observer; false when it is none. */
  receive(packet: Buffer): boolean
}

export interface Sealed {
  endpoint: SealedUdp
  port: number
  /** A packet that is not sealed, from the same port. */
  send: (packet: Buffer, to: Address) => void
}

/**
 * Opens the UDP port for sealed datagrams: one for the whole agent, with the number of its tunnel port where that is free.
 * `undefined` when UDP is off or no port can be opened; datagrams then travel as frames on carriers.
 */
export async function openSealed(
  { life, self, config, clock, log, metrics }: AgentContext,
  { own }: NodeIdentity,
  tunnel: TunnelEndpoint,
  rendezvous: Later<SharedPort>,
): Promise<Sealed | undefined> {
  if (!config.udp) return undefined
  let endpoint: SealedUdp | undefined
  try {
    const { address: host } = await lookup(tunnel.host)
    const port = life.use(
      await UdpPort.start(
        {
          host,
          port: tunnel.port,
          addresses: (port) => [
            ...tunnel.mapped('udp'),
            ...rendezvous.value.udpAddresses(),
            ...reachableAt(host, port, own),
          ],
          onPacket: (packet, from) => {
            if (!rendezvous.value.receive(packet)) endpoint?.receive(packet, from)
          },
        },
        log,
      ),
    )
    endpoint = new SealedUdp({
      self,
      port,
      exclude: (host) => own.isVip(host) || !isDialable(host),
      now: () => clock.now(),
      metrics,
    })
    return { endpoint, port: port.port, send: (packet, to) => void port.send(packet, packet.length, to) }
  } catch (error) {
    log.warn('cannot open the UDP port; datagrams travel on carriers', { error })
    return undefined
  }
}
