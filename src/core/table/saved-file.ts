import { open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import Type from 'typebox'
import { checkerOf } from '../kit/checker.ts'
import { MeshError, isMeshError } from '../errors.ts'
import { systemClock, type Clock } from '../kit/clock.ts'
import { stateProblem } from '../kit/disk.ts'
import type { Log } from '../kit/log.ts'
import { readPlainFile } from '../kit/plain-file.ts'
import type { ChoiceKey } from '../model/choice.ts'
import { INSTANCE_STATES } from '../model/instance.ts'
import type { Snapshot } from './table.ts'

/* The file of the saved table: JSON with a format number, written to a draft, synced, and renamed over the old one. */

/**
 * Reads the copy. One that is damaged or cannot be read holds nothing that the cluster cannot provide again, so the agent starts
 * with an empty table; a damaged one is renamed, for whoever wants to look at it.
 */
export async function readOrRename(path: string, log: Log, clock: Clock = systemClock): Promise<Snapshot | undefined> {
  try {
    return await readSaved(path)
  } catch (error) {
    if (!isMeshError(error, 'STATE_CORRUPT')) {
      log.warn('the saved table cannot be read; starting without it', { error })
      return undefined
    }
    const renamed = `${path}.damaged-${new Date(clock.wall()).toISOString().replaceAll(':', '-')}`
    await rename(path, renamed).catch(() => undefined) // a disk that takes nothing: it is tried again with the next start
    log.warn('the saved table is damaged; starting without it', { error, path: renamed })
    return undefined
  }
}

/**
 * The saved copy; `undefined` when there is none. The file is never changed.
 * @throws MeshError STATE_CORRUPT (details: path, reason) or STATE_UNREADABLE.
 */
export async function readSaved(path: string): Promise<Snapshot | undefined> {
  const text = await atPath(path, async () => readPlainFile(path))
  return text === undefined ? undefined : parseSaved(text, path)
}

/** `path` is for the error. @throws MeshError STATE_CORRUPT (details: path, reason) */
export function parseSaved(text: string, path: string): Snapshot {
  let content: unknown
  try {
    content = JSON.parse(text)
  } catch (error) {
    throw new MeshError('STATE_CORRUPT', { path, reason: 'not JSON' }, { cause: error })
  }
  if (!savedFile.Check(content)) throw new MeshError('STATE_CORRUPT', { path, reason: firstFault(content) })
  return content.table
}

/** Replaces the copy in one step: a crash leaves the old file or the new one. Only its owner may read it. @throws MeshError STATE_UNREADABLE */
export async function writeSaved(path: string, table: Snapshot): Promise<void> {
  const draft = `${path}.draft`
  await atPath(path, async () => {
    try {
      await rm(draft, { force: true }) // left by a crash, perhaps with another mode
      const file = await open(draft, 'wx', 0o600)
      try {
        await file.writeFile(JSON.stringify({ format: FORMAT, table }))
        await file.sync()
      } finally {
        await file.close()
      }
      await rename(draft, path)
      await syncDirectory(dirname(path))
    } catch (error) {
      await rm(draft, { force: true }).catch(() => undefined)
      throw error
    }
  })
}

const FORMAT = 1

const text = Type.String()
const whole = Type.Integer({ minimum: 0 })
const savedFile = checkerOf(
  Type.Object({
    format: Type.Literal(FORMAT),
    table: Type.Object({
      epoch: text,
      seq: whole,
      keys: Type.Array(Type.Object({ key: text, usedAt: Type.Number() })),
      entries: Type.Array(
        Type.Object({
          version: whole,
          service: Type.Object({
            id: Type.String({ pattern: '^[^.]+(\\.[^.]+){3}$' }),
            app: text,
            appNamespace: text,
            name: text,
            namespace: text,
            ports: Type.Array(
              Type.Object({
                port: Type.Integer({ minimum: 1, maximum: 65_535 }),
                protocol: Type.Enum(['tcp', 'udp']),
                name: Type.Optional(text),
              }),
            ),
            allow: Type.Array(text),
            isOwned: Type.Optional(Type.Literal(true)),
            paths: Type.Optional(text),
            vips: Type.Record(text, Type.Integer({ minimum: 0, maximum: 0xfffff })),
            requested: Type.Optional(Type.Array(Type.Unsafe<ChoiceKey>(text))),
          }),
          instances: Type.Array(
            Type.Object({
              id: text,
              service: text,
              ordinal: whole,
              node: text,
              state: Type.Enum([...INSTANCE_STATES]),
            }),
          ),
          nodes: Type.Array(
            Type.Object({
              id: text,
              addresses: Type.Array(text),
              relays: Type.Array(text),
              coordinate: Type.Optional(
                Type.Object({ at: Type.Array(Type.Number()), height: Type.Number(), error: Type.Number() }),
              ),
            }),
          ),
        }),
      ),
    }),
  }),
)

function firstFault(content: unknown): string {
  const [fault] = savedFile.Errors(content)
  return fault === undefined ? 'not a saved table' : `${fault.instancePath || '/'} ${fault.message}`
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r')
  try {
    await directory.sync() // the rename itself must survive a power cut
  } finally {
    await directory.close()
  }
}

async function atPath<T>(path: string, act: () => Promise<T>): Promise<T> {
  try {
    return await act()
  } catch (error) {
    throw isMeshError(error) ? error : stateProblem(path, error)
  }
}
