import { Readable } from 'node:stream'
import Type from 'typebox'
import { type App, reader } from '../link/link-server.ts'
import type { ApiContext } from './api-context.ts'
import type { Event } from './events/event.ts'
import type { EventQuery, Followed } from './events/events.ts'

const Count = Type.Optional(Type.String({ pattern: '^\\d{1,15}$' }))
const name = Type.Optional(Type.String({ minLength: 1, maxLength: 400 }))
const closed = { additionalProperties: false }
const readList = reader(Type.Object({ name, since: Count, after: Count, limit: Count }, closed))
const readStream = reader(Type.Object({ name, since: Count, after: Count }, closed))
const readLastId = reader(Type.Object({ 'last-event-id': Count }))

/** As many when the caller does not say; more at once would hold up the event loop. */
const LIMIT = 1_000
const MAX_LIMIT = 5_000

/**
 * What happened, oldest first: `GET /events` for the newest (with `after`: the next), `GET /events/stream` as server-sent events. A stream
 * that broke is resumed by the number of the last event, as `after` or in the header `Last-Event-ID`.
 */
export function eventRoutes(app: App, { events }: ApiContext): void {
  app.get('/events', ({ query }) => {
    const { limit, ...rest } = readList(query)
    return events.list(queryOf(rest), Math.min(limit === undefined ? LIMIT : Number(limit), MAX_LIMIT))
  })

  app.get('/events/stream', (request, reply) => {
    const { 'last-event-id': lastId } = readLastId(request.headers)
    const query = readStream(request.query)
    const gone = new AbortController()
    reply.raw.once('close', () => gone.abort())
    const followed = events.follow(queryOf({ ...query, after: lastId ?? query.after }), gone.signal)
    return reply
      .type('text/event-stream; charset=utf-8')
      .header('cache-control', 'no-store')
      .send(Readable.from(pieces(followed), { objectMode: false }))
  })
}

function queryOf({ name, since, after }: { name?: string; since?: string; after?: string | undefined }): EventQuery {
  return {
    ...(name === undefined ? {} : { name: name.toLowerCase() }),
    ...(since === undefined ? {} : { since: Number(since) }),
    ...(after === undefined ? {} : { after: Number(after) }),
  }
}

/** https://html.spec.whatwg.org/multipage/server-sent-events.html; a line that begins with a colon is a sign of life. */
export async function* pieces(followed: AsyncIterable<Followed>): AsyncIterable<Buffer> {
  for await (const { events, isMissing } of followed) {
    const missing = isMissing ? 'event: missing\ndata: {}\n\n' : ''
    yield Buffer.from(events.length === 0 && !isMissing ? ':\n\n' : missing + events.map(textOf).join(''))
  }
}

function textOf(event: Event): string {
  return `id: ${event.number}\nevent: ${event.what}\ndata: ${JSON.stringify(event)}\n\n`
}
