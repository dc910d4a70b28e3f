import Type from 'typebox'
import { MeshError } from '../../core/errors.ts'
import { type App, reader } from '../link/link-server.ts'
import { MAX_REASON } from '../link/messages/protocol.ts'
import { Label } from '../link/schemas.ts'
import type { ApiContext } from './api-context.ts'
import type { LinkedCluster } from './clusters.ts'
import { listRelays } from './members.ts'
import { clusterRows, leftBehind, nodeRow } from './rows.ts'

const readToken = reader(
  Type.Object(
    {
      role: Type.Enum(['node', 'cluster', 'relay']),
      cluster: Type.Optional(Label),
      ttlSeconds: Type.Optional(Type.Integer({ minimum: 1, maximum: 31_536_000 })),
    },
    { additionalProperties: false },
  ),
)

const readReason = reader(
  Type.Object({ reason: Type.Optional(Type.String({ maxLength: MAX_REASON })) }, { additionalProperties: false }),
)

export type NodePath = { Params: { cluster: string; node: string } }

/** The node, and the link to its cluster. @throws MeshError CLUSTER_UNKNOWN, NODE_UNKNOWN, LINK_CLOSED */
export async function linkedNode({ cluster, node }: NodePath['Params'], { store, clusters }: ApiContext) {
  if (store.clusters.get(cluster) === undefined) throw new MeshError('CLUSTER_UNKNOWN', { cluster })
  const id = `${cluster}/${node}`
  if (store.enrolments.get(`node ${id}`) === undefined) throw new MeshError('NODE_UNKNOWN', { node: id })
  return { id, link: (await clusters.linkedSoon(cluster)).link }
}

/** Join tokens live this long unless the caller asks for another time (SEC-17). */
const TTL_SECONDS = 3_600

/** Clusters, their nodes and relays, and the tokens with which others join. */
export function clusterRoutes(app: App, context: ApiContext): void {
  const { clusters, nodes } = context
  app.get('/clusters', () => clusterRows(context))
  app.get('/relays', () => listRelays(clusters))
  app.get('/nodes', async () => {
    const listed = await nodes.list()
    const left = leftBehind(context)
    return listed.map((node) => nodeRow(node, left))
  })

  app.post<NodePath>('/nodes/:cluster/:node/cordon', ({ params, body }) =>
    cordon(params, readReason(body ?? {}), context),
  )
  app.post<NodePath>('/nodes/:cluster/:node/uncordon', ({ params }) => uncordon(params, context))

  app.post('/tokens', ({ body }) => createJoinToken(readToken(body), context))
}

export interface WantedToken {
  role: 'node' | 'cluster' | 'relay'
  cluster?: string
  ttlSeconds?: number
}

/** @throws MeshError USAGE, CLUSTER_UNKNOWN, LINK_CLOSED */
export async function createJoinToken(
  { role, cluster, ttlSeconds = TTL_SECONDS }: WantedToken,
  context: ApiContext,
): Promise<{ token: string; expiresAt: number; command: string }> {
  const minted =
    role === 'cluster'
      ? mintClusterToken(cluster, ttlSeconds, context)
      : await (await issuerOf(cluster, context)).link.request('token.mint', { role, ttlSeconds })
  return { ...minted, command: `hedgerow ${role === 'node' ? 'agent' : role} --token-file FILE` }
}

/** @throws MeshError CLUSTER_UNKNOWN, NODE_UNKNOWN, LINK_CLOSED */
export async function cordon(node: NodePath['Params'], { reason }: { reason?: string }, context: ApiContext) {
  const { id, link } = await linkedNode(node, context)
  const { changed } = await link.request('node.cordon', { node: id, ...(reason === undefined ? {} : { reason }) })
  if (changed) context.events.record({ what: 'cordoned', by: 'user', node: id, why: reason })
  return { changed }
}

/** @throws MeshError CLUSTER_UNKNOWN, NODE_UNKNOWN, LINK_CLOSED */
export async function uncordon(node: NodePath['Params'], context: ApiContext) {
  const { id, link } = await linkedNode(node, context)
  const { changed } = await link.request('node.uncordon', { node: id })
  if (changed) context.events.record({ what: 'uncordoned', by: 'user', node: id })
  return { changed }
}

function mintClusterToken(name: string | undefined, ttlSeconds: number, { joinTokens, server }: ApiContext) {
  if (name === undefined) {
    const reason = 'a token for a cluster needs the name that the cluster will have'
    throw new MeshError('USAGE', { reason, remedy: 'Add --cluster NAME.' })
  }
  return joinTokens.mint(server.url, name, ttlSeconds)
}

/** The cluster that makes a token for a node or relay: the one named, else the only one there is. */
async function issuerOf(name: string | undefined, { store, clusters }: ApiContext): Promise<LinkedCluster> {
  if (name !== undefined) {
    if (store.clusters.get(name) === undefined) throw new MeshError('CLUSTER_UNKNOWN', { cluster: name })
    return clusters.linkedSoon(name)
  }
  const names = store.clusters.keys()
  const [only] = names
  if (names.length === 1 && only !== undefined) return clusters.linkedSoon(only)
  const reason =
    names.length === 0 ? 'no cluster has joined yet' : `there are ${names.length} clusters: ${names.join(', ')}`
  const remedy = names.length === 0 ? 'First run `hedgerow token create --role cluster`.' : 'Add --cluster NAME.'
  throw new MeshError('USAGE', { reason, remedy, clusters: names })
}
