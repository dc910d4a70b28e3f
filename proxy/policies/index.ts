import type { ServiceEntry } from '../../src/core/model/change.ts'
import type { Policy as PolicyWord } from '../../src/core/model/choice.ts'
import type { Instance } from '../../src/core/model/instance.ts'
import type { VipIndex } from '../../src/core/model/service.ts'
import type { Target } from '../../src/core/table/view.ts'
import { closest } from './closest.ts'
import type { Measures, Policy, PolicyMemory, PolicyView } from './contract.ts'
import { least } from './least.ts'
import { pinned } from './pinned.ts'
import { placeAfter, roundRobin } from './round-robin.ts'

/** The policy of each policy word. A new one is a file, a word in `model/choice.ts` and two lines here. */
export const policies: Readonly<Record<PolicyWord, Policy>> = { rr: roundRobin, closest, pinned, least }

/** For `trace`: why the first instance is first. */
const reasons: Readonly<Record<PolicyWord, (first: Instance, view: PolicyView) => string>> = {
  rr: () => 'next in turn',
  closest: ({ node }, view) => {
    if (view.isHere(node)) return 'on this node'
    const rttMs = view.rttMs(node)
    return rttMs === undefined ? 'no node has been measured yet' : `nearest: ${rttMs.toFixed(1)} ms to ${node}`
  },
  pinned: () => 'this caller sticks to it',
  least: ({ id }, view) => `fewer open flows for its distance than another (${view.openFlows(id)})`,
}

export interface Ordered {
  /** The order to try; empty when no running instance may be chosen. */
  readonly instances: readonly Instance[]
  /** Why this order, as a short phrase for `trace`. Made only when read. */
  readonly reason: string
}

export interface Balancer {
  /**
   * The running instances of `entry` to try for one flow, best first, at most `limit` of them.
   * Each call is one turn: round robin moves on.
   */
  order(target: Target, entry: ServiceEntry, caller: string, limit?: number): Ordered
  /** What `order` would return next, for all instances that run. Takes no turn, so looking changes nothing. */
  preview(target: Target, entry: ServiceEntry, caller: string): Ordered
}

/** Candidates tried for one flow. Larger: the last ones are not reached within the flow's 3 s. */
const CANDIDATES = 4

/** Targets whose memory is kept. Smaller: a node that uses very many names may begin a round anew. */
const REMEMBERED = 10_000

export function createBalancer(
  measures: Omit<Measures, 'random' | 'now'> & Partial<Pick<Measures, 'random' | 'now'>>,
): Balancer {
  const memories = new Map<VipIndex, PolicyMemory>()
  const rttMs = measures.rttMs.bind(measures)
  const isHere = measures.isHere.bind(measures)
  const openFlows = measures.openFlows.bind(measures)
  const { random = Math.random, now = () => performance.now() } = measures
  const ordered = ({ service, choice }: Target, entry: ServiceEntry, { caller, limit, memory }: Asked): Ordered => {
    const view = { service: service.id, choice, caller, limit, memory, rttMs, isHere, openFlows, random, now }
    const running = runningOf(entry)
    return new OrderedNow(orderFor(running, view), running, view)
  }
  return {
    order: (target, entry, caller, limit = CANDIDATES) =>
      ordered(target, entry, { caller, limit, memory: remembered(memories, target.vip) }),
    preview: (target, entry, caller) =>
      ordered(target, entry, {
        caller,
        limit: Math.max(1, entry.instances.length),
        memory: { ...memories.get(target.vip) },
      }),
  }
}

/** A class, because an object literal with a getter costs each flow a call into V8's runtime. */
class OrderedNow implements Ordered {
  readonly instances: readonly Instance[]
  readonly #running: readonly Instance[]
  readonly #view: PolicyView

  constructor(instances: readonly Instance[], running: readonly Instance[], view: PolicyView) {
    this.instances = instances
    this.#running = running
    this.#view = view
  }

  get reason(): string {
    return reasonFor(this.instances, this.#running, this.#view)
  }
}

type Asked = Pick<PolicyView, 'caller' | 'limit' | 'memory'>

/** The choice's instance first while it runs, then the policy's order; `N.pinned` is instance N or none. */
function orderFor(running: readonly Instance[], view: PolicyView): readonly Instance[] {
  const { instance, policy } = view.choice
  if (instance === 'any') return policies[policy](running, view)
  const chosen = numbered(running, instance)
  if (policy === 'pinned') return chosen === undefined ? [] : [chosen]
  if (chosen === undefined) return policies[policy](running, view)
  if (view.limit === 1) return [chosen]
  const others = policies[policy](running, view).filter((other) => other !== chosen)
  return [chosen, ...others.slice(0, view.limit - 1)]
}

function numbered(running: readonly Instance[], ordinal: number): Instance | undefined {
  const instance = running[placeAfter(running, ordinal - 1)]
  return instance?.ordinal === ordinal ? instance : undefined
}

function reasonFor(instances: readonly Instance[], running: readonly Instance[], view: PolicyView): string {
  const { instance, policy } = view.choice
  const [first] = instances
  if (running.length === 0) return 'no instance runs'
  if (first === undefined) return `instance ${instance} does not run, and the name allows no other`
  if (instance === 'any') return reasons[policy](first, view)
  if (first.ordinal === instance) return `instance ${instance} was asked for and runs`
  return `instance ${instance} does not run; by ${policy}: ${reasons[policy](first, view)}`
}

const kept = new WeakMap<ServiceEntry, readonly Instance[]>()

/** The running instances by ordinal. Entries are replaced as a whole, so this is worked out once for each. */
export function runningOf(entry: ServiceEntry): readonly Instance[] {
  let running = kept.get(entry)
  if (running === undefined) {
    running = entry.instances.filter(({ state }) => state === 'running').sort((a, b) => a.ordinal - b.ordinal)
    kept.set(entry, running)
  }
  return running
}

function remembered(memories: Map<VipIndex, PolicyMemory>, vip: VipIndex): PolicyMemory {
  let memory = memories.get(vip)
  if (memory === undefined) {
    for (const oldest of memories.size < REMEMBERED ? [] : memories.keys()) {
      memories.delete(oldest)
      break
    }
    memory = {}
    memories.set(vip, memory)
  }
  return memory
}
