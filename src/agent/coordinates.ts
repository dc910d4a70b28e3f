import { VivaldiCoordinate } from './vivaldi.ts'
import type { Peers } from '../../proxy/tunnel/contract.ts'
import type { Clock } from '../core/kit/clock.ts'
import type { Lifetime } from '../core/kit/lifetime.ts'
import { distanceMs, ORIGIN, type Coordinate } from '../core/model/coordinate.ts'
import type { NodeId } from '../core/model/ids.ts'
import type { TableView } from '../core/table/view.ts'

/*
 * Where this node is among the others. Round trips of open sessions move our coordinate; the cluster hears of it now and
 * then, and everybody's comes back with the feed: so nodes that never talked can still be ranked.
 */

const MEASURE_MS = 1_000
/** A coordinate is told anew when it has moved by so much: larger misleads others, smaller is news without a message. */
const MOVED_SHARE = 0.1
const MOVED_MS = 2
/** Each telling is a change for every node that knows ours. */
const TELL_MS = 15_000
/** Who is less sure of itself than this is not estimated by. */
const UNSURE = 0.8

interface WhereaboutsParts {
  table: Pick<TableView, 'node'>
  peers: Pick<Peers, 'all'>
  clock: Clock
}

export class NetworkCoordinates {
  readonly #vivaldi: VivaldiCoordinate
  readonly #parts: WhereaboutsParts
  #told: Coordinate | undefined
  #toldAt = Number.NEGATIVE_INFINITY

  private constructor(parts: WhereaboutsParts) {
    this.#parts = parts
    this.#vivaldi = new VivaldiCoordinate()
  }

  static start(life: Lifetime, parts: WhereaboutsParts): NetworkCoordinates {
    const whereabouts = new NetworkCoordinates(parts)
    life.every(MEASURE_MS, () => whereabouts.measure(), 'network coordinates')
    return whereabouts
  }

  /** What the cluster was told last; nothing before anything was measured. */
  get reported(): Coordinate | undefined {
    return this.#told
  }

  /** How far away a node probably is that nobody here has measured; `undefined` when one of the two does not know where it is. */
  estimateMs(node: NodeId): number | undefined {
    const theirs = this.#parts.table.node(node)?.coordinate
    const { own } = this.#vivaldi
    if (theirs === undefined || own.error > UNSURE || theirs.error > UNSURE) return undefined
    return distanceMs(own, theirs)
  }

  /** Whether there is news for the cluster; `told` is that then. */
  renew(): boolean {
    const { own } = this.#vivaldi
    const now = this.#parts.clock.now()
    if (own.error > UNSURE || now - this.#toldAt < TELL_MS) return false
    if (this.#told !== undefined) {
      const moved = Math.hypot(...own.at.map((x, axis) => x - (this.#told?.at[axis] ?? 0)))
      const grown = Math.abs(own.height - this.#told.height)
      if (moved + grown < Math.max(MOVED_MS, MOVED_SHARE * Math.hypot(...own.at))) return false
    }
    this.#told = own
    this.#toldAt = now
    return true
  }

  measure(): void {
    const { table, peers } = this.#parts
    for (const { peer, rttMs } of peers.all()) {
      if (rttMs === undefined) continue
      this.#vivaldi.measured(peer, table.node(peer)?.coordinate ?? ORIGIN, rttMs)
    }
  }
}
