import { extname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import type { Config } from '../config/schema.ts'
import { MeshError, type Details, type ErrorCode } from '../core/errors.ts'
import { logOutput } from '../core/kit/console-output.ts'
import type { LogLevel } from '../core/kit/log.ts'
import { type Listener, ownListeners } from '../core/kit/own-listeners.ts'

export interface ControlData {
  readonly folders: { readonly root: string; readonly cluster: string }
  readonly config: Config
  readonly version: string
}

export type ToControl = { kind: 'node token' } | { kind: 'log level'; level: LogLevel } | { kind: 'close' }

export type FromControl =
  | { kind: 'up'; root: Record<string, string>; cluster: Record<string, string>; clusterUrl: string }
  | { kind: 'token'; token: string }
  | { kind: 'log'; line: string }
  /** Every listener of the thread, after each change. */
  | { kind: 'listeners'; listeners: readonly Listener[] }
  | { kind: 'failed'; code?: ErrorCode; details?: Details; cause: string }

/** One run of the thread that carries root and cluster (control-thread.ts), seen from the main thread. */
export class ControlWorker implements AsyncDisposable {
  readonly summary: Record<string, string>
  /** Resolves when the thread has ended: `undefined` when it was told to, else the reason. */
  readonly ended: Promise<unknown>
  readonly #thread: Worker
  #isClosing = false

  private constructor(thread: Worker, summary: Record<string, string>) {
    this.#thread = thread
    this.summary = summary
    this.ended = new Promise((resolve) => {
      thread.once('error', resolve)
      thread.once('exit', () => resolve(this.#isClosing ? undefined : endedByItself()))
    })
  }

  /** @throws what made root or cluster fail to start */
  static async start(data: ControlData): Promise<ControlWorker> {
    const thread = new Worker(new URL(`./control-thread${extname(fileURLToPath(import.meta.url))}`, import.meta.url), {
      workerData: data,
      stdout: true,
      stderr: true,
    })
    // only Node itself prints there
    for (const output of [thread.stdout, thread.stderr])
      output.setEncoding('utf8').on('data', (text: string) => logOutput.write(text))
    thread.on('message', (message: FromControl) => {
      if (message.kind === 'log') logOutput.write(message.line)
      if (message.kind === 'listeners') ownListeners.adopt(thread, message.listeners)
    })
    thread.once('exit', () => ownListeners.forget(thread))
    try {
      return new ControlWorker(thread, summaryOf(await answerOf(thread, 'up')))
    } catch (error) {
      await thread.terminate()
      throw error
    }
  }

  async nodeToken(): Promise<string> {
    const answered = answerOf(this.#thread, 'token')
    this.#send({ kind: 'node token' })
    return (await answered).token
  }

  setLogLevel(level: LogLevel): void {
    this.#send({ kind: 'log level', level })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosing = true
    this.#send({ kind: 'close' })
    await this.ended
  }

  #send(message: ToControl): void {
    this.#thread.postMessage(message)
  }
}

function summaryOf({ root, cluster }: Extract<FromControl, { kind: 'up' }>): Record<string, string> {
  return {
    ...root,
    api: `${root['api']}`,
    credential: `${root['credential']}`,
    rootHealth: `${root['health']}`,
    cluster: `${cluster['name']}`,
    link: `${cluster['link']}`,
    relay: `${cluster['relay']}`,
    clusterHealth: `${cluster['health']}`,
  }
}

function endedByItself(): MeshError {
  return new MeshError('NOT_RUNNING', { what: 'root and cluster' })
}

function answerOf<K extends FromControl['kind']>(thread: Worker, kind: K): Promise<Extract<FromControl, { kind: K }>> {
  return new Promise((resolve, reject) => {
    const settle = (act: () => void) => {
      thread.off('message', onMessage).off('error', onError).off('exit', onExit)
      act()
    }
    const onMessage = (message: FromControl) => {
      if (message.kind === kind) settle(() => resolve(message as Extract<FromControl, { kind: K }>))
      else if (message.kind === 'failed') settle(() => reject(asError(message)))
    }
    const onError = (error: Error) => settle(() => reject(error))
    const onExit = () => settle(() => reject(endedByItself()))
    thread.on('message', onMessage).on('error', onError).on('exit', onExit)
  })
}

function asError({ code, details, cause }: Extract<FromControl, { kind: 'failed' }>): Error {
  return code === undefined
    ? new Error(cause)
    : new MeshError(code, details, cause === '' ? undefined : { cause: new Error(cause) })
}
