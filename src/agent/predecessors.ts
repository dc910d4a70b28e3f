import { askAgent, ownSockets } from './local-api.ts'
import type { Lifetime } from '../core/kit/lifetime.ts'
import type { InstanceId, NodeId } from '../core/model/ids.ts'
import type { DrainingReport, FlowReport } from '../client/reports.ts'

/** How often a draining agent is asked for its open flows. */
const POLL_MS = 500

/**
 * The agents of this directory that handed over and only let their flows end. This agent reports for them: their flows count
 * when an instance stops, are listed by `hedgerow flows`, and are cut when a node's certificate is revoked.
 */
export class Predecessors {
  readonly #dir: string
  readonly #own: string
  #draining = new Map<string, DrainingReport>()

  private constructor(dir: string, own: string) {
    this.#dir = dir
    this.#own = own
  }

  /** `own`: the socket of this process. */
  static start(life: Lifetime, dir: string, own: string): Predecessors {
    const predecessors = new Predecessors(dir, own)
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

  /** Asks the socket of every other process in the directory. */
  async refresh(): Promise<void> {
    const paths = (await ownSockets(this.#dir)).filter((path) => path !== this.#own)
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
