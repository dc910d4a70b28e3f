import PQueue from 'p-queue'
import { systemClock, type Clock } from '../../src/core/kit/clock.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import type { ServiceEntry } from '../../src/core/model/change.ts'
import type { NodeId } from '../../src/core/model/ids.ts'
import type { TableView } from '../../src/core/table/view.ts'
import type { Peers } from '../tunnel/contract.ts'
import { background } from '../../src/core/kit/background.ts'

export interface ProberParts {
  table: TableView
  peers: Peers
  self: NodeId
  clock?: Clock
}

/** Dials of the prober at the same time. More delay the dials that flows wait for. */
const AT_ONCE = 4
/** Nodes kept measured. For others `closest` uses what flows have measured. */
const NODES = 256
/** Longer than any path takes to dial; a node that is down is tried again in the next round. */
const PROBE_MS = 10_000
/** Between rounds. Smaller: a node that came back is measured sooner; larger: fewer dials fail. */
const ROUND_MS = 60_000

/**
 * Keeps round-trip times measured to the nodes of the services that this node is interested in, so that `closest` has them
 * before the first flow. It opens a session to each node that has none; the session's own pings measure.
 */
export class Prober implements AsyncDisposable {
  readonly #life: Lifetime
  readonly #parts: ProberParts
  readonly #queue = new PQueue({ concurrency: AT_ONCE })
  readonly #probing = new Set<NodeId>()

  private constructor(life: Lifetime, parts: ProberParts) {
    this.#life = life
    this.#parts = parts
  }

  static start(parts: ProberParts): Promise<Prober> {
    return Lifetime.open((life) => {
      const prober = new Prober(life, parts)
      life.defer(() => prober.#queue.onIdle())
      life.defer(parts.table.onChange((_service, entry) => entry && prober.#probeNodesOf(entry)))
      const { clock = systemClock } = parts
      life.spawn(async (signal) => {
        while (!signal.aborted) {
          for (const entry of parts.table.services()) prober.#probeNodesOf(entry)
          await clock.sleep(ROUND_MS, signal)
        }
      }, 'round-trip prober')
      return prober
    })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  #probeNodesOf({ instances }: ServiceEntry): void {
    for (const { node, state } of instances) {
      if (state === 'running' && this.#isWanted(node))
        void background.run('round-trip probe', () => this.#queue.add(() => this.#probe(node)))
    }
  }

  #isWanted(node: NodeId): boolean {
    const { peers, self } = this.#parts
    if (node === self || this.#probing.has(node) || this.#probing.size >= NODES || this.#life.signal.aborted)
      return false
    if (peers.existing(node) !== undefined) return false
    this.#probing.add(node)
    return true
  }

  async #probe(id: NodeId): Promise<void> {
    const { table, peers } = this.#parts
    try {
      const node = table.node(id)
      const limit = AbortSignal.any([this.#life.signal, AbortSignal.timeout(PROBE_MS)])
      if (node !== undefined && !limit.aborted) await peers.session(node, limit)
    } catch {
      // unreachable now; the next round, or the first flow, tries again
    } finally {
      this.#probing.delete(id)
    }
  }
}
