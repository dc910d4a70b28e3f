import type { Agent } from 'node:https'
import { join } from 'node:path'
import { startObserver } from '../../proxy/relay/observer.ts'
import { Relay } from '../../proxy/relay/server.ts'
import { hostPort } from '../config/host-port.ts'
import type { RelayConfig } from '../config/schema.ts'
import { Role } from './control.ts'
import { MeshError } from '../core/errors.ts'
import type { HeldIdentity } from '../core/identity/held.ts'
import { openPrivateDirectory } from '../core/identity/files.ts'
import type { Revocation } from '../core/identity/contract.ts'
import { nodesOf } from '../core/identity/revocation.ts'
import { egressOf } from '../core/kit/egress.ts'
import { background } from '../core/kit/background.ts'
import { ownListeners } from '../core/kit/own-listeners.ts'
import { Lifetime } from '../core/kit/lifetime.ts'
import type { Log } from '../core/kit/log.ts'
import { describeProcess, openMetrics } from '../core/metrics.ts'
import { Ops } from './ops-server.ts'
import { certificateCheck, linkCheck, readinessChecks } from './role-checks.ts'
import { serveRoleSocket } from './role-socket.ts'
import { relayUpgrade } from '../orchestrator/cluster/routes.ts'
import { LinkServer } from '../orchestrator/link/link-server.ts'
import { RelayLink } from '../orchestrator/link/relay-link.ts'
import type { NodeId } from '../core/model/ids.ts'
import { enrolNode } from '../orchestrator/worker/join.ts'
import { relayLimits } from './relay-limits.ts'

export interface RelayParts {
  dir: string
  config: RelayConfig
  version: string
  /** A join token; needed for the first start only. */
  token?: string
  /** Where HTTPS_PROXY and NO_PROXY are read. */
  environment?: Readonly<Record<string, string | undefined>>
}

/** A running relay, for programs that embed it. */
export interface StandAloneRelay {
  /** `wss://host:port/relay`, as nodes dial it. */
  url: string
  isLinked: () => boolean
  listening: () => NodeId[]
}

/** Starts a stand-alone relay, which nodes use beside or instead of their cluster's. */
export function startRelay(parts: RelayParts, parentLog: Log): Promise<Role<StandAloneRelay>> {
  const { config, version, environment = {} } = parts
  return ownListeners.within(() =>
    Lifetime.open(async (life) => {
      life.defer(background.logTo(parentLog))
      const egress = egressOf(environment)
      const { identity, name, clusterUrl } = await joinAsRelay(parts, egress, life.signal)
      const log = parentLog.child({ relay: name })
      const metrics = openMetrics('relay')
      const relay = Relay.create(relayLimits(config.limits), log, metrics)
      const server = life.use(await serve(relay, identity, config, log))
      life.use(relay) // so that it is closed before its server
      life.use(await startObserver(relay, hostPort(config.listen), log))
      const cutRevoked = (added: readonly Revocation[]) => {
        for (const node of nodesOf(added, relay.nodes)) relay.cut(node)
      }
      life.defer(identity.revocations.onChanged(cutRevoked))
      const url = `${publicUrl(config, server).replace(/^http/, 'ws')}/relay`
      const link = life.use(RelayLink.start({ clusterUrl, egress, identity, url, version }, log, metrics))
      // it is ready without its cluster: nodes that know about the relay find it without
      const ready = () => ({ listener: server.isOpen, revocations: link.isUp || identity.revocations.number > 0 })
      const ops = life.use(await Ops.start({ ...hostPort(config.opsListen), metrics, ready }))
      describeProcess(metrics, { version, certificateUntil: () => identity.notAfter, uplink: 'cluster' })
      const facts = () => ({
        name,
        cluster: clusterUrl,
        relay: url,
        health: ops.address,
        clusterLink: link.isUp ? 'up' : 'down',
        certificateUntil: identity.notAfter.toISOString(),
        nodes: [...relay.listening],
      })
      const checks = () => [
        ...readinessChecks(ready()),
        linkCheck('link to the cluster', link.isUp),
        certificateCheck(identity.notAfter, Date.now()),
      ]
      await serveRoleSocket(life, { dir: parts.dir, role: 'relay', version, log, facts, checks })
      log.info('relay started', { address: url })
      const summary = { role: 'relay', name, cluster: clusterUrl, relay: url, health: ops.address }
      const running = { url, isLinked: () => link.isUp, listening: () => [...relay.listening] }
      return new Role(running, summary, life)
    }),
  )
}

/** @throws MeshError CERTIFICATE_REFUSED when the directory belongs to another role */
async function joinAsRelay(
  { dir, config, token }: RelayParts,
  egress: Agent | undefined,
  signal: AbortSignal,
): Promise<{ identity: HeldIdentity; name: string; clusterUrl: string }> {
  await openPrivateDirectory(dir)
  const joining = { role: 'relay', dir: join(dir, 'identity'), name: config.name, egress } as const
  const { identity, url } = await enrolNode({ ...joining, ...(token === undefined ? {} : { token }) }, signal)
  if (identity.principal.role !== 'relay')
    throw new MeshError('CERTIFICATE_REFUSED', {
      reason: 'this is not a relay’s certificate',
      role: identity.principal.role,
    })
  return { identity, name: identity.principal.relay, clusterUrl: url }
}

function serve(relay: Relay, identity: HeldIdentity, { listen, limits }: RelayConfig, log: Log): Promise<LinkServer> {
  return LinkServer.start(
    {
      ...hostPort(listen),
      identity,
      authenticate: () => {
        throw new MeshError('UNAUTHENTICATED', { reason: 'the API is at the root' })
      },
      handshakesPerSecond: limits.handshakesPerSecond,
      upgrades: {
        '/relay': relayUpgrade((request, socket, head, principal) => relay.upgrade(request, socket, head, principal)),
      },
      routes: (app) => {
        app.get('/healthz', { config: { open: true } }, () => ({ status: 'ok' }))
      },
    },
    log,
  )
}

/** @throws MeshError CONFIG_INVALID when nodes could not dial the address */
function publicUrl({ publicUrl, listen }: RelayConfig, server: LinkServer): string {
  if (publicUrl !== undefined) return publicUrl.replace(/\/$/, '')
  const { host } = hostPort(listen)
  if (host === '0.0.0.0' || host === '::')
    throw new MeshError('CONFIG_INVALID', {
      listen,
      reason: `nodes cannot dial ${listen}`,
      remedy: 'Name it with --public-url, for example https://relay.example.org:443.',
    })
  return server.url
}
