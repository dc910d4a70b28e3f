import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { constants, openSync, type Stats } from 'node:fs'
import { open, readFile, rename, stat, unlink, type FileHandle } from 'node:fs/promises'
import { Socket } from 'node:net'
import { join } from 'node:path'
import { StringDecoder } from 'node:string_decoder'
import { promisify } from 'node:util'
import { systemClock, type Clock } from '../../core/kit/clock.ts'
import { MeshError } from '../../core/errors.ts'
import type { InstanceId } from '../../core/model/ids.ts'
import { Lifetime } from '../../core/kit/lifetime.ts'
import type { Log } from '../../core/kit/log.ts'
import { LineQueue } from './line-queue.ts'

/*
 *     program ──▶ named pipe ──▶ agent: lines, each with the time ──▶ x.log ──(5 MB)──▶ x.log.1
 *
 * A named pipe and not the usual one: program and agent both hold it open for reading and writing, so the program
 * never gets SIGPIPE when the agent dies, and what it writes meanwhile (64 KiB, then it waits) is read by the next. What a
 * killed agent had read and not yet written, the lines of one turn, is lost.
 */

export interface LogOptions {
  instance: InstanceId
  logsDir: string
  /** For the pipe. */
  runDir: string
  clock?: Clock
  log?: Log
  /** Two files of this size are kept. */
  maxBytes?: number
}

const MAX_BYTES = 5 * 1024 * 1024
/** A longer line is cut into several. */
const MAX_LINE = 16 * 1024
/** More than this not yet written and the program has to wait. */
const MAX_PENDING_BYTES = 1024 * 1024

/** What one instance says, kept and bounded. */
export class InstanceLog {
  readonly #life = new Lifetime()
  readonly #options: LogOptions
  readonly #pipe: string
  readonly #path: string
  readonly #maxBytes: number
  readonly #clock: Clock
  readonly #decoder = new StringDecoder('utf8')
  readonly #readers = new Set<LineQueue>()
  #partial = ''
  #pending = ''
  #opened: { file: FileHandle; size: number; source: Socket } | undefined
  readonly #opening: Promise<void>
  /** Writes, rotations and reads of the files, one after the other. */
  #work: Promise<void>

  private constructor(options: LogOptions) {
    const { instance, logsDir, runDir, maxBytes = MAX_BYTES, clock = systemClock } = options
    this.#options = options
    this.#pipe = join(runDir, `${fileNameOf(instance)}.out`)
    this.#path = join(logsDir, `${fileNameOf(instance)}.log`)
    this.#maxBytes = maxBytes
    this.#clock = clock
    this.#opening = this.#open()
    this.#work = this.#opening.catch(() => undefined) // told by output()
    this.#life.defer(() => this.#close())
  }

  /** Returns at once; what is written before the files are open waits. */
  static open(options: LogOptions): InstanceLog {
    return new InstanceLog(options)
  }

