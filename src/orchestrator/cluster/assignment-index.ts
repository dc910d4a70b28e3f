import { interestOf, type InstanceId, type InterestKey, type NodeId, type ServiceId } from '../../core/model/ids.ts'
import { targetsOf } from '../scheduling/asked-by-others.ts'
import type { ServiceSpec } from '../spec.ts'

interface Indexed {
  assignment: { instance: InstanceId; spec: Pick<ServiceSpec, 'id' | 'constraints'> }
  node?: NodeId
}

/** Records by node and by service, and how often what a node has was changed. */
export class AssignmentIndex<R extends Indexed> {
  readonly #byNode = new Map<NodeId, Map<InstanceId, R>>()
  readonly #byService = new Map<ServiceId, Map<InstanceId, R>>()
  /** By interest key: services of one name in several namespaces. */
  readonly #byInterest = new Map<InterestKey, Map<InstanceId, R>>()
  /** By the services that constraints name: who asks something of them, by service. */
  readonly #asking = new Map<string, Map<ServiceId, Map<InstanceId, R>>>()
  readonly #versions = new Map<NodeId, number>()

  /** `touched`: every node whose room the records take. */
  replace(before: R | undefined, after: R | undefined, touched: Iterable<NodeId>): void {
    if (before?.assignment.spec !== after?.assignment.spec) {
      if (before !== undefined) this.#forgetAsked(before)
      if (after !== undefined) this.#noteAsked(after)
    }
    if (before !== undefined) {
      remove(this.#byNode, before.node, before)
      if (after === undefined) {
        remove(this.#byService, before.assignment.spec.id, before)
        remove(this.#byInterest, interestOf(before.assignment.spec.id), before)
      }
    }
    if (after !== undefined) {
      add(this.#byNode, after.node, after)
      add(this.#byService, after.assignment.spec.id, after)
      add(this.#byInterest, interestOf(after.assignment.spec.id), after)
    }
    for (const node of touched) this.#versions.set(node, this.versionOf(node) + 1)
  }

  on(node: NodeId): R[] {
    return [...(this.#byNode.get(node)?.values() ?? [])]
  }

  of(service: ServiceId): R[] {
    return [...(this.#byService.get(service)?.values() ?? [])]
  }

  /** Of a service id, or of all services under an interest key. */
  named(service: string): R[] {
    return [...((this.#byService.get(service) ?? this.#byInterest.get(service))?.values() ?? [])]
  }

  /** One instance of each service that asks something of this one. */
  asking(service: ServiceId): R[] {
    const found = new Map<ServiceId, R>()
    for (const key of [service, interestOf(service)])
      for (const [id, records] of this.#asking.get(key) ?? []) {
        const [first] = records.values()
        if (first !== undefined) found.set(id, first)
      }
    return [...found.values()]
  }

  versionOf(node: NodeId): number {
    return this.#versions.get(node) ?? 0
  }

  clear(): void {
    this.#byNode.clear()
    this.#byService.clear()
    this.#byInterest.clear()
    this.#asking.clear()
    for (const node of this.#versions.keys()) this.#versions.set(node, this.versionOf(node) + 1)
  }

  #noteAsked(record: R): void {
    const { spec } = record.assignment
    for (const target of targetsOf(spec)) {
      const services = this.#asking.get(target) ?? new Map<ServiceId, Map<InstanceId, R>>()
      this.#asking.set(target, services)
      add(services, spec.id, record)
    }
  }

  #forgetAsked(record: R): void {
    const { spec } = record.assignment
    for (const target of targetsOf(spec)) {
      const services = this.#asking.get(target)
      if (services === undefined) continue
      remove(services, spec.id, record)
      if (services.size === 0) this.#asking.delete(target)
    }
  }
}

function add<R extends Indexed>(index: Map<string, Map<InstanceId, R>>, key: string | undefined, record: R): void {
  if (key === undefined) return
  const under = index.get(key) ?? new Map<InstanceId, R>()
  index.set(key, under)
  under.set(record.assignment.instance, record)
}

function remove<R extends Indexed>(index: Map<string, Map<InstanceId, R>>, key: string | undefined, record: R): void {
  if (key === undefined) return
  const under = index.get(key)
  under?.delete(record.assignment.instance)
  if (under?.size === 0) index.delete(key)
}
