import { fulfils, printLabelRule, type LabelRule } from '../../core/model/label-rule.ts'
import type { Constraint } from '../spec.ts'
import { keyOfPorts, portsOfNode, type Candidate } from './candidate.ts'
import { demandOf, shortage, type Dimension } from './capacity.ts'
import { tooFar } from './nearness.ts'
import type { PlacementRequest } from './placement-request.ts'
import { together, uneven } from './topology.ts'

/** Why the candidate cannot take the request, in words that are counted; `undefined` when it can. */
export type Filter = (request: PlacementRequest, candidate: Candidate) => string | undefined

const SHORTAGES = {
  memoryMb: 'too little memory free',
  vcpus: 'too few vcpus free',
  vgpus: 'too few vgpus free',
  vtpus: 'too few vtpus free',
  storageMb: 'too little storage free',
  bandwidthInKbit: 'too little inbound bandwidth free',
  bandwidthOutKbit: 'too little outbound bandwidth free',
} as const satisfies Record<Dimension, string>

export const condition: Filter = (_, candidate) => {
  switch (candidate.condition) {
    case 'alive':
      return candidate.nodes > 0 ? undefined : 'no node there accepts instances'
    case 'flapping':
      return 'goes and comes back too often'
    case 'cordoned':
      return 'cordoned'
    case 'lost':
      return 'lost'
    default:
      return candidate.condition satisfies never
  }
}

export const REFUSED_ALREADY = 'refused it already'
export const refused: Filter = ({ refusedBy }, { id }) => (refusedBy?.has(id) ? REFUSED_ALREADY : undefined)

/** Of whoever owns the cluster (docs/tenants.md). */
export const NOT_ADMITTED = 'its owner does not admit the organisation'
export const admission: Filter = ({ admitted }, { cluster }) =>
  admitted === undefined || admitted(cluster) ? undefined : NOT_ADMITTED

export const runtime: Filter = ({ spec }, { runtimes }) =>
  runtimes.includes(spec.runtime) ? undefined : `runtime ${spec.runtime} not offered`

export const architecture: Filter = ({ spec }, { arch }) =>
  spec.arch.length === 0 || spec.arch.some((word) => arch.includes(word)) ? undefined : 'other architecture'

/** What a node may have none of. */
const ABSENT: Partial<Record<Dimension, string>> = {
  vgpus: 'no gpu',
  vtpus: 'no tpu',
  bandwidthInKbit: 'its bandwidth is not known',
  bandwidthOutKbit: 'its bandwidth is not known',
}

export const capacity: Filter = ({ spec }, { largestFree, total }) => {
  const short = shortage(demandOf(spec), largestFree)
  if (short === undefined) return undefined
  return ((total[short] ?? 0) === 0 ? ABSENT[short] : undefined) ?? SHORTAGES[short]
}

export const fixedPort: Filter = ({ spec }, { portsTaken }) => {
  const port = portsOfNode(spec).find((wanted) => portsTaken.includes(wanted))
  return port === undefined ? undefined : `${keyOfPorts(spec)} ${port} taken`
}

/** What must hold by itself; of several such constraints all must. */
export const constraints: Filter = (request, candidate) => {
  for (const constraint of request.spec.constraints) {
    const reason = violated(constraint, candidate, request)
    if (reason !== undefined) return reason
  }
  return undefined
}

export const distance: Filter = (request, candidate) =>
  request.spec.constraints.length === 0 ? undefined : tooFar(request, candidate)

/** Under their names for people, since a bundle renames functions. */
const NAMED: Readonly<Record<string, Filter>> = {
  condition,
  refused,
  admission,
  runtime,
  architecture,
  constraints,
  capacity,
  'fixed port': fixedPort,
  distance,
}

/** Cheap filters first. The first that refuses gives the reason that is counted. */
export const FILTERS: readonly Filter[] = Object.values(NAMED)

export function nameOfFilter(filter: Filter): string {
  return Object.keys(NAMED).find((name) => NAMED[name] === filter) ?? filter.name
}

function violated(constraint: Constraint, candidate: Candidate, request: PlacementRequest): string | undefined {
  switch (constraint.type) {
    case 'direct':
      return isNamed(constraint, candidate) ? undefined : 'not the node or cluster asked for'
    case 'clusters':
      return constraint.allowed?.includes(candidate.cluster) ? undefined : 'cluster not allowed'
    case 'addons':
      return constraint.needs?.every((addon) => candidate.addons.includes(addon)) ? undefined : 'addon missing'
    case 'labels':
      return unlabelled(constraint, candidate)
    case 'anti-affinity':
      return together(constraint, candidate, request)
    case 'spread':
      return uneven(constraint, candidate, request)
    case 'latency':
    case 'geo':
      return undefined // see `distance`
    default:
      return constraint.type satisfies never
  }
}

function unlabelled({ match = [] }: Constraint, candidate: Candidate): string | undefined {
  const rule = match.find((each) => !mayFulfil(each, candidate))
  return rule === undefined ? undefined : `label ${printLabelRule(rule)} not met`
}

/** Of a cluster some node may fulfil it: what a node must not have, the root cannot tell. */
function mayFulfil(rule: LabelRule, { node, labels }: Candidate): boolean {
  if (labels === undefined) return true
  const values = Object.hasOwn(labels, rule.key) ? labels[rule.key] : undefined
  if (node !== undefined) return fulfils(rule, values?.[0])
  if (rule.operator === 'absent' || rule.operator === 'not-in') return true
  return values !== undefined && (values.length === 0 || values.some((value) => fulfils(rule, value)))
}

/** Nodes are named `n1` or `edge/n1`. For a cluster only the part before the slash can be compared. */
function isNamed({ cluster, nodes = [] }: Constraint, candidate: Candidate): boolean {
  if (cluster !== undefined && cluster !== candidate.cluster) return false
  if (nodes.length === 0) return true
  return nodes.some((wanted) => {
    const slash = wanted.indexOf('/')
    if (slash >= 0 && wanted.slice(0, slash) !== candidate.cluster) return false
    return candidate.node === undefined || candidate.node === `${candidate.cluster}/${wanted.slice(slash + 1)}`
  })
}
