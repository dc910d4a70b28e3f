import Type from 'typebox'
import { ERRORS, MeshError } from '../../core/errors.ts'
import type { JoinToken } from '../../core/identity/token.ts'
import type { NodeRow, RelayRow } from '../link/messages.ts'
import { Label } from '../link/schemas.ts'
import { type App, reader } from '../link/link-server.ts'
import type { JoinTokens } from '../link/join-tokens.ts'
import { parseSla } from '../sla/parse.ts'
import type { AppRecord, RootStore, ServiceRecord } from './root-store.ts'
import type { Clusters } from './clusters.ts'
import type { ServiceChange } from './difference.ts'
import { openLogs } from './logs.ts'
import type { Reconciler } from './reconciler.ts'
import { appRows, clusterRows, instanceRow, nodeRow, serviceRow } from './rows.ts'
import { remove, submit, type SubmitParts } from './submission.ts'
import type { Vips } from './vips.ts'

export interface ApiParts extends SubmitParts {
  store: RootStore
  vips: Vips
  clusters: Clusters
  reconciler: Reconciler
  joins: JoinTokens
  mesh: string
  version: string
  url: () => string
  revoke: (node: string) => void
}

const closed = { additionalProperties: false }
const readApply = reader(Type.Object({ prune: Type.Optional(Type.Enum(['true', 'false'])) }, closed))
const readScale = reader(Type.Object({ replicas: Type.Integer({ minimum: 0, maximum: 1_000 }) }, closed))
const readToken = reader(
  Type.Object(
    {
      role: Type.Enum(['node', 'cluster', 'relay']),
      cluster: Type.Optional(Label),
      ttlSeconds: Type.Optional(Type.Integer({ minimum: 1, maximum: 31_536_000 })),
    },
    closed,
  ),
)
const readLogs = reader(
  Type.Object(
    {
      tail: Type.Optional(Type.String({ pattern: '^\\d{1,5}$' })),
      follow: Type.Optional(Type.Enum(['true', 'false'])),
    },
    closed,
  ),
)

/** SEC-17: join tokens are short-lived unless somebody says otherwise. */
const TTL_SECONDS = 3_600

type Id = { Params: { id: string } }

/** Everything people ask of the root, under /api/v1; the door has authenticated them. */
export function api(parts: ApiParts): (app: App) => void {
  const { store, vips, clusters, reconciler, clock } = parts
  const startedAt = clock.now()
  return (app) => {
    app.post('/apps', (request, reply) => {
      const { prune } = readApply(request.query)
      const parsed = parseSla(request.body)
      if (parsed.kind === 'refused') {
        const { faults, warnings } = parsed
        return reply.code(422).send({ error: 'SLA_INVALID', message: ERRORS.SLA_INVALID, faults, warnings })
      }
      const { apps, customer, warnings } = parsed
      const changes = submit({ apps, customer, prune: prune === 'true' }, parts)
      for (const change of changes) settle(change, reconciler)
      return reply.send({
        apps: apps.map(({ app, namespace }) => `${app}.${namespace}`),
        services: changes.map((change) => ({ id: idOf(change), change: change.kind })),
        warnings,
      })
    })

    app.get('/apps', () => appRows(store))
    app.get('/services', () => store.services.list().map((service) => serviceRow(service, store, vips)))
    app.get('/instances', () => store.instances.list().map(instanceRow))
    app.get('/clusters', () => clusterRows(store, clusters))
    app.get('/relays', () => relaysOf(clusters))
    app.get('/nodes', async () => (await nodesOf(clusters)).map(nodeRow))

    app.get<Id>('/services/:id', ({ params }) => {
      const service = demandService(store, params.id)
      const instances = store.instancesOf(service.id).map(instanceRow)
      return { ...serviceRow(service, store, vips), spec: service.spec, instances }
    })

    app.post<Id>('/services/:id/scale', ({ params, body }) => {
      const { replicas } = readScale(body)
      const service = demandService(store, params.id)
      store.services.put(service.id, { ...service, spec: { ...service.spec, replicas } })
      reconciler.touch(service.id)
      return { id: service.id, replicas }
    })

    app.delete<Id>('/services/:id', ({ params }) => {
      const { id } = demandService(store, params.id)
      removeAll([id], parts)
      return { deleted: [id] }
    })

    app.delete<Id>('/apps/:id', ({ params }) => {
      const record = demandApp(store, params.id)
      const services = store.servicesOf(record).map(({ id }) => id)
      removeAll(services, parts, () => store.apps.delete(params.id.toLowerCase()))
      return { deleted: services }
    })

    app.delete<{ Params: { cluster: string; node: string } }>('/nodes/:cluster/:node', async ({ params }) => {
      const { cluster, node } = params
      if (store.clusters.get(cluster) === undefined) throw new MeshError('CLUSTER_UNKNOWN', { cluster })
      await clusters.demand(cluster).link.request('node.revoke', { node })
      parts.revoke(`${cluster}/${node}`)
      return { deleted: [`${cluster}/${node}`] }
    })

    app.post('/tokens', async ({ body }) => {
      const { role, cluster, ttlSeconds = TTL_SECONDS } = readToken(body)
      const minted = await mint(role, cluster, ttlSeconds)
      const command = `hedgerow ${role === 'node' ? 'agent' : role} --token-file FILE`
      return { ...minted, command }
    })

    app.get<Id>('/instances/:id/logs', async ({ params, query }, reply) => {
      const { tail = '100', follow } = readLogs(query)
      const record = store.instances.get(params.id)
      if (record === undefined) throw new MeshError('INSTANCE_UNKNOWN', { instance: params.id.slice(0, 400) })
      if (record.cluster === undefined)
        throw new MeshError('INSTANCE_UNKNOWN', { instance: record.id, reason: 'it is placed nowhere' })
      const { link } = clusters.demand(record.cluster)
      const stream = await openLogs(link, { instance: record.id, tail: Number(tail), follow: follow === 'true' })
      return reply.type('text/plain; charset=utf-8').send(stream)
    })

    app.get('/status', () => {
      const states: Record<string, number> = {}
      for (const { state } of store.instances.list()) states[state] = (states[state] ?? 0) + 1
      return {
        mesh: parts.mesh,
        version: parts.version,
        url: parts.url(),
        upSeconds: Math.round((clock.now() - startedAt) / 1000),
        clusters: [...clusters.all()].map(({ name }) => name),
        apps: store.apps.keys().length,
        services: store.services.keys().length,
        instances: states,
        vipsUsed: vips.used,
      }
    })
  }

  function mint(role: JoinToken['role'], cluster: string | undefined, ttlSeconds: number) {
    if (role !== 'cluster') return linkedFor(cluster).link.request('token.mint', { role, ttlSeconds })
    if (cluster === undefined)
      throw new MeshError('USAGE', { reason: 'a token for a cluster names the cluster', remedy: '--cluster NAME' })
    return parts.joins.mint(parts.url(), cluster, ttlSeconds)
  }

  /** The cluster a node shall join; unsaid when there is only one. */
  function linkedFor(name: string | undefined) {
    if (name !== undefined) {
      if (store.clusters.get(name) === undefined) throw new MeshError('CLUSTER_UNKNOWN', { cluster: name })
      return clusters.demand(name)
    }
    const all = [...clusters.all()]
    if (all.length !== 1) {
      throw new MeshError('USAGE', {
        reason: `${all.length} clusters are linked`,
        clusters: all.map((c) => c.name),
        remedy: '--cluster NAME',
      })
    }
    return all[0] as (typeof all)[number]
  }
}

