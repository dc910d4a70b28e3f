import { join } from 'node:path'
import { Agent } from '../agent/agent.ts'
import { Predecessor } from '../agent/hand-over.ts'
import type { Config } from '../config/schema.ts'
import { openPrivateDirectory } from '../core/identity/files.ts'
import { HeldIdentity } from '../core/identity/held.ts'
import { Lifetime } from '../core/kit/lifetime.ts'
import type { Log, LogLevel } from '../core/kit/log.ts'
import { ControlKeeper } from './control-keeper.ts'

export interface UpOptions {
  /** The state directory; root, cluster and agent each get a folder in it. */
  state: string
  config: Config
  version: string
  environment?: Readonly<Record<string, string | undefined>>
  /** See `AgentOptions`. */
  predecessor?: Predecessor | undefined
  respawn?: () => void
}

/** The whole mesh in one process: root and cluster on a thread of their own, the agent on this one. */
export class Up implements AsyncDisposable {
  readonly agent: Agent
  readonly #control: ControlKeeper
  readonly #life: Lifetime
  readonly #summary: Record<string, string>

  private constructor(agent: Agent, control: ControlKeeper, life: Lifetime) {
    this.agent = agent
    this.#control = control
    this.#life = life
    this.#summary = { ...control.worker.summary, ...agent.summary(), role: 'up' }
  }

  /** @throws MeshError as root, cluster and agent do when they cannot start; what had started is closed then */
  static async start(options: UpOptions, log: Log): Promise<Up> {
    const { state, config, version, environment = {}, respawn } = options
    const folders = { root: join(state, 'root'), cluster: join(state, 'cluster'), agent: join(state, 'agent') }
    await openPrivateDirectory(folders.agent)
    using predecessor = options.predecessor ?? (await Predecessor.find(folders.agent, { isWanted: false }))
    // root and cluster have one owner: away for the second in which they change hands, while names and flows go on
    await predecessor?.ask('control').catch((error: unknown) => log.warn('the previous agent has exited', { error }))
    return await Lifetime.open(async (life) => {
      const control = life.use(await ControlKeeper.start({ folders, config, version }))
      const agentOptions = {
        dir: folders.agent,
        config: config.agent,
        version,
        environment,
        predecessor,
        companions: { end: () => control.pause(), beginAgain: () => control.resume() },
        ...((await isMember(folders.agent)) ? {} : { token: await control.worker.nodeToken() }),
        ...(respawn === undefined ? {} : { respawn }),
      }
      const agent = life.use(await Agent.start(agentOptions, log))
      return new Up(agent, control, life)
    })
  }

  summary(): Record<string, string> {
    return this.#summary
  }

  setLogLevel(level: LogLevel): void {
    this.#control.setLogLevel(level)
  }

  get handedOver(): Promise<number | undefined> {
    return this.agent.handedOver
  }

  makeWay(): Promise<void> {
    return this.agent.makeWay()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}

async function isMember(dir: string): Promise<boolean> {
  return (await HeldIdentity.open(join(dir, 'identity'))) !== undefined
}
