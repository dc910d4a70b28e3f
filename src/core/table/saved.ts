import { systemClock, type Clock } from '../kit/clock.ts'
import { REWRITE_MS, unwrittenFiles } from '../kit/kept-file.ts'
import { Lifetime } from '../kit/lifetime.ts'
import type { Log } from '../kit/log.ts'
import { readOrRename, writeSaved } from './saved-file.ts'
import type { Table } from './table.ts'

/**
 * Keeps a copy of the table on disk, so that a node that restarts while it is cut off still resolves names and routes flows.
 * Losing the copy costs questions to the cluster, nothing else.
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

  /** Fills the empty table from its copy, and keeps the copy up to date from then on. */
  static start(parts: SavedParts, log: Log): Promise<SavedTable> {
    return Lifetime.open(async (life) => {
      const saved = new SavedTable(life, parts, log)
      const snapshot = await readOrRename(parts.path, saved.#log, saved.#clock)
      if (snapshot !== undefined) parts.table.restore(snapshot)
      life.defer(() => void unwrittenFiles.delete(parts.path))
      life.defer(() => (saved.#isReleased ? undefined : saved.#lastWrite()))
      life.defer(parts.table.onChange(() => saved.#changed()))
      return saved
    })
  }

  /** Writes what is not written yet, and nothing after that: another process keeps the copy. */
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

  /** Never throws: a full disk must not stop the data path. What could not be written is written when there is room. */
  async #writeSoon(): Promise<void> {
    while (this.#isDirty && !this.#isReleased && !this.#life.signal.aborted) {
      await this.#clock.sleep(unwrittenFiles.has(this.#path) ? REWRITE_MS : SETTLE_MS, this.#life.signal)
      await this.#write()
    }
  }

  async #lastWrite(): Promise<void> {
    await this.#writing
    if (this.#isDirty) await this.#write()
  }

  async #write(): Promise<void> {
    this.#isDirty = false
    try {
      await writeSaved(this.#path, this.#table.snapshot())
      if (unwrittenFiles.delete(this.#path)) this.#log.info('the table is saved again')
    } catch (error) {
      this.#isDirty = true
      if (!unwrittenFiles.has(this.#path)) this.#log.warn('the table could not be saved', { error })
      unwrittenFiles.set(this.#path, error)
    }
  }
}

export interface SavedParts {
  table: Table
  path: string
  clock?: Clock
}

/** A burst of changes is written once. Smaller: more writes; larger: more to ask for again after a crash. */
const SETTLE_MS = 500
