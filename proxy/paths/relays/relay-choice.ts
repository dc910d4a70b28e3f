/** A relay as this node knows it. */
export interface KnownRelay {
  url: string
  /** Not yet measured when absent. */
  rttMs?: number | undefined
  /** It does not answer, as of now. */
  isAway: boolean
}

/** A relay that was not measured is taken for a far one, but for one that answers. */
const UNMEASURED_MS = 500
/** What another relay must be nearer by, at least; smaller and nodes move on jitter, larger and they stay far away. */
const NEARER_SHARE = 0.2
const NEARER_MS = 3
/** A dialler does not know how far the other node is from its relays, only which is nearer to it: so much per place. */
const PLACE_MS = 20
/** For a relay that this dialler knows nothing of. */
const UNKNOWN_MS = 100

/**
 * The relays to listen at, nearest first: those that answer before those that are away, which are kept trying when there are
 * no others. What is listened at stays, and what is first stays first, unless another is nearer by a fifth and by 3 ms.
 */
export function chooseRelays(known: readonly KnownRelay[], current: readonly string[], most: number): string[] {
  const distance = ({ rttMs = UNMEASURED_MS, isAway }: KnownRelay) => (isAway ? Number.POSITIVE_INFINITY : rttMs)
  const handicapped = (relay: KnownRelay) => {
    const far = distance(relay)
    return current.includes(relay.url) ? Math.min(far * (1 - NEARER_SHARE), far - NEARER_MS) : far
  }
  const by = (far: (relay: KnownRelay) => number) => (a: KnownRelay, b: KnownRelay) => {
    const [fromA, fromB] = [far(a), far(b)]
    return fromA === fromB ? 0 : fromA - fromB // two that are away: ∞ − ∞ is no number
  }
  const chosen = known.toSorted(by(handicapped)).slice(0, most).toSorted(by(distance))
  const first = chosen.find(({ url }) => url === current[0])
  const isStillFirst = first !== undefined && !first.isAway && handicapped(first) <= distance(chosen[0] ?? first)
  const inOrder = isStillFirst ? [first, ...chosen.filter((relay) => relay !== first)] : chosen
  return inOrder.map(({ url }) => url)
}

/** In which order to try the relays that a node listens at: `relays` has the one nearest to it first; `throughMs` is there where it has said how far it is. */
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

/** How far two nodes are from each other through a relay; not known when absent. */
export interface Through {
  url: string
  ms: number | undefined
}

/** The relay by which a session should go instead of the one it uses: nearer by a fifth and by 3 ms; nothing, when there is none or nobody knows. */
export function nearerRelay(relays: readonly Through[], inUse: Through): string | undefined {
  const { ms: nowMs } = inUse
  if (nowMs === undefined) return undefined
  const limitMs = Math.min(nowMs * (1 - NEARER_SHARE), nowMs - NEARER_MS)
  const nearer = relays.flatMap(({ url, ms }) =>
    ms === undefined || url === inUse.url || ms > limitMs ? [] : { url, ms },
  )
  return nearer.toSorted((a, b) => a.ms - b.ms)[0]?.url
}
