import type { Readable } from 'node:stream'
import { once } from 'node:events'
import { MeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { InstanceId } from '../../core/model/ids.ts'
import type { InstanceCommand } from './runtime.ts'

export interface ExecSource {
  /** @throws MeshError when nothing can be run in it */
  exec(instance: InstanceId, cmd: readonly string[]): Promise<InstanceCommand>
}

/** Part of what a command printed. */
export interface Printed {
  to: 'stdout' | 'stderr'
  bytes: Buffer
}

const MAX_STREAMS = 64
/** Whoever reads asks again at once; one that does not is gone, and its command is ended. */
const IDLE_MS = 30_000
/** An answer without output goes back after this long, so that the reader knows the command lives. */
const WAIT_MS = 2_000
/** More than this not yet read and the command has to wait. */
const MAX_HELD_BYTES = 256 * 1024
/** What it left behind may hold its output open after it has ended. */
const LAST_OUTPUT_MS = 500

/** Commands that run in instances, pulled and fed over the control link: whoever reads sets the pace, and little piles up here. */
export class ExecStreams implements Disposable {
  readonly #source: ExecSource
  readonly #clock: Clock
  readonly #streams = new Map<string, Stream>()
  readonly #idle = new Map<string, NodeJS.Timeout>()
  #last = 0

  constructor(source: ExecSource, clock: Clock) {
    this.#source = source
    this.#clock = clock
  }

  /** @throws MeshError REQUEST_FAILED when too many are open or nothing can be run in it */
  async open({ instance, cmd }: { instance: InstanceId; cmd: readonly string[] }): Promise<string> {
    if (this.#streams.size >= MAX_STREAMS) throw new MeshError('REQUEST_FAILED', { reason: 'too many commands run' })
    const stream = new Stream(await this.#source.exec(instance, cmd), this.#clock)
    const name = String(++this.#last)
    this.#streams.set(name, stream)
    this.#rest(name)
    return name
  }

  /** What it has printed since; with its exit code, that was all. @throws MeshError REQUEST_FAILED when there is no such stream */
  async read(name: string): Promise<{ printed: Printed[]; exitCode?: number }> {
    const stream = this.#require(name)
    clearTimeout(this.#idle.get(name))
    try {
      const part = await stream.read(WAIT_MS)
      if (part.exitCode !== undefined) this.close(name)
      return part
    } finally {
      if (this.#streams.has(name)) this.#rest(name)
    }
  }

  /** False: it has not read what it has, so this was not taken. @throws MeshError REQUEST_FAILED when there is no such stream */
  async write(name: string, bytes: Buffer, isLast: boolean): Promise<boolean> {
    return this.#require(name).write(bytes, isLast, WAIT_MS)
  }

  close(name: string): void {
    this.#streams.get(name)?.kill()
    this.#streams.delete(name)
    clearTimeout(this.#idle.get(name))
    this.#idle.delete(name)
  }

  [Symbol.dispose](): void {
    for (const name of this.#streams.keys()) this.close(name)
  }

  #require(name: string): Stream {
    const stream = this.#streams.get(name)
    if (stream === undefined) throw new MeshError('REQUEST_FAILED', { reason: 'the command has ended' })
    return stream
  }

  #rest(name: string): void {
    this.#idle.set(name, setTimeout(() => this.close(name), IDLE_MS).unref())
  }
}

class Stream {
  readonly #command: InstanceCommand
  readonly #clock: Clock
  #held: Printed[] = []
  #heldBytes = 0
  #exitCode: number | undefined
  #wake: () => void = () => undefined

  constructor(command: InstanceCommand, clock: Clock) {
    this.#command = command
    this.#clock = clock
    command.stdin.on('error', () => undefined) // it reads no more
    const outputs = [this.#take(command.stdout, 'stdout'), this.#take(command.stderr, 'stderr')]
    void command.ended.then(async (code) => {
      await Promise.race([Promise.all(outputs), clock.sleep(LAST_OUTPUT_MS)])
      this.#exitCode = code
      this.#wake()
    })
  }

  async read(waitMs: number): Promise<{ printed: Printed[]; exitCode?: number }> {
    if (this.#held.length === 0 && this.#exitCode === undefined) {
      const woken = new Promise<void>((resolve) => (this.#wake = resolve))
      await this.#within(woken, waitMs)
    }
    const printed = this.#held
    this.#held = []
    this.#heldBytes = 0
    this.#command.stdout.resume()
    this.#command.stderr.resume()
    // what was printed last is read before the end is told
    return this.#exitCode === undefined || printed.length > 0 ? { printed } : { printed, exitCode: this.#exitCode }
  }

  async write(bytes: Buffer, isLast: boolean, waitMs: number): Promise<boolean> {
    const { stdin } = this.#command
    if (stdin.writableNeedDrain)
      await this.#within(
        once(stdin, 'drain').catch(() => undefined),
        waitMs,
      )
    if (stdin.writableNeedDrain && !stdin.destroyed) return false
    if (!stdin.destroyed && !stdin.writableEnded) {
      if (bytes.length > 0) stdin.write(bytes)
      if (isLast) stdin.end()
    }
    return true
  }

  kill(): void {
    this.#command.kill()
    this.#command.stdout.resume() // nobody reads what it still prints
    this.#command.stderr.resume()
  }

  #take(output: Readable, to: Printed['to']): Promise<void> {
    output.on('data', (bytes: Buffer) => {
      this.#held.push({ to, bytes })
      this.#heldBytes += bytes.length
      if (this.#heldBytes > MAX_HELD_BYTES) {
        this.#command.stdout.pause()
        this.#command.stderr.pause()
      }
      this.#wake()
    })
    return new Promise((resolve) => {
      output.once('close', resolve)
      output.on('error', () => resolve())
    })
  }

  async #within(promise: Promise<unknown>, ms: number): Promise<void> {
    const enough = new AbortController()
    await Promise.race([promise, this.#clock.sleep(ms, enough.signal)])
    enough.abort()
  }
}
