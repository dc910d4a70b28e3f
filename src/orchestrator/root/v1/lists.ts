import Type from 'typebox'
import { clusterOf } from '../../../core/model/ids.ts'
import { INSTANCE_STATES } from '../../../core/model/instance.ts'
import { MeshError } from '../../../core/errors.ts'
import type { UsageRow } from '../../link/messages/both.ts'
import { Spec } from '../../link/schemas.ts'
import { existingService } from '../api-apps.ts'
import { statusOf } from '../api-status.ts'
import type { Event as MeshEvent } from '../events/event.ts'
import { EVENT_WORDS, type EventWord } from '../events/event.ts'
import { servingOf } from '../former-place.ts'
import { listRelays } from '../members.ts'
import { appRow, clusterRows, instanceRow, leftBehind, nodeRow, serviceRow } from '../rows.ts'
import { definedOf } from './defined.ts'
import { etagOf } from './etag.ts'
import { operation } from './operation.ts'
import { LIMIT, page, paging } from './page.ts'
import { App, Cluster, Event, Instance, Link, Node, pageOf, Relay, Run, Service, Status } from './schemas.ts'

const name = Type.Optional(
  Type.String({ minLength: 1, maxLength: 400, description: 'Only those whose name begins with this.' }),
)
const one = (description: string) => Type.String({ minLength: 1, maxLength: 400, description })
const filter = (description: string) => Type.Optional(one(description))

/** A second answer within this time lists the nodes as the first did, without another question to each cluster. */
const NODES_MS = 1_000

const listApps = operation({
  id: 'listApps',
  needs: 'see listed',
  path: '/apps',
  summary: 'Apps',
  query: Type.Object({ ...paging, name }),
  answer: pageOf(App),
  run: ({ query }, { store }) =>
    page(store.apps.list(query.name?.toLowerCase()), query, {
      idOf: ({ app, namespace }) => `${app}.${namespace}`,
      rowOf: (record) => appRow(record, store),
    }),
})

const listServices = operation({
  id: 'listServices',
  needs: 'see listed',
  path: '/services',
  summary: 'Services, with what is wanted and what runs of each',
  query: Type.Object({ ...paging, name, runtime: filter('Only those of this runtime.') }),
  answer: pageOf(Service),
  run: ({ query }, context) =>
    page(context.store.services.list(query.name?.toLowerCase()), query, {
      idOf: ({ id }) => id,
      fits: query.runtime === undefined ? undefined : ({ spec }) => spec.runtime === query.runtime,
      rowOf: (service) => definedOf(serviceRow(service, context)),
    }),
})

const getService = operation({
  id: 'getService',
  needs: 'see service',
  path: '/services/{name}',
  summary: 'One service, with its document',
  params: Type.Object({ name: one('`app.namespace.service.namespace`') }),
  answer: Type.Object({ ...Service.properties, spec: Spec }),
  refusals: [404],
  run: ({ params, reply }, context) => {
    const service = existingService(context.store, params.name)
    void reply.header('etag', etagOf(service))
    return { ...definedOf(serviceRow(service, context)), spec: service.spec }
  },
})

const listInstances = operation({
  id: 'listInstances',
  needs: 'see listed',
  path: '/instances',
  summary: 'Instances, and where they run',
  query: Type.Object({
    ...paging,
    name,
    service: filter('Only those of this service.'),
    node: filter('Only those on this node, `cluster/node`.'),
    cluster: filter('Only those of this cluster.'),
    state: Type.Optional(Type.Enum([...INSTANCE_STATES])),
    usage: Type.Optional(Type.Boolean({ description: 'Asks the clusters what each uses now.' })),
  }),
  answer: pageOf(Instance),
  run: async ({ query }, context) => {
    const { store } = context
    const { service, node, cluster, state } = query
    const usage = query.usage === true ? await context.usages.list() : new Map<string, UsageRow>()
    const left = leftBehind(context)
    const prefix = service === undefined ? query.name?.toLowerCase() : `${service.toLowerCase()}.`
    return page(store.instances.list(prefix), query, {
      idOf: ({ id }) => id,
      fits: (stored) => {
        const record = servingOf(stored)
        return (
          (query.name === undefined || record.id.startsWith(query.name.toLowerCase())) &&
          (service === undefined || record.service === service.toLowerCase()) &&
          (node === undefined || record.node?.id === node) &&
          (cluster === undefined || record.cluster === cluster) &&
          (state === undefined || record.state === state)
        )
      },
      rowOf: (record) => {
        const used = usage.get(record.id)
        return { ...definedOf(instanceRow(record, left, context)), ...(used === undefined ? {} : { usage: used }) }
      },
    })
  },
})

const getInstance = operation({
  id: 'getInstance',
  needs: 'see instance',
  path: '/instances/{name}',
  summary: 'One instance',
  params: Type.Object({ name: one('The service and the number of the instance.') }),
  answer: Instance,
  refusals: [404],
  run: ({ params }, context) => {
    const record = context.store.instances.get(params.name.toLowerCase())
    if (record === undefined) throw new MeshError('INSTANCE_UNKNOWN', { instance: params.name.slice(0, 400) })
    return definedOf(instanceRow(record, leftBehind(context), context))
  },
})

const listRuns = operation({
  id: 'listRuns',
  needs: 'see listed',
  path: '/runs',
  summary: 'Runs of jobs, the last 20 of each instance',
  query: Type.Object({ ...paging, name }),
  answer: pageOf(Run),
  run: ({ query }, { store }) => {
    const jobs = store.services.list().filter(({ spec }) => spec.oneShot)
    const ids = jobs.flatMap(({ id }) => store.instances.keys(`${id}.`))
    const runs = ids
      .filter((id) => query.name === undefined || id.startsWith(query.name.toLowerCase()))
      .flatMap((id) => (store.runs.get(id) ?? []).map((run) => ({ id, run })))
      .map((row) => ({ ...row, key: `${row.id} ${String(row.run.number).padStart(9, '0')}` }))
      .sort((a, b) => (a.key < b.key ? -1 : 1))
    return page(runs, query, { idOf: ({ key }) => key, rowOf: ({ id, run }) => ({ id, ...run }) })
  },
})

