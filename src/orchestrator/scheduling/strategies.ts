import type { Strategy } from '../spec.ts'
import type { Candidate } from './candidate.ts'
import { DIMENSIONS } from './capacity.ts'
import type { Work } from './schedule.ts'

export interface Scorer {
  /** Compared from the first number on; larger is better. */
  score(work: Work, candidate: Candidate): readonly number[]
  /** Of the one that was chosen, for people. */
  why(work: Work, candidate: Candidate): string
}

/** Fewest instances of the same service, then fewest instances a node: what fails together is apart. */
const spread: Scorer = {
  score: (work, candidate) => [-siblings(work, candidate), -load(candidate), share(candidate)],
  why: (work, candidate) =>
    `${siblings(work, candidate)} instances of the service there, ${round(load(candidate))} instances a node`,
}

/** The fullest that still fits, so that large holes stay for large work; siblings apart where it makes no difference. */
const bestFit: Scorer = {
  score: (work, candidate) => [-share(candidate), -siblings(work, candidate), -load(candidate)],
  why: (_, candidate) => `${round(share(candidate) * 100)} % of it is free`,
}

/** A strategy is one pair of functions and one line here. */
export const STRATEGIES: Readonly<Record<Strategy, Scorer>> = { spread, 'best-fit': bestFit }

function siblings({ spec }: Work, { perService }: Candidate): number {
  return perService.get(spec.id) ?? 0
}

function load({ instances, nodes }: Candidate): number {
  return instances / nodes
}

/** How much of what it has is free, 0 to 1, over the dimensions it has. */
function share({ total, free }: Candidate): number {
  let sum = 0
  let count = 0
  for (const dimension of DIMENSIONS) {
    if (total[dimension] <= 0) continue
    sum += free[dimension] / total[dimension]
    count += 1
  }
  return count === 0 ? 1 : sum / count
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}
