import { explain, isMeshError } from '../../core/errors.ts'

/** Why the other side said no, short enough to be told onwards. */
export function reasonOf(error: unknown): string {
  const reason = isMeshError(error) ? error.details['reason'] : undefined
  return (typeof reason === 'string' ? reason : explain(error)).slice(0, 500)
}
