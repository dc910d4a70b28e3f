import { once } from 'node:events'
import { PassThrough, type Duplex } from 'node:stream'
import { explain, MeshError } from '../../../core/errors.ts'
import type { InstanceCommand } from '../runtime.ts'
import type { Engine } from './engine.ts'

/*
 * A command in a container. The connection of its start becomes its standard input one way, and the other way:
 *
 *     ┌────────┬───────┬────────────────┐┌──────────────────┐
 *     │ stream │ 0 0 0 │ length, 32 bit ││ what it printed  │      1 stdout, 2 stderr
 *     └────────┴───────┴────────────────┘└──────────────────┘
 *
 * The engine has no way to end it: when nobody waits any more, its standard input and output are closed.
 */

const HEADER_BYTES = 8
/** The engine knows the code a moment after the output has ended. */
const CODE_TRIES = 40
const CODE_AGAIN_MS = 50
/** What a shell says of a command that could not be run. */
const NOT_RUN = 126

/** @throws MeshError REQUEST_FAILED */
export async function execInContainer(
  engine: Engine,
  container: string,
  cmd: readonly string[],
): Promise<InstanceCommand> {
  const body = { AttachStdin: true, AttachStdout: true, AttachStderr: true, Tty: false, Cmd: cmd }
  try {
    const made = (await engine.ask({ method: 'POST', path: `/containers/${container}/exec`, body })) as { Id: string }
    const socket = await engine.hijack({ path: `/exec/${made.Id}/start`, body: { Detach: false, Tty: false } })
    socket.on('error', () => undefined) // its end counts
    const stdout = new PassThrough()
    const stderr = new PassThrough()
    const ended = demultiplexed(socket, { stdout, stderr }).then(() => exitCodeOf(engine, made.Id))
    return { stdin: socket, stdout, stderr, ended, kill: () => void socket.destroy() }
  } catch (cause) {
    throw new MeshError('REQUEST_FAILED', { reason: `the command cannot be run: ${explain(cause)}` }, { cause })
  }
}

/** Until the connection ends; never rejects. */
async function demultiplexed(socket: Duplex, to: { stdout: PassThrough; stderr: PassThrough }): Promise<void> {
  let held = Buffer.alloc(0)
  try {
    for await (const chunk of socket) {
      held = Buffer.concat([held, chunk as Buffer])
      while (held.length >= HEADER_BYTES) {
        const end = HEADER_BYTES + held.readUInt32BE(4)
        if (held.length < end) break
        const output = held[0] === 2 ? to.stderr : to.stdout
        if (!output.write(held.subarray(HEADER_BYTES, end))) await once(output, 'drain')
        held = held.subarray(end)
      }
    }
  } catch {
    // nobody waits for it any more, or the engine has gone
  } finally {
    to.stdout.end()
    to.stderr.end()
  }
}

async function exitCodeOf(engine: Engine, id: string): Promise<number> {
  for (let tries = 0; tries < CODE_TRIES; tries++) {
    const state = await engine.ask({ method: 'GET', path: `/exec/${id}/json` }).catch(() => undefined)
    const { Running, ExitCode } = (state ?? {}) as { Running?: boolean; ExitCode?: number | null }
    if (Running === false && typeof ExitCode === 'number') return ExitCode & 0xff
    await new Promise((resolve) => setTimeout(resolve, CODE_AGAIN_MS))
  }
  return NOT_RUN
}
