import type { Log } from '../../core/kit/log.ts'
import type { InstanceId, NodeId } from '../../core/model/ids.ts'
import type { Assignments } from './assignments.ts'
import type { Dispatch } from './dispatch.ts'
import type { Nodes } from './nodes.ts'
import type { RootLink } from './root-link.ts'

export interface LeavingRunsParts {
  readonly assignments: Assignments
  readonly nodes: Nodes
  readonly dispatch: Dispatch
  readonly root: Pick<RootLink, 'record'>
  readonly log: Log
}

/**
 * Nodes learn within this time that the instance is elsewhere; until then its earlier run takes flows. Smaller refuses flows of nodes
 * that are slow to learn it; larger delays the end of the earlier run.
 */
const HANDOVER_MS = 1_000
/**
 * The same for a run that another cluster has taken over: that goes by root and two clusters to the tables. An agent that had no processor
 * for this long calls by its old table when it goes on, and a run that drains refuses. Smaller fails such calls, larger keeps two runs for longer.
 */
const HANDOVER_FAR_MS = 3_000
/** More are of no use to anybody who looks. */
const MOST_LEAVING = 8

/**
 * Runs whose place another one has taken, each on a node of its own:
 *
 *     serves ─ handOver ─▶ still called for a moment ─▶ asked to leave, again and again ─▶ drained ─▶ gone
 */
export class LeavingRuns {
  readonly #parts: LeavingRunsParts
  /** Earlier runs that still take flows. */
  readonly #handingOver = new Map<string, NodeJS.Timeout>()

  constructor(parts: LeavingRunsParts) {
    this.#parts = parts
  }

  /** The run there is no longer called: it drains once everybody knows. */
  handOver(instance: InstanceId, id: NodeId, { isFar = false } = {}): void {
    const key = keyOf(instance, id)
    const timer = setTimeout(
      () => {
        this.#handingOver.delete(key)
        this.askToLeave(instance, id)
      },
      isFar ? HANDOVER_FAR_MS : HANDOVER_MS,
    )
    timer.unref()
    this.#handingOver.set(key, timer)
  }

  isHandingOver(instance: InstanceId, node: NodeId): boolean {
    return this.#handingOver.has(keyOf(instance, node))
  }

  /** It is not waited any longer until everybody knows. */
  stopHandover(instance: InstanceId, node: NodeId): void {
    clearTimeout(this.#handingOver.get(keyOf(instance, node)))
    this.#handingOver.delete(keyOf(instance, node))
  }

  askToLeave(instance: InstanceId, id: NodeId): void {
    const node = this.#parts.nodes.alive(id)
    if (node === undefined || this.isHandingOver(instance, id)) return
    node.link.request('withdraw', { instance }).then(
      ({ ended }) => ended && this.drained(instance, id),
      (error: unknown) => this.#parts.log.warn('instance not withdrawn yet', { instance, node: id, error }),
    )
  }

  /** Its node says that nothing of it is left. */
  drained(instance: InstanceId, node: NodeId): void {
    const { assignments, root } = this.#parts
    if (assignments.get(instance)?.leaving?.includes(node) !== true) return
    this.left(instance, node)
    root.record({ what: 'drained', instance, node, why: 'its earlier run there has ended' })
  }

  left(instance: InstanceId, node: NodeId): void {
    const leaving = this.#parts.assignments.get(instance)?.leaving?.filter((other) => other !== node)
    if (leaving !== undefined)
      this.#parts.dispatch.change(instance, { leaving: leaving.length === 0 ? undefined : leaving })
  }

  close(): void {
    for (const timer of this.#handingOver.values()) clearTimeout(timer)
  }
}

/** Those that leave when one more does, the latest last. */
export function withLeaving(leaving: readonly NodeId[], node: NodeId, serving: NodeId): NodeId[] {
  return [...leaving.filter((other) => other !== node && other !== serving), node].slice(-MOST_LEAVING)
}

function keyOf(instance: InstanceId, node: NodeId): string {
  return `${instance} ${node}`
}
