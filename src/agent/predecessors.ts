import { pipeline } from 'node:stream'
import {
  isSameSession,
  type EarlierProcesses,
  type HeldSession,
  type PassedConnection,
} from '../../proxy/tunnel/peers/earlier-processes.ts'
import type { HeldVip } from '../../proxy/intercept/asked-vips.ts'
import { readHeldVips } from './kept-vips.ts'
import { askAgent, ownSockets, passTo } from './local-api.ts'
import { ignore } from '../core/kit/ignore.ts'
import type { Lifetime } from '../core/kit/lifetime.ts'
import type { Log } from '../core/kit/log.ts'
import type { InstanceId, NodeId } from '../core/model/ids.ts'
import type { DrainingReport, FlowReport } from '../client/reports.ts'

/** How often a draining agent is asked for its open flows. */
const POLL_MS = 500

/**
 * The agents of this directory that handed over and only let their flows end. This agent reports for them: their flows count
 * when an instance stops, are listed by `hedgerow flows`, and are cut when a node's certificate is revoked. Carriers for their
 * sessions, which reach the process that listens, are passed on to them.
 */
export class Predecessors implements EarlierProcesses {
  readonly #dir: string
  readonly #own: string
  readonly #log: Log
  #draining = new Map<string, DrainingReport>()
  /** By the socket of their process. */
  #sessions = new Map<string, readonly HeldSession[]>()

  private constructor(dir: string, own: string, log: Log) {
    this.#dir = dir
    this.#own = own
    this.#log = log
  }

  /** `own`: the socket of this process. */
  static start(life: Lifetime, { dir, own, log }: { dir: string; own: string; log: Log }): Predecessors {
    const predecessors = new Predecessors(dir, own, log)
    let isRefreshing = false
    const refreshAgain = async () => {
      if (isRefreshing || predecessors.#draining.size === 0) return
      isRefreshing = true
      await predecessors.refresh().finally(() => {
        isRefreshing = false
      })
    }
    life.every(POLL_MS, refreshAgain, 'predecessors')
    return predecessors
  }

  /** VIPs that they have handed out. */
  async heldVips(): Promise<readonly HeldVip[]> {
    const answers = await Promise.all((await this.#others()).map((path) => askAgent(path, '/held').catch(() => [])))
    return answers.flatMap(readHeldVips)
  }

  /** Asks the socket of every other process in the directory. */
  async refresh(): Promise<void> {
    const paths = await this.#others()
    const reports = await Promise.all(
      paths.map(async (path) => {
        try {
          return [path, (await askAgent(path, '/draining')) as DrainingReport] as const
        } catch {
          return undefined // it has exited, or does not hand over
        }
      }),
    )
    this.#draining = new Map(reports.filter((report) => report !== undefined))
    const sessions = [...this.#draining.keys()].map(async (path) => [path, await sessionsOf(path)] as const)
    this.#sessions = new Map(await Promise.all(sessions))
  }

  async #others(): Promise<string[]> {
    return (await ownSockets(this.#dir)).filter((path) => path !== this.#own)
  }

  knows(peer: NodeId): boolean {
    return [...this.#sessions.values()].some((sessions) => sessions.some((session) => session.peer === peer))
  }

  async take({ session, path, via, stream, hello }: PassedConnection): Promise<boolean> {
    const isIt = (held: HeldSession) => isSameSession(held, session)
    const owner = [...this.#sessions].find(([, sessions]) => sessions.some(isIt))?.[0]
    if (owner === undefined) return false
    const socket = await passTo(owner, { ...session, path, via }).catch(() => undefined)
    if (socket === undefined) return false // it has just ended, and the session with it
    this.#log.debug('connection passed on to an earlier process of this node', { peer: session.peer, path })
    socket.write(hello)
    pipeline(stream, socket, ignore)
    pipeline(socket, stream, ignore)
    return true
  }

  all(): DrainingReport[] {
    return [...this.#draining.values()]
  }

  /** Their open flows to an instance of this node. */
  openFlows(instance: InstanceId): number {
    return this.all().reduce((sum, { instances }) => sum + (instances[instance] ?? 0), 0)
  }

  async flows(): Promise<FlowReport[]> {
    const answers = await Promise.allSettled(
      [...this.#draining.keys()].map((path) => askAgent(path, '/flows', { own: 'true' })),
    )
    return answers.flatMap((flows) => (flows.status === 'fulfilled' ? (flows.value as FlowReport[]) : []))
  }

  revoke(nodes: readonly NodeId[]): void {
    if (nodes.length === 0) return
    for (const path of this.#draining.keys()) {
      askAgent(path, '/revoke', { nodes: nodes.join(' ') }).catch(() => undefined) // it has ended, and its flows with it
    }
  }
}

/** None, if it is of a version that passes nothing on. */
async function sessionsOf(path: string): Promise<readonly HeldSession[]> {
  return (await askAgent(path, '/sessions').catch(() => [])) as HeldSession[]
}
