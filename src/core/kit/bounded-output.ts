import { constants, fstatSync, openSync, write, writeSync } from 'node:fs'
import { Socket } from 'node:net'

/*
 * What a long-running process prints, written so that whoever reads it cannot stop the process: a pipe that nobody reads,
 * a full disk, a terminal after Ctrl-S, a reader that is gone.
 *
 *     line ─▶ queue (≤ limitBytes, else dropped and counted) ─▶ target ─▶ file descriptor
 *
 * A target never blocks the event loop. It takes what there is room for; what is left waits and is tried again. A lone line
 * leaves at once; those that follow it are gathered for a moment, as a system call for each would slow down what is logged.
 */

/** A descriptor that takes some bytes and says so, at once or later. */
interface Target {
  put(chunk: Buffer, done: (error: Error | undefined, bytes: number) => void): void
}

export interface BoundedOutputOptions {
  fd: number
  /** What is kept while the reader takes nothing. Smaller loses lines sooner; larger costs this much memory. */
  limitBytes?: number
  /** The line that says later how many lines were lost. */
  lostLine?: (lines: number) => string
}

/** Written together: fewer system calls under load. */
const CHUNK_BYTES = 64 * 1024
/** After a write. Smaller: more system calls under load; larger: more lines are lost with a process that is killed. */
const GATHER_MS = 10
/** After a descriptor took nothing. Smaller wakes an idle process more often; larger delays lines when there is room again. */
const RETRY_MS = 100
/** After an error (disk full, reader gone). */
const RETRY_AFTER_ERROR_MS = 1_000

export class BoundedOutput {
  readonly #fd: number
  readonly #limitBytes: number
  readonly #lostLine: ((lines: number) => string) | undefined
  readonly #idle = new Set<() => void>()
  #target: Target | undefined
  #lines: string[] = []
  #bytes = 0
  /** What is being written, or must be written next, as part of it is out. */
  #chunk: Buffer | undefined
  #state: 'idle' | 'writing' | 'gathering' | 'resting' = 'idle'
  #gathering: NodeJS.Timeout | undefined
  #lostSinceSaid = 0
  #lost = 0

