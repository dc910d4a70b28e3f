import { askAgent, ownSockets } from './local-api.ts'
import type { Lifetime } from '../core/kit/lifetime.ts'
import type { InstanceId, NodeId } from '../core/model/ids.ts'
import type { DrainingReport, FlowReport } from '../client/reports.ts'

/** How often an agent that lets its flows end is asked how far it is. */
const LOOK_MS = 500

/**
 * The agents of this directory that handed over and let their flows end. This one speaks for them: their flows count when
 * an instance stops, they are listed, and they are cut when a node's certificate is revoked.
 */
export class Predecessors {
  readonly #dir: string
  readonly #own: string
  #there = new Map<string, DrainingReport>()

  private constructor(dir: string, own: string) {
    this.#dir = dir
    this.#own = own
  }

  /** `own`: the socket of this process. */
  static start(life: Lifetime, dir: string, own: string): Predecessors {
    const elders = new Predecessors(dir, own)
    let isLooking = false
    const lookAgain = async () => {
      if (isLooking || elders.#there.size === 0) return
      isLooking = true
      await elders.refresh().finally(() => {
        isLooking = false
      })
    }
    life.every(LOOK_MS, lookAgain, 'predecessors')
    return elders
  }

  /** Who is there now. */
  async refresh(): Promise<void> {
    const paths = (await ownSockets(this.#dir)).filter((path) => path !== this.#own)
    const reports = await Promise.all(
      paths.map(async (path) => {
        try {
          return [path, (await askAgent(path, '/draining')) as DrainingReport] as const
        } catch {
          return undefined // gone, or not handing over
        }
      }),
    )
    this.#there = new Map(reports.filter((report) => report !== undefined))
  }

  all(): DrainingReport[] {
    return [...this.#there.values()]
  }

  /** Their open flows to an instance of this node. */
  openFlows(instance: InstanceId): number {
    return this.all().reduce((sum, { instances }) => sum + (instances[instance] ?? 0), 0)
  }

  async flows(): Promise<FlowReport[]> {
    const asked = await Promise.allSettled(
      [...this.#there.keys()].map((path) => askAgent(path, '/flows', { own: 'true' })),
    )
    return asked.flatMap((flows) => (flows.status === 'fulfilled' ? (flows.value as FlowReport[]) : []))
  }

  revoke(nodes: readonly NodeId[]): void {
    if (nodes.length === 0) return
    for (const path of this.#there.keys()) {
      askAgent(path, '/revoke', { nodes: nodes.join(' ') }).catch(() => undefined) // it has ended, and its flows with it
    }
  }
}
