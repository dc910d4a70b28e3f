import { choiceOf, type Choice, type ChoiceKey } from '../model/choice.ts'
import type { ServiceId } from '../model/ids.ts'
import type { Service, VipIndex } from '../model/service.ts'

/** Which service and choice each VIP stands for. */
export class VipBook {
  readonly #slots = new Map<VipIndex, VipSlot>()

  slot(vip: VipIndex): VipSlot | undefined {
    return this.#slots.get(vip)
  }

  /** A service's VIPs changed. An index that went to another service meanwhile is left to it. */
  swap(service: ServiceId, old: Service['vips'], vips: Service['vips']): void {
    for (const [key, vip] of entries(old)) {
      if (vips[key] !== vip && this.#slots.get(vip)?.service === service) this.#slots.delete(vip)
    }
    for (const [key, vip] of entries(vips)) {
      if (old[key] === vip && this.#slots.get(vip)?.service === service) continue
      const choice = choiceOf(key)
      if (choice !== undefined) this.#slots.set(vip, { service, choice })
    }
  }
}

export interface VipSlot {
  service: ServiceId
  choice: Choice
}

function entries(vips: Service['vips']): [ChoiceKey, VipIndex][] {
  return Object.entries(vips) as [ChoiceKey, VipIndex][]
}
