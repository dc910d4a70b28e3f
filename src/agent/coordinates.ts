import { VivaldiCoordinate } from './vivaldi.ts'
import type { Peers } from '../../proxy/tunnel/contract.ts'
import type { Clock } from '../core/kit/clock.ts'
import type { Lifetime } from '../core/kit/lifetime.ts'
import { distanceMs, ORIGIN, type Coordinate } from '../core/model/coordinate.ts'
import type { NodeId } from '../core/model/ids.ts'
import type { TableView } from '../core/table/view.ts'

/*
 * Network coordinates (Vivaldi): round trips of open sessions move our coordinate, which is reported to the cluster now and then
 * and reaches every other node with the feed. So the distance to a node that was never measured can be estimated.
 */

const MEASURE_MS = 1_000
/** A coordinate is reported again when it has moved by this much: larger misleads others, smaller sends messages for noise. */
const MOVED_SHARE = 0.1
const MOVED_MS = 2
/** Each report is a change for every node that knows ours. */
const REPORT_MS = 15_000
/** A coordinate with a larger error is not used. */
const MOST_ERROR = 0.8

interface CoordinatesParts {
  table: Pick<TableView, 'node'>
  peers: Pick<Peers, 'all'>
  clock: Clock
}

export class NetworkCoordinates {
  readonly #vivaldi: VivaldiCoordinate
  readonly #parts: CoordinatesParts
  #reported: Coordinate | undefined
  #reportedAt = Number.NEGATIVE_INFINITY

  private constructor(parts: CoordinatesParts) {
    this.#parts = parts
    this.#vivaldi = new VivaldiCoordinate()
  }

  static start(life: Lifetime, parts: CoordinatesParts): NetworkCoordinates {
    const coordinates = new NetworkCoordinates(parts)
    life.every(MEASURE_MS, () => coordinates.measure(), 'network coordinates')
    return coordinates
  }

  /** The coordinate that was last reported; `undefined` before anything was measured. */
  get reported(): Coordinate | undefined {
    return this.#reported
  }

  /** The estimated round trip to a node; `undefined` when one of the two coordinates is unknown or too uncertain. */
  estimateMs(node: NodeId): number | undefined {
    const theirs = this.#parts.table.node(node)?.coordinate
    const { own } = this.#vivaldi
    if (theirs === undefined || own.error > MOST_ERROR || theirs.error > MOST_ERROR) return undefined
    return distanceMs(own, theirs)
  }

  /** Whether there is something to report; it is in `reported` then. */
  renew(): boolean {
    const { own } = this.#vivaldi
    const now = this.#parts.clock.now()
    if (own.error > MOST_ERROR || now - this.#reportedAt < REPORT_MS) return false
    if (this.#reported !== undefined) {
      const moved = Math.hypot(...own.at.map((x, axis) => x - (this.#reported?.at[axis] ?? 0)))
      const grown = Math.abs(own.height - this.#reported.height)
      if (moved + grown < Math.max(MOVED_MS, MOVED_SHARE * Math.hypot(...own.at))) return false
    }
    this.#reported = own
    this.#reportedAt = now
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
