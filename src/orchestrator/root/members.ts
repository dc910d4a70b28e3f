import type { RelayRow } from '../link/messages/cluster-root.ts'
import type { Clusters } from './clusters.ts'
import type { NodeDirectory } from './node-directory.ts'
import type { RootStore } from './root-store.ts'
import type { Member } from './rotation-rules.ts'

/** Asks every linked cluster for its relays; one that does not answer is left out. */
export async function listRelays(clusters: Clusters): Promise<RelayRow[]> {
  const lists = await Promise.all(
    Array.from(clusters.all(), async ({ name, link }) => {
      try {
        const { relays } = await link.request('relays.list', {})
        return relays.filter(({ id }) => id === name || id.startsWith(`${name}/`)) // its own
      } catch {
        return [] // its link has gone down, or it is of a version without this request
      }
    }),
  )
  return lists.flat().sort((a, b) => (a.id < b.id ? -1 : 1))
}

export interface MembersParts {
  store: RootStore
  clusters: Clusters
  nodes: NodeDirectory
}

/** Every holder of a certificate, and what it reported of the authorities: also of those that are away. */
export async function listMembers({ store, clusters, nodes }: MembersParts): Promise<Member[]> {
  const [nodeRows, relayRows] = await Promise.all([nodes.list(), listRelays(clusters)])
  const members = new Map<string, Member>()
  for (const { role, id } of store.enrolments.list()) members.set(`${role} ${id}`, { role, id, isLive: false })
  const put = (role: Member['role'], id: string, row: { condition: string; trust?: Member['trust'] }) => {
    const trust = row.trust === undefined ? {} : { trust: row.trust }
    members.set(`${role} ${id}`, { role, id, isLive: row.condition === 'alive', ...trust })
  }
  for (const row of nodeRows) put('node', row.id, row)
  for (const row of relayRows) if (row.kind === 'stand-alone') put('relay', row.id, row)
  for (const { name, trust } of store.clusters.list()) {
    const condition = clusters.linked(name) === undefined ? 'away' : 'alive'
    put('cluster', name, { condition, ...(trust === undefined ? {} : { trust }) })
  }
  return [...members.values()].sort((a, b) => (a.id < b.id ? -1 : 1))
}
