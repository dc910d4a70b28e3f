import { choiceOf, type Choice, type ChoiceKey } from '../model/choice.ts'
import type { NodeId, ServiceId } from '../model/ids.ts'
import type { NodeReach } from '../model/node.ts'
import type { Service, VipIndex } from '../model/service.ts'

/* What the table looks up by VIP and by node; both follow the entries of the services. */

/** Which service and choice each VIP stands for. */
export class VipOwners {
  readonly #slots = new Map<VipIndex, VipSlot>()
  /** The services have the same few dozen choices: one object each, and not one for each VIP. */
  readonly #choices = new Map<ChoiceKey, Choice>()

  slot(vip: VipIndex): VipSlot | undefined {
    return this.#slots.get(vip)
  }

  /** The VIPs of a service have changed. An index that has gone to another service meanwhile stays with that one. */
  swap(service: ServiceId, old: Service['vips'], vips: Service['vips']): void {
    for (const [key, vip] of entries(old)) {
      if (vips[key] !== vip && this.#slots.get(vip)?.service === service) this.#slots.delete(vip)
    }
    for (const [key, vip] of entries(vips)) {
      if (old[key] === vip && this.#slots.get(vip)?.service === service) continue
      const choice = this.#choiceOf(key)
      if (choice !== undefined) this.#slots.set(vip, { service, choice })
    }
  }

  #choiceOf(key: ChoiceKey): Choice | undefined {
    const known = this.#choices.get(key)
    if (known !== undefined) return known
    const choice = choiceOf(key)
    if (choice !== undefined && this.#choices.size < SHARED_CHOICES) this.#choices.set(key, choice)
    return choice
  }
}

/** Larger: keeps more choices of services that are gone. */
const SHARED_CHOICES = 4_096

export interface VipSlot {
  service: ServiceId
  choice: Choice
}

function entries(vips: Service['vips']): [ChoiceKey, VipIndex][] {
  return Object.entries(vips) as [ChoiceKey, VipIndex][]
}

/**
 * How nodes are reached, as the entries of services state it. Several entries may mention the same node: the newest one
 * counts, and the node is forgotten with the last entry that mentions it.
 */
export class NodeIndex {
  readonly #nodes = new Map<NodeId, KnownNode>()

  reach(id: NodeId): NodeReach | undefined {
    return this.#nodes.get(id)?.reach
  }

  /** A service's entry changed, as of the cluster's number `seq`. */
  swap(service: ServiceId, old: readonly NodeReach[], nodes: readonly NodeReach[], seq: number): void {
    for (const reach of nodes) {
      const node = this.#nodes.get(reach.id)
      if (node === undefined) {
        this.#nodes.set(reach.id, { reach, seq, services: new Set([service]) })
        continue
      }
      node.services.add(service)
      if (seq >= node.seq) {
        node.reach = reach
        node.seq = seq
      }
    }
    const stillThere = new Set(nodes.map(({ id }) => id))
    for (const { id } of old) {
      const node = this.#nodes.get(id)
      if (stillThere.has(id) || node === undefined) continue
      node.services.delete(service)
      if (node.services.size === 0) this.#nodes.delete(id)
    }
  }

  /** A new epoch has begun: everything in it is newer. */
  startNumbering(): void {
    for (const node of this.#nodes.values()) node.seq = 0
  }
}

interface KnownNode {
  reach: NodeReach
  seq: number
  services: Set<ServiceId>
}
