import { BlockList, isIP, isIPv4, isIPv6 } from 'node:net'
import { networkInterfaces, type NetworkInterfaceInfo } from 'node:os'
import { isDialable } from './addresses.ts'
import type { Reachability } from './contract.ts'
import { isPublic } from './dial-guard.ts'
import { parseHostPort } from '../../src/core/kit/host-port.ts'

/** What is known of our own network. */
export interface OwnNetwork {
  readonly interfaces: readonly Pick<NetworkInterfaceInfo, 'address' | 'cidr' | 'internal'>[]
  /** Nothing gets out of it but HTTPS, as far as was seen. */
  readonly isEnclosed: boolean
  /** Whether our NAT leads back in what is sent to that address, its own outside; `undefined`: another one, or not known. */
  readonly leadsBack?: (host: string) => boolean | undefined
}

/**
 * What may become of dialling these addresses from here. Pure.
 *
 *     our own public one, and no way leads back in       unlikely
 *     public, of a family that we have, and we get out   open
 *     a name                                             open
 *     private, of a network that we are in               near       answers in a moment, or is another site's
 *     anything else                                      unlikely   perhaps somebody routes it
 */
export function reachabilityOf(addresses: readonly string[], here: OwnNetwork): Reachability {
  const hosts = addresses.flatMap((address) => parseHostPort(address)?.host ?? [])
  if (hosts.some((host) => isOpen(host, here))) return 'open'
  const networks = networksOf(here)
  const isNear = (host: string) => isDialable(host) && networks.check(host, isIPv4(host) ? 'ipv4' : 'ipv6')
  return hosts.some((host) => isIP(host) !== 0 && isNear(host)) ? 'near' : 'unlikely'
}

export function readInterfaces(): OwnNetwork['interfaces'] {
  return Object.values(networkInterfaces()).flatMap((infos = []) => infos)
}

function isOpen(host: string, { interfaces, isEnclosed, leadsBack }: OwnNetwork): boolean {
  if (isEnclosed || leadsBack?.(host) === false) return false
  if (isIP(host) === 0) return true
  if (!isPublic(host)) return false
  return interfaces.some(
    ({ address, internal }) => !internal && isDialable(address) && isIPv6(address) === isIPv6(host),
  )
}

function networksOf({ interfaces }: OwnNetwork): BlockList {
  const networks = new BlockList()
  for (const { cidr } of interfaces) {
    const [net, bits] = (cidr ?? '').split('/')
    if (net !== undefined && bits !== undefined) networks.addSubnet(net, Number(bits), isIPv6(net) ? 'ipv6' : 'ipv4')
  }
  return networks
}
