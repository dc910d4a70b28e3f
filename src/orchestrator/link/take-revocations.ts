import type { Identity } from '../../core/identity/contract.ts'
import type { Log } from '../../core/kit/log.ts'

/** Takes a list of revoked certificates that came over a link; one that cannot be read is logged, and changes nothing. */
export function takeRevocations(
  list: string | undefined,
  { identity, log }: { identity: Pick<Identity, 'revocations'>; log: Log },
): void {
  if (list === undefined) return
  try {
    identity.revocations.offer(list)
  } catch (error) {
    log.warn('list of revoked certificates ignored', { error })
  }
}
