import { interestOf, type InstanceId, type InterestKey, type NodeId, type ServiceId } from '../../core/model/ids.ts'

interface Indexed {
  assignment: { instance: InstanceId; spec: { id: ServiceId } }
  node?: NodeId
}

/** Records by node and by service, and how often what a node has was changed. */
export class AssignmentIndex<R extends Indexed> {
  readonly #byNode = new Map<NodeId, Map<InstanceId, R>>()
  readonly #byService = new Map<ServiceId, Map<InstanceId, R>>()
  /** By interest key: services of one name in several namespaces. */
  readonly #byInterest = new Map<InterestKey, Map<InstanceId, R>>()
  readonly #versions = new Map<NodeId, number>()

  /** `touched`: every node whose room the records take. */
  replace(before: R | undefined, after: R | undefined, touched: Iterable<NodeId>): void {
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

  versionOf(node: NodeId): number {
    return this.#versions.get(node) ?? 0
  }

  clear(): void {
    this.#byNode.clear()
    this.#byService.clear()
    this.#byInterest.clear()
    for (const node of this.#versions.keys()) this.#versions.set(node, this.versionOf(node) + 1)
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
