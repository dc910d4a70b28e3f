import { editDistance } from '../../core/kit/suggest.ts'
import { clusterOf } from '../../core/model/ids.ts'
import type { Constraint } from '../spec.ts'
import type { RootStore } from './root-store.ts'

/** What a document may name. */
export interface Members {
  clusters: readonly string[]
  /** `cluster/name` */
  nodes: readonly string[]
}

/** Those that have joined, whether or not they are away. */
export function membersOf(
  { clusters, enrolments, nodes }: RootStore,
  isOpen: (cluster: string) => boolean = () => true,
): Members {
  const enrolled = enrolments.list().flatMap(({ role, id }) => (role === 'node' ? [id] : []))
  const listed = nodes.list().flatMap(({ rows }) => rows.map(({ id }) => id))
  const all = [...new Set([...enrolled, ...listed])]
  return { clusters: clusters.keys().filter(isOpen), nodes: all.filter((id) => isOpen(clusterOf(id))) }
}

/** The nodes and clusters that these constraints name and that have never joined: `no node zz has joined (nearest names: n1, n2)`. */
export function unknownWishes(constraints: readonly Constraint[], members: Members): string[] {
  return [...new Set(constraints.flatMap((constraint) => unknownIn(constraint, members)))]
}

function unknownIn({ type, cluster, nodes = [], allowed = [] }: Constraint, members: Members): string[] {
  const named = [
    ...(type === 'direct' && cluster !== undefined ? [cluster] : []),
    ...(type === 'clusters' ? allowed : []),
  ]
  const clusters = named.flatMap((name) => unknown('cluster', name, members.clusters))
  if (type !== 'direct' || clusters.length > 0) return clusters
  const within = members.nodes.filter((id) => cluster === undefined || id.startsWith(`${cluster}/`))
  const bare = [...new Set(within.map((id) => id.slice(id.indexOf('/') + 1)))]
  return nodes.flatMap((name) => unknown('node', name, name.includes('/') ? within : bare))
}

/** More are of no help. */
const MOST_NAMES = 3

function unknown(kind: string, name: string, names: readonly string[]): string[] {
  if (names.includes(name)) return []
  const near = names.toSorted((a, b) => editDistance(name, a) - editDistance(name, b) || (a < b ? -1 : 1))
  const hint =
    near.length === 0 ? `no ${kind} has joined yet` : `nearest names: ${near.slice(0, MOST_NAMES).join(', ')}`
  return [`no ${kind} ${name} has joined (${hint})`]
}
