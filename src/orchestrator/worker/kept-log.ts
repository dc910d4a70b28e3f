import { appendFileSync, constants, renameSync, statSync } from 'node:fs'
import { mkdir, open, readFile, rename, stat, type FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Clock } from '../../core/kit/clock.ts'

/** A FIFO in the place of a log is an error then, and nobody waits for its reader or writer, open(2). */
const { O_APPEND, O_CREAT, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants
const TO_APPEND = O_APPEND | O_CREAT | O_WRONLY | O_NONBLOCK
const TO_READ = O_RDONLY | O_NONBLOCK
/** Two files of this size are kept of each instance. */
export const MAX_BYTES = 5 * 1024 * 1024
/** How often a log that is written to is compared with what was written: somebody else may have written, replaced or removed it. */
const COMPARE_MS = 1_000

export interface KeptLogOptions {
  clock: Clock
  maxBytes?: number
}

/**
 * The lines of one instance: a file that grows and, when it is full, replaces the full one before it. A write that fails loses its
 * lines, and the next one that succeeds says how many.
 */
export class KeptLog {
  readonly #path: string
  readonly #clock: Clock
  readonly #maxBytes: number
  #opened: { file: FileHandle; inode: number; size: number } | undefined
  #comparedAt = -Infinity
  #lostLines = 0

  constructor(path: string, { clock, maxBytes = MAX_BYTES }: KeptLogOptions) {
    this.#path = path
    this.#clock = clock
    this.#maxBytes = maxBytes
  }

  /** Whole lines. Whether somebody else has written lines since the last time. Never rejects. */
  async append(lines: string): Promise<{ hadOthers: boolean }> {
    let hadOthers = false
    try {
      hadOthers = await this.#compare()
      const bytes = Buffer.from(lossesOf(this.#lostLines, this.#clock) + lines)
      if (this.#isFullWith(bytes.length)) await this.#turn()
      const opened = (this.#opened ??= await this.#open())
      await opened.file.appendFile(bytes)
      opened.size += bytes.length
      this.#lostLines = 0
    } catch {
      this.#lostLines += linesIn(lines)
      this.#comparedAt = -Infinity
    }
    return { hadOthers }
  }

  async close(): Promise<void> {
    await this.#opened?.file.close()
    this.#opened = undefined
  }

  async #compare(): Promise<boolean> {
    if (this.#clock.now() - this.#comparedAt < COMPARE_MS) return false
    this.#comparedAt = this.#clock.now()
    const opened = this.#opened
    if (opened === undefined) return false
    const { ino, size } = (await stat(this.#path).catch(() => undefined)) ?? { ino: -1, size: 0 }
    if (ino === opened.inode && size === opened.size) return false
    if (ino === opened.inode) opened.size = size
    else await this.close()
    return true
  }

  #isFullWith(bytes: number): boolean {
    return this.#opened !== undefined && this.#opened.size > 0 && this.#opened.size + bytes > this.#maxBytes
  }

  async #turn(): Promise<void> {
    await rename(this.#path, `${this.#path}.1`)
    await this.close()
  }

  async #open() {
    await mkdir(dirname(this.#path), { recursive: true, mode: 0o700 })
    const file = await open(this.#path, TO_APPEND, 0o600)
    const { ino, size } = await file.stat()
    return { file, inode: ino, size }
  }
}

/** The same for a process that does nothing else and may wait for a disk. */
export class KeptLogWriter {
  readonly #path: string
  readonly #clock: Pick<Clock, 'wall'>
  #lostLines = 0

  constructor(path: string, clock: Pick<Clock, 'wall'>) {
    this.#path = path
    this.#clock = clock
  }

  append(lines: string): void {
    try {
      const bytes = Buffer.from(lossesOf(this.#lostLines, this.#clock) + lines)
      const size = statSync(this.#path, { throwIfNoEntry: false })?.size ?? 0
      if (size > 0 && size + bytes.length > MAX_BYTES) renameSync(this.#path, `${this.#path}.1`)
      appendFileSync(this.#path, bytes, { mode: 0o600, flag: TO_APPEND as never })
      this.#lostLines = 0
    } catch {
      this.#lostLines += linesIn(lines)
    }
  }
}

/** The last lines of both files. */
export async function lastLines(path: string, count: number): Promise<string[]> {
  if (count <= 0) return []
  const files = await Promise.all(
    [`${path}.1`, path].map((file) => readFile(file, { encoding: 'utf8', flag: TO_READ }).catch(() => '')),
  )
  return files.flatMap((text) => text.split('\n').filter((line) => line !== '')).slice(-count)
}

/** Begins with an end of line: a disk that became full in the middle of a line has kept the beginning of it. */
function lossesOf(lines: number, clock: Pick<Clock, 'wall'>): string {
  if (lines === 0) return ''
  return `\n${new Date(clock.wall()).toISOString()} hedgerow: ${lines} lines are missing here: they could not be written\n`
}

function linesIn(text: string): number {
  return text.split('\n').length - 1
}

/** Each line begins with its time; one that does not belongs to those around it. */
export function isSince(line: string, since: number): boolean {
  const at = since === 0 ? Number.NaN : Date.parse(line.slice(0, line.indexOf(' ')))
  return Number.isNaN(at) || at >= since
}
