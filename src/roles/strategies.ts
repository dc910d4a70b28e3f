import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { MeshError } from '../core/errors.ts'
import type { Scorer, Strategies } from '../orchestrator/scheduling/strategies.ts'
import { STRATEGY_WORDS } from '../orchestrator/spec.ts'

/*
 * Strategies from modules that the configuration names. The default export of each is one strategy, { name, score, why }.
 */

const NAME = /^[a-z][a-z0-9-]{0,62}$/
/** A strategy that returns more numbers than this is mistaken. */
const MOST_NUMBERS = 16

/** @throws MeshError CONFIG_INVALID */
export async function loadStrategies(paths: readonly string[]): Promise<Strategies> {
  const loaded: Record<string, Scorer> = {}
  for (const path of paths) {
    const { name, ...scorer } = strategyIn(path, await moduleAt(path))
    if (Object.hasOwn(loaded, name) || (STRATEGY_WORDS as readonly string[]).includes(name))
      throw invalid(path, `there is a strategy ${name} already`)
    loaded[name] = scorer
  }
  return loaded
}

async function moduleAt(path: string): Promise<unknown> {
  try {
    const module = (await import(pathToFileURL(resolve(path)).href)) as { default?: unknown }
    return module.default
  } catch (cause) {
    throw invalid(path, cause instanceof Error ? cause.message : String(cause), cause)
  }
}

function strategyIn(path: string, found: unknown): Scorer & { name: string } {
  const { name, score, why } = (typeof found === 'object' && found !== null ? found : {}) as Record<string, unknown>
  if (typeof name !== 'string' || !NAME.test(name))
    throw invalid(path, 'its default export needs a name such as lowest-carbon')
  if (typeof score !== 'function') throw invalid(path, `the strategy ${name} has no function score(request, candidate)`)
  if (why !== undefined && typeof why !== 'function')
    throw invalid(path, `why of the strategy ${name} is not a function`)
  return { name, ...guarded(name, score as Scorer['score'], why as Scorer['why'] | undefined) }
}

/** One that throws, or returns what is not numbers, puts the candidate last: it must not stop placement. */
function guarded(name: string, score: Scorer['score'], why?: Scorer['why']): Scorer {
  const failed = [Number.NEGATIVE_INFINITY]
  return {
    score(request, candidate) {
      try {
        const numbers: unknown = score(request, candidate)
        const isRight = Array.isArray(numbers) && numbers.length <= MOST_NUMBERS
        return isRight && numbers.every((each) => typeof each === 'number' && !Number.isNaN(each)) ? numbers : failed
      } catch {
        return failed
      }
    },
    why(request, candidate) {
      try {
        const text: unknown = why?.(request, candidate)
        return typeof text === 'string' ? text.slice(0, 500) : `best by ${name}`
      } catch {
        return `best by ${name}`
      }
    },
  }
}

function invalid(path: string, problem: string, cause?: unknown): MeshError {
  return new MeshError('CONFIG_INVALID', { path, problem }, cause === undefined ? {} : { cause })
}
