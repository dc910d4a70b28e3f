import type { NodeId } from '../../src/model/ids.ts'
import type { Instance } from '../../src/model/instance.ts'
import type { Policy, PolicyView } from './contract.ts'
import { FirstFew } from './first-few.ts'

/**
 * Another node must be nearer than the present one by this share and by this much, or flows flap on jitter. Smaller:
 * flapping; larger: a node that became slow is used for longer.
 */
const ENOUGH_NEARER = 0.2
const ENOUGH_NEARER_MS = 1

/**
 * This node first, then by measured round-trip time; fewest open flows breaks ties; unmeasured nodes last. The node that
 * flows have been going to keeps the lead until another is clearly nearer or it has no instance left.
 */
export const closest: Policy = (running, view) => {
  if (running.length === 0) return []
  const nodes = byNode(running)
  const few = new FirstFew(view.limit)
  for (const [node, instances] of nodes) addAll(few, instances, distance(node, view), view)
  const order = few.inOrder()
  const nearest = (order[0] as Instance).node
  const present = view.memory.node
  if (present === undefined || present === nearest || !nodes.has(present) || takesTheLead(nearest, present, view)) {
    view.memory.node = nearest
    return order
  }
  const ahead = new FirstFew(view.limit)
  addAll(ahead, nodes.get(present) as Instance[], 0, view)
  const leading = ahead.inOrder()
  return [...leading, ...order.filter(({ node }) => node !== present)].slice(0, view.limit)
}

/** -1 for this node, infinite for a node nobody has measured. */
function distance(node: NodeId, view: PolicyView): number {
  return view.isHere(node) ? -1 : (view.rttMs(node) ?? Number.POSITIVE_INFINITY)
}

function takesTheLead(nearest: NodeId, present: NodeId, view: PolicyView): boolean {
  const near = distance(nearest, view)
  const far = distance(present, view)
  // This node needs no measuring; and between equals (often: both unmeasured) open flows have decided already.
  if (near < 0 || near === far) return true
  return far - near > Math.max(ENOUGH_NEARER_MS, far === Number.POSITIVE_INFINITY ? 0 : far * ENOUGH_NEARER)
}

function addAll(few: FirstFew, instances: readonly Instance[], cost: number, view: PolicyView): void {
  if (!few.wants(cost)) return
  for (const instance of instances) few.add(instance, cost, view.openFlows(instance.id))
}

const grouped = new WeakMap<readonly Instance[], Map<NodeId, Instance[]>>()

function byNode(running: readonly Instance[]): Map<NodeId, Instance[]> {
  let nodes = grouped.get(running)
  if (nodes === undefined) {
    nodes = Map.groupBy(running, ({ node }) => node)
    grouped.set(running, nodes)
  }
  return nodes
}
