import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { MeshError } from '../../core/errors.ts'
import { execFrame } from '../../core/kit/exec-frames.ts'
import type { ClusterLink, Clusters } from './clusters.ts'
import type { Events } from './events/events.ts'
import type { RootStore } from './root-store.ts'

/*
 * A command in an instance, as three requests, so that what it reads and what it prints flow independently:
 *
 *     POST /instances/ID/exec     the command                       ─▶ its number here
 *     GET  /exec/NUMBER           ─▶ what it prints (kit/exec-frames.ts), to the exit code; who ends this request ends the command
 *     POST /exec/NUMBER/input     part of what it reads; the answer means that it was taken; `?last=true`: that was all
 */

interface Command {
  /** The user who has begun it, and nobody else goes on with it. */
  user: string
  /** As long as this holds for its instance. */
  mayGoOn: () => boolean
  link: ClusterLink
  stream: string
  /** Ends it when nobody asks for its output. */
  unread: NodeJS.Timeout
}

/** From the start of a command to the request for its output. */
const UNREAD_MS = 15_000
/** Between two tries to bring what the command has not read yet; each waits itself. */
const AGAIN_MS = 50

export class ExecCommands implements Disposable {
  readonly #commands = new Map<string, Command>()

  /** Its number. @throws MeshError INSTANCE_UNKNOWN, LINK_CLOSED */
  async begin(
    id: string,
    { cmd, user, mayGoOn }: { cmd: string[] } & Pick<Command, 'user' | 'mayGoOn'>,
    { store, clusters, events }: { store: RootStore; clusters: Clusters; events: Events },
  ): Promise<string> {
    const record = store.instances.get(id)
    if (record === undefined) throw new MeshError('INSTANCE_UNKNOWN', { instance: id.slice(0, 400) })
    if (record.cluster === undefined)
      throw new MeshError('INSTANCE_UNKNOWN', { instance: record.id, reason: 'it has not been placed on a node' })
    const { link } = await clusters.linkedSoon(record.cluster)
    const { stream } = await link.request('exec.open', { instance: record.id, cmd })
    const number = randomBytes(16).toString('hex')
    const unread = setTimeout(() => this.#end(number), UNREAD_MS).unref()
    this.#commands.set(number, { user, mayGoOn, link, stream, unread })
    events.record({ instance: record.id, what: 'entered', by: 'user', why: cmd[0] }) // its arguments may be secret
    return number
  }

  /** For what holds its output open. */
  mayGoOn(number: string): boolean {
    return this.#commands.get(number)?.mayGoOn() !== false
  }

  /** `signal`: whoever reads has gone; a stream that waits for its next part does not hear of that. @throws MeshError COMMAND_UNKNOWN */
  output(number: string, user: string, signal: AbortSignal): AsyncIterable<Buffer> {
    const command = this.#require(number, user)
    clearTimeout(command.unread)
    return printed(command, () => this.#end(number), signal)
  }

  /** Resolves when the command has taken it. @throws MeshError COMMAND_UNKNOWN */
  async input(number: string, bytes: Buffer, { user, isLast }: { user: string; isLast: boolean }): Promise<void> {
    const data = bytes.toString('base64')
    const { link, stream } = this.#require(number, user)
    for (;;) {
      const { taken } = await link.request('exec.write', { stream, data, ...(isLast ? { isLast: true } : {}) })
      if (taken) return
      this.#require(number, user)
      await delay(AGAIN_MS)
    }
  }

  [Symbol.dispose](): void {
    for (const number of this.#commands.keys()) this.#end(number)
  }

  #require(number: string, user: string): Command {
    const command = this.#commands.get(number)
    if (command?.user !== user || !command.mayGoOn()) throw new MeshError('COMMAND_UNKNOWN')
    return command
  }

  #end(number: string): void {
    const command = this.#commands.get(number)
    if (!this.#commands.delete(number) || command === undefined) return
    clearTimeout(command.unread)
    command.link.notify('exec.close', { stream: command.stream })
  }
}

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
