import type { ServiceId } from '../../src/core/model/ids.ts'
import type { VipIndex } from '../../src/core/model/service.ts'
import type { VipListener } from './vip-listener.ts'

/** The listeners there are, one for each VIP and port, by service and by VIP. */
export class ListenerIndex {
  readonly #byKey = new Map<string, VipListener>()
  readonly #byService = new Map<ServiceId, Set<VipListener>>()
  readonly #byVip = new Map<VipIndex, Set<VipListener>>()

  get(key: string): VipListener | undefined {
    return this.#byKey.get(key)
  }

  all(): VipListener[] {
    return [...this.#byKey.values()]
  }

  ofService(service: ServiceId): VipListener[] {
    return [...(this.#byService.get(service) ?? [])]
  }

  ofVip(vip: VipIndex): VipListener[] {
    return [...(this.#byVip.get(vip) ?? [])]
  }

  add(listener: VipListener): void {
    const { key, service, vip } = listener.at
    this.#byKey.set(key, listener)
    addTo(this.#byService, service, listener)
    addTo(this.#byVip, vip, listener)
  }

  remove(listener: VipListener): void {
    const { key, service, vip } = listener.at
    this.#byKey.delete(key)
    removeFrom(this.#byService, service, listener)
    removeFrom(this.#byVip, vip, listener)
  }
}

function addTo<K>(index: Map<K, Set<VipListener>>, key: K, listener: VipListener): void {
  const listeners = index.get(key)
  if (listeners === undefined) index.set(key, new Set([listener]))
  else listeners.add(listener)
}

function removeFrom<K>(index: Map<K, Set<VipListener>>, key: K, listener: VipListener): void {
  const listeners = index.get(key)
  listeners?.delete(listener)
  if (listeners?.size === 0) index.delete(key)
}
