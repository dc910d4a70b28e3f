import { join } from 'node:path'
import Type from 'typebox'
import { MeshError } from '../../core/errors.ts'
import { Authority } from '../../core/identity/authority.ts'
import type { Principal } from '../../core/identity/contract.ts'
import { HeldIdentity } from '../../core/identity/held.ts'
import { createRequest } from '../../core/identity/keys.ts'
import { systemClock, type Clock } from '../../core/kit/clock.ts'
import { Lifetime } from '../../core/kit/lifetime.ts'
import type { Log } from '../../core/kit/log.ts'
import { WebSocketDoor } from '../../core/kit/websocket.ts'
import type { Metrics } from '../../core/metrics.ts'
import { type App, LinkServer, reader, type Upgrade } from '../link/link-server.ts'
import { JoinTokens } from '../link/join-tokens.ts'
import { Csr } from '../link/schemas.ts'
import { authenticate, openAdmin } from './admin.ts'
import { api } from './api.ts'
import { RootStore } from './root-store.ts'
import { Clusters } from './clusters.ts'
import { ClusterMessages } from './cluster-messages.ts'
import { Reconciler } from './reconciler.ts'
import { Vips } from './vips.ts'
import { keepRenewed } from '../../core/identity/keep-renewed.ts'

export interface RootOptions {
  /** The state directory; made when absent. */
  dir: string
  listen: { host: string; port: number }
  /** What clusters and people dial, when it is not the listen address. */
  publicUrl?: string
  /** A freed VIP is not given out again for so long. */
  vipRestSeconds?: number
  /** A cluster whose link is down for so long loses its work, where another has room. */
  clusterLostSeconds?: number
  version?: string
  clock?: Clock
}

/** What does not fit is tried again this often, beside whenever capacity changes. */
const RETRY_MS = 2_000
const readEnrol = reader(
  Type.Object({ token: Type.String({ maxLength: 4_096 }), csr: Csr }, { additionalProperties: false }),
)

interface Parts {
  url: string
  authority: Authority
  joins: JoinTokens
  clusters: Clusters
  ready: () => Record<'store' | 'api', boolean>
}

/**
 * The top tier: the mesh's authority, what is wanted, and which cluster has it.
 *
 *     document ─▶ submission (one transaction) ─▶ reconciler ─▶ cluster links ─▶ reports ─▶ entries ─▶ clusters that asked
 */
export class Root implements AsyncDisposable {
  readonly url: string
  readonly mesh: string
  readonly ca: string
  readonly fingerprint: string
  readonly #life: Lifetime
  readonly #joins: JoinTokens
  readonly #clusters: Clusters
  readonly #ready: Parts['ready']

  private constructor(life: Lifetime, parts: Parts) {
    const { authority, joins, clusters, ready, url } = parts
    this.#life = life
    this.#ready = ready
    this.url = url
    this.mesh = authority.mesh
    this.ca = authority.ca
    this.fingerprint = authority.fingerprint
    this.#joins = joins
    this.#clusters = clusters
  }

