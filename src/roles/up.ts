import { extname } from 'node:path'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { Agent } from '../agent/agent.ts'
import { Predecessor } from '../agent/hand-over.ts'
import type { Config } from '../config.ts'
import { MeshError, type Details, type ErrorCode } from '../core/errors.ts'
import { openPrivateDirectory } from '../core/identity/files.ts'
import { HeldIdentity } from '../core/identity/held.ts'
import { Lifetime } from '../core/kit/lifetime.ts'
import type { Log } from '../core/kit/log.ts'

export type ToControl = 'node token' | 'close'
export type FromControl =
  | { kind: 'up'; root: Record<string, string>; cluster: Record<string, string>; clusterUrl: string }
  | { kind: 'token'; token: string }
  | { kind: 'failed'; code?: ErrorCode; details?: Details; cause: string }

export interface UpOptions {
  state: string
  config: Config
  version: string
  environment?: Readonly<Record<string, string | undefined>>
  /** See `AgentOptions`. */
  elder?: Predecessor | undefined
  respawn?: () => void
}

/** The whole mesh in one process: root and cluster on a thread of their own, the agent on this one. */
export class Up implements AsyncDisposable {
  readonly agent: Agent
  readonly #life: Lifetime
  readonly #summary: Record<string, string>
  /** Rejects when root and cluster have ended by themselves, or the agent has. */
  readonly done: Promise<void>

  private constructor(agent: Agent, life: Lifetime, summary: Record<string, string>, done: Promise<void>) {
    this.agent = agent
    this.#life = life
    this.#summary = summary
    this.done = done
    done.catch(() => undefined) // for whoever waits; embedding it does not oblige to
  }

  static async start(options: UpOptions, log: Log): Promise<Up> {
    const dir = join(options.state, 'agent')
    await openPrivateDirectory(dir)
    using elder = options.elder ?? (await Predecessor.find(dir, { isWanted: false }))
    // root and cluster have one owner: away for the second in which they change hands, while names and flows go on
    await elder?.ask('control').catch((error: unknown) => log.warn('the agent before is gone', { error }))
    return await Lifetime.open(async (life) => {
      const { state, config, version, environment = {}, respawn } = options
      const folders = { root: join(state, 'root'), cluster: join(state, 'cluster'), agent: join(state, 'agent') }
      let control = await Control.start({ folders, config, version })
      life.defer(() => control[Symbol.asyncDispose]())
      const ended = Promise.withResolvers<never>()
      ended.promise.catch(() => undefined)
      const watch = () => void control.ended.catch((error: unknown) => ended.reject(error))
      watch()
      const companions = {
        end: () => control[Symbol.asyncDispose](),
        beginAgain: async () => {
          control = await Control.start({ folders, config, version })
          watch()
        },
      }
      const isMember = (await HeldIdentity.open(join(folders.agent, 'identity'))) !== undefined
      const token = isMember ? {} : { token: await control.nodeToken() }
      const agent = life.use(
        await Agent.start(
          {
            dir: folders.agent,
            config: config.agent,
            version,
            environment,
            elder,
            companions,
            ...token,
            ...(respawn === undefined ? {} : { respawn }),
          },
          log,
        ),
      )
      const summary = { ...control.summary, ...agent.summary(), role: 'up' }
      return new Up(agent, life, summary, Promise.race([ended.promise, agent.done]))
    })
  }

  summary(): Record<string, string> {
    return this.#summary
  }

  get handedOver(): Promise<void> {
    return this.agent.handedOver
  }

  makeWay(): Promise<void> {
    return this.agent.makeWay()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}

/** The thread with root and cluster. */
class Control implements AsyncDisposable {
  readonly summary: Record<string, string>
  /** Rejects when it has ended by itself. */
  readonly ended: Promise<never>
  readonly #thread: Worker
  #closing: Promise<void> | undefined

  private constructor(thread: Worker, summary: Record<string, string>) {
    this.#thread = thread
    this.summary = summary
    this.ended = new Promise((_resolve, reject) => {
      thread.once('error', reject)
      thread.once('exit', () => {
        if (this.#closing === undefined) reject(new MeshError('NOT_RUNNING', { what: 'root and cluster' }))
      })
    })
    this.ended.catch(() => undefined) // whoever waits for `done` hears of it
  }

  static async start(data: {
    folders: { root: string; cluster: string }
    config: Config
    version: string
  }): Promise<Control> {
    const thread = new Worker(new URL(`./control-thread${extname(fileURLToPath(import.meta.url))}`, import.meta.url), {
      workerData: data,
    })
    const up = await answerOf(thread, 'up')
    const { api, credential, health: rootHealth } = up.root
    const { link, relay, health: clusterHealth } = up.cluster
    return new Control(thread, {
      ...up.root,
      api: `${api}`,
      credential: `${credential}`,
      rootHealth: `${rootHealth}`,
      cluster: `${up.cluster['name']}`,
      link: `${link}`,
      relay: `${relay}`,
      clusterHealth: `${clusterHealth}`,
    })
  }

  async nodeToken(): Promise<string> {
    const answered = answerOf(this.#thread, 'token')
    this.#thread.postMessage('node token' satisfies ToControl)
    return (await answered).token
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= new Promise((resolve) => {
      this.#thread.once('exit', () => resolve())
      this.#thread.postMessage('close' satisfies ToControl)
    })
    return this.#closing
  }
}

function answerOf<K extends FromControl['kind']>(thread: Worker, kind: K): Promise<Extract<FromControl, { kind: K }>> {
  return new Promise((resolve, reject) => {
    const settle = (act: () => void) => {
      thread.off('message', told).off('error', failed).off('exit', exited)
      act()
    }
    const told = (message: FromControl) => {
      if (message.kind === kind) settle(() => resolve(message as Extract<FromControl, { kind: K }>))
      else if (message.kind === 'failed') settle(() => reject(asError(message)))
    }
    const failed = (error: Error) => settle(() => reject(error))
    const exited = () => settle(() => reject(new MeshError('NOT_RUNNING', { what: 'root and cluster' })))
    thread.on('message', told).on('error', failed).on('exit', exited)
  })
}

function asError({ code, details, cause }: Extract<FromControl, { kind: 'failed' }>): Error {
  return code === undefined
    ? new Error(cause)
    : new MeshError(code, details, cause === '' ? undefined : { cause: new Error(cause) })
}
