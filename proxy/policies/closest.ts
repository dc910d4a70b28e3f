import type { NodeId } from '../../src/core/model/ids.ts'
import type { Instance } from '../../src/core/model/instance.ts'
import type { Policy, PolicyView } from './contract.ts'
import { FirstFew } from './first-few.ts'

/**
 * Another node must be nearer than the one in use by this share and by this much. Smaller: flows flap on jitter; larger: a node
 * that became slow is used for longer.
 */
const ENOUGH_NEARER = 0.2
const ENOUGH_NEARER_MS = 1

/**
 * Asking for the round trip to each of a thousand nodes takes longer than everything else about a flow. So the nearest nodes
 * are searched now and then, and each flow compares only these, by what is measured now. Larger: each flow costs more;
 * smaller: when all of them became slow, a good node is missed for as long as the list is kept.
 */
const SHORT_LIST = 16
/** How long the list is kept. Smaller: it is searched more often; larger: a node that became near is noticed later. */
const KEPT_MS = 500

/**
 * This node first, then by measured round-trip time; the fewest open flows break ties; unmeasured nodes last. The node in use
 * stays first until another is clearly nearer or it has no instance left.
 */
export const closest: Policy = (running, view) => {
  if (running.length === 0) return []
  const nodes = byNode(running)
  const few = new FirstFew(view.limit)
  for (const node of nearest(running, nodes, view)) {
    addAll(few, nodes.get(node) as Instance[], distance(node, view), view)
  }
  const order = few.inOrder()
  const lead = (order[0] as Instance).node
  const present = view.memory.node
  if (present === undefined || present === lead || !nodes.has(present) || takesTheLead(lead, present, view)) {
    view.memory.node = lead
    return order
  }
  const ahead = new FirstFew(view.limit)
  addAll(ahead, nodes.get(present) as Instance[], 0, view)
  const leading = ahead.inOrder()
  return [...leading, ...order.filter(({ node }) => node !== present)].slice(0, view.limit)
}

/** All nodes while they are few; else a short list, with enough instances to try. */
function nearest(
  running: readonly Instance[],
  nodes: ReadonlyMap<NodeId, Instance[]>,
  view: PolicyView,
): Iterable<NodeId> {
  const wanted = Math.max(SHORT_LIST, view.limit)
  if (nodes.size <= wanted) return nodes.keys()
  const { memory } = view
  const now = view.now()
  if (memory.near?.of === running && memory.near.nodes.length >= wanted && now - memory.near.at < KEPT_MS) {
    return memory.near.nodes
  }
  const few = new FirstFew(wanted)
  for (const [node, instances] of nodes) {
    const cost = distance(node, view)
    if (few.wants(cost)) addAll(few, instances.slice(0, 1), cost, view)
  }
  memory.near = { of: running, at: now, nodes: few.inOrder().map(({ node }) => node) }
  return memory.near.nodes
}

/** -1 for this node, infinite for a node that was never measured. */
function distance(node: NodeId, view: PolicyView): number {
  return view.isHere(node) ? -1 : (view.rttMs(node) ?? Number.POSITIVE_INFINITY)
}

function takesTheLead(lead: NodeId, present: NodeId, view: PolicyView): boolean {
  const near = distance(lead, view)
  const far = distance(present, view)
  // This node is not measured; and between equals (often both unmeasured) open flows have decided already.
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
