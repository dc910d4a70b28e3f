import { constants } from 'node:fs'
import { open, rename } from 'node:fs/promises'
import Type from 'typebox'
import { Compile } from 'typebox/compile'
import type { Clock } from '../../../core/kit/clock.ts'
import { REWRITE_MS, unwrittenFiles } from '../../../core/kit/kept-file.ts'
import type { Log } from '../../../core/kit/log.ts'
import { ACTORS, EVENT_WORDS, type Event, type EventWord } from './event.ts'
import type { EventHistory } from './event-history.ts'

/*
 * The copy of the history on disk: one JSON object a line, added to its end.
 *
 *     record ─▶ history (memory) ─▶ GATHER_MS later: those not yet written, 1,000 a write, synced ─▶ events.jsonl
 *                                                       │ more than twice what is remembered
 *                                                       └▶ written anew beside it, synced, renamed
 *
 * Nobody waits for it. What cannot be written (a full disk) stays in memory, and is written when that is possible again; a crash costs
 * the last moment, and at worst tears the last line, which is then left out.
 */

export interface EventFileParts {
  path: string
  history: EventHistory
  clock: Clock
  log: Log
}

/** Smaller writes more often; larger loses more with a process that is killed. */
const GATHER_MS = 100
/** Events in one write. Smaller writes more often; larger makes the event loop wait for their text. */
const SLICE = 1_000
/** The file is written anew when it has this many lines more than twice what is remembered. */
const SLACK = 1_000

export class EventFile implements AsyncDisposable {
  readonly #parts: EventFileParts
  readonly #draft: string
  #written = 0
  #lines = 0
  #isTorn = false
  #isClosed = false
  #cancel: (() => void) | undefined
  #writing: Promise<void> | undefined

  constructor(parts: EventFileParts) {
    this.#parts = parts
    this.#draft = `${parts.path}.draft`
  }

  /** Adds what an earlier process left to the history. What cannot be read is left out: it is a copy for people, nothing depends on it. */
  async load(): Promise<void> {
    const { path, history, log } = this.#parts
    try {
      const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
      try {
        if (!(await file.stat()).isFile()) throw new Error('it is not a file')
        for await (const line of file.readLines({ autoClose: false })) {
          this.#lines++
          const event = eventIn(line)
          this.#isTorn = event === undefined
          if (event === undefined || event.number <= this.#written) continue
          if (this.#written === 0) history.beginsAt(event.number)
          this.#written = event.number
          history.add(event)
        }
      } finally {
        await file.close()
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
      log.warn('the history of events cannot be read', { path, error })
    }
  }

  /** The newest number that was read. */
  get last(): number {
    return this.#written
  }

  /** The history has grown. */
  writeSoon(): void {
    if (this.#isClosed || this.#cancel !== undefined || this.#writing !== undefined) return
    this.#cancel = this.#parts.clock.after(unwrittenFiles.has(this.#parts.path) ? REWRITE_MS : GATHER_MS, () => {
      this.#cancel = undefined
      this.#start()
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true
    this.#cancel?.()
    await this.#writing
    this.#start()
    await this.#writing
    unwrittenFiles.delete(this.#parts.path)
  }

  #start(): void {
    this.#writing = this.#write().then((isDone) => {
      this.#writing = undefined
      if (!isDone || this.#next(1).length > 0) this.writeSoon()
    })
  }

  /** False when the disk did not take it. */
  async #write(): Promise<boolean> {
    const { path, log, history } = this.#parts
    try {
      if (this.#lines > 2 * history.size + SLACK) await this.#rewrite()
      for (let some = this.#next(SLICE); some.length > 0; some = this.#next(SLICE)) {
        await this.#append(path, some, constants.O_APPEND)
        this.#lines += some.length
      }
      if (unwrittenFiles.delete(path)) log.info('a file of the state directory is written again', { path })
      return true
    } catch (error) {
      if (!unwrittenFiles.has(path))
        log.warn('a file of the state directory cannot be written; its content is kept in memory', { path, error })
      unwrittenFiles.set(path, error)
      return false
    }
  }

  async #rewrite(): Promise<void> {
    const before = this.#written
    this.#written = 0
    try {
      let lines = 0
      for (let some = this.#next(SLICE); some.length > 0; some = this.#next(SLICE)) {
        await this.#append(this.#draft, some, lines === 0 ? constants.O_TRUNC : constants.O_APPEND)
        lines += some.length
      }
      await rename(this.#draft, this.#parts.path)
      this.#lines = lines
      this.#isTorn = false
    } catch (error) {
      this.#written = before
      throw error
    }
  }

  #next(most: number): Event[] {
    return this.#parts.history.after(this.#written).take(most).toArray()
  }

  async #append(path: string, events: readonly Event[], how: number): Promise<void> {
    const text = events.map((event) => `${JSON.stringify(event)}\n`).join('')
    const file = await open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_NONBLOCK | how, 0o600)
    try {
      const isTorn = this.#isTorn && path === this.#parts.path
      this.#isTorn ||= path === this.#parts.path // until all of it is there
      await file.appendFile(isTorn ? `\n${text}` : text)
      await file.datasync()
      if (path === this.#parts.path) this.#isTorn = false
    } finally {
      await file.close()
    }
    this.#written = events.at(-1)?.number ?? this.#written
  }
}

const isEvent = Compile(
  Type.Object({
    number: Type.Integer({ minimum: 1 }),
    at: Type.Integer({ minimum: 0 }),
    what: Type.Enum(Object.keys(EVENT_WORDS) as EventWord[]),
    service: Type.Optional(Type.String({ maxLength: 300 })),
    instance: Type.Optional(Type.String({ maxLength: 300 })),
    node: Type.Optional(Type.String({ maxLength: 127 })),
    cluster: Type.Optional(Type.String({ maxLength: 63 })),
    by: Type.Enum([...ACTORS]),
    why: Type.Optional(Type.String({ maxLength: 1_000 })),
  }),
)

/** `undefined` for a line that was torn by a crash, or that a later version wrote. */
function eventIn(line: string): Event | undefined {
  try {
    const value: unknown = JSON.parse(line)
    return isEvent.Check(value) ? value : undefined
  } catch {
    return undefined
  }
}
