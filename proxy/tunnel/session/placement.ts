import { allows, ANY_PATH, likes, type PathRule, type PathKind } from '../../../src/core/model/path-rule.ts'

/*
 * Where streams go, and how many carriers there are: decided here and nowhere else, each side for what it sends.
 *
 *     small streams share carriers; a stream that turns out to be bulk gets one to itself, and small ones never share with it
 *     (unless there is only one carrier, or fewer than bulk streams)
 *     a stream whose rule leaves paths out (model/path-rule.ts) is never on a carrier of those; where only they stand it waits
 *
 * Measured with 20 small flows over 50 ms and 1 % loss: 33 requests a second on one carrier, 81 on four, 193 with one each; on a
 * clean short path two are as fast as any number.
 */

/** Better paths first. */
const RANK: Readonly<Record<PathKind, number>> = { local: 0, direct: 1, reverse: 2, punched: 3, relayed: 4 }

export function rankOf(path: PathKind): number {
  return RANK[path]
}

/** What placement knows of a carrier. */
export interface CarrierView {
  readonly path: PathKind
  /** Streams of this side that send here, and how many of them are bulk. */
  readonly streams: number
  readonly bulks: number
  /** Bytes waiting to be handed to the socket. */
  readonly backlog: number
  /** No new streams go here, and the old ones leave. */
  readonly isDraining: boolean
  /** Perhaps dead. */
  readonly isDoubtful: boolean
  /** Made for streams whose rule asked for its path: the others come here for want of anything else only. */
  readonly isPinned?: boolean
}

/** A stream is `small` until it has shown otherwise. */
export type Kind = 'small' | 'bulk'

/** The carrier for a stream: one that surely lives, on the best path its rule allows, with its own kind; then the shortest queue, then the fewest streams. */
export function carrierFor<C extends CarrierView>(
  carriers: readonly C[],
  kind: Kind = 'small',
  rule: PathRule = ANY_PATH,
): C | undefined {
  let best: C | undefined
  for (const carrier of carriers) {
    if (carrier.isDraining || !allows(rule, carrier.path)) continue
    if (best === undefined || isBetter(carrier, best, kind, rule)) best = carrier
  }
  return best
}

function isBetter(one: CarrierView, other: CarrierView, kind: Kind, rule: PathRule): boolean {
  if (one.isDoubtful !== other.isDoubtful) return other.isDoubtful
  const isLiked = likes(rule, one.path)
  if (isLiked !== likes(rule, other.path)) return isLiked
  if ((one.isPinned === true) !== (other.isPinned === true)) return one.isPinned !== true
  const rank = RANK[one.path] - RANK[other.path]
  if (rank !== 0) return rank < 0
  if (kind === 'bulk') {
    const smalls = one.streams - one.bulks - (other.streams - other.bulks)
    return smalls !== 0 ? smalls < 0 : one.bulks < other.bulks
  }
  const bulks = Math.min(one.bulks, 1) - Math.min(other.bulks, 1)
  if (bulks !== 0) return bulks < 0
  const queue = (one.backlog >>> 14) - (other.backlog >>> 14)
  return queue !== 0 ? queue < 0 : one.streams < other.streams
}

/** What a session looks like when its number of carriers is decided. */
export interface SessionView {
  path: PathKind
  streams: number
  /** Bulk streams, either way. */
  bulks: number
  rttMs: number | undefined
  /** Mean deviation of the round trip: all that is seen of loss, as TCP repairs it. */
  jitterMs: number
  /** Never more than this. */
  limit: number
}

/** Carriers of one session. Larger: home routers and ISPs take many connections to one place for an attack; smaller: bulk streams share. */
const RELAYED_LIMIT = 4
const DIRECT_LIMIT = 8

/** How many carriers a session should have now. One is enough until streams are open. */
export function carriersWanted({ path, streams, bulks, rttMs = 0, jitterMs, limit }: SessionView): number {
  if (streams === 0) return 1
  const isDirect = path === 'direct' || path === 'reverse'
  const most = Math.min(limit, isDirect ? DIRECT_LIMIT : RELAYED_LIMIT)
  const smalls = streams - bulks
  const isLossy = jitterMs > Math.max(15, rttMs / 3)
  let wanted = isDirect ? 2 : 1
  if (isLossy) wanted = Math.max(wanted, Math.min(most, smalls))
  else {
    if (rttMs >= 20 && smalls >= 8) wanted += 1
    if (rttMs >= 80 && smalls >= 8) wanted += 1
    if (smalls >= 1_024) wanted += 1
  }
  if (bulks === 0) return Math.min(most, wanted)
  return Math.min(most, smalls === 0 ? Math.max(wanted, bulks) : wanted + bulks)
}