function settle(change: ServiceChange, reconciler: Reconciler): void {
  if (change.kind === 'unchanged') return
  reconciler.publish(idOf(change))
  reconciler.touch(idOf(change))
}

function idOf(change: ServiceChange): string {
  return 'spec' in change ? change.spec.id : change.id
}

function removeAll(services: readonly string[], parts: ApiParts, also: () => void = () => undefined): void {
  const { store, vips, reconciler } = parts
  try {
    store.database.transaction(() => {
      for (const id of services) remove(id, parts)
      also()
    })
  } catch (error) {
    vips.reload()
    throw error
  }
  for (const id of services) settle({ kind: 'removed', id }, reconciler)
}

function demandService(store: RootStore, id: string): ServiceRecord {
  const service = store.services.get(id.toLowerCase())
  if (service === undefined) throw new MeshError('SERVICE_UNKNOWN', { service: id.slice(0, 300) })
  return service
}

function demandApp(store: RootStore, id: string): AppRecord {
  const app = store.apps.get(id.toLowerCase())
  if (app === undefined) throw new MeshError('APP_UNKNOWN', { app: id.slice(0, 300) })
  return app
}

/** Live from every linked cluster; one that does not answer is left out. */
async function relaysOf(clusters: Clusters): Promise<RelayRow[]> {
  const lists = await Promise.all(
    [...clusters.all()].map(({ link }) =>
      link.request('relays.list', {}).then(
        ({ relays }) => relays,
        () => [], // its link went down meanwhile, or it does not know the question yet
      ),
    ),
  )
  return lists.flat().sort((a, b) => (a.id < b.id ? -1 : 1))
}

/** Live from every linked cluster, page by page; one that does not answer is left out. */
async function nodesOf(clusters: Clusters): Promise<NodeRow[]> {
  const lists = await Promise.all(
    [...clusters.all()].map(async ({ link }) => {
      const nodes: NodeRow[] = []
      try {
        for (let more = true; more; ) {
          const page = await link.request('nodes.list', { after: nodes.at(-1)?.id ?? '' })
          nodes.push(...page.nodes)
          more = page.more && page.nodes.length > 0
        }
      } catch {
        // its link went down meanwhile: `get clusters` says so
      }
      return nodes
    }),
  )
  return lists.flat().sort((a, b) => (a.id < b.id ? -1 : 1))
}
