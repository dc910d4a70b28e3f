import { join } from 'node:path'
import { fingerprints } from '../../core/identity/authorities.ts'
import { Authority } from '../../core/identity/authority.ts'
import type { Principal } from '../../core/identity/contract.ts'
import { HeldIdentity } from '../../core/identity/held.ts'
import { keepRenewed } from '../../core/identity/keep-renewed.ts'
import { createRequest } from '../../core/identity/keys.ts'
import { background } from '../../core/kit/background.ts'
import { systemClock, type Clock } from '../../core/kit/clock.ts'
import type { Lifetime } from '../../core/kit/lifetime.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Metrics } from '../../core/metrics.ts'
import { JoinTokens } from '../link/join-tokens.ts'
import { ClusterIssuer } from './cluster-issuer.ts'
import { Events } from './events/events.ts'
import { Audit } from './people/audit.ts'
import { Oidc } from './people/oidc.ts'
import { LOOK_MS, OpenRequests } from './people/open-requests.ts'
import { Passwords } from './people/passwords.ts'
import { People } from './people/people.ts'
import { RevocationRegister } from './revocation-register.ts'
import type { RootOptions } from './root-options.ts'
import { RootStore } from './root-store.ts'
import { Secrets } from './secrets.ts'
import { Vips } from './vips.ts'

/** Of addresses that have rested, so many are forgotten so often. More at a time holds up what else the root does. */
const FORGET_MS = 10_000
const FORGET_VIPS = 1_000

export type RootState = Awaited<ReturnType<typeof openState>>

/** The store, and the authority with the root's own certificate. */
export async function openState(life: Lifetime, options: RootOptions, parentLog: Log, metrics: Metrics) {
  const {
    dir,
    clock = systemClock,
    version = '0.0.0',
    vipRestSeconds = 3_600,
    certificateGraceDays: graceDays,
    oidc,
  } = options
  const log = parentLog.child({ part: 'root' })
  const store = life.use(RootStore.open(dir))
  const events = life.use(await Events.open({ dir, clock, log }))
  const vips = new Vips(store.vips, vipRestSeconds * 1_000, clock)
  store.database.onRollback(() => vips.reload())
  const forget = () => store.database.transaction(() => void vips.forgetRested(FORGET_VIPS))
  life.every(FORGET_MS, async () => forget(), 'addresses of services that are gone')
  const authority = await Authority.open(join(dir, 'authority'), clock)
  const identity = await rootIdentity(authority, clock)
  const renew = (csr: string) => authority.issue(csr, identity.principal)
  keepRenewed(life, identity, { renew, log, name: 'root certificate renewal' })
  const { mesh } = authority
  const people = new People(store, clock)
  const openRequests = new OpenRequests(people)
  const audit = new Audit({ kept: store.audit, together: (work) => store.database.transaction(work), clock, log })
  const loading = background.run('loading the audit log', () => audit.load(life.signal))
  life.defer(() => loading)
  life.every(LOOK_MS, async () => openRequests.check(), 'what is open to whoever may no longer')
  return {
    store,
    events,
    people,
    passwords: new Passwords(() => clock.now()),
    oidc: oidc && new Oidc(oidc, { people, store, clock }),
    audit,
    openRequests,
    secrets: new Secrets(dir, store, clock),
    authority,
    identity,
    mesh,
    vips,
    joinTokens: new JoinTokens(store.database, {
      role: 'cluster',
      fingerprints: () => fingerprints(authority.trusted, authority.ids.signs),
      clock,
    }),
    issuer: new ClusterIssuer(authority, store, clock),
    revocations: new RevocationRegister({ entries: store.revocations, numbers: store.counters }, authority, {
      clock,
      log,
    }),
    clock,
    graceDays,
    version,
    log,
    metrics,
  }
}

async function rootIdentity(authority: Authority, clock: Clock): Promise<HeldIdentity> {
  const principal: Principal = { role: 'root', mesh: authority.mesh }
  const { keyPem, csrPem } = await createRequest(principal)
  return HeldIdentity.inMemory(
    { keyPem, chain: await authority.issue(csrPem, principal), ca: authority.trusted },
    clock,
  )
}
