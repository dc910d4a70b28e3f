import Type from 'typebox'
import { MeshError } from '../../../core/errors.ts'
import { Label, LabelOrAll } from '../../link/schemas.ts'
import type { ApiContext } from '../api-context.ts'
import type { ClusterOwner } from '../people/records.ts'
import { operation } from './operation.ts'
import { page, paging } from './page.ts'
import { pageOf } from './schemas.ts'

/** Whose a cluster is, and who may place on it. */

const closed = { additionalProperties: false }
const cluster = Type.Object({ name: Type.String({ minLength: 1, maxLength: 400, description: 'Of the cluster.' }) })
const Admits = Type.Array(LabelOrAll, {
  maxItems: 1_000,
  description: 'Organisations that may place on it beside its owner; `*`: every one.',
})
const OwnerRow = Type.Object({
  cluster: Type.String(),
  organisation: Type.Optional(
    Type.String({ description: 'Nobody’s where it is absent: every organisation may place there.' }),
  ),
  admits: Type.Array(Type.String()),
})

const rowOf = (cluster: string, owner: ClusterOwner | undefined) => ({
  cluster,
  ...(owner === undefined ? {} : { organisation: owner.organisation }),
  admits: [...(owner?.admits ?? [])],
})

const listOwners = operation({
  id: 'listClusterOwners',
  needs: 'operate listed',
  path: '/cluster-owners',
  summary: 'Whose clusters are, and who may place on them; of those that one operates',
  query: Type.Object({ ...paging }),
  answer: pageOf(OwnerRow),
  run: ({ query }, { people, store, view }) => {
    const names = [...new Set([...store.whole.clusters.keys(), ...store.clusterOwners.keys()])].sort()
    return page(names, query, {
      idOf: (name) => name,
      fits: (name) => view.may('operate', people.cluster(name)),
      rowOf: (name) => rowOf(name, people.ownerOf(name)),
    })
  },
})

const setOwner = operation({
  id: 'setClusterOwner',
  needs: 'mesh mesh',
  method: 'put',
  path: '/clusters/{name}/owner',
  summary: 'Gives a cluster to an organisation, or to nobody',
  params: cluster,
  body: Type.Object({ organisation: Type.Union([Label, Type.Null()]), admits: Type.Optional(Admits) }, closed),
  answer: OwnerRow,
  refusals: [403, 404, 415, 507],
  run: ({ params: { name }, body: { organisation, admits } }, context) => {
    const { people, store } = context
    const before = people.ownerOf(name)
    if (store.clusters.get(name) === undefined && before === undefined)
      throw new MeshError('CLUSTER_UNKNOWN', { cluster: name })
    const kept = before?.organisation === organisation ? before?.admits : undefined
    people.setOwner(name, organisation === null ? undefined : { organisation, admits: admits ?? kept ?? [] })
    tellAll(context)
    return rowOf(name, people.ownerOf(name))
  },
})

const setAdmits = operation({
  id: 'setClusterAdmits',
  needs: 'operate cluster',
  method: 'put',
  path: '/clusters/{name}/admits',
  summary: 'Says which organisations may place on a cluster',
  params: cluster,
  body: Type.Object({ organisations: Admits }, closed),
  answer: OwnerRow,
  refusals: [403, 404, 415, 507],
  run: ({ params: { name }, body: { organisations } }, context) => {
    const { people } = context
    const owner = people.ownerOf(name)
    if (owner === undefined)
      throw new MeshError('USAGE', {
        reason: `the cluster ${name} is nobody’s: every organisation may place there`,
        remedy: 'The administrator of the mesh gives it to an organisation first (`hedgerow org own`).',
      })
    people.setOwner(name, { organisation: owner.organisation, admits: [...new Set(organisations)].sort() })
    tellAll(context)
    return rowOf(name, people.ownerOf(name))
  },
})

/** Which services a cluster is told of, and where instances may be placed, has changed. */
function tellAll({ store, reconciler }: ApiContext): void {
  for (const id of store.whole.services.keys()) reconciler.publish(id)
  reconciler.retry()
}

export const OWNERS = [listOwners, setOwner, setAdmits]
