import { Readable } from 'node:stream'
import type { FastifyReply } from 'fastify'
import Type from 'typebox'
import { MeshError } from '../../core/errors.ts'
import type { InstanceId } from '../../core/model/ids.ts'
import { type App, goneOf, reader } from '../link/link-server.ts'
import type { ApiContext, Id } from './api-context.ts'
import type { UsageRow } from '../link/messages/both.ts'
import type { ClusterLink } from './clusters.ts'
import { jsonRows } from './json-rows.ts'
import { instanceRow, leftBehind } from './rows.ts'

const readLogs = reader(
  Type.Object(
    {
      tail: Type.Optional(Type.String({ pattern: '^\\d{1,5}$' })),
      follow: Type.Optional(Type.Enum(['true', 'false'])),
      /** Milliseconds since 1970. */
      since: Type.Optional(Type.String({ pattern: '^\\d{1,15}$' })),
    },
    { additionalProperties: false },
  ),
)

const readList = reader(Type.Object({ usage: Type.Optional(Type.Enum(['true', 'false'])) }))

/** Instances, what they use, and what they wrote. */
export function instanceRoutes(app: App, { store, clusters, nodes, reconciler, usages }: ApiContext): void {
  app.get('/instances', async ({ query }, reply) => {
    const { usage: isAsked } = readList(query)
    const usage = isAsked === 'true' ? await usages.list() : new Map<string, UsageRow>()
    const left = leftBehind({ store, nodes })
    return jsonRows(reply, store.instances.list(), (record) => {
      const row = instanceRow(record, left, { store, reconciler })
      return usage.has(record.id) ? { ...row, usage: usage.get(record.id) } : row
    })
  })

  app.get<Id>('/instances/:id/logs', async ({ params, query }, reply) => {
    const { tail = '100', follow, since } = readLogs(query)
    const asked = {
      tail: Number(tail),
      follow: follow === 'true',
      ...(since === undefined ? {} : { since: Number(since) }),
    }
    return sendLogs(params.id, asked, reply, { store, clusters })
  })
}

/** @throws MeshError INSTANCE_UNKNOWN, LINK_CLOSED */
export async function sendLogs(
  instance: string,
  asked: { tail: number; follow: boolean; since?: number },
  reply: FastifyReply,
  { store, clusters }: Pick<ApiContext, 'store' | 'clusters'>,
): Promise<FastifyReply> {
  const record = store.instances.get(instance)
  if (record === undefined) throw new MeshError('INSTANCE_UNKNOWN', { instance: instance.slice(0, 400) })
  if (record.cluster === undefined) {
    const reason = 'it has not been placed on a node, so it has no log'
    throw new MeshError('INSTANCE_UNKNOWN', { instance: record.id, reason })
  }
  const { link } = await clusters.linkedSoon(record.cluster)
  const lines = await openLogs(link, { instance: record.id, ...asked }, goneOf(reply.raw))
  return reply.type('text/plain; charset=utf-8').send(lines)
}

/** Pulled through the cluster as fast as the reader reads. */
async function openLogs(
  link: ClusterLink,
  query: { instance: InstanceId; tail: number; follow: boolean; since?: number },
  signal: AbortSignal,
): Promise<Readable> {
  const { stream } = await link.request('logs.open', query) // before the first byte, so that a refusal has its own status
  return Readable.from(pull(link, stream, signal), { objectMode: false })
}

/** `signal`: whoever reads has gone; a stream that waits for its next lines does not hear of that. */
async function* pull(link: ClusterLink, stream: string, signal: AbortSignal): AsyncIterable<Buffer> {
  try {
    while (!signal.aborted) {
      const { text, done } = await link.request('logs.next', { stream }, signal)
      if (text !== '') yield Buffer.from(text)
      if (done) return
    }
  } finally {
    link.notify('logs.close', { stream })
  }
}
