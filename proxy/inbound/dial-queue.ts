import type { InstanceId, NodeId } from '../../src/core/model/ids.ts'

/*
 * Who is dialled when. At most `dials` connections to one instance are being opened at a time, since its accept queue is often
 * short; the others wait. Peers take turns at each instance, so that a node which sends a flood of OPENs delays its own flows
 * and not those of other nodes:
 *
 *     enter(instance, peer, begin) ─▶ a place is free for this peer ─▶ begins now
 *                                     else it waits in the queue of its peer ─▶ begins when its peer's turn comes
 *
 *     instance A    under way ≤ dials, of which one peer has at most its share
 *                   waiting   peer 1: ▪▪▪▪▪▪▪▪▪▪   peer 2: ▪   peer 3: ▪▪        served 1, 2, 3, 1, 3, 1, 1 …
 */

export interface DialQueueLimits {
  /** Connections being opened to one instance at the same time. Larger: instances with a short accept queue drop some. */
  readonly dials: number
  /** Waiting behind them, for all instances; each costs about a kilobyte. */
  readonly dialsWaiting: number
}

/** One peer may use at most this share of an instance's dials, and of all waiting places. Larger: a flood leaves less to others. */
const SHARE = 0.75

interface Line {
  underWay: number
  /** In the order in which their turns come; each is not empty. */
  readonly waiting: Map<NodeId, Set<() => void>>
  readonly underWayOf: Map<NodeId, number>
}

export class DialQueue {
  readonly #limits: DialQueueLimits
  readonly #lines = new Map<InstanceId, Line>()
  readonly #waitingOf = new Map<NodeId, number>()
  #waiting = 0
  #idle: (() => void) | undefined

  constructor(limits: DialQueueLimits) {
    this.#limits = limits
  }

  /** Dials that wait, for all instances. */
  get waiting(): number {
    return this.#waiting
  }

  /** Whether one more OPEN of this peer may wait. */
  hasRoom(peer: NodeId): boolean {
    const { dialsWaiting } = this.#limits
    return this.#waiting < dialsWaiting && (this.#waitingOf.get(peer) ?? 0) < Math.max(1, dialsWaiting * SHARE)
  }

  /**
   * Calls `begin` in this very call or later; the returned function gives up the wait, and does nothing once it has begun.
   * Whoever has begun calls `leave` once.
   */
  enter(instance: InstanceId, peer: NodeId, begin: () => void): () => void {
    const line = this.#lines.get(instance) ?? { underWay: 0, waiting: new Map(), underWayOf: new Map() }
    this.#lines.set(instance, line)
    if (this.#mayBegin(line, peer)) {
      this.#count(line, peer, 1)
      begin()
      return nothing
    }
    const own = line.waiting.get(peer) ?? new Set()
    line.waiting.set(peer, own.add(begin))
    this.#countWaiting(peer, 1)
    return () => {
      if (own.delete(begin)) this.#left(line, peer)
    }
  }

  leave(instance: InstanceId, peer: NodeId): void {
    const line = this.#lines.get(instance)
    if (line === undefined) return
    this.#count(line, peer, -1)
    this.#next(line)?.()
    if (line.underWay > 0) return
    this.#lines.delete(instance)
    if (this.#lines.size === 0) this.#idle?.()
  }

  /** Resolves when nothing is under way. */
  onIdle(): Promise<void> {
    if (this.#lines.size === 0) return Promise.resolve()
    return new Promise((resolve) => {
      this.#idle = resolve
    })
  }

  #mayBegin(line: Line, peer: NodeId): boolean {
    const { dials } = this.#limits
    return line.underWay < dials && (line.underWayOf.get(peer) ?? 0) < Math.max(1, dials * SHARE)
  }

  /** Takes the first that may begin out of its queue; its peer goes to the end of the round. */
  #next(line: Line): (() => void) | undefined {
    for (const [peer, own] of line.waiting) {
      if (!this.#mayBegin(line, peer)) continue
      const [begin] = own
      if (begin === undefined) continue
      own.delete(begin)
      line.waiting.delete(peer)
      line.waiting.set(peer, own)
      this.#left(line, peer)
      this.#count(line, peer, 1)
      return begin
    }
    return undefined
  }

  #left(line: Line, peer: NodeId): void {
    this.#countWaiting(peer, -1)
    if (line.waiting.get(peer)?.size === 0) line.waiting.delete(peer)
  }

  #count(line: Line, peer: NodeId, by: 1 | -1): void {
    line.underWay += by
    add(line.underWayOf, peer, by)
  }

  #countWaiting(peer: NodeId, by: 1 | -1): void {
    this.#waiting += by
    add(this.#waitingOf, peer, by)
  }
}

function add(counts: Map<NodeId, number>, peer: NodeId, by: 1 | -1): void {
  const count = (counts.get(peer) ?? 0) + by
  if (count === 0) counts.delete(peer)
  else counts.set(peer, count)
}

const nothing = (): void => undefined
