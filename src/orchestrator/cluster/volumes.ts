import { MeshError } from '../../core/errors.ts'
import type { VolumeRow } from '../link/messages/both.ts'
import type { Nodes } from './nodes.ts'

/** A node that takes longer is left out: whoever asked waits. */
const LIST_MS = 4_000
/** As the link to the root carries. */
const MOST = 10_000

/** Of the nodes that answer in time; one of an earlier version does not know the question. Each speaks of itself only. */
export async function listVolumes(nodes: Pick<Nodes, 'all'>): Promise<VolumeRow[]> {
  const lists = await Promise.all(
    Array.from(nodes.all(), async ({ id, link }) => {
      const limit = AbortSignal.timeout(LIST_MS)
      const { volumes } = await link.request('volumes.list', {}, limit).catch(() => ({ volumes: [] }))
      return volumes.map((volume) => ({ ...volume, node: id }))
    }),
  )
  return lists.flat().slice(0, MOST)
}

/** @throws MeshError NODE_UNKNOWN, and what the node refuses with */
export async function removeVolume(
  nodes: Pick<Nodes, 'alive'>,
  volume: Pick<VolumeRow, 'node' | 'name' | 'runtime'>,
): Promise<object> {
  const linked = nodes.alive(volume.node)
  if (linked === undefined) throw new MeshError('NODE_UNKNOWN', { node: volume.node, reason: 'it does not answer' })
  await linked.link.request('volumes.remove', volume)
  return {}
}
