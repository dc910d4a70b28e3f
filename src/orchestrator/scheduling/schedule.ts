import type { Strategy } from '../spec.ts'
import type { Candidate } from './candidate.ts'
import { FILTERS, type Filter } from './filters.ts'
import type { PlacementRequest } from './placement-request.ts'
import { STRATEGIES, type Scorer } from './strategies.ts'

export interface Rules {
  filters: readonly Filter[]
  strategies: Readonly<Record<Strategy, Scorer>>
}

export type Decision =
  | { kind: 'placed'; candidate: Candidate; score: readonly number[]; why: string; reasons: Record<string, number> }
  /** `reasons`: how many candidates were refused for which reason. */
  | { kind: 'unplaceable'; reasons: Record<string, number> }

export const RULES: Rules = { filters: FILTERS, strategies: STRATEGIES }

/**
 * Where an instance goes, for both tiers: the candidates of the root are clusters, those of a cluster its nodes.
 *
 *     candidates ─▶ filter (counted reasons) ─▶ score (the SLA's strategy) ─▶ choose (best, then smallest id)
 *
 * Pure: the order of the candidates makes no difference.
 */
export function schedule(request: PlacementRequest, candidates: Iterable<Candidate>, rules: Rules = RULES): Decision {
  const strategy = rules.strategies[request.spec.strategy]
  const reasons: Record<string, number> = {}
  let best: Scored | undefined
  for (const candidate of candidates) {
    const reason = refusal(request, candidate, rules.filters)
    if (reason !== undefined) {
      reasons[reason] = (reasons[reason] ?? 0) + 1
      continue
    }
    const scored = { candidate, score: strategy.score(request, candidate) }
    if (best === undefined || isBetter(scored, best)) best = scored
  }
  if (best === undefined) return { kind: 'unplaceable', reasons }
  return { kind: 'placed', ...best, why: strategy.why(request, best.candidate), reasons }
}

/** `4 nodes: 3 too little memory free, 1 cordoned`, most frequent first; `none` when there was no node at all. */
export function reasonsText(
  reasons: Readonly<Record<string, number>>,
  { nodes, none }: { nodes: number; none: string },
): string {
  const counted = Object.entries(reasons).sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1))
  if (counted.length === 0) return none
  return `${nodes} ${nodes === 1 ? 'node' : 'nodes'}: ${counted.map(([reason, count]) => `${count} ${reason}`).join(', ')}`
}

function refusal(request: PlacementRequest, candidate: Candidate, filters: readonly Filter[]): string | undefined {
  for (const filter of filters) {
    const reason = filter(request, candidate)
    if (reason !== undefined) return reason
  }
  return undefined
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
