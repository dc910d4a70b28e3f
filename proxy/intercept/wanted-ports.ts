import type { VipRange } from '../../src/core/model/address.ts'
import type { ServiceEntry } from '../../src/core/model/change.ts'
import type { AskedVips } from './asked-vips.ts'
import { type VipPort, vipPortsOf } from './vip-ports.ts'

/*
 *   with rights       every VIP of every service in the table: no port of the machine is taken
 *   without rights    VIPs that were asked for, and those that a document requests by number: each keeps its port from a server of
 *                     the machine that wants it at every address
 *
 * The other VIPs of a service have the same ports, so leaving them closed does not free one; it saves their descriptors.
 */

export interface WantedPortsParts {
  readonly range: VipRange
  /** Listeners at most, beside those of VIPs that were asked for. */
  readonly limit: number
  readonly takesDatagrams: boolean
  readonly asked: AskedVips
  /** Whether the kernel sends the ports of VIPs elsewhere now. */
  readonly hasRights: () => boolean
}

/** VIPs of numbered instances take no more of the limit than this: there are many, and few are called. */
const NUMBERED_SHARE = 0.25

/** At which VIP ports of a service this node listens. */
export class WantedPorts {
  readonly #parts: WantedPortsParts

  constructor(parts: WantedPortsParts) {
    this.#parts = parts
  }

  of(entry: ServiceEntry): VipPort[] {
    const { range, takesDatagrams, asked, hasRights } = this.#parts
    if (hasRights()) return vipPortsOf(entry, range, { takesDatagrams })
    const { id, requested } = entry.service
    const held = asked.of(id)
    if (held.size === 0 && requested === undefined) return [] // at a start, most of the table
    return vipPortsOf(entry, range, { takesDatagrams, isWanted: (vip) => held.has(vip) })
  }

  /** The keys of all that the service has, wanted or not, with an instance or without. */
  knownTo(entry: ServiceEntry): Set<string> {
    const { range, takesDatagrams } = this.#parts
    return new Set(vipPortsOf(entry, range, { takesDatagrams, needsInstance: false }).map(({ key }) => key))
  }

  isWanted({ vip, service, isRequested }: VipPort): boolean {
    const { asked, hasRights } = this.#parts
    return hasRights() || isRequested || asked.has(vip, service)
  }

  /** `used`: listeners that there are. */
  hasRoomFor({ vip, service, isOfAny }: VipPort, used: number): boolean {
    const { asked, limit } = this.#parts
    return asked.has(vip, service) || used < (isOfAny ? limit : limit * NUMBERED_SHARE)
  }
}
