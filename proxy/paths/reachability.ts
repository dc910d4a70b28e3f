import { BlockList, isIP, isIPv4, isIPv6 } from 'node:net'
import type { NetworkInterfaceInfo } from 'node:os'
import { interfacesHere } from '../../src/core/kit/interfaces.ts'
import { parseHostPort } from '../../src/core/kit/host-port.ts'
import { isDialable, isPublic } from './addresses.ts'
import type { Reachability } from './contract.ts'

/** What this node knows about its own network. */
export interface OwnNetwork {
  readonly interfaces: readonly Pick<NetworkInterfaceInfo, 'address' | 'cidr' | 'internal'>[]
  /** As far as was observed, only HTTPS gets out. */
  readonly isEnclosed: boolean
  /** Whether what we send to that address of our NAT leads back in; `undefined` when it is another address, or not known. */
  readonly hairpins?: (host: string) => boolean | undefined
}

/**
 * How likely it is that one of these addresses can be dialled from here. Pure.
 *
 *     public, but our own NAT's, which does not hairpin   unlikely
 *     public, of a family that we have, and we get out    open
 *     a name                                              open
 *     private, of a network that we are in                near       answers within a moment, or belongs to another site
 *     anything else                                       unlikely   somebody may route it
 */
export function reachabilityOf(addresses: readonly string[], own: OwnNetwork): Reachability {
  const hosts = addresses.flatMap((address) => parseHostPort(address)?.host ?? [])
  if (hosts.some((host) => isOpen(host, own))) return 'open'
  const networks = networksOf(own)
  const isNear = (host: string) => isDialable(host) && networks.check(host, isIPv4(host) ? 'ipv4' : 'ipv6')
  return hosts.some((host) => isIP(host) !== 0 && isNear(host)) ? 'near' : 'unlikely'
}

export function readInterfaces(): OwnNetwork['interfaces'] {
  return Object.values(interfacesHere()).flatMap((infos = []) => infos)
}

function isOpen(host: string, { interfaces, isEnclosed, hairpins }: OwnNetwork): boolean {
  if (isEnclosed || hairpins?.(host) === false) return false
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
