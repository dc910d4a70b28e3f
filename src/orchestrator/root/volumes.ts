import { MeshError } from '../../core/errors.ts'
import { clusterOf } from '../../core/model/ids.ts'
import type { VolumeRow } from '../link/messages/both.ts'
import type { ApiContext } from './api-context.ts'

/** A volume is named by itself, its node and its runtime: `shop.acme.data/edge/n1/docker`. */
export function volumeId({ name, node, runtime }: Pick<VolumeRow, 'name' | 'node' | 'runtime'>): string {
  return `${name}/${node}/${runtime}`
}

/** Of the clusters that answer; each speaks of its own nodes only. In the order of their ids. */
export async function listVolumes({ clusters, view }: Pick<ApiContext, 'clusters' | 'view'>): Promise<VolumeRow[]> {
  const lists = await Promise.all(
    Array.from(clusters.all(), async ({ name, link }) => {
      const { volumes } = await link.request('volumes.list', {}).catch(() => ({ volumes: [] }))
      return volumes.filter(({ node }) => clusterOf(node) === name)
    }),
  )
  const seen = lists.flat().filter(({ name }) => view.sees(name))
  return seen.sort((a, b) => (volumeId(a) < volumeId(b) ? -1 : 1))
}

/** With all that is in it. @throws MeshError VOLUME_UNKNOWN, VOLUME_IN_USE, NODE_UNKNOWN, LINK_CLOSED */
export async function removeVolume(
  volume: Pick<VolumeRow, 'name' | 'node' | 'runtime'>,
  { clusters, store }: Pick<ApiContext, 'clusters' | 'store'>,
): Promise<{ deleted: string[] }> {
  const cluster = clusterOf(volume.node)
  if (store.clusters.get(cluster) === undefined) throw new MeshError('VOLUME_UNKNOWN', { volume: volumeId(volume) })
  const { link } = await clusters.linkedSoon(cluster)
  await link.request('volumes.remove', volume)
  return { deleted: [volumeId(volume)] }
}