  /**
   * A descriptor for a program's output; whoever asks closes it. Where the output cannot be kept (a full disk, no permission) the
   * program runs all the same, and what it prints is dropped.
   */
  async output(): Promise<number> {
    try {
      await this.#opening
      return openSync(this.#pipe, constants.O_RDWR)
    } catch (error) {
      this.#options.log?.warn('output of the instance is dropped: it cannot be kept', {
        instance: this.#options.instance,
        error,
      })
      return openSync('/dev/null', constants.O_RDWR)
    }
  }

  /** A line of the agent's own, among those of the program. */
  note(sentence: string): void {
    this.#endPartial()
    this.#line(`hedgerow: ${sentence}`)
  }

  /** The last `tail` lines, then, with `follow`, those that come, until the signal. */
  async *read({ tail, follow }: { tail: number; follow: boolean }, signal?: AbortSignal): AsyncIterable<string> {
    const queue = new LineQueue()
    let past: string[] = []
    // Between two writes, so that no line is missed or told twice: what is not in the file yet is pending.
    await this.#then(async () => {
      const written = await lastLines(this.#path, tail)
      const pending = this.#pending.split('\n').slice(0, -1)
      past = tail > 0 ? [...written, ...pending].slice(-tail) : []
      if (follow) this.#readers.add(queue)
    })
    try {
      yield* past
      if (follow)
        yield* queue.lines(signal === undefined ? this.#life.signal : AbortSignal.any([signal, this.#life.signal]))
    } finally {
      this.#readers.delete(queue)
    }
  }

  /** Resolves when everything said so far is in the file. */
  async flush(): Promise<void> {
    await this.#then(async () => undefined)
  }

  /** The pipe goes too: the instance will not come back. */
  async forget(): Promise<void> {
    await this.#life.close()
    await unlink(this.#pipe).catch(() => undefined)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  async #open(): Promise<void> {
    try {
      if (!(await statOrNothing(this.#pipe))?.isFIFO())
        await promisify(execFile)('mkfifo', ['-m', '600', '--', this.#pipe])
      const file = await open(this.#path, 'a', 0o600)
      // Without O_NONBLOCK a read would hold one of the four threads that serve all files.
      const fd = openSync(this.#pipe, constants.O_RDWR | constants.O_NONBLOCK)
      const source = new Socket({ fd, readable: true, writable: false })
      source.on('data', (chunk: Buffer) => this.#take(this.#decoder.write(chunk)))
      source.on('error', () => undefined) // reading ends; the program is not disturbed
      this.#opened = { file, size: (await file.stat()).size, source }
    } catch (cause) {
      throw new MeshError(
        'RUNTIME_FAILED',
        { reason: 'the output of the instance cannot be kept', path: this.#pipe },
        { cause },
      )
    }
  }

  #take(text: string): void {
    const lines = (this.#partial + text).split('\n')
    this.#partial = lines.pop() ?? ''
    for (const line of lines) this.#line(line.endsWith('\r') ? line.slice(0, -1) : line)
    if (this.#partial.length > MAX_LINE) this.#endPartial()
  }

  #endPartial(): void {
    if (this.#partial !== '') this.#line(this.#partial)
    this.#partial = ''
  }

  #line(text: string): void {
    const time = new Date(this.#clock.wall()).toISOString()
    for (let start = 0; start === 0 || start < text.length; start += MAX_LINE) {
      const line = `${time} ${text.slice(start, start + MAX_LINE)}`
      if (this.#pending === '') void this.#then(() => this.#write()) // one write for all lines of a turn
      this.#pending += `${line}\n`
      for (const reader of this.#readers) reader.push(line)
    }
    if (this.#pending.length > MAX_PENDING_BYTES) this.#opened?.source.pause()
  }

  async #write(): Promise<void> {
    const text = this.#pending
    this.#pending = ''
    const { source } = this.#opened ?? {}
    try {
      await this.#append(text)
    } finally {
      if (source?.isPaused()) source.resume()
    }
  }

  async #append(text: string): Promise<void> {
    const opened = this.#opened
    if (opened === undefined) return
    if (opened.size > 0 && opened.size + text.length > this.#maxBytes) {
      await rename(this.#path, `${this.#path}.1`)
      const full = opened.file
      opened.file = await open(this.#path, 'a', 0o600)
      opened.size = 0
      await full.close()
    }
    opened.size += (await opened.file.write(text)).bytesWritten
  }

  /** A full disk loses lines, never the instance. */
  #then(job: () => Promise<void>): Promise<void> {
    this.#work = this.#work.then(job).catch(() => undefined)
    return this.#work
  }

  async #close(): Promise<void> {
    await this.flush()
    // What the program wrote last is in the pipe; one turn of the loop reads all of its 64 KiB.
    await new Promise((resolve) => setImmediate(() => setImmediate(resolve)))
    this.#opened?.source.destroy()
    this.#endPartial()
    await this.flush()
    await this.#opened?.file.close()
  }
}

/** The last lines of an instance that is not here any more. */
export async function readKept(logsDir: string, instance: InstanceId, tail: number): Promise<string[]> {
  return lastLines(join(logsDir, `${fileNameOf(instance)}.log`), tail)
}

/** Ids may be longer than a file name (255 bytes): those keep their beginning and get a digest. */
export function fileNameOf(instance: InstanceId): string {
  if (instance.length <= 200) return instance
  return `${instance.slice(0, 150)}-${createHash('sha256').update(instance).digest('hex').slice(0, 32)}`
}

async function lastLines(path: string, count: number): Promise<string[]> {
  if (count <= 0) return []
  const files = await Promise.all([`${path}.1`, path].map((file) => readFile(file, 'utf8').catch(() => '')))
  return files.flatMap((text) => text.split('\n').filter((line) => line !== '')).slice(-count)
}

async function statOrNothing(path: string): Promise<Stats | undefined> {
  return stat(path).catch(() => undefined)
}
