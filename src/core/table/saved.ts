import { open, readFile, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import Type from 'typebox'
import { Compile } from 'typebox/compile'
import { MeshError, isMeshError } from '../errors.ts'
import { systemClock, type Clock } from '../kit/clock.ts'
import { Lifetime } from '../kit/lifetime.ts'
import type { Log } from '../kit/log.ts'
import { INSTANCE_STATES } from '../model/instance.ts'
import type { Snapshot, Table } from './table.ts'

/**
 * The table's copy on disk, so that a node which restarts while cut off still resolves and routes. Written whole to a draft, synced,
 * renamed over the old one: a crash leaves the old copy or the new one. Losing it costs questions to the cluster, no more.
 */
export class SavedTable implements AsyncDisposable {
  readonly #life: Lifetime
  readonly #table: Table
  readonly #path: string
  readonly #log: Log
  readonly #clock: Clock
  #isDirty = false
  #writing: Promise<void> | undefined
  #isReleased = false

  private constructor(life: Lifetime, { table, path, clock }: SavedParts, log: Log) {
    this.#life = life
    this.#table = table
    this.#path = path
    this.#clock = clock ?? systemClock
    this.#log = log.child({ part: 'saved table' })
  }

  /** Fills the (empty) table from its copy, and keeps the copy up to date from then on. */
  static start(parts: SavedParts, log: Log): Promise<SavedTable> {
    return Lifetime.open(async (life) => {
      const saved = new SavedTable(life, parts, log)
      const snapshot = await readOrSetAside(parts.path, saved.#log, saved.#clock)
      if (snapshot !== undefined) parts.table.restore(snapshot)
      life.defer(() => (saved.#isReleased ? undefined : saved.#lastWrite()))
      life.defer(parts.table.onChange(() => saved.#changed()))
      return saved
    })
  }

  /** Writes what is not written yet, and nothing from then on: another process keeps the copy. */
  async release(): Promise<void> {
    this.#isReleased = true
    await this.#lastWrite()
  }

  /** Keeps the copy again. */
  reclaim(): void {
    this.#isReleased = false
    this.#changed()
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #changed(): void {
    this.#isDirty = true
    if (this.#isReleased) return
    this.#writing ??= this.#writeSoon().finally(() => {
      this.#writing = undefined
    })
  }

  /** Never throws: a full disk must not stop the data path. What could not be written is written with the next change. */
  async #writeSoon(): Promise<void> {
    while (this.#isDirty && !this.#isReleased && !this.#life.signal.aborted) {
      await this.#clock.sleep(SETTLE_MS, this.#life.signal)
      if (!(await this.#write())) return
    }
  }

  async #lastWrite(): Promise<void> {
    await this.#writing
    if (this.#isDirty) await this.#write()
  }

  async #write(): Promise<boolean> {
    this.#isDirty = false
    try {
      await writeSaved(this.#path, this.#table.snapshot())
      return true
    } catch (error) {
      this.#isDirty = true
      this.#log.warn('the table could not be saved', { error })
      return false
    }
  }
}

export interface SavedParts {
  table: Table
  path: string
  clock?: Clock
}

/** A burst of changes is written once. Smaller: more writing; larger: more to ask for again after a crash. */
const SETTLE_MS = 500

/**
 * What a damaged copy means: it holds nothing that the cluster cannot tell again, so the agent starts with an empty
 * table and a warning, and the file is renamed, whole, for whoever wants to look.
 * @throws MeshError STATE_UNREADABLE when it cannot be read or renamed.
 */
export async function readOrSetAside(
  path: string,
  log: Log,
  clock: Clock = systemClock,
): Promise<Snapshot | undefined> {
  try {
    return await readSaved(path)
  } catch (error) {
    if (!isMeshError(error, 'STATE_CORRUPT')) throw error
    const aside = `${path}.damaged-${new Date(clock.wall()).toISOString().replaceAll(':', '-')}`
    await atPath(path, () => rename(path, aside))
    log.warn('the saved table is damaged; starting without it', { error, aside })
    return undefined
  }
}

/**
 * The saved copy; `undefined` when there is none. Never changes the file.
 * @throws MeshError STATE_CORRUPT (details: path, reason) or STATE_UNREADABLE.
 */
export async function readSaved(path: string): Promise<Snapshot | undefined> {
  const text = await atPath(path, () => readFile(path, 'utf8').catch(unlessMissing))
  if (text === undefined) return undefined
  let content: unknown
  try {
    content = JSON.parse(text)
  } catch (error) {
    throw new MeshError('STATE_CORRUPT', { path, reason: 'not JSON' }, { cause: error })
  }
  if (!savedFile.Check(content)) throw new MeshError('STATE_CORRUPT', { path, reason: firstFault(content) })
  return content.table
}

/** Replaces the copy in one step; readable by its owner alone. @throws MeshError STATE_UNREADABLE */
export async function writeSaved(path: string, table: Snapshot): Promise<void> {
  const draft = `${path}.draft`
  await atPath(path, async () => {
    try {
      await rm(draft, { force: true }) // left by a crash, perhaps with other rights
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
const savedFile = Compile(
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
            paths: Type.Optional(text),
            vips: Type.Record(text, Type.Integer({ minimum: 0, maximum: 0xfffff })),
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
    throw new MeshError('STATE_UNREADABLE', { path }, { cause: error })
  }
}

function unlessMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') throw error
}
