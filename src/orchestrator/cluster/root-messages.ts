import { MeshError } from '../../core/errors.ts'
import type { InstanceId, NodeId } from '../../core/model/ids.ts'
import type { RequestHandlers } from '../link/link.ts'
import type { NodeRow, rootToCluster } from '../link/messages.ts'
import type { ClusterStore } from './cluster-store.ts'
import type { LinkedNode, Nodes } from './nodes.ts'
import type { Scheduler } from './scheduler.ts'
import type { Relays } from './relays.ts'

export interface RootRequestsParts {
  name: string
  store: ClusterStore
  nodes: Nodes
  placement: Scheduler
  relays: Relays
  version: string
  mint: Mint
  revoke: (nodes: readonly NodeId[]) => void
}

/** A join token. */
export type Mint = (role: 'node' | 'relay', ttlSeconds: number) => { token: string; expiresAt: number }

const PAGE = 500

/** What people ask of a cluster, by way of the root: its nodes, tokens to join it, what instances wrote. */
export function rootRequests({ name, version, store, nodes, placement, relays, mint, revoke }: RootRequestsParts): {
  services: Omit<RequestHandlers<typeof rootToCluster>, 'delegate' | 'withdraw'>
  onLogsClosed: (stream: string) => void
} {
  const nodeOf = (instance: InstanceId): LinkedNode => {
    const { node } = store.assignments.get(instance) ?? {}
    const linked = node === undefined ? undefined : nodes.alive(node)
    if (linked === undefined)
      throw new MeshError('INSTANCE_UNKNOWN', { instance, reason: 'it is on no node that answers' })
    return linked
  }
  /** A stream's name here is the node's id and its name there. */
  const streamOf = (stream: string) => {
    const [id = '', there = ''] = stream.split('#')
    const linked = nodes.alive(id)
    if (linked === undefined) throw new MeshError('LINK_CLOSED', { node: id })
    return { link: linked.link, stream: there }
  }
  return {
    services: {
      'nodes.list': ({ after }) => {
        const free = new Map(placement.views().map((view) => [view.facts.id, view.free]))
        const all = store.nodes.list().map((record): NodeRow => {
          const id = `${name}/${record.name}`
          const linked = nodes.alive(id)
          const facts = linked?.facts ?? record.facts
          const left = free.get(id)
          return {
            id,
            condition: linked === undefined ? 'lost' : 'alive',
            instances: store.assignments.on(id).length,
            since: linked?.since ?? record.enrolledAt,
            ...(facts === undefined ? {} : { facts }),
            ...(left === undefined ? {} : { free: left }),
          }
        })
        const rest = all.filter(({ id }) => id > after).sort((a, b) => (a.id < b.id ? -1 : 1))
        return { nodes: rest.slice(0, PAGE), more: rest.length > PAGE }
      },
      'relays.list': () => ({
        relays: relays.rows(
          name,
          version,
          Array.from(nodes.all(), ({ facts }) => facts.relays ?? []),
        ),
      }),
      'node.revoke': ({ node }) => {
        if (store.nodes.get(node) === undefined) throw new MeshError('NODE_UNKNOWN', { node: `${name}/${node}` })
        revoke([`${name}/${node}`])
        return {}
      },
      'token.mint': ({ role, ttlSeconds }) => mint(role, ttlSeconds),
      'logs.open': async (query) => {
        const node = nodeOf(query.instance)
        const { stream } = await node.link.request('logs.open', query)
        return { stream: `${node.id}#${stream}` }
      },
      'logs.next': ({ stream }) => {
        const there = streamOf(stream)
        return there.link.request('logs.next', { stream: there.stream })
      },
    },
    onLogsClosed: (stream) => {
      const there = streamOf(stream)
      there.link.notify('logs.close', { stream: there.stream })
    },
  }
}
