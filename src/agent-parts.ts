import { networkInterfaces } from 'node:os'
import { Resolver, type ResolverOptions } from '../resolver/server.ts'
import { localAddresses, printHostPort } from '../proxy/paths/addresses.ts'
import type { RawConnection } from '../proxy/paths/contract.ts'
import type { DirectDialer } from '../proxy/paths/direct.ts'
import type { RelayCredentials } from '../proxy/paths/relayed.ts'
import type { Balancer } from '../proxy/policies/index.ts'
import type { PeersOptions } from '../proxy/tunnel/peers.ts'
import type { AgentConfig } from './config.ts'
import { isMeshError, MeshError } from './errors.ts'
import type { Identity } from './identity/contract.ts'
import { connectSecure, createAcceptor } from './identity/peer-tls.ts'
import { nodeIdOf } from './identity/principal.ts'
import { clientOptions, verifyServer } from './identity/tls.ts'
import type { Lifetime } from './kit/lifetime.ts'
import type { Log } from './kit/log.ts'
import type { Metrics } from './metrics.ts'
import { addressToVip, RESOLVER_VIP, ulaPrefix, vipRange, vipToIPv4, type VipRange } from './model/address.ts'
import { interestOf, type NodeId } from './model/ids.ts'
import type { UplinkWorker } from './orchestrator/worker/uplink.ts'
import type { Worker } from './orchestrator/worker/worker.ts'
import type { Interests } from './table/interests.ts'
import type { TableView, Target } from './table/view.ts'

/** @throws MeshError CERTIFICATE_REFUSED when the directory holds another role's certificate. */
export function nodeOf({ principal }: Identity): NodeId {
  if (principal.role !== 'node')
    throw new MeshError('CERTIFICATE_REFUSED', { reason: 'this is not a node’s certificate', role: principal.role })
  return nodeIdOf(principal)
}

/** The prefix of host mode: 10.30.0.0/16 unless configured, and the mesh's own ULA for IPv6. */
export function hostRange(prefix: string, { principal }: Identity): VipRange {
  return vipRange(prefix === 'auto' ? '10.30.0.0/16' : prefix, ulaPrefix(principal.mesh))
}

/** How the node proves itself to the relay, which is its cluster's or another's. */
export function clusterCredentials(identity: Identity): ReturnType<RelayCredentials> {
  const isCluster = ({ role, mesh }: Identity['principal']) => role === 'cluster' && mesh === identity.principal.mesh
  return { tls: clientOptions(identity, isCluster), verify: verifyServer(isCluster) }
}

/** TLS on every path, and no node whose certificate was revoked. */
export function secureWith(
  identity: Identity,
  revoked: ReadonlySet<NodeId>,
  direct: DirectDialer,
  life: Lifetime,
): PeersOptions['secure'] {
  const acceptor = life.use(createAcceptor(identity))
  const demand = (node: NodeId) => {
    if (revoked.has(node)) throw new MeshError('PEER_REFUSED', { node, reason: 'its certificate was revoked' })
  }
  return {
    connect: async ({ stream, path, via }: RawConnection, node, signal) => {
      demand(node)
      try {
        return await connectSecure(stream, identity, node, signal)
      } catch (error) {
        // another site's equal private address: not to be tried first again
        if (path === 'direct' && isMeshError(error, 'PEER_REFUSED')) direct.distrust(node, via)
        throw error
      }
    },
    accept: async ({ stream }) => {
      const accepted = await acceptor.accept(stream)
      try {
        demand(accepted.peer)
      } catch (error) {
        accepted.stream.destroy()
        throw error
      }
      return accepted
    },
  }
}

/** What belongs to the agent itself: never a way to reach a node, and its own ports never an instance (SEC-23). */
export class OwnAddresses {
  readonly #ranges: readonly VipRange[]
  readonly #ports = new Set<number>()

  constructor(...ranges: readonly VipRange[]) {
    this.#ranges = ranges
  }

  add(...ports: ReadonlyArray<number | string>): void {
    for (const port of ports) this.#ports.add(Number(port))
  }

  readonly isVip = (address: string): boolean =>
    this.#ranges.some((range) => addressToVip(range, address) !== undefined && !address.startsWith('127.0.0.'))

  readonly forbids = (address: string, port: number): boolean =>
    this.isVip(address) || (this.#ports.has(port) && isThisMachine(address))
}

function isThisMachine(address: string): boolean {
  if (/^(?:127\.|::1$|0\.0\.0\.0$|::$|::ffff:127\.)/.test(address)) return true
  return Object.values(networkInterfaces()).some((addresses) => addresses?.some((own) => own.address === address))
}

/** Where others may dial us. A listener on loopback is reached on loopback only. */
export function reachableAt(host: string, port: number, own: OwnAddresses): string[] {
  const isAny = host === '0.0.0.0' || host === '::'
  return isAny ? localAddresses(port, { exclude: own.isVip }) : [printHostPort(host, port)]
}

/** The worker, and what its instances say they will call: the node asks for that before their first question. */
export function wishing(worker: Worker, interests: Pick<Interests, 'wish'>): UplinkWorker {
  return {
    assign: (assignment) => {
      worker.assign(assignment)
      interests.wish(
        assignment.spec.connectivity.map((called) => (called.split('.').length === 4 ? interestOf(called) : called)),
      )
    },
    withdraw: (instance) => worker.withdraw(instance),
    keepOnly: (wanted) => worker.keepOnly(wanted),
    reports: () => worker.reports(),
    logs: (instance, options, signal) => worker.logs(instance, options, signal),
  }
}

/** The configured port, or the one from last time, or any when that is taken. */
export async function onPort<T>(configured: number, lastTime: number, start: (port: number) => Promise<T>): Promise<T> {
  if (configured !== 0 || lastTime === 0) return start(configured)
  try {
    return await start(lastTime)
  } catch (error) {
    if (!isMeshError(error, 'LISTEN_FAILED')) throw error
    return start(0)
  }
}

/** Port 53 where it may, else 5353; a configured port or nothing. */
export async function startResolver(
  { resolver, zones }: AgentConfig,
  range: VipRange,
  parts: Pick<ResolverOptions, 'table' | 'interests' | 'explainChoice' | 'onAnswered'>,
  log: Log,
  metrics: Metrics,
): Promise<Resolver> {
  const { port, upstreams, ttlSeconds, negativeTtlSeconds } = resolver
  const host = vipToIPv4(range, RESOLVER_VIP)
  const start = (on: number) =>
    Resolver.start(
      {
        ...parts,
        range,
        zones,
        ttlSeconds,
        negativeTtlSeconds,
        listen: { host, port: on },
        ...(upstreams.length === 0 ? {} : { upstreams }),
      },
      log,
      metrics,
    )
  if (port !== 0) return start(port)
  try {
    return await start(53)
  } catch (error) {
    if (!isMeshError(error, 'LISTEN_FAILED')) throw error
    return start(5353)
  }
}

/** For TXT: the instances in the order they would be tried, then the others and why not. */
export function describeChoice(target: Target, table: TableView, peek: Balancer, caller: string): string[] {
  const entry = table.entry(target.service.id)
  if (entry === undefined) return []
  const { instances } = peek.order(target, entry, caller, entry.instances.length)
  const others = entry.instances.filter((instance) => !instances.includes(instance))
  return [...instances, ...others].map(({ ordinal, node, state }) => `${ordinal} ${node} ${state}`)
}
