import type { Clock } from '../../core/kit/clock.ts'
import type { Strategies } from '../scheduling/strategies.ts'
import type { OidcOptions } from './people/oidc.ts'

export interface RootOptions {
  /** The state directory; created when it does not exist. */
  dir: string
  listen: { host: string; port: number }
  /** The URL at which clusters and people reach it, when that is not the listen address. */
  publicUrl?: string
  /** How long a freed VIP is not given to another service. */
  vipRestSeconds?: number
  /** When a cluster's link has been down for this long, its instances are placed on other clusters that have room. */
  clusterLostSeconds?: number
  /** For this long a request of the API waits for the link of its cluster; 6 s by default. */
  clusterReturnMs?: number
  /** For this many days after its expiry a cluster's certificate can still be renewed; 30 by default. */
  certificateGraceDays?: number
  /** Strategies beside those that are built in; every cluster needs them too. */
  strategies?: Strategies
  /** The identity provider by which people may log in. */
  oidc?: OidcOptions
  version?: string
  clock?: Clock
}