/** Carriers that a better path has made useless for new streams: one that surely lives. */
export function outranked<C extends CarrierView>(carriers: readonly C[]): C[] {
  const own = carriers.filter((carrier) => !carrier.isDraining && carrier.isPinned !== true)
  const best = Math.min(...own.filter(({ isDoubtful }) => !isDoubtful).map((carrier) => RANK[carrier.path]))
  return own.filter((carrier) => RANK[carrier.path] > best)
}

/** The carrier to give back when there are more than wanted: the emptiest. */
export function spare<C extends CarrierView>(carriers: readonly C[]): C | undefined {
  const open = carriers.filter(({ isDraining, isPinned }) => !isDraining && isPinned !== true)
  return open.toSorted((a, b) => a.bulks - b.bulks || a.streams - b.streams || b.backlog - a.backlog)[0]
}

/** What placement knows of a stream that sends somewhere. */
export interface StreamView<C> {
  readonly carrier: C | undefined
  readonly isBulk: boolean
  readonly rule?: PathRule
}

export interface Move<C, S> {
  stream: S
  to: C
}

/** Small streams moved in one go: each costs two small frames. */
const MOVES = 64
/** Carriers whose numbers of small streams differ by less are left alone. */
const UNEVEN = 8

/**
 * The streams that should go elsewhere now. Looks at streams only when the carriers show that something is amiss: called four
 * times a second, with thousands of streams.
 */
export function rebalance<C extends CarrierView, S extends StreamView<C>>(
  carriers: readonly C[],
  streams: Iterable<S>,
): Move<C, S>[] {
  const home = carriers.filter(({ isDraining, isDoubtful }) => !isDraining && !isDoubtful)
  const bad = carriers.filter((carrier) => !home.includes(carrier) && carrier.streams > 0)
  if (home.length === 0 || (home.length === 1 && bad.length === 0)) return []
  const counts = new Map(home.map((carrier) => [carrier, { ...viewOf(carrier), carrier }]))
  const plan = [...counts.values()]
  const isMixed = plan.some(({ streams, bulks }) => bulks > 0 && streams > bulks)
  const isStacked = plan.some((one) => one.bulks > 1 && plan.some(({ bulks }) => bulks < one.bulks - 1))
  const isDivided = plan.some(({ path }) => path !== plan[0]?.path)
  if (bad.length === 0 && !isMixed && !isStacked && !isDivided && !isUneven(plan)) return []

  const moves: Move<C, S>[] = []
  const move = (stream: S, to: Planned<C>) => {
    const from = stream.carrier === undefined ? undefined : counts.get(stream.carrier)
    for (const [one, by] of [
      [from, -1],
      [to, 1],
    ] as const) {
      if (one === undefined) continue
      one.streams += by
      if (stream.isBulk) one.bulks += by
    }
    moves.push({ stream, to: to.carrier })
  }
  let smallMoves = 0
  for (const stream of streams) {
    if (stream.carrier === undefined) continue
    const at = counts.get(stream.carrier)
    const to = carrierFor(plan, stream.isBulk ? 'bulk' : 'small', stream.rule)
    if (to === undefined || to === at) continue
    if (at === undefined)
      move(stream, to) // where it is it cannot stay
    else if (at.path !== to.path) {
      if (smallMoves < MOVES) move(stream, to) // a better path, by its rule
      smallMoves += 1
    } else if (stream.isBulk) {
      const hasCalm = plan.some(({ bulks }) => bulks === 0)
      if (isBulkBetter(at, to, hasCalm)) move(stream, to)
    } else if (smallMoves < MOVES && isSmallBetter(at, to)) {
      smallMoves += 1
      move(stream, to)
    }
  }
  return moves
}

type Planned<C> = { -readonly [K in keyof CarrierView]: CarrierView[K] } & { carrier: C }

function viewOf({ path, streams, bulks, backlog, isDraining, isDoubtful, isPinned = false }: CarrierView): CarrierView {
  return { path, streams, bulks, backlog, isDraining, isDoubtful, isPinned }
}

/** Alone there, or with fewer of its kind than here; or away from small streams that have nowhere else to go. */
function isBulkBetter(at: CarrierView, to: CarrierView, hasCalm: boolean): boolean {
  if (to.streams > to.bulks) return false
  if (at.streams > at.bulks) return to.bulks === 0 || !hasCalm
  return to.bulks < at.bulks - 1
}

/** Away from bulk, or to a carrier that has clearly fewer. */
function isSmallBetter(at: CarrierView, to: CarrierView): boolean {
  if (to.bulks > 0) return false
  return at.bulks > 0 || at.streams - to.streams >= UNEVEN
}

function isUneven(plan: readonly CarrierView[]): boolean {
  const smalls = plan.filter(({ bulks }) => bulks === 0).map(({ streams }) => streams)
  return smalls.length > 1 && Math.max(...smalls) - Math.min(...smalls) >= UNEVEN
}
