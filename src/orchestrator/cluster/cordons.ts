import { MeshError } from '../../core/errors.ts'
import type { Collection } from '../../core/kit/store.ts'
import type { NodeId } from '../../core/model/ids.ts'
import type { Cordon, NodeRecord } from './cluster-store.ts'
import { nameOf } from './nodes.ts'

/** Which nodes are cordoned. It is in the record of the node, so that it outlives both; memory has it for the scheduler, which asks often. */
export class Cordons {
  readonly #saved: Collection<NodeRecord>
  readonly #all = new Map<NodeId, Cordon>()
  readonly #cluster: string

  constructor(cluster: string, saved: Collection<NodeRecord>) {
    this.#cluster = cluster
    this.#saved = saved
    for (const { name, cordon } of saved.list()) if (cordon !== undefined) this.#all.set(`${cluster}/${name}`, cordon)
  }

  of(node: NodeId): Cordon | undefined {
    return this.#all.get(node)
  }

  /** Nodes from which everything is to move away. */
  draining(): NodeId[] {
    return [...this.#all].flatMap(([node, { drain }]) => (drain === undefined ? [] : [node]))
  }

  /** Returns false when it was cordoned already; a new reason replaces the one before, and a drain goes on. @throws MeshError NODE_UNKNOWN */
  set(node: NodeId, cordon: Cordon): boolean {
    const before = this.#all.get(node)
    const record = this.#record(node)
    const kept = before === undefined ? cordon : { ...before, ...cordon, at: before.at }
    this.#saved.put(record.name, { ...record, cordon: kept })
    this.#all.set(node, kept)
    return before === undefined
  }

  /** Returns false when it was not cordoned. @throws MeshError NODE_UNKNOWN */
  lift(node: NodeId): boolean {
    const { cordon: _, ...record } = this.#record(node)
    this.#saved.put(record.name, record)
    return this.#all.delete(node)
  }

  /** The node was removed from the mesh; another may join under its name. */
  forget(node: NodeId): void {
    this.#all.delete(node)
  }

  #record(node: NodeId): NodeRecord {
    const record = node.startsWith(`${this.#cluster}/`) ? this.#saved.get(nameOf(node)) : undefined
    if (record === undefined) throw new MeshError('NODE_UNKNOWN', { node })
    return record
  }
}
