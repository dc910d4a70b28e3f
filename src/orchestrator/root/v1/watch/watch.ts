import { Readable } from 'node:stream'
import Type from 'typebox'
import { MeshError } from '../../../../core/errors.ts'
import { goneOf } from '../../../link/link-server.ts'
import { pieces } from '../../api-events.ts'
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

const number = (description: string) => Type.Optional(Type.Integer({ minimum: 0, maximum: 1e15, description }))

/** Those of one thing alone, and as many as are remembered. */
export const followEvents = operation({
  id: 'followEvents',
  needs: 'see listed',
  path: '/events/stream',
  summary: 'What happens from now on, as server-sent events. `Last-Event-ID` goes on behind the event of that number',
  query: Type.Object({
    name: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 400,
        description: 'Only those about this app, service, instance, node or cluster.',
      }),
    ),
    since: number('Not before this time, milliseconds since 1970.'),
    after: number('Also what is remembered behind the event of this number.'),
  }),
  answer: Type.String(),
  contentType: 'text/event-stream',
  run: ({ query: { name, ...query }, request, reply }, { events }) => {
    const last = request.headers['last-event-id']
    const after = typeof last === 'string' && /^\d{1,15}$/.test(last) ? { after: Number(last) } : {}
    const asked = { ...query, ...(name === undefined ? {} : { name: name.toLowerCase() }), ...after }
    const text = pieces(events.follow(asked, goneOf(reply.raw)))
    return reply
      .type('text/event-stream; charset=utf-8')
      .header('cache-control', 'no-store')
      .send(Readable.from(text, { objectMode: false }))
  },
})
