import { demandOf, isNothing, reserve, shortage, sumOf } from '../scheduling/capacity.ts'
import { keyOfPorts, portsOfNode, volumesOfNode } from '../scheduling/candidate.ts'
import type { Assignment, NodeFacts } from '../spec.ts'
import type { Runtime } from './runtime.ts'

export interface Standing {
  facts: NodeFacts
  runtimes: readonly Pick<Runtime, 'name' | 'refuses'>[]
  /**
   * What is on the node already and stays, at least for a while: also an earlier run of the instance beside which it is to start. Only
   * asked for when the instance takes something that others may have.
   */
  others: () => readonly Assignment[]
}

/** Why a node cannot take an instance: it knows better than its cluster, whose books may be old. */
export function refusalOf(
  { instance, spec }: Assignment,
  { facts, runtimes, others: othersHere }: Standing,
): string | undefined {
  const runtime = runtimes.find(({ name }) => name === spec.runtime)
  if (runtime === undefined) return `runtime ${spec.runtime} is not offered here`
  const refused = runtime.refuses?.(spec)
  if (refused !== undefined) return refused
  if (spec.arch.length > 0 && !spec.arch.includes(facts.arch)) return `this node is ${facts.arch}`
  const [demand, volumes, ports] = [demandOf(spec), volumesOfNode(spec), portsOfNode(spec)]
  if (!spec.oneShot && isNothing(demand) && volumes.length === 0 && ports.length === 0) return undefined
  const others = othersHere()
  const isBeside = others.some((other) => other.instance === instance)
  if (isBeside && spec.oneShot) return 'a job does not run twice at the same time'
  const free = reserve(facts.capacity, sumOf(others.map((other) => other.spec)))
  const short = shortage(demand, free)
  if (short !== undefined)
    return `too little ${short} free${isBeside ? ' for a second one beside it' : ''}: ${free[short] ?? 0} of ${facts.capacity[short] ?? 0}`
  const volume = volumes.find((name) => others.some((other) => volumesOfNode(other.spec).includes(name)))
  if (volume !== undefined) {
    const owner = others.find((other) => volumesOfNode(other.spec).includes(volume))?.instance
    return `the volume ${volume} of this node is in use by ${owner}: programs have it one at a time`
  }
  if (ports.length === 0) return undefined
  const taken = new Map(
    others.flatMap((other) => portsOfNode(other.spec).map((port) => [port, other.instance] as const)),
  )
  const port = ports.find((candidate) => taken.has(candidate))
  const owner = port && taken.get(port)
  if (port === undefined || owner === undefined) return undefined
  if (owner === instance) return `${keyOfPorts(spec)}: two of them cannot listen on port ${port} of one node`
  return `port ${port} is taken by ${owner}`
}
