import { systemClock, type Clock } from './clock.ts'
import type { Log } from './log.ts'
import { readPlainFile, replaceFile } from './plain-file.ts'

/** Files that could not be written, and why; what they should hold is in memory. For `check`, in each thread. */
export const unwrittenFiles = new Map<string, unknown>()

/** Between two tries. Smaller: a full disk is asked more often; larger: a crash soon after there is room again costs the copy. */
export const REWRITE_MS = 5_000

/**
 * A small file that holds a copy of what is in memory: losing it costs something at the next start, never now. What cannot be
 * written is said once, shown by `check`, and written when that is possible again.
 */
export class KeptFile implements AsyncDisposable {
  readonly path: string
  readonly #log: Log
  readonly #clock: Clock
  #wanted: string | undefined
  #written: string | undefined
  #writing: Promise<void> = Promise.resolve()
  #cancelRetry: (() => void) | undefined

  constructor(path: string, log: Log, clock: Clock = systemClock) {
    this.path = path
    this.#log = log
    this.#clock = clock
  }

  /** JSON that an earlier process left. A file that is missing, damaged, or no file at all holds nothing. */
  readJson(): unknown {
    const text = this.readText()
    if (text === undefined) return undefined
    try {
      return JSON.parse(text)
    } catch {
      return undefined
    }
  }

  readText(): string | undefined {
    try {
      return readPlainFile(this.path)
    } catch {
      return undefined
    }
  }

  /** Resolves after the first try, however that went. */
  put(text: string): Promise<void> {
    this.#wanted = text
    this.#writing = this.#writing.then(() => this.#write())
    return this.#writing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#writing
    this.#cancelRetry?.()
    unwrittenFiles.delete(this.path)
  }

  async #write(): Promise<void> {
    const text = this.#wanted
    if (text === undefined || text === this.#written) return
    this.#cancelRetry?.()
    try {
      await replaceFile(this.path, text)
      this.#written = text
      if (unwrittenFiles.delete(this.path))
        this.#log.info('a file of the state directory is written again', { path: this.path })
    } catch (error) {
      if (!unwrittenFiles.has(this.path))
        this.#log.warn('a file of the state directory cannot be written; its content is kept in memory', {
          path: this.path,
          error,
        })
      unwrittenFiles.set(this.path, error)
      this.#cancelRetry = this.#clock.after(REWRITE_MS, () => void this.put(this.#wanted ?? text))
    }
  }
}
