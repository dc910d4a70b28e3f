import { lookup } from 'node:dns/promises'
import { isDialable } from '../../proxy/paths/addresses.ts'
import type { Address } from '../../proxy/tunnel/sealed/contract.ts'
import { SealedUdp } from '../../proxy/tunnel/sealed/endpoint.ts'
import { UdpPort } from '../../proxy/tunnel/sealed/udp-port.ts'
import type { AgentContext } from './context.ts'
import type { NodeIdentity } from './node-identity.ts'
import { reachableAt } from './own-addresses.ts'

export interface SealedCallbacks {
  /** Where the port is seen from outside: of the router's mapping, or as relays tell. */
  outside: () => readonly string[]
  /** Takes what is no sealed packet; false when it is not for it. */
  hear: (packet: Buffer) => boolean
}

export interface Sealed {
  endpoint: SealedUdp
  port: number
  /** A packet that is not sealed, from the same port. */
  send: (packet: Buffer, to: Address) => void
}

/**
 * Datagrams sealed and straight over UDP: one port for the whole agent, with the number of its tunnel where that is free.
 * Nothing when the configuration says so, or there is no socket to be had; datagrams go as frames on carriers then.
 */
export async function openSealed(
  { life, self, config, clock, log, metrics }: AgentContext,
  { own }: NodeIdentity,
  at: { host: string; port: number },
  { outside, hear }: SealedCallbacks,
): Promise<Sealed | undefined> {
  if (!config.udp) return undefined
  let room: SealedUdp | undefined
  try {
    const { address: host } = await lookup(at.host)
    const port = life.use(
      await UdpPort.start(
        {
          host,
          port: at.port,
          addresses: (port) => [...outside(), ...reachableAt(host, port, own)],
          onPacket: (packet, from) => {
            if (!hear(packet)) room?.receive(packet, from)
          },
        },
        log,
      ),
    )
    own.add(port.port)
    room = new SealedUdp({
      self,
      port,
      exclude: (host) => own.isVip(host) || !isDialable(host),
      now: () => clock.now(),
      metrics,
    })
    return { endpoint: room, port: port.port, send: (packet, to) => void port.send(packet, packet.length, to) }
  } catch (error) {
    log.warn('no UDP for datagrams between nodes, they go over carriers', { error })
    return undefined
  }
}
