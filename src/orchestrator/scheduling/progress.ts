import type { ServiceSpec } from '../spec.ts'

/** One that crashes this often before it was ready once is not slow but broken. */
export const HOPELESS_RESTARTS = 3

/** As Kubernetes and Nomad do. Smaller gives up programs that start slowly; larger says later that an update or a move has failed. */
const PROGRESS_SECONDS = 600

/** How long a new run may take to get ready. */
export function progressMsOf({ update = {} }: Pick<ServiceSpec, 'update'>): number {
  return (update.progressSeconds ?? PROGRESS_SECONDS) * 1_000
}
