import { Readable } from 'node:stream'
import Type from 'typebox'
import { type App, goneOf, reader } from '../link/link-server.ts'
import { MAX_EXEC_BYTES } from '../link/messages/both.ts'
import type { ApiContext, Id } from './api-context.ts'

const readCommand = reader(
  Type.Object(
    { cmd: Type.Array(Type.String({ maxLength: 65_536 }), { minItems: 1, maxItems: 1_024 }) },
    { additionalProperties: false },
  ),
)
const readInput = reader(Type.Object({ last: Type.Optional(Type.Enum(['true', 'false'])) }))

/** A command in an instance (exec-commands.ts). */
export function execRoutes(app: App, context: ApiContext): void {
  const { commands, view } = context
  const { user } = view.who // the administrator: nobody else is answered here
  app.addContentTypeParser('application/octet-stream', { parseAs: 'buffer' }, (_request, body, done) =>
    done(null, body),
  )
  app.post<Id>('/instances/:id/exec', async ({ params, body }) => ({
    exec: await commands.begin(params.id, { cmd: readCommand(body).cmd, user, mayGoOn: () => true }, context),
  }))
  app.get<Id>('/exec/:id', async ({ params }, reply) => {
    const output = commands.output(params.id, user, goneOf(reply.raw))
    return reply.type('application/octet-stream').send(Readable.from(output, { objectMode: false }))
  })
  app.post<Id>('/exec/:id/input', { bodyLimit: MAX_EXEC_BYTES }, async ({ params, query, body }) => {
    const { last } = readInput(query)
    const bytes = Buffer.isBuffer(body) ? body : Buffer.alloc(0)
    await commands.input(params.id, bytes, { user, isLast: last === 'true' })
    return {}
  })
}
