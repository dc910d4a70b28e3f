import type { Instance } from '../../src/core/model/instance.ts'
import type { Policy, PolicyView } from './contract.ts'

/**
 * Added to every round trip, so that 0.3 ms does not count as three times 0.1 ms. Smaller: latency decides; larger: only the
 * number of flows does.
 */
const LATENCY_FLOOR_MS = 5

/** Assumed for a node that was never measured: farther than within a region, nearer than across continents. */
const UNMEASURED_MS = 50

/**
 * Power of two choices (Mitzenmacher 2001): of two drawn at random, the one with fewer open flows, weighted by latency.
 * Two are nearly as even as all, and a thousand agents do not all choose the same idle instance.
 */
export const least: Policy = (running, view) => {
  const order = draw(running, Math.max(view.limit, 2), view.random)
  const [first, second] = order
  if (first === undefined || second === undefined) return order
  if (cost(second, view) < cost(first, view)) {
    order[0] = second
    order[1] = first
  }
  if (order.length > view.limit) order.length = view.limit
  return order
}

function cost(instance: Instance, view: PolicyView): number {
  const rttMs = view.isHere(instance.node) ? 0 : (view.rttMs(instance.node) ?? UNMEASURED_MS)
  return (view.openFlows(instance.id) + 1) * (rttMs + LATENCY_FLOOR_MS)
}

/** Up to `count` different instances in random order. */
function draw(running: readonly Instance[], count: number, random: () => number): Instance[] {
  if (count * 4 > running.length) return shuffled(running, count, random)
  const places = new Set<number>()
  while (places.size < count) places.add(Math.floor(random() * running.length))
  return Array.from(places, (place) => running[place] as Instance)
}

/** The first `count` of a Fisher–Yates shuffle. */
function shuffled(running: readonly Instance[], count: number, random: () => number): Instance[] {
  const order = running.slice()
  const end = Math.min(count, order.length)
  for (let i = 0; i < end; i++) {
    const j = i + Math.floor(random() * (order.length - i))
    const swapped = order[i] as Instance
    order[i] = order[j] as Instance
    order[j] = swapped
  }
  order.length = end
  return order
}
