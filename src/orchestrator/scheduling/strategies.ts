import type { Strategy } from '../spec.ts'
import type { Candidate } from './candidate.ts'
import { DIMENSIONS } from './capacity.ts'
import type { Work } from './schedule.ts'

/** Scores are compared from the first number on; larger is better. `why` is for people. */
export interface Score {
  score: readonly number[]
  why: string
}

export type Scorer = (work: Work, candidate: Candidate) => Score

/** Fewest instances of the same service, then fewest instances a node: what fails together is apart. */
const spread: Scorer = ({ spec }, candidate) => {
  const siblings = candidate.perService.get(spec.id) ?? 0
  const load = candidate.instances / candidate.nodes
  return {
    score: [-siblings, -load, share(candidate)],
    why: `${siblings} instances of the service there, ${round(load)} instances a node`,
  }
}

/** The fullest that still fits, so that large holes stay for large work; siblings apart where it makes no difference. */
const bestFit: Scorer = ({ spec }, candidate) => {
  const siblings = candidate.perService.get(spec.id) ?? 0
  const free = share(candidate)
  return { score: [-free, -siblings, -candidate.instances], why: `${round(free * 100)} % of it is free` }
}

/** A strategy is one function and one line here. */
export const STRATEGIES: Readonly<Record<Strategy, Scorer>> = { spread, 'best-fit': bestFit }

/** How much of what it has is free, 0 to 1, over the dimensions it has. */
function share({ total, free }: Candidate): number {
  const has = DIMENSIONS.filter((dimension) => total[dimension] > 0)
  if (has.length === 0) return 1
  return has.reduce((sum, dimension) => sum + free[dimension] / total[dimension], 0) / has.length
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}
