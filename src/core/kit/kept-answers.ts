/** Answers that are kept. Smaller asks again where several are asked for in turns. */
const MOST = 4

/**
 * The same function, for one that is pure, costs much and is asked the same again and again: its newest answers are kept. They are shared, so
 * they are not to be changed.
 */
export function keptAnswers<A extends readonly unknown[], R>(work: (...args: A) => R): (...args: A) => R {
  const kept: { args: A; answer: R }[] = []
  return (...args) => {
    const known = kept.find((one) => one.args.every((arg, i) => arg === args[i]))
    if (known !== undefined) return known.answer
    const answer = work(...args)
    kept.unshift({ args, answer })
    kept.length = Math.min(kept.length, MOST)
    return answer
  }
}
