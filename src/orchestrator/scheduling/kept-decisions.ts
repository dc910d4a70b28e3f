import { LateCollection, type LateParts } from '../../core/kit/late-collection.ts'
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

/** The decisions that gave instances their places, for people: the newest of each instance, the oldest forgotten. On disk a moment later. */
export class KeptDecisions implements Disposable {
  readonly #kept: LateCollection<KeptDecision>
  /** The oldest first; what an earlier process has kept, by name. */
  readonly #ids: Set<InstanceId>

  /** `isThere`: an instance that is not is forgotten; a crash may have come before that. */
  constructor(parts: LateParts<KeptDecision> & { isThere: (id: InstanceId) => boolean }) {
    this.#kept = new LateCollection(parts)
    this.#ids = new Set(parts.saved.keys())
    for (const id of this.#ids) if (!parts.isThere(id)) this.forget(id)
  }

  keep(id: InstanceId, decision: Placed, { at, candidates, request, rules = RULES }: Made): void {
    const some = candidates.length <= CANDIDATES ? candidates : sample(candidates, decision.candidate)
    const explanation = explained(decision, { request, candidates: some, rules, most: CANDIDATES })
    const refused = Object.values(decision.reasons).reduce((sum, count) => sum + count, 0)
    const { length } = candidates
    this.#kept.put(id, { ...explanation, candidates: length, fit: length - refused, at })
    this.#ids.delete(id)
    this.#ids.add(id)
    for (const oldest of this.#ids) {
      if (this.#ids.size <= MOST) break
      this.forget(oldest)
    }
  }

  get(id: InstanceId): KeptDecision | undefined {
    return this.#ids.has(id) ? this.#kept.get(id) : undefined
  }

  forget(id: InstanceId): void {
    if (this.#ids.delete(id)) this.#kept.delete(id)
  }

  [Symbol.dispose](): void {
    this.#kept[Symbol.dispose]()
  }
}

/** The chosen one, and the first others: to judge each of thousands would take longer than the decision. */
function sample(candidates: readonly Candidate[], chosen: Candidate): Candidate[] {
  const others = candidates.filter((candidate, at) => at < CANDIDATES && candidate !== chosen)
  return [chosen, ...others.slice(0, CANDIDATES - 1)]
}