  /** @throws MeshError STATE_UNREADABLE, STATE_CORRUPT, LISTEN_FAILED */
  static start(options: RootOptions, parentLog: Log, metrics: Metrics): Promise<Root> {
    return Lifetime.open(async (life) => {
      const { dir, clock = systemClock, version = '0.0.0', vipRestSeconds = 3_600, clusterLostSeconds = 30 } = options
      const log = parentLog.child({ part: 'root' })
      const store = life.use(RootStore.open(dir))
      const authority = await Authority.open(join(dir, 'authority'), clock)
      const identity = await rootIdentity(authority, clock)
      keepRenewed(life, identity, {
        renew: (csr) => authority.issue(csr, identity.principal),
        log,
        name: 'root certificate renewal',
      })
      const vips = new Vips(store.vips, vipRestSeconds * 1_000, clock)
      const joins = new JoinTokens(store.database, { role: 'cluster', fingerprint: authority.fingerprint, clock })
      const clusters: Clusters = new Clusters(
        {
          clock,
          lostMs: clusterLostSeconds * 1_000,
          requests: (name, link) => conversation.requests(name, link),
          notifications: (name) => conversation.notifications(name),
          onChange: (name) => reconciler.clusterChanged(name),
        },
        store.clusters.keys(),
        log,
        metrics,
      )
      const reconciler: Reconciler = new Reconciler({ store, vips, clusters, clock, log, metrics })
      const conversation = new ClusterMessages({ store, vips, authority, clusters, reconciler, clock, log })
      life.defer(() => reconciler.close())

      let url = options.publicUrl ?? ''
      const routes = api({
        store,
        vips,
        clusters,
        reconciler,
        joins,
        clock,
        version,
        mesh: authority.mesh,
        url: () => url,
        revoke: (node) => conversation.revoke(node),
      })
      const door = life.use(
        await LinkServer.start(
          {
            ...options.listen,
            identity,
            authenticate: (request) => authenticate(request.headers.authorization, store),
            upgrades: { '/link': linkUpgrade(clusters, store) },
            routes: (app) => {
              void app.register(
                (scope, _options, done) => {
                  routes(scope as App)
                  done()
                },
                { prefix: '/api/v1' },
              )
              openRoutes(app, { authority, store, joins, clock })
            },
          },
          log,
        ),
      )
      life.defer(async () => {
        const idle = reconciler.close() // first, or it would look for places among the clusters that are left
        clusters.close()
        await idle
      })
      url ||= door.url
      openAdmin(dir, { url, ca: authority.ca }, store)
      life.every(RETRY_MS, () => reconciler.retry(), 'placement retry at the root')
      reconciler.retry()
      log.info('root started', { address: url, mesh: authority.mesh })
      const ready = () => ({ store: store.database.isOpen, api: door.isOpen })
      return new Root(life, { url, authority, joins, clusters, ready })
    })
  }

  /** A token with which the cluster of this name may join, for who runs both in one program. */
  clusterToken(name: string, ttlSeconds = 3_600): string {
    return this.#joins.mint(this.url, name, ttlSeconds).token
  }

  /** For `/readyz`. */
  ready(): Record<'store' | 'api', boolean> {
    return this.#ready()
  }

  /** Names of the clusters whose link is up. */
  get linkedClusters(): string[] {
    return [...this.#clusters.all()].map(({ name }) => name)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}

async function rootIdentity(authority: Authority, clock: Clock): Promise<HeldIdentity> {
  const principal: Principal = { role: 'root', mesh: authority.mesh }
  const { keyPem, csrPem } = await createRequest(principal)
  return HeldIdentity.inMemory({ keyPem, chain: await authority.issue(csrPem, principal), ca: authority.ca }, clock)
}

function linkUpgrade(clusters: Clusters, store: RootStore): Upgrade {
  const webSockets = new WebSocketDoor()
  return (request, socket, head, principal) => {
    if (principal.role !== 'cluster') throw new MeshError('FORBIDDEN', { reason: 'links to the root are for clusters' })
    const { cluster } = principal
    if (store.clusters.get(cluster) === undefined) throw new MeshError('CLUSTER_UNKNOWN', { cluster })
    webSockets.acceptText(request, socket, head, (channel) => clusters.take(cluster, channel))
  }
}

/** What answers without credentials: life, whom to trust, and joining (with a token). */
function openRoutes(
  app: App,
  { authority, store, joins, clock }: { authority: Authority; store: RootStore; joins: JoinTokens; clock: Clock },
): void {
  const open = { config: { open: true } } as const
  app.get('/healthz', open, () => ({ status: 'ok' }))
  app.get('/ca', open, () => ({ mesh: authority.mesh, fingerprint: authority.fingerprint, ca: authority.ca }))
  app.post('/enrol', { ...open, bodyLimit: 16_384 }, async ({ body }) => {
    const { token, csr } = readEnrol(body)
    const { subject: name } = joins.check(token) // cheap, before anything is signed
    const chain = await authority.issue(csr, { role: 'cluster', mesh: authority.mesh, cluster: name })
    joins.consume(token, () => store.clusters.put(name, { name, enrolledAt: clock.wall() }))
    return { chain, ca: authority.ca, name }
  })
}
