import { isIPv4, isIPv6 } from 'node:net'
import { printHostPort } from '../../src/core/kit/host-port.ts'
import { networkInterfaces, type NetworkInterfaceInfo } from 'node:os'

export const FAMILIES = ['ipv4', 'ipv6'] as const
export type Family = (typeof FAMILIES)[number]

/** Of a numeric address. */
export function familyOf(host: string): Family {
  return host.includes(':') ? 'ipv6' : 'ipv4'
}

/** Addresses of our own overlay, by the prefixes in use: they must never be taken for a way to reach a node. */
export type Exclude = (address: string) => boolean

/** Networks that exist inside one machine only, or that are overlays themselves (TUNNELS.md §2.2). */
const INNER =
  /^(?:lo|cni|cali|cilium|flannel|docker|br-|virbr|veth|vnet|lxc|kube|tunl|vxlan|geneve|wg|tailscale|zt|utun|tun|tap|nebula|podman)/

/** Whether an interface leads out of this machine. */
export function isOutward(device: string): boolean {
  return !INNER.test(device)
}

export interface LocalAddressOptions {
  exclude?: Exclude
  /** Also 127.0.0.1: for several nodes on one machine. Without it only when there is nothing else. */
  loopback?: boolean
  interfaces?: NodeJS.Dict<NetworkInterfaceInfo[]>
}

/** `host:port` candidates under which others may reach this machine: IPv4 first, then IPv6, in the system's order. */
export function localAddresses(port: number, options: LocalAddressOptions = {}): string[] {
  const { exclude = () => false, loopback = false, interfaces = networkInterfaces() } = options
  const found = Object.entries(interfaces)
    .filter(([name]) => isOutward(name))
    .flatMap(([, addresses = []]) => addresses)
    .filter(({ internal, address }) => !internal && isDialable(address) && !exclude(address))
    .map(({ address }) => address)
  const all = [...found.filter((address) => isIPv4(address)), ...found.filter((address) => isIPv6(address))]
  if (loopback || all.length === 0) all.push('127.0.0.1')
  return all.map((address) => printHostPort(address, port))
}

/** False for what names no single machine, or the machine itself only by chance: link-local, multicast, unspecified. */
export function isDialable(address: string): boolean {
  if (isIPv4(address)) {
    const [first = 0, second = 0] = address.split('.').map(Number)
    return first !== 0 && first < 224 && !(first === 169 && second === 254)
  }
  return isIPv6(address) && !address.includes('%') && !/^(?:::$|fe[89ab]|ff)/i.test(address)
}
