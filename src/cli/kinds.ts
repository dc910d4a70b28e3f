import { MeshError } from '../core/errors.ts'
import { nearest } from '../core/kit/suggest.ts'

/** A kind of thing as it was typed, in singular or plural. @throws MeshError USAGE */
export function kindOf<K extends string>(given: string, kinds: readonly K[]): K {
  const word = given.toLowerCase()
  const found = kinds.find((kind) => kind === word || kind === `${word}s` || `${kind}s` === word)
  if (found !== undefined) return found
  const near = nearest(word, kinds)
  const remedy = near === undefined ? `Use one of: ${kinds.join(', ')}.` : `Did you mean ${near}?`
  throw new MeshError('USAGE', { kind: given, remedy })
}
