import { BlockList, isIPv4, isIPv6 } from 'node:net'
import type { NetworkInterfaceInfo } from 'node:os'
import { interfacesHere } from '../../src/core/kit/interfaces.ts'
import { printHostPort } from '../../src/core/kit/host-port.ts'

export const FAMILIES = ['ipv4', 'ipv6'] as const
export type Family = (typeof FAMILIES)[number]

/** Of a numeric address. */
export function familyOf(host: string): Family {
  return host.includes(':') ? 'ipv6' : 'ipv4'
}

/** Whether an address belongs to our own overlay: such an address must never be dialled to reach a node. */
export type Exclude = (address: string) => boolean

/** Interfaces of networks that exist inside one machine only, or that are overlays themselves. */
const INNER_DEVICE =
  /^(?:lo|cni|cali|cilium|flannel|docker|br-|virbr|veth|vnet|lxc|kube|tunl|vxlan|geneve|wg|tailscale|zt|utun|tun|tap|nebula|podman)/

/** Whether an interface leads out of this machine. */
export function isOutward(device: string): boolean {
  return !INNER_DEVICE.test(device)
}

export interface LocalAddressOptions {
  exclude?: Exclude
  /** Also 127.0.0.1: for several nodes on one machine. Otherwise only when there is no other address. */
  loopback?: boolean
  interfaces?: NodeJS.Dict<NetworkInterfaceInfo[]>
}

/** The `host:port` at which others may reach this machine: IPv4 first, then IPv6, in the system's order. */
export function localAddresses(port: number, options: LocalAddressOptions = {}): string[] {
  const { exclude = () => false, loopback = false, interfaces = interfacesHere() } = options
  const found = Object.entries(interfaces)
    .filter(([name]) => isOutward(name))
    .flatMap(([, addresses = []]) => addresses)
    .filter(({ internal, address }) => !internal && isDialable(address) && !exclude(address))
    .map(({ address }) => address)
  const all = [...found.filter((address) => isIPv4(address)), ...found.filter((address) => isIPv6(address))]
  if (loopback || all.length === 0) all.push('127.0.0.1')
  return all.map((address) => printHostPort(address, port))
}

/** False for addresses that name no single machine, or that mean another one on each link: link-local, multicast, unspecified. */
export function isDialable(address: string): boolean {
  if (isIPv4(address)) {
    const [first = 0, second = 0] = address.split('.').map(Number)
    return first !== 0 && first < 224 && !(first === 169 && second === 254)
  }
  return isIPv6(address) && !address.includes('%') && !/^(?:::$|fe[89ab]|ff)/i.test(address)
}

/** Addresses that are reachable in their own network only (RFC 1918, 6598, 4193). */
const PRIVATE = new BlockList()
for (const [net, bits] of [
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.168.0.0', 16],
] as const)
  PRIVATE.addSubnet(net, bits)
for (const [net, bits] of [
  ['::1', 128],
  ['fc00::', 7],
  ['fe80::', 10],
] as const)
  PRIVATE.addSubnet(net, bits, 'ipv6')

/** Whether it is an address of the internet, not of somebody's own network. */
export function isPublic(host: string): boolean {
  if (!isDialable(host) || /^::ffff:/i.test(host)) return false
  return isIPv4(host) ? !PRIVATE.check(host) : isIPv6(host) && !PRIVATE.check(host, 'ipv6')
}
