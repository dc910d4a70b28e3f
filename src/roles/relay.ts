import { join } from 'node:path'
import Type from 'typebox'
import { Compile } from 'typebox/compile'
import { startObserver } from '../../proxy/relay/observer.ts'
import { Relay } from '../../proxy/relay/server.ts'
import { hostPort, type RelayConfig } from '../config.ts'
import { Role } from './control.ts'
import { MeshError } from '../core/errors.ts'
import { openPrivateDirectory, readIfThere, replace } from '../core/identity/files.ts'
import { egressOf } from '../core/kit/egress.ts'
import { background } from '../core/kit/background.ts'
import { Lifetime } from '../core/kit/lifetime.ts'
import type { Log } from '../core/kit/log.ts'
import { openMetrics } from '../core/metrics.ts'
import type { NodeId } from '../core/model/ids.ts'
import { Ops } from './ops-server.ts'
import { relayUpgrade } from '../orchestrator/cluster/routes.ts'
import { LinkServer } from '../orchestrator/link/link-server.ts'
import { RelayLink } from '../orchestrator/link/relay-link.ts'
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
    const revoked = await Revoked.open(dir, log)
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
            '/relay': relayUpgrade(
              (request, socket, head, principal) => relay.upgrade(request, socket, head, principal),
              (node) => revoked.has(node),
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
    const link = life.use(
      RelayLink.start(
        {
          clusterUrl,
          egress,
          identity,
          url,
          version,
          onRevoked: (nodes, how) => {
            for (const node of revoked.take(nodes, how)) relay.cut(node)
          },
        },
        log,
        metrics,
      ),
    )
    // without its cluster it serves on: nodes that know of it come by themselves
    const ready = () => ({ door: door.isOpen, revocations: link.isUp || revoked.isKnown })
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

const FILE = 'revoked.json'
const saved = Compile(Type.Array(Type.String({ maxLength: 127 }), { maxItems: 100_000 }))

/** Who was revoked, kept: a relay that starts without its cluster lets none of them in. */
class Revoked {
  readonly #path: string
  readonly #log: Log
  #nodes: Set<NodeId>
  #saving: Promise<void> = Promise.resolve()
  /** Whether the cluster, or an earlier start, has ever told. */
  isKnown: boolean

  private constructor(path: string, nodes: readonly NodeId[] | undefined, log: Log) {
    this.#path = path
    this.#log = log
    this.#nodes = new Set(nodes)
    this.isKnown = nodes !== undefined
  }

  /** @throws MeshError STATE_CORRUPT */
  static async open(dir: string, log: Log): Promise<Revoked> {
    const path = join(dir, FILE)
    const text = await readIfThere(path)
    if (text === undefined) return new Revoked(path, undefined, log)
    try {
      const nodes: unknown = JSON.parse(text)
      if (!saved.Check(nodes)) throw new Error('not a list of nodes')
      return new Revoked(path, nodes, log)
    } catch (cause) {
      throw new MeshError('STATE_CORRUPT', { path }, { cause })
    }
  }

  has(node: NodeId): boolean {
    return this.#nodes.has(node)
  }

  /** Returns those that are new. */
  take(nodes: readonly NodeId[], how: 'all' | 'more'): NodeId[] {
    const before = this.#nodes
    this.#nodes = new Set(how === 'all' ? nodes : [...before, ...nodes])
    this.isKnown = true
    const text = JSON.stringify([...this.#nodes])
    this.#saving = this.#saving
      .then(() => replace(this.#path, text))
      .catch((error: unknown) => this.#log.error('the list of revoked nodes cannot be saved', { error }))
    return nodes.filter((node) => !before.has(node))
  }
}
