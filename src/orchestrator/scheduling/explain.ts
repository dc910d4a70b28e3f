import type { Candidate } from './candidate.ts'
import { nameOfFilter, type Filter } from './filters.ts'
import { inNumbers, type InNumbers } from './in-numbers.ts'
import type { PlacementRequest } from './placement-request.ts'
import { prepare, RULES, schedule, type Decision, type Rules } from './schedule.ts'
import { preferences, preferenceTerms } from './strategies.ts'

/** What every filter and score says of one candidate. */
export interface Judged {
  id: string
  /** By filter, why it refuses, with numbers; filters that are not here let it pass. */
  refusals: Record<string, string>
  /** Compared number by number, larger is better; only of a candidate that no filter refuses. */
  score?: number[]
}

/** A decision with all that it was made of. */
export interface Explanation {
  strategy: string
  /** In the order in which they are asked. */
  filters: string[]
  /** What each number of a score means. */
  terms: string[]
  /** How many there were. */
  candidates: number
  /** How many could take it. */
  fit: number
  /** The best of them first: the chosen one, those that would be next, those that fewest filters refuse. */
  judged: Judged[]
  chosen?: string
  why?: string
}

/** What `schedule` decides about the same, and why it does not take each of the others; of the candidates, the first `most`. */
export function whatIf(
  request: PlacementRequest,
  candidates: readonly Candidate[],
  { rules = RULES, most }: { rules?: Rules; most: number },
): Explanation {
  return explained(schedule(request, candidates, rules), { request, candidates, rules, most })
}

interface Decided {
  request: PlacementRequest
  candidates: readonly Candidate[]
  rules: Rules
  most: number
}

/** The same for a decision that was just made of these. */
export function explained(decision: Decision, { request, candidates, rules, most }: Decided): Explanation {
  const { strategy } = request.spec
  const scorer = Object.hasOwn(rules.strategies, strategy) ? rules.strategies[strategy] : undefined
  const asked = prepare(request, candidates, rules)
  const chosen = decision.kind === 'placed' ? decision.candidate.id : undefined
  const excess = new Map<string, number>()
  const all = candidates.map((candidate): Judged => {
    const found = refusalsOf(asked, candidate, rules.filters)
    if (found.length === 0) {
      const score = [...preferences(asked, candidate), ...(scorer?.score(asked, candidate) ?? [])]
      return { id: candidate.id, refusals: {}, score: score.map(finite) }
    }
    excess.set(candidate.id, Math.max(0, ...found.map(([, each]) => each.excess ?? 0)))
    return { id: candidate.id, refusals: Object.fromEntries(found.map(([filter, { text }]) => [filter, text])) }
  })
  const judged = all.toSorted((a, b) => Number(b.id === chosen) - Number(a.id === chosen) || compare(a, b, excess))
  return {
    strategy,
    filters: rules.filters.map(nameOfFilter),
    terms: [...preferenceTerms(request), ...(scorer?.terms ?? [])],
    candidates: all.length,
    fit: all.filter(({ score }) => score !== undefined).length,
    judged: judged.slice(0, most),
    ...(decision.kind === 'placed' ? { chosen: decision.candidate.id, why: decision.why } : {}),
  }
}

/** Every filter is asked, also after the first that refuses. */
function refusalsOf(
  request: PlacementRequest,
  candidate: Candidate,
  filters: readonly Filter[],
): [filter: string, InNumbers][] {
  const found: [filter: string, InNumbers][] = []
  for (const filter of filters) {
    const reason = filter(request, candidate)
    if (reason === undefined) continue
    const name = nameOfFilter(filter)
    found.push([name, inNumbers(name, reason, request, candidate)])
  }
  return found
}

/** Of those that as many filters refuse, the one that is least too far away. */
function compare(a: Judged, b: Judged, excess: ReadonlyMap<string, number>): number {
  if (a.score !== undefined && b.score !== undefined) {
    for (let at = 0; at < a.score.length; at++) {
      const difference = (b.score[at] ?? 0) - (a.score[at] ?? 0)
      if (difference !== 0) return difference
    }
  }
  const [mine, other] = [Object.keys(a.refusals).length, Object.keys(b.refusals).length]
  return mine - other || (excess.get(a.id) ?? 0) - (excess.get(b.id) ?? 0) || (a.id < b.id ? -1 : 1)
}

/** As JSON has it; no `-0`. */
function finite(value: number): number {
  return Number.isFinite(value) ? value || 0 : Math.sign(value) * 1e15 || 0
}
