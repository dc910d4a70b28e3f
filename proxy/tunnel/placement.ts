import type { PathKind } from './contract.ts'

/** Better paths first (DESIGN §6). */
const RANK: Readonly<Record<PathKind, number>> = { local: 0, direct: 1, reverse: 2, punched: 3, relayed: 4 }

export function rankOf(path: PathKind): number {
  return RANK[path]
}

/** What placement knows of a carrier. */
export interface CarrierView {
  readonly path: PathKind
  readonly streams: number
  /** Bytes waiting to be handed to the socket. */
  readonly backlog: number
  /** No new streams go here. */
  readonly isDraining: boolean
  /** Perhaps dead. */
  readonly isDoubtful: boolean
}

/** The carrier for a new stream: one that surely lives, on the best path, then the shortest queue (to 16 KiB), then the fewest streams. */
export function carrierFor<C extends CarrierView>(
  carriers: readonly C[],
  _kind: 'small' | 'bulk' = 'small',
): C | undefined {
  let best: C | undefined
  for (const carrier of carriers) {
    if (!carrier.isDraining && (best === undefined || isBetter(carrier, best))) best = carrier
  }
  return best
}

function isBetter(one: CarrierView, other: CarrierView): boolean {
  if (one.isDoubtful !== other.isDoubtful) return other.isDoubtful
  const rank = RANK[one.path] - RANK[other.path]
  if (rank !== 0) return rank < 0
  const queue = (one.backlog >>> 14) - (other.backlog >>> 14)
  return queue !== 0 ? queue < 0 : one.streams < other.streams
}

/** How many carriers a session should have now. One is enough until streams are open. */
export function carriersWanted({ path, streams }: { path: PathKind; streams: number }): number {
  return streams > 0 && (path === 'direct' || path === 'reverse') ? 2 : 1
}

/** Carriers that a better path has made useless for new streams. */
export function outranked<C extends CarrierView>(carriers: readonly C[]): C[] {
  const best = Math.min(...carriers.filter((carrier) => !carrier.isDraining).map((carrier) => RANK[carrier.path]))
  return carriers.filter((carrier) => !carrier.isDraining && RANK[carrier.path] > best)
}
