import { holdsVip, vipToIPv4, vipToIPv6, type VipRange } from '../../src/core/model/address.ts'
import type { ServiceEntry } from '../../src/core/model/change.ts'
import { choiceOf, type Choice, type ChoiceKey } from '../../src/core/model/choice.ts'
import type { ServiceId } from '../../src/core/model/ids.ts'
import type { InstanceState } from '../../src/core/model/instance.ts'
import type { VipIndex } from '../../src/core/model/service.ts'

/** One VIP and port of a service, in one address family. */
export interface VipPort {
  /** Unique on this node. */
  readonly key: string
  readonly vip: VipIndex
  /** Its choice names no instance. */
  readonly isOfAny: boolean
  /** A document gives it by number, so people call it without asking for a name. */
  readonly isRequested: boolean
  readonly address: string
  readonly port: number
  readonly protocol: 'tcp' | 'udp'
  readonly service: ServiceId
}

/**
 * The VIP ports of a service that should be listened at now. Those of TCP are left out while no instance can take a flow, so that
 * the caller is refused at its SYN. Those of UDP stay as long as a flow may go on, with an instance that drains or is not heard
 * of; after that the system tells callers that the port is closed (ECONNREFUSED).
 */
export function vipPortsOf(
  { service, instances }: ServiceEntry,
  range: VipRange,
  { takesDatagrams, isWanted = () => true, needsInstance = true }: VipPortOptions,
): VipPort[] {
  const ordinalsIn = (...states: InstanceState[]) =>
    new Set(instances.filter(({ state }) => states.includes(state)).map(({ ordinal }) => ordinal))
  const running = ordinalsIn('running')
  const alive = ordinalsIn('running', 'stopping', 'lost')
  const requested = new Set(service.requested)
  const found: VipPort[] = []
  for (const [key, vip] of Object.entries(service.vips) as [ChoiceKey, VipIndex][]) {
    const isRequested = requested.has(key)
    const choice = choiceOf(key)
    if (choice === undefined || !(isRequested || isWanted(vip))) continue
    const canOpen = {
      tcp: !needsInstance || hasInstance(choice, running),
      udp: takesDatagrams && (!needsInstance || hasInstance(choice, alive)),
    }
    const isOfAny = choice.instance === 'any'
    for (const address of addressesOf(range, vip)) {
      for (const { port, protocol } of service.ports) {
        if (!canOpen[protocol]) continue
        found.push({
          key: `${address} ${port}/${protocol}`,
          vip,
          isOfAny,
          isRequested,
          address,
          port,
          protocol,
          service: service.id,
        })
      }
    }
  }
  return found
}

interface VipPortOptions {
  takesDatagrams: boolean
  /** Which VIPs count, beside those that a document requests; absent: all. */
  isWanted?: (vip: VipIndex) => boolean
  /** False: also those that no instance can take a flow for now. */
  needsInstance?: boolean
}

function hasInstance({ instance, policy }: Choice, running: ReadonlySet<number>): boolean {
  return policy === 'pinned' && instance !== 'any' ? running.has(instance) : running.size > 0
}

function addressesOf(range: VipRange, vip: VipIndex): string[] {
  const v4 = holdsVip(range, vip) ? vipToIPv4(range, vip) : undefined
  return [v4, vipToIPv6(range, vip)].filter((address) => address !== undefined)
}
