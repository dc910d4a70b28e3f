import { Readable } from 'node:stream'
import Type from 'typebox'
import { MeshError } from '../../core/errors.ts'
import type { InstanceId } from '../../core/model/ids.ts'
import { type App, reader } from '../link/link-server.ts'
import type { ApiContext, Id } from './api-context.ts'
import type { ClusterLink } from './clusters.ts'
import { jsonRows } from './json-rows.ts'
import { instanceRow, leftBehind } from './rows.ts'

const readLogs = reader(
  Type.Object(
    {
      tail: Type.Optional(Type.String({ pattern: '^\\d{1,5}$' })),
      follow: Type.Optional(Type.Enum(['true', 'false'])),
    },
    { additionalProperties: false },
  ),
)

/** Instances, and what they wrote. */
export function instanceRoutes(app: App, { store, clusters, nodes, reconciler }: ApiContext): void {
  app.get('/instances', (_request, reply) => {
    const left = leftBehind({ store, nodes })
    return jsonRows(reply, store.instances.list(), (record) => instanceRow(record, left, { store, reconciler }))
  })

  app.get<Id>('/instances/:id/logs', async ({ params, query }, reply) => {
    const { tail = '100', follow } = readLogs(query)
    const record = store.instances.get(params.id)
    if (record === undefined) throw new MeshError('INSTANCE_UNKNOWN', { instance: params.id.slice(0, 400) })
    if (record.cluster === undefined) {
      const reason = 'it has not been placed on a node, so it has no log'
      throw new MeshError('INSTANCE_UNKNOWN', { instance: record.id, reason })
    }
    const { link } = await clusters.linkedSoon(record.cluster)
    const lines = await openLogs(link, { instance: record.id, tail: Number(tail), follow: follow === 'true' })
    return reply.type('text/plain; charset=utf-8').send(lines)
  })
}

/** Pulled through the cluster as fast as the reader reads. */
async function openLogs(
  link: ClusterLink,
  query: { instance: InstanceId; tail: number; follow: boolean },
): Promise<Readable> {
  const { stream } = await link.request('logs.open', query) // before the first byte, so that a refusal has its own status
  return Readable.from(pull(link, stream), { objectMode: false })
}

async function* pull(link: ClusterLink, stream: string): AsyncIterable<Buffer> {
  try {
    for (;;) {
      const { text, done } = await link.request('logs.next', { stream })
      if (text !== '') yield Buffer.from(text)
      if (done) return
    }
  } finally {
    link.notify('logs.close', { stream })
  }
}
