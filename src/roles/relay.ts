import { join } from 'node:path'
import { startObserver } from '../../proxy/relay/observer.ts'
import { Relay } from '../../proxy/relay/server.ts'
import { hostPort, type RelayConfig } from '../config.ts'
import { Role } from './control.ts'
import { MeshError } from '../core/errors.ts'
import { openPrivateDirectory } from '../core/identity/files.ts'
import { nodesOf, type Revocation } from '../core/identity/revocation.ts'
import { egressOf } from '../core/kit/egress.ts'
import { background } from '../core/kit/background.ts'
import { Lifetime } from '../core/kit/lifetime.ts'
import type { Log } from '../core/kit/log.ts'
import { openMetrics } from '../core/metrics.ts'
import { Ops } from './ops-server.ts'
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
  /** Needed at the first start only. */
  token?: string
  /** HTTPS_PROXY and NO_PROXY count. */
  environment?: Readonly<Record<string, string | undefined>>
}

/** What runs, for who embeds it. */
export interface StandAloneRelay {
  /** `wss://host:port/relay`, as nodes dial it. */
  url: string
  isLinked: () => boolean
  listening: () => NodeId[]
}

/** A relay by itself: nodes meet there, beside or instead of at their cluster. */
export function startRelay(parts: RelayParts, parentLog: Log): Promise<Role<StandAloneRelay>> {
  const { dir, config, version, token, environment = {} } = parts
  return Lifetime.open(async (life) => {
    await openPrivateDirectory(dir)
    life.defer(background.logTo(parentLog))
    const { name, listen, limits } = config
    const egress = egressOf(environment)
    const joining = { role: 'relay', dir: join(dir, 'identity'), name, egress } as const
    const { identity, url: clusterUrl } = await enrolNode(
      { ...joining, ...(token === undefined ? {} : { token }) },
      life.signal,
    )
    if (identity.principal.role !== 'relay')
      throw new MeshError('CERTIFICATE_REFUSED', {
        reason: 'this is not a relay’s certificate',
        role: identity.principal.role,
      })
    const { relay: who } = identity.principal
    const log = parentLog.child({ relay: who })
    const metrics = openMetrics('relay')
    const relay = Relay.create(relayLimits(limits), log, metrics)
    const door = life.use(
      await LinkServer.start(
        {
          ...hostPort(listen),
          identity,
          authenticate: () => {
            throw new MeshError('UNAUTHENTICATED', { reason: 'the API is at the root' })
          },
          handshakesPerSecond: limits.handshakesPerSecond,
          upgrades: {
            '/relay': relayUpgrade((request, socket, head, principal) =>
              relay.upgrade(request, socket, head, principal),
            ),
          },
          routes: (app) => {
            app.get('/healthz', { config: { open: true } }, () => ({ status: 'ok' }))
          },
        },
        log,
      ),
    )
    life.use(relay) // closed before the door it stands in
    life.use(await startObserver(relay, hostPort(listen), log))
    const url = `${publicUrl(config, door).replace(/^http/, 'ws')}/relay`
    const cutRevoked = (added: readonly Revocation[]) => {
      for (const node of nodesOf(added, relay.nodes)) relay.cut(node)
    }
    life.defer(identity.revocations.onChanged(cutRevoked))
    const link = life.use(
      RelayLink.start(
        {
          clusterUrl,
          egress,
          identity,
          url,
          version,
        },
        log,
        metrics,
      ),
    )
    // without its cluster it serves on: nodes that know of it come by themselves
    const ready = () => ({ door: door.isOpen, revocations: link.isUp || identity.revocations.number > 0 })
    const ops = life.use(await Ops.start({ ...hostPort(config.opsListen), metrics, ready }))
    log.info('relay started', { address: url })
    const summary = { role: 'relay', name: who, cluster: clusterUrl, relay: url, health: ops.address }
    const running = { url, isLinked: () => link.isUp, listening: () => [...relay.listening] }
    return new Role(running, summary, life)
  })
}

/** @throws MeshError CONFIG_INVALID when nodes could not dial the address */
function publicUrl({ publicUrl, listen }: RelayConfig, door: LinkServer): string {
  if (publicUrl !== undefined) return publicUrl.replace(/\/$/, '')
  const { host } = hostPort(listen)
  if (host === '0.0.0.0' || host === '::')
    throw new MeshError('CONFIG_INVALID', {
      listen,
      reason: `nodes cannot dial ${listen}`,
      remedy: 'Name it with --public-url, for example https://relay.example.org:443.',
    })
  return door.url
}
