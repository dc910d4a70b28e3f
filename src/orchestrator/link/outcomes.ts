import { ERRORS, isMeshError, MeshError, type ErrorCode } from '../../core/errors.ts'
import { inSlices } from '../../core/kit/slices.ts'
import type { Assignment } from '../spec.ts'
import type { Outcome } from './gathered.ts'
import type { WireOutcome } from './messages/both.ts'

/** What became of each of many, as it is sent; nothing is told of an error that is a bug here. */
export async function wireOutcomes<T>(
  items: readonly T[],
  ask: (item: T) => Promise<{ moved?: boolean } | void>,
): Promise<WireOutcome[]> {
  const accepted = (value: { moved?: boolean } | void): WireOutcome => (value?.moved === true ? { moved: true } : {})
  const refused = (reason: unknown): WireOutcome => ({
    error: isMeshError(reason) ? { code: reason.code, details: reason.details } : { code: 'REQUEST_FAILED' },
  })
  return Promise.all(await inSlices(items, (item) => ask(item).then(accepted, refused)))
}

/** The same, as the asker takes it. */
export function outcomeOf({ error, moved }: WireOutcome): Outcome<{ moved?: boolean }> {
  if (error === undefined) return { value: moved === undefined ? {} : { moved } }
  return { error: errorFrom(error) }
}

/** An error as a peer sent it; of a code that only the peer knows, the code is kept. */
export function errorFrom({ code, details }: { code: string; details?: Readonly<Record<string, unknown>> }): MeshError {
  const isKnown = Object.hasOwn(ERRORS, code)
  return new MeshError(isKnown ? (code as ErrorCode) : 'REQUEST_FAILED', { ...details, ...(isKnown ? {} : { code }) })
}

/** About; what can make it large is counted. */
export function bytesOf({ spec }: Assignment): number {
  const texts = [...spec.cmd, ...spec.environment, ...spec.allow, ...spec.connectivity]
  return texts.reduce(
    (sum, text) => sum + text.length + 3,
    1_000 + 200 * (spec.constraints.length + (spec.prefersNear?.length ?? 0)),
  )
}