  constructor({ fd, limitBytes = 1024 * 1024, lostLine }: BoundedOutputOptions) {
    this.#fd = fd
    this.#limitBytes = limitBytes
    this.#lostLine = lostLine
    process.once('exit', () => this.#writeLast())
  }

  /** Lines dropped since the start. */
  get lost(): number {
    return this.#lost
  }

  /** The descriptor has been given bytes and has not answered yet. */
  get isWriting(): boolean {
    return this.#state === 'writing'
  }

  /** Never throws and never blocks. `text` ends with a newline. */
  write(text: string): void {
    if (this.#bytes + text.length > this.#limitBytes) {
      this.#lost += 1
      this.#lostSinceSaid += 1
      return
    }
    this.#lines.push(text)
    this.#bytes += text.length
    if (this.#state === 'gathering') this.#writeWhenMany()
    else this.#pump()
  }

  /** Resolves when everything is written, or after `limitMs`. */
  async flush(limitMs: number): Promise<void> {
    if (this.#isEmpty) return
    const { promise, resolve } = Promise.withResolvers<void>()
    const timer = setTimeout(resolve, limitMs)
    this.#idle.add(resolve)
    if (this.#state === 'gathering') this.#endGathering()
    await promise
    clearTimeout(timer)
    this.#idle.delete(resolve)
  }

  get #isEmpty(): boolean {
    return this.#lines.length === 0 && this.#chunk === undefined
  }

  #pump(): void {
    if (this.#state !== 'idle') return
    this.#sayWhatWasLost()
    this.#chunk ??= this.#nextChunk()
    if (this.#chunk === undefined) {
      for (const resolve of this.#idle) resolve()
      return
    }
    this.#state = 'writing'
    try {
      this.#target ??= openTarget(this.#fd)
      this.#target.put(this.#chunk, (error, bytes) => this.#wrote(error, bytes))
    } catch {
      this.#rest(RETRY_AFTER_ERROR_MS)
    }
  }

  #wrote(error: Error | undefined, bytes: number): void {
    const left = (this.#chunk?.length ?? 0) - bytes
    this.#chunk = left > 0 ? this.#chunk?.subarray(bytes) : undefined
    if (error !== undefined) return this.#rest(RETRY_AFTER_ERROR_MS)
    if (bytes === 0) return this.#rest(RETRY_MS)
    if (this.#chunk === undefined) return this.#gather()
    this.#state = 'idle'
    this.#pump()
  }

  #gather(): void {
    this.#state = 'gathering'
    this.#gathering = setTimeout(() => this.#endGathering(), GATHER_MS).unref()
    this.#writeWhenMany()
  }

  #writeWhenMany(): void {
    if (this.#bytes >= CHUNK_BYTES || this.#idle.size > 0) this.#endGathering()
  }

  #endGathering(): void {
    clearTimeout(this.#gathering)
    this.#state = 'idle'
    this.#pump()
  }

  #rest(ms: number): void {
    this.#state = 'resting'
    setTimeout(() => {
      this.#state = 'idle'
      this.#pump()
    }, ms).unref()
  }

  #nextChunk(): Buffer | undefined {
    if (this.#lines.length === 0) return undefined
    let bytes = 0
    let count = 0
    for (; count < this.#lines.length && bytes < CHUNK_BYTES; count++) bytes += this.#lines[count]?.length ?? 0
    this.#bytes -= bytes
    return Buffer.from(this.#lines.splice(0, count).join(''))
  }

  /** Only where the lines are missing: after everything that was kept before them. */
  #sayWhatWasLost(): void {
    if (this.#lostSinceSaid === 0 || !this.#isEmpty || this.#lostLine === undefined) return
    const line = this.#lostLine(this.#lostSinceSaid)
    this.#lostSinceSaid = 0
    this.#lines.push(line)
    this.#bytes += line.length
  }

  /** The process ends: one try, which does not wait. */
  #writeLast(): void {
    if (this.#target === undefined || this.#target instanceof PatientTarget) return
    if (this.#state === 'writing') this.#chunk = undefined // on its way already
    try {
      for (let chunk = this.#chunk ?? this.#nextChunk(); chunk !== undefined; chunk = this.#nextChunk())
        writeSync(this.#target instanceof ReadyTarget ? this.#target.fd : this.#fd, chunk)
    } catch {
      // it takes nothing now, and there is no later
    }
  }
}

/** A pipe, FIFO or terminal, opened again so that it does not block and nobody else who holds it is affected. */
class ReadyTarget implements Target {
  readonly fd: number

  constructor(fd: number) {
    this.fd = fd
  }

  put(chunk: Buffer, done: (error: Error | undefined, bytes: number) => void): void {
    let bytes = 0
    try {
      bytes = writeSync(this.fd, chunk)
    } catch (error) {
      const isFull = (error as NodeJS.ErrnoException).code === 'EAGAIN'
      return done(isFull ? undefined : (error as Error), 0)
    }
    done(undefined, bytes)
  }
}

/** A file: a disk may take its time, which a thread of the pool waits for. */
class FileTarget implements Target {
  readonly #fd: number

  constructor(fd: number) {
    this.#fd = fd
  }

  put(chunk: Buffer, done: (error: Error | undefined, bytes: number) => void): void {
    write(this.#fd, chunk, (error, bytes) => done(error ?? undefined, bytes))
  }
}

/** A descriptor that cannot be opened again: like a file, but it may take for ever, so nothing is tried at the end. */
class PatientTarget extends FileTarget {}

/** A socket, for example of systemd's journal. */
class SocketTarget implements Target {
  readonly #socket: Socket
  #failure: Error | undefined

  constructor(fd: number) {
    this.#socket = new Socket({ fd, readable: false, writable: true })
    this.#socket.unref()
    this.#socket.on('error', (error) => (this.#failure = error))
  }

  put(chunk: Buffer, done: (error: Error | undefined, bytes: number) => void): void {
    if (this.#failure !== undefined) return done(this.#failure, 0)
    this.#socket.write(chunk, (error) => done(error ?? undefined, error ? 0 : chunk.length))
  }
}

/** @throws when the descriptor cannot be written to now: a FIFO that nobody reads */
function openTarget(fd: number): Target {
  const stat = fstatSync(fd)
  if (stat.isFile()) return new FileTarget(fd)
  if (stat.isSocket()) return new SocketTarget(fd)
  const { O_WRONLY, O_APPEND, O_NONBLOCK, O_NOCTTY } = constants
  try {
    return new ReadyTarget(openSync(`/proc/self/fd/${fd}`, O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENXIO') throw error
    return stat.isFIFO() ? new SocketTarget(fd) : new PatientTarget(fd)
  }
}
