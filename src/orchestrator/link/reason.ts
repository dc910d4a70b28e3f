import { explain, isMeshError } from '../../core/errors.ts'

/** Why a peer refused, short enough to be passed on. */
export function reasonOf(error: unknown): string {
  const reason = isMeshError(error) ? error.details['reason'] : undefined
  return (typeof reason === 'string' ? reason : explain(error)).slice(0, 500)
}