const listNodes = operation({
  id: 'listNodes',
  needs: 'see listed',
  path: '/nodes',
  summary: 'Nodes, and what is free on them',
  query: Type.Object({
    ...paging,
    name,
    cluster: filter('Only those of this cluster.'),
    condition: Type.Optional(Node.properties.condition),
  }),
  answer: pageOf(Node),
  run: async ({ query }, context) => {
    const { name, cluster, condition } = query
    const listed = await context.nodes.list(NODES_MS)
    const left = leftBehind(context)
    return page(listed, query, {
      idOf: ({ id }) => id,
      fits: (node) =>
        (name === undefined || node.id.startsWith(name)) &&
        (cluster === undefined || clusterOf(node.id) === cluster) &&
        (condition === undefined || node.condition === condition),
      rowOf: (node) => nodeOf(node, left),
    })
  },
})

const getNode = operation({
  id: 'getNode',
  needs: 'see node',
  path: '/nodes/{cluster}/{node}',
  summary: 'One node',
  params: Type.Object({ cluster: one('Its cluster.'), node: one('Its name within the cluster.') }),
  answer: Node,
  refusals: [404],
  run: async ({ params }, context) => {
    const id = `${params.cluster}/${params.node}`
    const found = (await context.nodes.list(NODES_MS)).find((node) => node.id === id)
    if (found === undefined) throw new MeshError('NODE_UNKNOWN', { node: id.slice(0, 300) })
    return nodeOf(found, leftBehind(context))
  },
})

/** With where it is. */
export function nodeOf(node: Parameters<typeof nodeRow>[0], left: Parameters<typeof nodeRow>[1]) {
  const { location, coordinate } = node.facts ?? {}
  const place = coordinate === undefined ? undefined : { ...coordinate, at: [...coordinate.at] }
  return definedOf({ ...nodeRow(node, left), location, coordinate: place })
}

const listClusters = operation({
  id: 'listClusters',
  needs: 'see listed',
  path: '/clusters',
  summary: 'Clusters, and what is free in them',
  query: Type.Object({ ...paging, name, condition: Type.Optional(Cluster.properties.condition) }),
  answer: pageOf(Cluster),
  run: ({ query }, context) =>
    page(clusterRows(context), query, {
      idOf: (cluster) => cluster.name,
      fits: (cluster) =>
        (query.name === undefined || cluster.name.startsWith(query.name)) &&
        (query.condition === undefined || cluster.condition === query.condition),
      rowOf: definedOf,
    }),
})

const listRelayRows = operation({
  id: 'listRelays',
  needs: 'see listed',
  path: '/relays',
  summary: 'Relays of the clusters that answer',
  query: Type.Object({ ...paging, name }),
  answer: pageOf(Relay),
  run: async ({ query }, { clusters }) =>
    page(await listRelays(clusters), query, {
      idOf: ({ id }) => id,
      fits: query.name === undefined ? undefined : ({ id }) => id.startsWith(query.name ?? ''),
      rowOf: (relay) => relay,
    }),
})

const listLinks = operation({
  id: 'listLinks',
  needs: 'see listed',
  path: '/links',
  summary: 'How nodes that have a session reach each other now; of very many those that carried most',
  query: Type.Object({
    ...paging,
    name: filter('Only those of nodes whose name begins with this.'),
    path: Type.Optional(Link.properties.path),
  }),
  answer: pageOf(Link),
  run: async ({ query: { name, path, ...paged } }, { links }) =>
    page(await links.list(), paged, {
      idOf: ({ id }) => id,
      fits: (link) =>
        (name === undefined || link.from.startsWith(name) || link.to.startsWith(name)) &&
        (path === undefined || link.path === path),
      rowOf: definedOf,
    }),
})

const listEvents = operation({
  id: 'listEvents',
  needs: 'see listed',
  path: '/events',
  summary: 'What happened, the newest first',
  query: Type.Object({
    limit: paging.limit,
    cursor: Type.Optional(
      Type.String({ pattern: '^\\d{1,15}$', description: '`next` of the page before. Without it the first page.' }),
    ),
    name: filter('Only those about this app, service, instance, node or cluster.'),
    what: Type.Optional(Type.Enum(Object.keys(EVENT_WORDS) as EventWord[])),
    since: Type.Optional(Type.Integer({ minimum: 0, description: 'Not before this time, milliseconds since 1970.' })),
  }),
  answer: pageOf(Event),
  run: ({ query }, { events }) => {
    const { limit = LIMIT, cursor, what, since } = query
    const before = cursor === undefined ? undefined : Number(cursor)
    const found = events.newest({ name: query.name?.toLowerCase(), since, what, before }, limit + 1)
    const items = found.slice(0, limit)
    return found.length > limit ? { items, next: String((items.at(-1) as MeshEvent).number) } : { items }
  },
})

const getStatus = operation({
  id: 'getStatus',
  needs: 'see listed',
  path: '/status',
  summary: 'The root itself',
  answer: Status,
  run: (_given, context) => statusOf(context),
})

export const LISTS = [
  listApps,
  listServices,
  getService,
  listInstances,
  getInstance,
  listRuns,
  listNodes,
  getNode,
  listClusters,
  listRelayRows,
  listLinks,
  listEvents,
  getStatus,
]
