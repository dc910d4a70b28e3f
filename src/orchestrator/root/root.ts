import { join } from 'node:path'
import Type from 'typebox'
import { MeshError } from '../../core/errors.ts'
import { authoritiesAnswer, fingerprints } from '../../core/identity/authorities.ts'
import { Authority } from '../../core/identity/authority.ts'
import type { Principal } from '../../core/identity/contract.ts'
import { provenInGrace } from '../../core/identity/grace.ts'
import { HeldIdentity } from '../../core/identity/held.ts'
import { keepRenewed } from '../../core/identity/keep-renewed.ts'
import { createRequest } from '../../core/identity/keys.ts'
import { background } from '../../core/kit/background.ts'
import { systemClock, type Clock } from '../../core/kit/clock.ts'
import { Lifetime } from '../../core/kit/lifetime.ts'
import type { Log } from '../../core/kit/log.ts'
import { WebSocketAcceptor } from '../../core/kit/websocket-acceptor.ts'
import type { Metrics } from '../../core/metrics.ts'
import { admit } from '../link/admission.ts'
import { JoinTokens } from '../link/join-tokens.ts'
import { type App, LinkServer, reader, type Upgrade } from '../link/link-server.ts'
import { Csr, Pem } from '../link/schemas.ts'
import { rulesWith } from '../scheduling/schedule.ts'
import type { Strategies } from '../scheduling/strategies.ts'
import { openAdmin, refreshAdmin } from './admin.ts'
import { apiRoutes } from './api.ts'
import { v1Routes } from './v1/routes.ts'
import { LiveRows, TICK_MS } from './v1/watch/live-rows.ts'
import { Events } from './events/events.ts'
import { ClusterMessages } from './cluster-messages.ts'
import { ClusterIssuer } from './cluster-issuer.ts'
import { Clusters } from './clusters.ts'
import { ExecCommands } from './exec-commands.ts'
import { refuseDuplicateKeys } from './json-body.ts'
import { LargeSubmissions } from './large-submission.ts'
import { NodeDirectory } from './node-directory.ts'
import { pageRoutes } from './page.ts'
import { admitRequest } from './people/callers.ts'
import { Audit } from './people/audit.ts'
import { Oidc, type OidcOptions } from './people/oidc.ts'
import { LOOK_MS, OpenRequests } from './people/open-requests.ts'
import { Passwords } from './people/passwords.ts'
import { People } from './people/people.ts'
import { View } from './people/view.ts'
import { Reconciler } from './reconciler.ts'
import { RevocationRegister } from './revocation-register.ts'
import { RootStore } from './root-store.ts'
import { showServices } from './service-metrics.ts'
import { Rotation } from './rotation.ts'
import { Secrets } from './secrets.ts'
import { changeStore, idOf } from './submission.ts'
import { Links } from './links.ts'
import { Usages } from './usages.ts'
import { mendVips } from './vip-requests.ts'
import { Vips } from './vips.ts'

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

/** How often a rotation is continued and failed placements are retried, which also happens whenever capacity changes. */
const RETRY_MS = 2_000
/** A cluster dials again within 5 s. Smaller refuses what would go a moment later; larger tells later that a cluster is down. */
const RETURN_MS = 6_000
/** How often due jobs are searched for; a run begins up to this late. */
const DUE_MS = 1_000
/** Of addresses that have rested, so many are forgotten so often. More at a time holds up what else the root does. */
const FORGET_MS = 10_000
const FORGET_VIPS = 1_000
const readEnrol = reader(
  Type.Object({ token: Type.String({ maxLength: 4_096 }), csr: Csr }, { additionalProperties: false }),
)
const readRenewal = reader(Type.Object({ csr: Csr, chain: Pem }, { additionalProperties: false }))

/**
 * The top tier: it holds the certificate authority of the mesh and what should run, and chooses a cluster for each instance.
 *
 *     document ─▶ submission (one transaction) ─▶ reconciler ─▶ cluster links ─▶ reports ─▶ entries ─▶ clusters that asked
 */
export class Root implements AsyncDisposable {
  readonly url: string
  readonly mesh: string
  readonly #life: Lifetime
  readonly #parts: Running

  private constructor(life: Lifetime, parts: Running) {
    this.#life = life
    this.#parts = parts
    this.url = parts.server.url
    this.mesh = parts.authority.mesh
  }

  /** The certificates that members trust, PEM. */
  get ca(): string {
    return this.#parts.authority.trusted
  }

  /** SHA-256 of the certificate of the authority that signs, hex. */
  get fingerprint(): string {
    return this.#parts.authority.fingerprint
  }

