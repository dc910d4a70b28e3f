import { Readable } from 'node:stream'
import Type from 'typebox'
import { goneOf } from '../../link/link-server.ts'
import { MAX_EXEC_BYTES } from '../../link/messages/both.ts'
import { operation } from './operation.ts'

/** A command in an instance (exec-commands.ts). */

const number = Type.Object({
  exec: Type.String({ pattern: '^[0-9a-f]{32}$', description: 'As the command was answered.' }),
})

const beginExec = operation({
  id: 'beginExec',
  needs: 'enter instance',
  method: 'post',
  path: '/instances/{name}/exec',
  summary: 'Begins a command in an instance; who does not ask for its output within 15 s ends it',
  isSecret: true,
  params: Type.Object({
    name: Type.String({ minLength: 1, maxLength: 400, description: 'The service and the number of the instance.' }),
  }),
  body: Type.Object(
    {
      cmd: Type.Array(Type.String({ maxLength: 65_536 }), {
        minItems: 1,
        maxItems: 1_024,
        description: 'The program and its arguments.',
      }),
    },
    { additionalProperties: false },
  ),
  answer: Type.Object({ exec: Type.String({ description: 'The number of the command.' }) }),
  refusals: [404, 415, 503, 504],
  run: async ({ params, body: { cmd } }, context) => {
    const { commands, view } = context
    const name = params.name.toLowerCase()
    const mayGoOn = () => view.mayWith('enter', name)
    return { exec: await commands.begin(name, { cmd, user: view.who.id, mayGoOn }, context) }
  },
})

const readExec = operation({
  id: 'readExec',
  needs: 'self',
  path: '/exec/{exec}',
  summary: 'What the command prints, to its exit code; who ends this request ends the command',
  params: number,
  answer: Type.String({
    format: 'binary',
    description:
      'Frames: one byte (1 standard output, 2 standard error, 3 the exit code in digits), the length in 32 bits, big-endian, and the bytes.',
  }),
  contentType: 'application/octet-stream',
  refusals: [404, 503, 504],
  run: ({ params, reply }, { commands, view, openRequests }) => {
    const output = commands.output(params.exec, view.who.id, goneOf(reply.raw))
    openRequests.guard(reply.raw, () => commands.mayGoOn(params.exec))
    return reply.type('application/octet-stream').send(Readable.from(output, { objectMode: false }))
  },
})

const writeExec = operation({
  id: 'writeExec',
  needs: 'self',
  isAudited: false,
  method: 'post',
  path: '/exec/{exec}/input',
  summary: 'Part of what the command reads; answered when it has taken that',
  isSecret: true,
  params: number,
  query: Type.Object({ last: Type.Optional(Type.Boolean({ description: 'That was all.' })) }),
  bodyLimit: MAX_EXEC_BYTES,
  bodyType: 'application/octet-stream',
  body: Type.Unsafe<Buffer>(Type.String({ format: 'binary' })),
  answer: Type.Object({}),
  refusals: [404, 413, 415, 503, 504],
  run: async ({ params, query, body }, { commands, view }) => {
    await commands.input(params.exec, body, { user: view.who.id, isLast: query.last === true })
    return {}
  },
})

export const EXEC = [beginExec, readExec, writeExec]
