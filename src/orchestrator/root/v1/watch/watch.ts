import { Readable } from 'node:stream'
import Type from 'typebox'
import { MeshError } from '../../../../core/errors.ts'
import { goneOf } from '../../../link/link-server.ts'
import { operation } from '../operation.ts'
import { MAX_READERS } from './live-rows.ts'
import { positionIn, watch, WATCH_KINDS } from './stream.ts'

/** A user leaves streams to others. */
const MAX_OF_USER = 16

/** What changes, as it changes. */
export const watchOperation = operation({
  id: 'watch',
  needs: 'see listed',
  path: '/watch',
  summary: 'What changes, as server-sent events; first all there is. `Last-Event-ID` goes on where a stream broke',
  query: Type.Object({
    kinds: Type.Optional(
      Type.Array(Type.Enum([...WATCH_KINDS]), { minItems: 1, maxItems: 16, description: 'All by default.' }),
    ),
  }),
  answer: Type.String(),
  contentType: 'text/event-stream',
  run: ({ query, request, reply }, context) => {
    const { live, view, openRequests } = context
    if (!view.isWhole && openRequests.countOf(view.who.user) > MAX_OF_USER)
      throw new MeshError('RATE_LIMITED', {
        reason: `${MAX_OF_USER} streams of this user are open already`,
        seconds: 10,
      })
    if (live.isFull) {
      const reason = `${MAX_READERS} watch already`
      throw new MeshError('RATE_LIMITED', { reason, seconds: 10 })
    }
    const kinds = new Set(query.kinds ?? WATCH_KINDS)
    const from = positionIn(request.headers['last-event-id']?.toString())
    const pieces = watch(kinds, from, { ...context, live }, goneOf(reply.raw))
    return reply
      .type('text/event-stream; charset=utf-8')
      .header('cache-control', 'no-store')
      .send(Readable.from(pieces, { objectMode: false }))
  },
})
