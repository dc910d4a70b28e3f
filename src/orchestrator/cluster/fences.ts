import type { ServiceSpec } from '../spec.ts'

/**
 * From the end of a lease until nothing of the program is left: the guard looks every second, starts Node, SIGTERM, SIGKILL after five
 * seconds (worker/lease-end.ts). Smaller risks that it runs twice on a slow machine; larger leaves the service away for longer.
 */
const END_MS = 10_000
/** Clocks of two machines run apart by less than this. */
const DRIFT = 0.001

/** How long a node must have been away until nothing with such a lease runs there; `undefined` for what has none. */
export function fenceMs({ leaseSeconds }: Pick<ServiceSpec, 'leaseSeconds'>): number | undefined {
  return leaseSeconds === undefined ? undefined : Math.ceil(leaseSeconds * 1_000 * (1 + DRIFT)) + END_MS
}
