import { BoundedMap } from '../../core/kit/bounded-map.ts'
import type { InstanceId } from '../../core/model/ids.ts'
import type { Candidate } from './candidate.ts'
import { explained, type Explanation } from './explain.ts'
import type { PlacementRequest } from './placement-request.ts'
import { RULES, type Decision, type Rules } from './schedule.ts'

export interface KeptDecision extends Explanation {
  /** Milliseconds since 1970. */
  at: number
}

type Placed = Decision & { kind: 'placed' }

interface Made {
  request: PlacementRequest
  candidates: readonly Candidate[]
  rules?: Rules
  /** Milliseconds since 1970. */
  at: number
}

/** Instances whose decision is kept; one takes about 5 KB. Smaller forgets sooner. */
const MOST = 1_000
/** Candidates that are kept with a decision. Smaller shows fewer; larger costs time with each placement. */
const CANDIDATES = 32

/** The decisions that gave instances their places, for people: in memory only, the newest of each instance, the oldest forgotten. */
export class KeptDecisions {
  readonly #kept = new BoundedMap<InstanceId, KeptDecision>(MOST)

  keep(id: InstanceId, decision: Placed, { at, candidates, request, rules = RULES }: Made): void {
    const some = candidates.length <= CANDIDATES ? candidates : sample(candidates, decision.candidate)
    const explanation = explained(decision, { request, candidates: some, rules, most: CANDIDATES })
    const refused = Object.values(decision.reasons).reduce((sum, count) => sum + count, 0)
    const { length } = candidates
    this.#kept.set(id, { ...explanation, candidates: length, fit: length - refused, at })
  }

  get(id: InstanceId): KeptDecision | undefined {
    return this.#kept.get(id)
  }

  forget(id: InstanceId): void {
    this.#kept.delete(id)
  }
}

/** The chosen one, and the first others: to judge each of thousands would take longer than the decision. */
function sample(candidates: readonly Candidate[], chosen: Candidate): Candidate[] {
  const others = candidates.filter((candidate, at) => at < CANDIDATES && candidate !== chosen)
  return [chosen, ...others.slice(0, CANDIDATES - 1)]
}
