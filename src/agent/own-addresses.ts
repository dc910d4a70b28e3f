import { localAddresses } from '../../proxy/paths/addresses.ts'
import { isThisMachine } from '../../proxy/socket/dial.ts'
import { addressToVip, type VipRange } from '../core/model/address.ts'
import { printHostPort } from '../core/kit/host-port.ts'

/** The addresses of the agent itself: its VIPs never lead to a node, and its own ports are never an instance (SEC-23). */
export class OwnAddresses {
  readonly #ranges: readonly VipRange[]
  readonly #ports = new Set<number>()

  constructor(...ranges: readonly VipRange[]) {
    this.#ranges = ranges
  }

  add(...ports: ReadonlyArray<number | string>): void {
    for (const port of ports) this.#ports.add(Number(port))
  }

  readonly isVip = (address: string): boolean =>
    this.#ranges.some((range) => addressToVip(range, address) !== undefined && !address.startsWith('127.0.0.'))

  readonly forbids = (address: string, port: number): boolean =>
    this.isVip(address) || (this.#ports.has(port) && isThisMachine(address))
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
