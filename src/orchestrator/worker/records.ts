import { mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import Type from 'typebox'
import { checkerOf } from '../../core/kit/checker.ts'
import { MeshError } from '../../core/errors.ts'
import { stateProblem } from '../../core/kit/disk.ts'
import { readPlainFile } from '../../core/kit/plain-file.ts'
import { inSlices, Slices } from '../../core/kit/slices.ts'
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
  /** Of a job: when it was started first, milliseconds since 1970. */
  beganAt?: number
  endpoints: Endpoints
  /** While something runs, or may. */
  trace?: Trace
}

/** One of several runs of an instance. */
export interface TaggedRecord {
  saved: Saved
  /** Empty for the run that serves. */
  tag: string
}

const FORMAT = 1

/** What is needed to take an instance over; the rest of its specification is as the cluster sent it, which was checked then. */
const record = checkerOf(
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
    beganAt: Type.Optional(Type.Number()),
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
/** Of runs beside the one that serves; an agent of an earlier version does not read them. */
const TAGGED = /\.json\.([0-9a-z]+)\.run$/

/**
 * One small file for each run of an instance (`x.json` for the one that serves, `x.json.TAG.run` for others), replaced as a whole in the same turn as the change it describes: after a crash there is the
 * record from before or the one from after, and a process is never without one.
 * Those of external instances follow in later turns, a few in each: no process can be without one, and a node may have thousands.
 *
 * A disk that is full or fails costs only that: the change is kept in memory and written as soon as it can be.
 */
export class Records {
  readonly #dir: string
  readonly #log: Log
  /** What the files do not say yet; `undefined` where a file is to be removed. */
  readonly #unwritten = new Map<string, Saved | undefined>()
  /** What the files are to say in one of the next turns. */
  readonly #late = new Map<string, Saved | undefined>()
  #isCatchingUp = false
  #isClosing = false
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
    life.defer(() => {
      this.#isClosing = true
      for (const [path, saved] of this.#late) this.#writeNow(path, saved)
      this.#writeAll()
    })
    life.every(RETRY_MS, () => this.#writeAll(), 'writing of instance records')
  }

  /** Why records are not on disk, while some are not. */
  get problem(): MeshError | undefined {
    return this.#unwritten.size === 0 ? undefined : stateProblem(this.#dir, this.#lastError)
  }

  put(saved: Saved, tag = ''): void {
    const { instance, spec } = saved.assignment
    this.#change(this.#path(instance, tag), saved, spec.runtime)
  }

  drop({ instance, spec }: Assignment, tag = ''): void {
    this.#change(this.#path(instance, tag), undefined, spec.runtime)
  }

  #change(path: string, saved: Saved | undefined, runtime: string): void {
    if (runtime !== 'external' || this.#isClosing) return this.#writeNow(path, saved)
    this.#late.set(path, saved)
    if (!this.#isCatchingUp) void this.#catchUp()
  }

  async #catchUp(): Promise<void> {
    this.#isCatchingUp = true
    const slices = new Slices()
    await slices.next()
    for (const [path, saved] of this.#late) {
      this.#writeNow(path, saved)
      if (slices.isOver) await slices.next()
    }
    this.#isCatchingUp = false
  }

  #writeNow(path: string, saved: Saved | undefined): void {
    this.#late.delete(path)
    this.#write(path, saved)
  }

  #writeAll(): void {
    for (const [path, saved] of this.#unwritten) this.#write(path, saved)
  }

  #write(path: string, saved: Saved | undefined): void {
    try {
      if (saved === undefined) rmSync(path, { force: true })
      else {
        writeFileSync(`${path}.new`, JSON.stringify({ format: FORMAT, ...saved }), { mode: 0o600 })
        renameSync(`${path}.new`, path)
      }
      if (!this.#unwritten.delete(path) || this.#unwritten.size > 0) return
      this.#log.info('instance records written again', { directory: this.#dir })
    } catch (error) {
      const wasWell = this.#unwritten.size === 0
      this.#unwritten.set(path, saved)
      this.#lastError = error
      if (wasWell) this.#log.error('instance records cannot be written', { error: stateProblem(this.#dir, error) })
    }
  }

  /**
   * First those that serve. Damaged records are logged and left where they are: the cluster still knows what this node is to run. One
   * run has two for a moment while it takes the place of another; the second is removed.
   */
  async all(): Promise<TaggedRecord[]> {
    const names = readdirSync(this.#dir)
    const isServing = (name: string) => name.endsWith('.json')
    const serving = (await inSlices(names.filter(isServing), (name) => this.#read(name))).flat()
    const runs = new Map(serving.map((saved) => [saved.assignment.instance, saved]))
    const others = names.flatMap((name): TaggedRecord[] => {
      const [, tag] = TAGGED.exec(name) ?? []
      if (tag === undefined) return []
      return this.#read(name).flatMap((saved): TaggedRecord[] => {
        const { instance } = saved.assignment
        const known = runs.get(instance)
        if (known !== undefined && known.trace?.['run'] !== saved.trace?.['run']) return [{ saved, tag }]
        this.drop(saved.assignment, tag)
        if (known !== undefined) return []
        runs.set(instance, saved)
        return [{ saved, tag: '' }] // its own record was lost
      })
    })
    const all = [...serving.map((saved) => ({ saved, tag: '' })), ...others]
    return [...all.filter(({ tag }) => tag === ''), ...all.filter(({ tag }) => tag !== '')]
  }

  #read(name: string): Saved[] {
    try {
      return [parseRecord(readPlainFile(join(this.#dir, name)) ?? '')]
    } catch (error) {
      this.#log.warn('instance record ignored: it cannot be read', { path: join(this.#dir, name), error })
      return []
    }
  }

  #path(instance: InstanceId, tag: string): string {
    return join(this.#dir, `${fileNameOf(instance)}.json${tag === '' ? '' : `.${tag}.run`}`)
  }
}
