/** A relay as this node knows it. */
export interface KnownRelay {
  url: string
  /** Absent when it was not measured yet. */
  rttMs?: number | undefined
  /** It does not answer now. */
  isAway: boolean
}

/** A relay that was not measured is assumed to be far away, and to answer. */
const UNMEASURED_MS = 500
/** How much nearer another relay must be, at least. Smaller and nodes move on jitter; larger and they stay far away. */
const NEARER_SHARE = 0.2
const NEARER_MS = 3
/** A dialer knows which relay is nearer to the other node, and not how far it is: each later place counts this much. */
const PLACE_MS = 20
/** For a relay that this dialer has not measured. */
const UNKNOWN_MS = 100

/**
 * The relays to listen at, nearest first: those that answer before those that are away, which are still dialled when there are
 * no others. A relay we listen at stays, and the first one stays first, unless another is nearer by a fifth and by 3 ms.
 */
export function chooseRelays(known: readonly KnownRelay[], current: readonly string[], most: number): string[] {
  const distance = ({ rttMs = UNMEASURED_MS, isAway }: KnownRelay) => (isAway ? Number.POSITIVE_INFINITY : rttMs)
  const favoured = (relay: KnownRelay) => {
    const far = distance(relay)
    return current.includes(relay.url) ? Math.min(far * (1 - NEARER_SHARE), far - NEARER_MS) : far
  }
  const by = (far: (relay: KnownRelay) => number) => (a: KnownRelay, b: KnownRelay) => {
    const [fromA, fromB] = [far(a), far(b)]
    return fromA === fromB ? 0 : fromA - fromB // two that are away: ∞ − ∞ is no number
  }
  const chosen = known.toSorted(by(favoured)).slice(0, most).toSorted(by(distance))
  const first = chosen.find(({ url }) => url === current[0])
  const isStillFirst = first !== undefined && !first.isAway && favoured(first) <= distance(chosen[0] ?? first)
  const inOrder = isStillFirst ? [first, ...chosen.filter((relay) => relay !== first)] : chosen
  return inOrder.map(({ url }) => url)
}

/**
 * The order in which to try the relays at which a node listens. `relays` has the one nearest to that node first; `throughMs`
 * gives the whole distance where the node has announced its own.
 */
export function orderRelays(
  relays: readonly string[],
  rttMs: (url: string) => number | undefined,
  throughMs: (url: string) => number | undefined = () => undefined,
): string[] {
  const isKnown = relays.every((url) => throughMs(url) !== undefined)
  const guessMs = (url: string, place: number) => (rttMs(url) ?? UNKNOWN_MS) + place * PLACE_MS
  const costs = relays.map((url, place) => ({ url, ms: (isKnown ? throughMs(url) : undefined) ?? guessMs(url, place) }))
  return costs.toSorted((a, b) => a.ms - b.ms).map(({ url }) => url)
}

/** How far two nodes are from each other through a relay; `undefined` when that is not known. */
export interface RelayedDistance {
  url: string
  ms: number | undefined
}

/** The relay that a session should use instead of its present one: nearer by a fifth and by 3 ms; `undefined` for none. */
export function nearerRelay(relays: readonly RelayedDistance[], inUse: RelayedDistance): string | undefined {
  const { ms: nowMs } = inUse
  if (nowMs === undefined) return undefined
  const limitMs = Math.min(nowMs * (1 - NEARER_SHARE), nowMs - NEARER_MS)
  const nearer = relays.flatMap(({ url, ms }) =>
    ms === undefined || url === inUse.url || ms > limitMs ? [] : { url, ms },
  )
  return nearer.toSorted((a, b) => a.ms - b.ms)[0]?.url
}
