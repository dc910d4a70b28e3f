import { readFileSync } from 'node:fs'
import type { NetworkInterfaceInfo } from 'node:os'
import { unmapped } from './host-port.ts'
import { interfacesHere } from './interfaces.ts'

/** The addresses and default routes of this machine. */
export interface Network {
  /** All its addresses, of each interface that is up. */
  readonly addresses: ReadonlySet<string>
  /** Addresses of outward interfaces, neither loopback nor link-local; sorted. */
  readonly outward: readonly string[]
  readonly defaults: readonly DefaultRoute[]
}

export interface DefaultRoute {
  family: 'ipv4' | 'ipv6'
  device: string
  /** Absent on a point-to-point link. */
  gateway?: string
  metric: number
}

/** Whether an interface leads out of this machine. */
export type InterfaceFilter = (device: string) => boolean

/** Routes are read from /proc (Linux); elsewhere there are only addresses. */
export function readNetwork(isOutward: InterfaceFilter = () => true): Network {
  return networkOf(interfacesHere(), { v4: textOf('/proc/net/route'), v6: textOf('/proc/net/ipv6_route') }, isOutward)
}

export function networkOf(
  interfaces: NodeJS.Dict<NetworkInterfaceInfo[]>,
  routes: { v4: string; v6: string },
  isOutward: InterfaceFilter,
): Network {
  const all = Object.entries(interfaces).flatMap(([device, infos = []]) => infos.map((info) => ({ device, ...info })))
  const outward = all
    .filter(({ device, internal, address }) => !internal && isOutward(device) && !isLinkLocal(address))
    .map(({ address }) => address)
  return {
    addresses: new Set(all.map(({ address }) => address)),
    outward: outward.toSorted(),
    defaults: [...defaultsV4(routes.v4), ...defaultsV6(routes.v6)].filter(({ device }) => isOutward(device)),
  }
}

/** `undefined` when nothing has changed that matters. */
export function whatChanged(before: Network, after: Network): 'addresses' | 'route' | undefined {
  if (before.outward.join() !== after.outward.join()) return 'addresses'
  return JSON.stringify(before.defaults) === JSON.stringify(after.defaults) ? undefined : 'route'
}

/** Whether this machine still has the local address of a connection; without it the connection is dead. */
export function isHere({ addresses }: Pick<Network, 'addresses'>, local: string): boolean {
  const plain = unmapped(local).split('%', 1)[0] ?? local
  return plain.startsWith('127.') || plain === '::1' || addresses.has(plain)
}

const UP = 1

/**
 *     Iface  Destination  Gateway   Flags  RefCnt  Use  Metric  Mask      …      numbers in hex, addresses in host order
 *     eth0   00000000     0101A8C0  0003   0       0    100     00000000
 */
function* defaultsV4(text: string): Iterable<DefaultRoute> {
  for (const line of text.split('\n').slice(1)) {
    const [device = '', destination, gateway = '', flags = '', , , metric = '', mask] = line.split(/\s+/)
    if (destination !== '00000000' || mask !== '00000000' || (Number.parseInt(flags, 16) & UP) === 0) continue
    const bytes = [...Buffer.from(gateway, 'hex')].toReversed()
    const isOnLink = bytes.every((byte) => byte === 0)
    yield {
      family: 'ipv4',
      device,
      ...(isOnLink ? {} : { gateway: bytes.join('.') }),
      metric: Number(metric),
    }
  }
}

/** Destination, its length, source, its length, next hop, metric, references, uses, flags, device; in hex. */
function* defaultsV6(text: string): Iterable<DefaultRoute> {
  for (const line of text.split('\n')) {
    const [destination, length, , , hop = '', metric = '', , , , device = ''] = line.trim().split(/\s+/)
    if (destination === undefined || !/^0{32}$/.test(destination) || length !== '00' || device === 'lo') continue
    const isOnLink = /^0*$/.test(hop)
    const gateway = (hop.match(/.{4}/g) ?? []).map((group) => Number.parseInt(group, 16).toString(16)).join(':')
    yield { family: 'ipv6', device, ...(isOnLink ? {} : { gateway }), metric: Number.parseInt(metric, 16) }
  }
}

function isLinkLocal(address: string): boolean {
  return address.startsWith('169.254.') || /^fe[89ab]/i.test(address)
}

const lastTexts = new Map<string, string>()

/** Where no descriptor is left to read it, what was read last: that the routes are gone would end connections. */
function textOf(path: string): string {
  try {
    lastTexts.set(path, readFileSync(path, 'latin1'))
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code !== 'EMFILE' && code !== 'ENFILE') return ''
  }
  return lastTexts.get(path) ?? ''
}
