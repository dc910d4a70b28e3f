import Type from 'typebox'
import { Label, VolumeText } from '../../link/schemas.ts'
import { listVolumes, removeVolume, volumeId } from '../volumes.ts'
import { operation } from './operation.ts'
import { page, paging } from './page.ts'
import { pageOf, Volume } from './schemas.ts'

/** What services keep on nodes beyond their instances. */

const listVolumesOperation = operation({
  id: 'listVolumes',
  needs: 'see listed',
  path: '/volumes',
  summary: 'Volumes of the nodes that answer',
  query: Type.Object({
    ...paging,
    name: Type.Optional(Type.String({ minLength: 1, maxLength: 400, description: 'Only those whose name begins so.' })),
  }),
  answer: pageOf(Volume),
  run: async ({ query }, context) =>
    page(await listVolumes(context), query, {
      idOf: volumeId,
      fits: query.name === undefined ? undefined : ({ name }) => name.startsWith(query.name ?? ''),
      rowOf: (volume) => ({ id: volumeId(volume), ...volume }),
    }),
})

const deleteVolumeOperation = operation({
  id: 'deleteVolume',
  needs: 'change volume',
  method: 'delete',
  path: '/volumes/{name}/{cluster}/{node}/{runtime}',
  summary: 'Deletes a volume that no instance uses, with all that is in it',
  params: Type.Object({
    name: VolumeText,
    cluster: Label,
    node: Label,
    runtime: Volume.properties.runtime,
  }),
  answer: Type.Object({ deleted: Type.Array(Type.String()) }),
  refusals: [404, 409, 503, 504],
  run: ({ params: { name, cluster, node, runtime } }, context) =>
    removeVolume({ name, node: `${cluster}/${node}`, runtime }, context),
})

export const VOLUMES = [listVolumesOperation, deleteVolumeOperation]
