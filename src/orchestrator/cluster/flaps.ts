import type { NodeId } from '../../core/model/ids.ts'

interface Down {
  /** By the monotonic clock. */
  at: number
  /** Its process said that it ends: a planned restart, which speaks against nobody. */
  isAnnounced: boolean
}

/** Of links that went down: a node that is restarted now and then is not doubted. */
const LATELY_MS = 15 * 60_000
const MOST_DOWNS = 100

/**
 * The damping of routes that flap (RFC 2439), for nodes: each link that goes down adds 1 to the penalty of its node, and the penalty
 * halves every five minutes. From `SUPPRESS` on the node is given nothing that another node takes, until its penalty has fallen to
 * `REUSE`: 8 minutes after three downs in a row, 15 after eight.
 */
const HALF_LIFE_MS = 5 * 60_000
/** Smaller doubts a node whose agent was killed twice; larger keeps moving instances to a node that is not going to stay. */
const SUPPRESS = 2.5
const REUSE = 1
/** More would keep a node out for longer than it has been good. */
const MOST_PENALTY = 8

/** How often the links of nodes went down lately, and which nodes are not relied on for that. */
export class Flaps {
  readonly #downs = new Map<NodeId, Down[]>()

  down(node: NodeId, down: Down): void {
    this.#downs.set(node, [...this.#recent(node, down.at), down].slice(-MOST_DOWNS))
  }

  /** How often its link went down lately. */
  count(node: NodeId, now: number): number {
    return this.#recent(node, now).length
  }

  /** For how long it is still damped; 0 when it is not. */
  dampedMs(node: NodeId, now: number): number {
    const downs = this.#recent(node, now).filter(({ isAnnounced }) => !isAnnounced)
    const until = dampedUntil(downs.map(({ at }) => at))
    return until === undefined ? 0 : Math.max(0, until - now)
  }

  #recent(node: NodeId, now: number): Down[] {
    return (this.#downs.get(node) ?? []).filter(({ at }) => at > now - LATELY_MS)
  }
}

/** When a node whose link went down at these times is relied on again; `undefined` when it always was. */
export function dampedUntil(downs: readonly number[]): number | undefined {
  let penalty = 0
  let until: number | undefined
  let before = -Infinity
  for (const at of downs) {
    penalty = Math.min(penalty * 0.5 ** ((at - before) / HALF_LIFE_MS) + 1, MOST_PENALTY)
    before = at
    if (penalty < SUPPRESS && (until === undefined || until <= at)) continue
    until = at + HALF_LIFE_MS * Math.log2(penalty / REUSE)
  }
  return until
}
