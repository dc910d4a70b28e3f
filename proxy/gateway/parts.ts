import type { InterceptParts } from '../intercept/interceptor.ts'
import type { RefusalLog } from '../intercept/refusal-log.ts'
import type { Naming } from '../intercept/target-of.ts'
import type { ClientLimits } from './client-limits.ts'

/** What the agent gives. Strangers are no programs of this machine: `sources` is not asked. */
export interface GatewayNeeds extends InterceptParts, Naming {}

/** What its ports share. */
export interface GatewayParts extends GatewayNeeds {
  readonly limits: ClientLimits
  readonly refusals: RefusalLog
}
