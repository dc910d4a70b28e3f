import type { Candidate } from './candidate.ts'
import { prepared } from './decision.ts'
import { FILTERS, type Filter } from './filters.ts'
import { nearestThatCan, type Nearest } from './nearest.ts'
import type { PlacementRequest } from './placement-request.ts'
import { preferences, STRATEGIES, type Strategies } from './strategies.ts'

export interface Rules {
  filters: readonly Filter[]
  strategies: Strategies
}

export type Decision =
  | { kind: 'placed'; candidate: Candidate; score: readonly number[]; why: string; reasons: Record<string, number> }
  /** `reasons`: how many candidates were refused for which reason. `nearest`: which could take it if it need not be so near. */
  | { kind: 'unplaceable'; reasons: Record<string, number>; nearest?: Nearest }

export const RULES: Rules = { filters: FILTERS, strategies: STRATEGIES }

/** With further strategies; those that are built in cannot be replaced. */
export function rulesWith(strategies: Strategies = {}): Rules {
  return { ...RULES, strategies: { ...strategies, ...STRATEGIES } }
}

/**
 * Where an instance goes, for both tiers: the candidates of the root are clusters, those of a cluster its nodes.
 *
 *     candidates ─▶ filter (counted reasons) ─▶ score (preferences, the SLA's strategy) ─▶ choose (best, then smallest id)
 *
 * Pure: the order of the candidates makes no difference.
 */
export function schedule(request: PlacementRequest, candidates: Iterable<Candidate>, rules: Rules = RULES): Decision {
  const all = [...candidates]
  const { spec } = request
  const strategy = Object.hasOwn(rules.strategies, spec.strategy) ? rules.strategies[spec.strategy] : undefined
  if (strategy === undefined)
    return { kind: 'unplaceable', reasons: { [`strategy ${spec.strategy} not offered`]: all.length } }
  const asked = prepare(request, all, rules)
  const reasons: Record<string, number> = {}
  let best: Scored | undefined
  for (const candidate of all) {
    const reason = refusal(asked, candidate, rules.filters)
    if (reason !== undefined) {
      reasons[reason] = (reasons[reason] ?? 0) + 1
      continue
    }
    const scored = { candidate, score: [...preferences(asked, candidate), ...strategy.score(asked, candidate)] }
    if (best === undefined || isBetter(scored, best)) best = scored
  }
  if (best !== undefined) return { kind: 'placed', ...best, why: strategy.why(asked, best.candidate), reasons }
  const nearest = nearestThatCan(asked, all, rules.filters)
  return { kind: 'unplaceable', reasons, ...(nearest === undefined ? {} : { nearest }) }
}

/** For whoever calls filters and scores one by one: the request as `schedule` hands it to them. */
export function prepare(
  request: PlacementRequest,
  candidates: readonly Candidate[],
  { filters }: Pick<Rules, 'filters'> = RULES,
): PlacementRequest {
  // spreading is between those that could take it, not between those that are as even as it asks
  const constraints = request.spec.constraints.filter(({ type }) => type !== 'spread')
  const open = (asked: PlacementRequest) => {
    const unspread = { ...asked, spec: { ...asked.spec, constraints } }
    return candidates.filter((candidate) => refusal(unspread, candidate, filters) === undefined)
  }
  return prepared(request, { all: candidates, open })
}

/** Why the first filter that refuses the candidate does so; `undefined` when it can take the request. */
export function refusal(
  request: PlacementRequest,
  candidate: Candidate,
  filters: readonly Filter[] = FILTERS,
): string | undefined {
  for (const filter of filters) {
    const reason = filter(request, candidate)
    if (reason !== undefined) return reason
  }
  return undefined
}

/** `4 nodes: 3 too little memory free, 1 cordoned`, most frequent first; `none` when there was no node at all. */
export function reasonsText(
  reasons: Readonly<Record<string, number>>,
  { none, ...among }: { none: string } & ({ nodes: number } | { clusters: number }),
): string {
  const counted = Object.entries(reasons).sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1))
  if (counted.length === 0) return none
  const [[kind, number]] = Object.entries(among) as [[string, number]]
  return `${number} ${number === 1 ? kind.slice(0, -1) : kind}: ${counted.map(([reason, count]) => `${count} ${reason}`).join(', ')}`
}

interface Scored {
  candidate: Candidate
  score: readonly number[]
}

function isBetter(a: Scored, b: Scored): boolean {
  for (let i = 0; i < a.score.length; i++) {
    const [mine, other] = [a.score[i] ?? 0, b.score[i] ?? 0]
    if (mine !== other) return mine > other
  }
  return a.candidate.id < b.candidate.id
}