  /** @throws MeshError STATE_UNREADABLE, STATE_CORRUPT, LISTEN_FAILED */
  static start(options: RootOptions, log: Log, metrics: Metrics): Promise<Root> {
    return Lifetime.open(async (life) => {
      const state = await openState(life, options, log, metrics)
      const scheduling = startScheduling(life, state, options)
      const server = await startServer(life, { ...state, ...scheduling }, options)
      const { authority } = state
      scheduling.openCredential(server.url)
      life.every(RETRY_MS, () => scheduling.rotation.issueWhenReady(), 'rotation of the authority')
      life.every(RETRY_MS, () => scheduling.reconciler.retry(), 'placement retry at the root')
      life.every(DUE_MS, () => scheduling.reconciler.runDue(), 'schedules of jobs')
      scheduling.reconciler.retry()
      showServices(life, { ...state, ...scheduling })
      state.log.info('root started', { address: server.url, mesh: authority.mesh })
      return new Root(life, { ...state, ...scheduling, server })
    })
  }

  /** A token with which the cluster of this name may join, for programs that run root and cluster together. */
  clusterToken(name: string, ttlSeconds = 3_600): string {
    return this.#parts.joinTokens.mint(this.url, name, ttlSeconds).token
  }

  /** For `/readyz`. */
  ready(): Record<'store' | 'api', boolean> {
    return { store: this.#parts.store.database.isOpen, api: this.#parts.server.isOpen }
  }

  /** When the root’s own certificate ends. */
  get certificateUntil(): Date {
    return this.#parts.identity.notAfter
  }

  /** A copy of the store under a path that does not exist. @throws MeshError DISK_FULL, STATE_UNREADABLE */
  copyStore(path: string): Promise<void> {
    return this.#parts.store.database.copyTo(path)
  }

  /** Names of the clusters whose link is up. */
  get linkedClusters(): string[] {
    return Array.from(this.#parts.clusters.all(), ({ name }) => name)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}

type State = Awaited<ReturnType<typeof openState>>
type Scheduling = ReturnType<typeof startScheduling>
type Running = State & Scheduling & { server: LinkServer }

/** The store, and the authority with the root's own certificate. */
async function openState(life: Lifetime, options: RootOptions, parentLog: Log, metrics: Metrics) {
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

/** The clusters, as far as their links are up, and what places instances on them. */
function startScheduling(life: Lifetime, state: State, options: RootOptions) {
  const { dir, clusterLostSeconds = 30, clusterReturnMs: returnMs = RETURN_MS, strategies } = options
  const rules = rulesWith(strategies)
  const { store, clock, log, metrics } = state
  const pending = () => store.database.pending
  const linking = { clock, lostMs: clusterLostSeconds * 1_000, returnMs, pending }
  const clusters = new Clusters(linking, store.clusters.keys(), log, metrics)
  const reconciler = new Reconciler({ ...state, clusters, rules })
  const large = new LargeSubmissions(state)
  const nodes = new NodeDirectory({ store, clusters, clock, log })
  let url = ''
  const facts = () => ({ url, ca: state.authority.trusted })
  const openCredential = (at: string) => {
    url = at
    openAdmin(dir, facts(), store)
  }
  const rotation = new Rotation({ ...state, clusters, nodes }, () => refreshAdmin(dir, facts(), store))
  const messages = new ClusterMessages({ ...state, clusters, nodes, reconciler, rotation })
  life.defer(() => messages.close())
  clusters.listen(messages)
  life.defer(() => reconciler.close())
  life.defer(() => large.close())
  life.defer(() => nodes.close())
  life.defer(() => rotation.close())
  const mended = changeStore(state, () => mendVips(state))
  if (mended.length > 0) log.warn('addresses reassigned after a conflict in the saved state', { services: mended })
  for (const service of mended) reconciler.publish(service)
  resumeLarge(large, reconciler, log)
  return { rules, clusters, nodes, reconciler, large, rotation, openCredential }
}

/** A document that an earlier process had accepted and not applied to its end. */
function resumeLarge(large: LargeSubmissions, reconciler: Reconciler, log: Log): void {
  large.resume().then(
    (changes) => {
      if (changes.length > 0) log.info('a document is applied to its end', { count: changes.length })
      for (const change of changes) {
        reconciler.publish(idOf(change))
        reconciler.touch(idOf(change))
      }
    },
    (error: unknown) => log.error('a document cannot be applied to its end', { error }),
  )
}

/** The one port of the root: the API, links of clusters, joining. */
async function startServer(
  life: Lifetime,
  parts: State & Scheduling,
  { listen, publicUrl }: RootOptions,
): Promise<LinkServer> {
  const { identity, store, people, clusters, reconciler, log } = parts
  const live = new LiveRows(parts)
  life.every(TICK_MS, () => live.tick(), 'rows that are watched')
  const usages = new Usages(clusters, parts.clock)
  const links = new Links(clusters, parts.clock)
  const commands = life.use(new ExecCommands())
  const server = life.use(
    await LinkServer.start(
      {
        ...listen,
        identity,
        ...(publicUrl === undefined ? {} : { publicUrl }),
        pending: () => store.database.pending,
        authenticate: (request) => admitRequest(request, people, store),
        upgrades: { '/link': linkUpgrade(clusters, store) },
        routes: (app, server) => {
          const view = new View(people.admin(), people)
          const context = { ...parts, server, live, view, commands, usages, links, startedAt: parts.clock.now() }
          for (const [prefix, routes] of [
            ['/v1', v1Routes],
            ['/api/v1', apiRoutes],
          ] as const) {
            void app.register(
              (scope, _options, done) => {
                refuseDuplicateKeys(scope as App)
                routes(scope as App, context)
                done()
              },
              { prefix },
            )
          }
          openRoutes(app, parts)
          pageRoutes(app)
        },
      },
      log,
    ),
  )
  life.defer(async () => {
    const idle = reconciler.close() // first: otherwise it would move the instances of each cluster that closes to the next one
    clusters.close()
    await idle
  })
  return server
}

async function rootIdentity(authority: Authority, clock: Clock): Promise<HeldIdentity> {
  const principal: Principal = { role: 'root', mesh: authority.mesh }
  const { keyPem, csrPem } = await createRequest(principal)
  return HeldIdentity.inMemory(
    { keyPem, chain: await authority.issue(csrPem, principal), ca: authority.trusted },
    clock,
  )
}

function linkUpgrade(clusters: Clusters, store: RootStore): Upgrade {
  const webSockets = new WebSocketAcceptor()
  return (request, socket, head, { principal, enrolment }) => {
    if (principal.role !== 'cluster')
      throw new MeshError('FORBIDDEN', { reason: 'only clusters may open a control link to the root' })
    const { cluster } = principal
    refuseReplaced(cluster, enrolment, store)
    webSockets.acceptText({ request, socket, head, peer: cluster }, (channel) => clusters.accept(cluster, channel))
  }
}

/** A name belongs to the cluster that joined under it last; certificates of an earlier enrolment can no longer open a link. */
function refuseReplaced(cluster: string, enrolment: string, store: RootStore): void {
  const record = store.clusters.get(cluster)
  if (record === undefined) throw new MeshError('CLUSTER_UNKNOWN', { cluster })
  if (record.enrolment !== enrolment)
    throw new MeshError('FORBIDDEN', { cluster, reason: 'another cluster has joined under this name since' })
}

/** If two clusters join under one name at the same time, the first wins. For this long the name stays its own, even without a link. */
const JUST_JOINED_MS = 30_000

function refuseIfTaken(cluster: string, { clusters, store, clock }: State & Scheduling): void {
  const refuse = (reason: string) => {
    throw new MeshError('TOKEN_REFUSED', {
      cluster,
      reason,
      remedy: 'Create a token for another name with --cluster NAME.',
    })
  }
  if (clusters.linked(cluster) !== undefined) refuse('a cluster of this name is connected')
  const joinedAt = store.clusters.get(cluster)?.enrolledAt ?? -Infinity
  if (Math.abs(clock.wall() - joinedAt) < JUST_JOINED_MS) refuse('another cluster has just joined under this name')
}

/** The routes that need no credentials: health, the mesh's authority, renewal and joining, which bring their own proof. */
function openRoutes(app: App, parts: State & Scheduling): void {
  const { authority, identity, issuer, store, joinTokens, clock, graceDays } = parts
  const open = { config: { open: true } } as const
  app.get('/healthz', open, () => ({ status: 'ok' }))
  app.get('/ca', open, () => ({
    mesh: authority.mesh,
    ...authoritiesAnswer(authority.trusted, authority.ids.signs),
  }))
  app.post('/renew', { ...open, bodyLimit: 65_536 }, async ({ body, raw }) => {
    const { csr, chain } = readRenewal(body)
    const grace = { now: clock.wall(), ...(graceDays === undefined ? {} : { graceDays }) }
    const { principal, enrolment } = provenInGrace(raw.socket, chain, identity, grace)
    if (principal.role !== 'cluster')
      throw new MeshError('FORBIDDEN', { reason: 'the root issues certificates to clusters' })
    refuseReplaced(principal.cluster, enrolment, store)
    return { chain: await issuer.renew(principal.cluster, csr) }
  })
  app.post('/enrol', { ...open, bodyLimit: 16_384 }, async ({ body }) => {
    const { token, csr } = readEnrol(body)
    const {
      subject: name,
      chain,
      isNew,
    } = await admit(
      joinTokens,
      { token, request: csr },
      {
        refuseIfTaken: (cluster) => refuseIfTaken(cluster, parts),
        enrolmentOf: (cluster) => store.clusters.get(cluster)?.enrolment,
        sign: (cluster, enrolment) => issuer.issue(cluster, csr, enrolment),
        record: (cluster, enrolment, chain) => issuer.enrolled(cluster, enrolment, chain),
      },
    )
    if (!isNew) issuer.renewed(name, chain)
    return { chain, ca: authority.ca, name }
  })
}
