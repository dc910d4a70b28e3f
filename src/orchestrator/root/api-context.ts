import type { Authority } from '../../core/identity/authority.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import type { JoinTokens } from '../link/join-tokens.ts'
import type { LinkServer } from '../link/link-server.ts'
import type { Rules } from '../scheduling/schedule.ts'
import type { Events } from './events/events.ts'
import type { Clusters } from './clusters.ts'
import type { ExecCommands } from './exec-commands.ts'
import type { NodeDirectory } from './node-directory.ts'
import type { LargeSubmissions } from './large-submission.ts'
import type { Reconciler } from './reconciler.ts'
import type { Audit } from './people/audit.ts'
import type { Oidc } from './people/oidc.ts'
import type { OpenRequests } from './people/open-requests.ts'
import type { Passwords } from './people/passwords.ts'
import type { People } from './people/people.ts'
import type { View } from './people/view.ts'
import type { RevocationRegister } from './revocation-register.ts'
import type { Links } from './links.ts'
import type { Rotation } from './rotation.ts'
import type { Secrets } from './secrets.ts'
import type { RootStore } from './root-store.ts'
import type { Usages } from './usages.ts'
import type { Vips } from './vips.ts'
import type { Live } from './v1/watch/live.ts'

/** What the API reads and changes. */
export interface ApiContext {
  store: RootStore
  vips: Vips
  clusters: Clusters
  nodes: NodeDirectory
  reconciler: Reconciler
  rules: Rules
  large: LargeSubmissions
  joinTokens: JoinTokens
  revocations: RevocationRegister
  authority: Pick<Authority, 'ids' | 'step'>
  rotation: Rotation
  mesh: string
  version: string
  server: LinkServer
  events: Events
  secrets: Secrets
  commands: ExecCommands
  usages: Usages
  links: Pick<Links, 'list'>
  live: Live
  people: People
  passwords: Passwords
  /** Where it is configured. */
  oidc: Oidc | undefined
  audit: Audit
  openRequests: OpenRequests
  /** What whoever asks may see; everything else here holds no more than that (people/scoped.ts). */
  view: View
  clock: Clock
  log: Log
  /** By the clock. */
  startedAt: number
}

/** A route with the id of one thing in its path. */
export type Id = { Params: { id: string } }
