/** Answers that are kept. Smaller asks again where several are asked for in turns. */
const MOST = 4

/**
 * The same function, for one that is pure, costs much and is asked the same again and again: the answers that were asked for last are kept. They are shared, so
 * they are not to be changed.
 */
export function keptAnswers<A extends readonly unknown[], R>(work: (...args: A) => R): (...args: A) => R {
  const kept: { args: A; answer: R }[] = []
  return (...args) => {
    const at = kept.findIndex((one) => one.args.every((arg, i) => arg === args[i]))
    const [known] = at < 0 ? [] : kept.splice(at, 1)
    const found = known ?? { args, answer: work(...args) }
    kept.unshift(found)
    kept.length = Math.min(kept.length, MOST)
    return found.answer
  }
}
