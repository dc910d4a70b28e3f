import type { ServiceEntry } from '../../core/model/change.ts'
import { clusterOf, type NodeId } from '../../core/model/ids.ts'
import type { Instance } from '../../core/model/instance.ts'
import type { NodeReach } from '../../core/model/node.ts'
import type { AssignmentRecord } from './cluster-store.ts'

/**
 * One service as the nodes of this cluster see it: the root's word about the service and about other clusters, ours about
 * what runs here. So failures here reach our nodes without the root.
 */
export function compose(
  known: ServiceEntry,
  assignments: readonly AssignmentRecord[],
  { cluster, reachOf }: { cluster: string; reachOf: (node: NodeId) => NodeReach | undefined },
): Omit<ServiceEntry, 'version'> {
  const here = new Map<string, Instance>()
  for (const { assignment, node, state } of assignments) {
    const { instance, ordinal, spec } = assignment
    if (node !== undefined) here.set(instance, { id: instance, service: spec.id, ordinal, node, state })
  }
  const elsewhere = known.instances.filter(({ id, node }) => clusterOf(node) !== cluster && !here.has(id))
  const instances = [...here.values(), ...elsewhere].sort((a, b) => a.ordinal - b.ordinal)
  const reach = new Map(known.nodes.map((node) => [node.id, node]))
  const used = [...new Set(instances.map(({ node }) => node))]
  return {
    service: known.service,
    instances,
    nodes: used.flatMap((node) => (clusterOf(node) === cluster ? reachOf(node) : reach.get(node)) ?? []),
  }
}
