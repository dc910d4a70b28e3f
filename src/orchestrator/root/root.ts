import { MeshError } from '../../core/errors.ts'
import { Lifetime } from '../../core/kit/lifetime.ts'
import type { Log } from '../../core/kit/log.ts'
import { WebSocketAcceptor } from '../../core/kit/websocket-acceptor.ts'
import type { Metrics } from '../../core/metrics.ts'
import { type App, LinkServer, type Upgrade } from '../link/link-server.ts'
import { rulesWith } from '../scheduling/schedule.ts'
import { openAdmin, refreshAdmin } from './admin.ts'
import { apiRoutes } from './api.ts'
import { v1Routes } from './v1/routes.ts'
import { LiveRows, TICK_MS } from './v1/watch/live-rows.ts'
import { ClusterMessages } from './cluster-messages.ts'
import { Clusters } from './clusters.ts'
import { enrolmentRoutes, refuseReplaced } from './enrolment-routes.ts'
import { ExecCommands } from './exec-commands.ts'
import { refuseDuplicateKeys } from './json-body.ts'
import { LargeSubmissions } from './large-submission.ts'
import { NodeDirectory } from './node-directory.ts'
import { pageRoutes } from './page.ts'
import { admitRequest } from './people/callers.ts'
import { View } from './people/view.ts'
import { Reconciler } from './reconciler.ts'
import type { RootOptions } from './root-options.ts'
import { openState, type RootState } from './root-state.ts'
import type { RootStore } from './root-store.ts'
import { showServices } from './service-metrics.ts'
import { Rotation } from './rotation.ts'
import { changeStore, idOf } from './submission.ts'
import { Links } from './links.ts'
import { Usages } from './usages.ts'
import { mendVips } from './vip-requests.ts'

/** How often a rotation is continued and failed placements are retried, which also happens whenever capacity changes. */
const RETRY_MS = 2_000
/** A cluster dials again within 5 s. Smaller refuses what would go a moment later; larger tells later that a cluster is down. */
const RETURN_MS = 6_000
/** How often due jobs are searched for; a run begins up to this late. */
const DUE_MS = 1_000
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

type Scheduling = ReturnType<typeof startScheduling>
type Running = RootState & Scheduling & { server: LinkServer }

/** The clusters, as far as their links are up, and what places instances on them. */
function startScheduling(life: Lifetime, state: RootState, options: RootOptions) {
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
  parts: RootState & Scheduling,
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
          enrolmentRoutes(app, parts)
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
