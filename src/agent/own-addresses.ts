import { localAddresses } from '../../proxy/paths/addresses.ts'
import { isThisMachine } from '../../proxy/socket/dial.ts'
import { addressToVip, type VipRange } from '../core/model/address.ts'
import { printHostPort } from '../core/kit/host-port.ts'
import { ownListeners } from '../core/kit/own-listeners.ts'

/** The addresses of the agent itself: VIPs never lead to a node, and no port of this process is an instance (SEC-23). */
export class OwnAddresses {
  readonly #ranges: readonly VipRange[]

  constructor(...ranges: readonly VipRange[]) {
    this.#ranges = ranges
  }

  readonly isVip = (address: string): boolean =>
    this.#ranges.some((range) => addressToVip(range, address) !== undefined && !address.startsWith('127.0.0.'))

  /** Whether no flow may reach this address: a VIP, or a listener of any role in this process. */
  readonly forbids = (address: string, port: number, protocol: 'tcp' | 'udp' = 'tcp'): boolean =>
    this.isVip(address) || ownListeners.has({ protocol, address, port }, isThisMachine)
}

/** Whether our own listener would answer there. */
export function isListenedAt(at: { host: string; port: number }, host: string, port: number): boolean {
  if (port !== at.port) return false
  return isAny(at.host) ? isThisMachine(host) : host === at.host
}

/** The addresses at which others may dial us. A listener on loopback is reached on loopback only. */
export function reachableAt(host: string, port: number, own: OwnAddresses): string[] {
  return isAny(host) ? localAddresses(port, { exclude: own.isVip }) : [printHostPort(host, port)]
}

function isAny(host: string): boolean {
  return host === '0.0.0.0' || host === '::'
}
