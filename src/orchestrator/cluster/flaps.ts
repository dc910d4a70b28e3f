import type { Clock } from '../../core/kit/clock.ts'
import { LateCollection, type LateParts } from '../../core/kit/late-collection.ts'
import type { NodeId } from '../../core/model/ids.ts'

/** As it is on disk: in milliseconds since 1970, as the monotonic clock does not outlive a process. */
export interface SavedDowns {
  node: NodeId
  downs: Down[]
}

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

/** How often the links of nodes went down lately, and which nodes are not relied on for that. On disk a moment later. */
export class Flaps implements Disposable {
  readonly #clock: Clock
  readonly #downs = new Map<NodeId, Down[]>()
  readonly #saved: LateCollection<SavedDowns>

  constructor(parts: LateParts<SavedDowns>) {
    const { clock, saved } = parts
    this.#clock = clock
    this.#saved = new LateCollection(parts)
    const offset = clock.now() - clock.wall()
    for (const { node, downs } of saved.list()) {
      // one that seems to be in the future was before the clock was set back
      const known = downs.map(({ at, isAnnounced }) => ({ at: Math.min(at + offset, clock.now()), isAnnounced }))
      this.#downs.set(node, known)
      if (this.count(node, clock.now()) === 0) this.forget(node)
    }
  }

  down(node: NodeId, down: Down): void {
    const downs = [...this.#recent(node, down.at), down].slice(-MOST_DOWNS)
    this.#downs.set(node, downs)
    const offset = this.#clock.wall() - this.#clock.now()
    this.#saved.put(node, { node, downs: downs.map((each) => ({ ...each, at: Math.round(each.at + offset) })) })
  }

  /** It was removed from the mesh; another may join under its name. */
  forget(node: NodeId): void {
    this.#downs.delete(node)
    this.#saved.delete(node)
  }

  [Symbol.dispose](): void {
    this.#saved[Symbol.dispose]()
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
