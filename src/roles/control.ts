import { startObserver } from '../../proxy/relay/observer.ts'
import { Relay } from '../../proxy/relay/server.ts'
import { hostPort } from '../config/host-port.ts'
import type { ClusterConfig, RootConfig } from '../config/schema.ts'
import { openPrivateDirectory } from '../core/identity/files.ts'
import { nodesOf } from '../core/identity/revocation.ts'
import { egressOf } from '../core/kit/egress.ts'
import { background } from '../core/kit/background.ts'
import { ownListeners } from '../core/kit/own-listeners.ts'
import { Lifetime } from '../core/kit/lifetime.ts'
import type { Log } from '../core/kit/log.ts'
import { describeProcess, openMetrics } from '../core/metrics.ts'
import { relayLimits } from './relay-limits.ts'
import { Ops } from './ops-server.ts'
import { certificateCheck, linkCheck, readinessChecks } from './role-checks.ts'
import { serveRoleSocket } from './role-socket.ts'
import { loadStrategies } from './strategies.ts'
import { Cluster } from '../orchestrator/cluster/cluster.ts'
import { secretIn } from '../orchestrator/root/people/oidc.ts'
import { Root } from '../orchestrator/root/root.ts'

/** A role that runs, with its health endpoints: what it says of itself, and its end. */
export class Role<T> implements AsyncDisposable {
  readonly part: T
  readonly #summary: Record<string, string>
  readonly #life: Lifetime

  constructor(part: T, summary: Record<string, string>, life: Lifetime) {
    this.part = part
    this.#summary = summary
    this.#life = life
  }

  summary(): Record<string, string> {
    return this.#summary
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}

export interface RootParts {
  dir: string
  config: RootConfig
  version: string
}

/** The root: authority, API, and the tier that chooses clusters. */
export function startRoot({ dir, config, version }: RootParts, log: Log): Promise<Role<Root>> {
  return ownListeners.within(() =>
    Lifetime.open(async (life) => {
      await openPrivateDirectory(dir)
      life.defer(background.logTo(log))
      const metrics = openMetrics('root')
      const { listen, publicUrl, vipRestSeconds, clusterLostSeconds, oidc } = config
      if (oidc.issuer !== 'off' && oidc.clientSecretFile !== undefined) secretIn(oidc.clientSecretFile) // now, not at the first login
      const root = life.use(
        await Root.start(
          {
            dir,
            listen: hostPort(listen),
            vipRestSeconds,
            clusterLostSeconds,
            strategies: await loadStrategies(config.strategies),
            version,
            ...(oidc.issuer === 'off' ? {} : { oidc }),
            ...(publicUrl === undefined ? {} : { publicUrl }),
          },
          log,
          metrics,
        ),
      )
      const ops = life.use(await Ops.start({ ...hostPort(config.opsListen), metrics, ready: () => root.ready() }))
      describeProcess(metrics, { version, certificateUntil: () => root.certificateUntil })
      const facts = () => ({ mesh: root.mesh, api: root.url, health: ops.address, linkedClusters: root.linkedClusters })
      const checks = () => readinessChecks(root.ready())
      const copyStore = (path: string) => root.copyStore(path)
      await serveRoleSocket(life, { dir, role: 'root', version, log, facts, checks, copyStore })
      const summary = {
        role: 'root',
        mesh: root.mesh,
        api: root.url,
        credential: `${dir}/admin.json`,
        health: ops.address,
      }
      return new Role(root, summary, life)
    }),
  )
}

export interface ClusterParts {
  dir: string
  config: ClusterConfig
  version: string
  /** Needed at the first start only. */
  token?: string
  /** HTTPS_PROXY and NO_PROXY count. */
  environment?: Readonly<Record<string, string | undefined>>
}

/** A cluster and, on the same port, the relay for its nodes. */
export function startCluster(
  { dir, config, version, token, environment = {} }: ClusterParts,
  log: Log,
): Promise<Role<Cluster>> {
  return ownListeners.within(() =>
    Lifetime.open(async (life) => {
      await openPrivateDirectory(dir)
      life.defer(background.logTo(log))
      const metrics = openMetrics('cluster')
      const relay = Relay.create(relayLimits(config.relayLimits), log, metrics)
      const { listen, publicUrl } = config
      const cluster = life.use(
        await Cluster.start(
          {
            dir,
            listen: hostPort(listen),
            name: config.name,
            version,
            egress: egressOf(environment),
            strategies: await loadStrategies(config.strategies),
            handshakesPerSecond: config.relayLimits.handshakesPerSecond,
            onRelay: (request, socket, head, principal) => relay.upgrade(request, socket, head, principal),
            onRevoked: (added) => {
              for (const node of nodesOf(added, relay.nodes)) relay.cut(node)
            },
            ...(token === undefined ? {} : { token }),
            ...(publicUrl === undefined ? {} : { publicUrl }),
          },
          log,
          metrics,
        ),
      )
      life.use(relay) // closed before the server it belongs to
      life.use(await startObserver(relay, hostPort(listen), log))
      const ops = life.use(await Ops.start({ ...hostPort(config.opsListen), metrics, ready: () => cluster.ready() }))
      describeProcess(metrics, { version, certificateUntil: () => cluster.identity.notAfter, uplink: 'root' })
      const facts = () => ({
        name: cluster.name,
        link: cluster.url,
        relay: cluster.relayUrl ?? 'none',
        health: ops.address,
        rootLink: cluster.isLinked ? 'up' : 'down',
        certificateUntil: cluster.identity.notAfter.toISOString(),
        nodes: cluster.aliveNodes,
      })
      const checks = () => [
        ...readinessChecks(cluster.ready()),
        linkCheck('link to the root', cluster.isLinked),
        certificateCheck(cluster.identity.notAfter, Date.now()),
      ]
      const copyStore = (path: string) => cluster.copyStore(path)
      await serveRoleSocket(life, { dir, role: 'cluster', version, log, facts, checks, copyStore })
      const summary = {
        role: 'cluster',
        name: cluster.name,
        link: cluster.url,
        relay: cluster.relayUrl ?? 'none',
        health: ops.address,
      }
      return new Role(cluster, summary, life)
    }),
  )
}
