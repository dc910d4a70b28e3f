import { mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import Type from 'typebox'
import { Compile } from 'typebox/compile'
import { MeshError } from '../../core/errors.ts'
import { stateProblem } from '../../core/kit/disk.ts'
import { readPlainFile } from '../../core/kit/plain-file.ts'
import type { Lifetime } from '../../core/kit/lifetime.ts'
import type { Log } from '../../core/kit/log.ts'
import { INSTANCE_STATES } from '../../core/model/instance.ts'
import type { InstanceId } from '../../core/model/ids.ts'
import type { Assignment, InstanceReport } from '../spec.ts'
import { fileNameOf } from './output-files.ts'
import type { Endpoints, Trace } from './runtime.ts'

/** What the next agent must know of an instance to take it over or to run it again. */
export interface Saved {
  assignment: Assignment
  /** Where it stands; of a job that is over, so that it is not run twice. */
  state: InstanceReport['state']
  restarts: number
  endpoints: Endpoints
  /** While something runs, or may. */
  trace?: Trace
}

const FORMAT = 1

/** What is needed to take an instance over; the rest of its specification is as the cluster sent it, which was checked then. */
const record = Compile(
  Type.Object({
    format: Type.Literal(FORMAT),
    assignment: Type.Object({
      instance: Type.String({ minLength: 1 }),
      ordinal: Type.Integer(),
      generation: Type.Integer(),
      spec: Type.Object({ id: Type.String(), runtime: Type.String(), ports: Type.Array(Type.Object({})) }),
    }),
    state: Type.Enum([...INSTANCE_STATES]),
    restarts: Type.Integer(),
    endpoints: Type.Record(Type.String(), Type.Object({ host: Type.String(), port: Type.Integer() })),
    trace: Type.Optional(Type.Record(Type.String(), Type.Union([Type.String(), Type.Number()]))),
  }),
)

/** @throws MeshError STATE_CORRUPT */
export function parseRecord(text: string): Saved {
  let content: unknown
  try {
    content = JSON.parse(text)
  } catch (cause) {
    throw new MeshError('STATE_CORRUPT', { reason: 'not JSON' }, { cause })
  }
  if (record.Check(content)) return content as unknown as Saved
  const [fault] = record.Errors(content)
  throw new MeshError('STATE_CORRUPT', {
    reason: `${fault?.instancePath || '/'} ${fault?.message ?? 'is not a record'}`,
  })
}

/** Between two tries to write what could not be written. */
const RETRY_MS = 5_000

/**
 * One small file for each instance, replaced as a whole in the same turn as the change it describes: after a crash there is the
 * record from before or the one from after, and a process is never without one.
 *
 * A disk that is full or fails costs only that: the change is kept in memory and written as soon as it can be.
 */
export class Records {
  readonly #dir: string
  readonly #log: Log
  /** What the files do not say yet; `undefined` where a file is to be removed. */
  readonly #unwritten = new Map<InstanceId, Saved | undefined>()
  #lastError: unknown

  /** @throws MeshError STATE_UNREADABLE */
  constructor(dir: string, log: Log) {
    this.#dir = dir
    this.#log = log
    try {
      mkdirSync(dir, { recursive: true, mode: 0o700 })
    } catch (cause) {
      throw new MeshError('STATE_UNREADABLE', { directory: dir }, { cause })
    }
  }

  /** Writes what could not be written, until the lifetime ends and once more then. */
  keepWriting(life: Lifetime): void {
    life.defer(() => this.#writeAll())
    life.every(RETRY_MS, () => this.#writeAll(), 'writing of instance records')
  }

  /** Why records are not on disk, while some are not. */
  get problem(): MeshError | undefined {
    return this.#unwritten.size === 0 ? undefined : stateProblem(this.#dir, this.#lastError)
  }

  put(saved: Saved): void {
    this.#write(saved.assignment.instance, saved)
  }

  drop(instance: InstanceId): void {
    this.#write(instance, undefined)
  }

  #writeAll(): void {
    for (const [instance, saved] of this.#unwritten) this.#write(instance, saved)
  }

  #write(instance: InstanceId, saved: Saved | undefined): void {
    const path = this.#path(instance)
    try {
      if (saved === undefined) rmSync(path, { force: true })
      else {
        writeFileSync(`${path}.new`, JSON.stringify({ format: FORMAT, ...saved }), { mode: 0o600 })
        renameSync(`${path}.new`, path)
      }
      if (!this.#unwritten.delete(instance) || this.#unwritten.size > 0) return
      this.#log.info('instance records written again', { directory: this.#dir })
    } catch (error) {
      const wasWell = this.#unwritten.size === 0
      this.#unwritten.set(instance, saved)
      this.#lastError = error
      if (wasWell) this.#log.error('instance records cannot be written', { error: stateProblem(this.#dir, error) })
    }
  }

  /** Damaged records are logged and left where they are: the cluster still knows what this node is to run. */
  all(): Saved[] {
    return readdirSync(this.#dir)
      .filter((name) => name.endsWith('.json'))
      .flatMap((name) => {
        try {
          return [parseRecord(readPlainFile(join(this.#dir, name)) ?? '')]
        } catch (error) {
          this.#log.warn('instance record ignored: it cannot be read', { path: join(this.#dir, name), error })
          return []
        }
      })
  }

  #path(instance: InstanceId): string {
    return join(this.#dir, `${fileNameOf(instance)}.json`)
  }
}
