import { NOTHING, demandOf, release, reserve, shortage } from '../scheduling/capacity.ts'
import { portKey } from '../scheduling/candidate.ts'
import type { Assignment, NodeFacts } from '../spec.ts'

export interface Standing {
  facts: NodeFacts
  runtimes: readonly string[]
  /** What is on the node already. */
  others: readonly Assignment[]
}

/** Why a node cannot take an instance: it knows better than its cluster, whose books may be old. */
export function refusalOf({ instance, spec }: Assignment, { facts, runtimes, others }: Standing): string | undefined {
  if (!runtimes.includes(spec.runtime)) return `runtime ${spec.runtime} is not offered here`
  if (spec.arch.length > 0 && !spec.arch.includes(facts.arch)) return `this node is ${facts.arch}`
  const rest = others.filter((other) => other.instance !== instance)
  const free = reserve(facts.capacity, rest.map((other) => demandOf(other.spec)).reduce(release, NOTHING))
  const short = shortage(demandOf(spec), free)
  if (short !== undefined) return `too little ${short} free: ${free[short]} of ${facts.capacity[short]}`
  if (!spec.fixedPorts) return undefined
  const taken = new Map(
    rest.flatMap((other) =>
      other.spec.fixedPorts ? other.spec.ports.map((port) => [portKey(port), other.instance]) : [],
    ),
  )
  const port = spec.ports.find((candidate) => taken.has(portKey(candidate)))
  return port === undefined ? undefined : `port ${portKey(port)} is taken by ${taken.get(portKey(port))}`
}
