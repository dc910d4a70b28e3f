import type { Lifetime } from '../kit/lifetime.ts'
import type { HeldIdentity } from './held.ts'
import type { RenewOptions } from './renewal.ts'

/**
 * Renews a certificate for as long as its owner lives: at two thirds of its life, then with backoff until it works. `name` is the
 * loop's name in metrics and in `check`.
 */
export function keepRenewed(
  life: Lifetime,
  identity: Pick<HeldIdentity, 'renewLoop'>,
  { renew, log, name }: Required<Pick<RenewOptions, 'renew' | 'log'>> & { name: string },
): void {
  life.spawn((signal) => identity.renewLoop({ renew, log }, signal), name)
}
