import { randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import Type from 'typebox'
import { MeshError } from '../../core/errors.ts'
import { execFrame } from '../../core/kit/exec-frames.ts'
import { type App, goneOf, reader } from '../link/link-server.ts'
import { MAX_EXEC_BYTES } from '../link/messages.ts'
import type { ApiContext, Id } from './api-context.ts'
import type { ClusterLink } from './clusters.ts'

/*
 * A command in an instance, as three requests, so that what it reads and what it prints flow independently:
 *
 *     POST /instances/ID/exec     the command                       ─▶ its number here
 *     GET  /exec/NUMBER           ─▶ what it prints (kit/exec-frames.ts), to the exit code; who ends this request ends the command
 *     POST /exec/NUMBER/input     part of what it reads; the answer means that it was taken; `?last=true`: that was all
 */

const readCommand = reader(
  Type.Object(
    { cmd: Type.Array(Type.String({ maxLength: 65_536 }), { minItems: 1, maxItems: 1_024 }) },
    { additionalProperties: false },
  ),
)
const readInput = reader(Type.Object({ last: Type.Optional(Type.Enum(['true', 'false'])) }))

interface Command {
  link: ClusterLink
  stream: string
  /** Ends it when nobody asks for its output. */
  unread: NodeJS.Timeout
}

/** From the start of a command to the request for its output. */
const UNREAD_MS = 15_000
/** Between two tries to bring what the command has not read yet; each waits itself. */
const AGAIN_MS = 50

export function execRoutes(app: App, { store, clusters, events }: ApiContext): void {
  const commands = new Map<string, Command>()
  const require = (number: string) => {
    const command = commands.get(number)
    if (command === undefined) throw new MeshError('REQUEST_FAILED', { reason: 'the command has ended' })
    return command
  }
  const end = (number: string) => {
    const command = commands.get(number)
    if (!commands.delete(number) || command === undefined) return
    clearTimeout(command.unread)
    command.link.notify('exec.close', { stream: command.stream })
  }
  app.addContentTypeParser('application/octet-stream', { parseAs: 'buffer' }, (_request, body, done) =>
    done(null, body),
  )
  app.addHook('onClose', async () => {
    for (const number of commands.keys()) end(number)
  })

  app.post<Id>('/instances/:id/exec', async ({ params, body }) => {
    const { cmd } = readCommand(body)
    const record = store.instances.get(params.id)
    if (record === undefined) throw new MeshError('INSTANCE_UNKNOWN', { instance: params.id.slice(0, 400) })
    if (record.cluster === undefined)
      throw new MeshError('REQUEST_FAILED', { instance: record.id, reason: 'it has not been placed on a node' })
    const { link } = await clusters.linkedSoon(record.cluster)
    const { stream } = await link.request('exec.open', { instance: record.id, cmd })
    const number = randomBytes(16).toString('hex')
    commands.set(number, { link, stream, unread: setTimeout(() => end(number), UNREAD_MS).unref() })
    events.record({ instance: record.id, what: 'entered', by: 'user', why: cmd[0] }) // its arguments may be secret
    return { exec: number }
  })

  app.get<Id>('/exec/:id', async ({ params }, reply) => {
    const command = require(params.id)
    clearTimeout(command.unread)
    const output = printed(command, () => end(params.id), goneOf(reply.raw))
    return reply.type('application/octet-stream').send(Readable.from(output, { objectMode: false }))
  })

  app.post<Id>('/exec/:id/input', { bodyLimit: MAX_EXEC_BYTES }, async ({ params, query, body }) => {
    const { last } = readInput(query)
    const data = Buffer.isBuffer(body) ? body.toString('base64') : ''
    const { link, stream } = require(params.id)
    for (;;) {
      const { taken } = await link.request('exec.write', { stream, data, ...(last === 'true' ? { isLast: true } : {}) })
      if (taken) return {}
      require(params.id)
      await delay(AGAIN_MS)
    }
  })
}

/** `signal`: whoever reads has gone; a stream that waits for its next part does not hear of that. */
async function* printed({ link, stream }: Command, end: () => void, signal: AbortSignal): AsyncIterable<Buffer> {
  try {
    while (!signal.aborted) {
      const { printed, exitCode } = await link.request('exec.read', { stream }, signal)
      for (const { to, data } of printed) yield execFrame(to, Buffer.from(data, 'base64'))
      if (exitCode === undefined) continue
      return yield execFrame('exit', Buffer.from(String(exitCode)))
    }
  } finally {
    end()
  }
}
