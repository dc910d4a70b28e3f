import { once } from 'node:events'
import { createWriteStream, fstatSync } from 'node:fs'
import type { IncomingMessage } from 'node:http'
import { Socket } from 'node:net'
import type { Writable } from 'node:stream'
import type { Clock } from '../../../core/kit/clock.ts'
import type { Engine } from './engine.ts'
import { LogFrames, secondsOf } from './log-frames.ts'

/*
 *     container ─▶ the engine's log ─▶ followed from `since` on ─▶ the instance's log
 *
 * The engine keeps what is printed, so a program never waits for the agent, and what it prints while there is none is read later.
 * Where reading had come to is remembered with the run (`printedUntil`), not for each line: after `kill -9` of the agent the lines
 * of its last seconds are there twice.
 */

/** Between two tries, when the engine has ended the answer although the container runs. */
const AGAIN_MS = 500
/** How often is written down how far was read. Smaller: a write for each container that prints, this often. */
const REMEMBER_MS = 2_000
/** The engine has the last lines ready when the container has ended. */
const LAST_LINES_MS = 2_000

export interface OutputOptions {
  engine: Engine
  container: string
  /** Belongs to this and is closed at the end. */
  fd: number
  /** Where reading had come to. */
  since: string | undefined
  onProgress: (since: string) => void
  clock: Clock
}

export class ContainerOutput {
  readonly #options: OutputOptions
  readonly #sink: Writable
  readonly #ending = new AbortController()
  #since: string | undefined
  #rememberedAt = -Infinity
  readonly #done: Promise<void>

  private constructor(options: OutputOptions) {
    this.#options = options
    this.#since = options.since
    this.#sink = sinkTo(options.fd)
    this.#done = this.#follow()
  }

  static follow(options: OutputOptions): ContainerOutput {
    return new ContainerOutput(options)
  }

  /** Where reading has come to, for whoever goes on. */
  get since(): string | undefined {
    return this.#since
  }

  /** The container has ended: resolves when its last lines are read. */
  async ended(): Promise<void> {
    await Promise.race([this.#done, this.#options.clock.sleep(LAST_LINES_MS)])
    this.close()
  }

  close(): void {
    this.#ending.abort()
    this.#sink.end()
  }

  async #follow(): Promise<void> {
    const { engine, container, clock } = this.#options
    const { signal } = this.#ending
    while (!signal.aborted) {
      try {
        const query = { follow: 1, stdout: 1, stderr: 1, timestamps: 1, since: secondsOf(this.#since ?? '0') }
        await this.#copy(await engine.open({ method: 'GET', path: `/containers/${container}/logs`, query, signal }))
        if (!(await isRunning(engine, container))) return
      } catch {
        // the engine is being restarted, or the container has gone: who watches that tells
      }
      await clock.sleep(AGAIN_MS, signal)
    }
  }

  async #copy(answer: IncomingMessage): Promise<void> {
    const frames = new LogFrames(this.#since)
    for await (const chunk of answer) {
      for (const part of frames.take(chunk as Buffer)) if (!this.#sink.write(Buffer.from(part))) await this.#drained()
      if (frames.since !== undefined) this.#progress(frames.since)
    }
  }

  #progress(since: string): void {
    const { clock, onProgress } = this.#options
    this.#since = since
    if (clock.now() - this.#rememberedAt < REMEMBER_MS) return
    this.#rememberedAt = clock.now()
    onProgress(this.#since)
  }

  /** Also resolves when this ends, or nothing can be written any more. */
  async #drained(): Promise<void> {
    if (this.#sink.destroyed) return
    await once(this.#sink, 'drain', { signal: this.#ending.signal }).catch(() => undefined)
  }
}

async function isRunning(engine: Engine, container: string): Promise<boolean> {
  const { State } = (await engine.ask({ method: 'GET', path: `/containers/${container}/json` })) as {
    State?: { Running?: boolean }
  }
  return State?.Running === true
}

/** A pipe is written as sockets are: a blocking write would hold one of the threads that serve all files. */
export function sinkTo(fd: number): Writable {
  const sink = fstatSync(fd).isFIFO()
    ? new Socket({ fd, readable: false, writable: true })
    : createWriteStream('', { fd })
  sink.on('error', () => undefined) // what it prints is dropped; the program goes on
  return sink
}
