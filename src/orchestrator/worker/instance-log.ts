import { execFile } from 'node:child_process'
import { constants, openSync, type Stats } from 'node:fs'
import { stat, unlink } from 'node:fs/promises'
import { Socket } from 'node:net'
import { promisify } from 'node:util'
import { systemClock, type Clock } from '../../core/kit/clock.ts'
import { MeshError } from '../../core/errors.ts'
import type { InstanceId } from '../../core/model/ids.ts'
import { Lifetime } from '../../core/kit/lifetime.ts'
import type { Log } from '../../core/kit/log.ts'
import { KeptLog, lastLines } from './kept-log.ts'
import { LineQueue } from './line-queue.ts'
import { filesOf, leaveRest, takeRest, type OutputFiles, type OutputFolders } from './output-files.ts'
import { OutputLines, stamped } from './output-lines.ts'

/*
 *     program ──▶ named pipe ──▶ agent, or while it is away its stand-in: lines, each with the time ──▶ x.log ──(5 MB)──▶ x.log.1
 *
 * A named pipe and not the usual one: the program holds it open for reading and writing, so that it never gets SIGPIPE, and each
 * reader goes on where the last one ended. A pipe and not a file: a full disk is no error for the program, and one that prints
 * faster than it can be kept is slowed. What a killed agent had read and not yet written, the lines of one turn, is lost.
 */

export interface LogOptions extends OutputFolders {
  instance: InstanceId
  clock?: Clock
  log?: Log
  /** Two files of this size are kept. */
  maxBytes?: number
}

/** More than this not yet written and the program has to wait. */
const MAX_PENDING_BYTES = 1024 * 1024

/** What one instance says, kept and bounded. */
export class InstanceLog {
  readonly #life = new Lifetime()
  readonly #options: LogOptions
  readonly #files: OutputFiles
  readonly #kept: KeptLog
  readonly #clock: Clock
  readonly #readers = new Set<LineQueue>()
  #lines = new OutputLines()
  #pending = ''
  #source: Socket | undefined
  #isForgotten = false
  /** The pipe is open, where there is one already. */
  readonly #opening: Promise<void>
  /** Writes, rotations and reads of the files, one after the other. */
  #work: Promise<void>

  private constructor(options: LogOptions) {
    const { instance, maxBytes, clock = systemClock } = options
    this.#options = options
    this.#files = filesOf(instance, options)
    this.#kept = new KeptLog(this.#files.kept, { clock, ...(maxBytes === undefined ? {} : { maxBytes }) })
    this.#clock = clock
    this.#opening = this.#openPipe()
    this.#work = this.#opening.catch(() => undefined) // told by output()
    this.#life.defer(() => this.#close())
  }

  /** Returns at once; what is written before the pipe is open waits. */
  static open(options: LogOptions): InstanceLog {
    return new InstanceLog(options)
  }

  /**
   * A descriptor for a program's output; whoever asks closes it. Where there can be no pipe (a full disk, no permission) the program
   * runs all the same, and what it prints is dropped.
   */
  async output(): Promise<number> {
    try {
      await this.#opening
      await this.#makePipe()
      return openSync(this.#files.pipe, constants.O_RDWR)
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
    this.#say([...this.#lines.end(), `hedgerow: ${sentence}`])
  }

  /** This process was stopped and goes on: somebody else may have read the rest of the line that was under way. */
  resumed(): void {
    this.#say(this.#lines.end())
  }

  /** The last `tail` lines, then, with `follow`, those that come, until the signal. */
  async *read({ tail, follow }: { tail: number; follow: boolean }, signal?: AbortSignal): AsyncIterable<string> {
    const queue = new LineQueue()
    let past: string[] = []
    // Between two writes, so that no line is missed or told twice: what is not in the file yet is pending.
    await this.#then(async () => {
      const written = await lastLines(this.#files.kept, tail)
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
    this.#isForgotten = true
    await this.#life.close()
    await Promise.all([this.#files.pipe, this.#files.rest].map((path) => unlink(path).catch(() => undefined)))
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  async #makePipe(): Promise<void> {
    if (this.#source !== undefined) return
    const { pipe } = this.#files
    try {
      await promisify(execFile)('mkfifo', ['-m', '600', '--', pipe])
      await this.#openPipe()
    } catch (cause) {
      throw new MeshError(
        'RUNTIME_FAILED',
        { reason: 'the output of the instance cannot be kept', path: pipe },
        { cause },
      )
    }
  }

  async #openPipe(): Promise<void> {
    const { pipe } = this.#files
    if (!(await statOrNothing(pipe))?.isFIFO()) return // no program has printed here yet
    // Without O_NONBLOCK a read would hold one of the four threads that serve all files.
    const fd = openSync(pipe, constants.O_RDWR | constants.O_NONBLOCK)
    this.#lines = new OutputLines(takeRest(this.#files))
    this.#source = new Socket({ fd, readable: true, writable: false })
    this.#source.on('data', (chunk: Buffer) => this.#say(this.#lines.take(chunk)))
    this.#source.on('error', () => undefined) // reading ends; the program is not disturbed
  }

  #say(lines: readonly string[]): void {
    for (const line of stamped(lines, this.#clock.wall())) {
      if (this.#pending === '') void this.#then(() => this.#write()) // one write for all lines of a turn
      this.#pending += `${line}\n`
      for (const reader of this.#readers) reader.push(line)
    }
    if (this.#pending.length > MAX_PENDING_BYTES) this.#source?.pause()
  }

  async #write(): Promise<void> {
    const text = this.#pending
    this.#pending = ''
    const { hadOthers } = await this.#kept.append(text)
    if (this.#source?.isPaused()) this.#source.resume()
    if (!hadOthers) return
    const [notice = ''] = stamped(['hedgerow: lines are missing here: they are in the log'], this.#clock.wall())
    for (const reader of this.#readers) reader.push(notice)
  }

  #then(job: () => Promise<void>): Promise<void> {
    this.#work = this.#work.then(job).catch(() => undefined)
    return this.#work
  }

  /** A line that is under way is left to the next reader of the pipe, if there will be one. */
  async #close(): Promise<void> {
    await this.flush()
    // What the program wrote last is in the pipe; one turn of the loop reads all of its 64 KiB.
    await new Promise((resolve) => setImmediate(() => setImmediate(resolve)))
    this.#source?.destroy()
    if (this.#isForgotten) this.#say(this.#lines.end())
    else leaveRest(this.#files, this.#lines.rest())
    await this.flush()
    await this.#kept.close()
  }
}

async function statOrNothing(path: string): Promise<Stats | undefined> {
  return stat(path).catch(() => undefined)
}
