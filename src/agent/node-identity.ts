import type { Agent } from 'node:https'
import { join } from 'node:path'
import type { AgentConfig } from '../config/schema.ts'
import { MeshError } from '../core/errors.ts'
import type { Identity } from '../core/identity/contract.ts'
import type { HeldIdentity } from '../core/identity/held.ts'
import { nodeIdOf } from '../core/identity/principal.ts'
import { KeptFile } from '../core/kit/kept-file.ts'
import type { Log } from '../core/kit/log.ts'
import type { Clock } from '../core/kit/clock.ts'
import type { Lifetime } from '../core/kit/lifetime.ts'
import type { Metrics } from '../core/metrics.ts'
import { ulaPrefix, vipRange, type VipRange } from '../core/model/address.ts'
import type { NodeId } from '../core/model/ids.ts'
import type { Ops } from '../roles/ops-server.ts'
import { whyNoIPv6 } from '../../proxy/intercept/host-ipv6.ts'
import { enrolNode } from '../orchestrator/worker/join.ts'
import { claimPrefix, inheritPrefix } from './prefix.ts'
import { Readiness } from './readiness.ts'
import { OwnAddresses } from './own-addresses.ts'
import type { PredecessorFacts } from './hand-over.ts'

/** Who this node is, and the addresses that are its own. */
export interface NodeIdentity {
  readonly self: NodeId
  readonly certificate: HeldIdentity
  /** URL of its cluster. */
  readonly url: string
  /** Its own block of 127/8, in every mode. */
  readonly loopback: VipRange
  /** The VIPs of services, on this node. */
  readonly vips: VipRange
  readonly own: OwnAddresses
  /** The HTTP proxy through which this node connects to others, if there is one. */
  readonly egress: Agent | undefined
  readonly ops: Ops
  readonly readiness: Readiness
}

export interface NodeIdentityOptions {
  dir: string
  config: AgentConfig
  /** At the first start only. */
  token?: string
  clock: Clock
  metrics: Metrics
  log: Log
  predecessor: PredecessorFacts | undefined
  egress: Agent | undefined
}

/** Enrols, or finds the certificate from last time, and claims a prefix. */
export async function openNodeIdentity(life: Lifetime, options: NodeIdentityOptions): Promise<NodeIdentity> {
  const { dir, config, token, clock, metrics, log, predecessor, egress } = options
  const { identity, url } = await enrolNode(
    { dir: join(dir, 'identity'), name: config.name, clock, egress, ...(token === undefined ? {} : { token }) },
    life.signal,
  )
  const self = nodeOf(identity)
  const readiness = new Readiness(['uplink', 'resolver'])
  const isHost = config.mode === 'host'
  const wanted = isHost ? 'auto' : config.prefix
  const shown = { metrics, ready: readiness.report }
  const isInherited = predecessor !== undefined && (wanted === 'auto' || wanted === predecessor.prefix)
  const { loopback, ops } = isInherited
    ? await inheritPrefix(predecessor.prefix, shown)
    : await claimPrefix(wanted, life.use(new KeptFile(join(dir, 'prefix'), log, clock)), shown)
  life.use(ops)
  const vips = isHost ? hostRange(config.prefix, identity) : loopback
  return {
    self,
    certificate: identity,
    url,
    loopback,
    vips,
    own: new OwnAddresses(loopback, vips),
    egress,
    ops,
    readiness,
  }
}

/** @throws MeshError CERTIFICATE_REFUSED when the directory holds another role's certificate. */
function nodeOf({ principal }: Identity): NodeId {
  if (principal.role !== 'node')
    throw new MeshError('CERTIFICATE_REFUSED', { reason: 'this is not a node’s certificate', role: principal.role })
  return nodeIdOf(principal)
}

/** The prefix of host mode: 10.30.0.0/16 unless configured, and the mesh's own ULA for IPv6 where the machine has it. */
function hostRange(prefix: string, { principal }: Identity): VipRange {
  const cidr4 = prefix === 'auto' ? '10.30.0.0/16' : prefix
  return whyNoIPv6() === undefined ? vipRange(cidr4, ulaPrefix(principal.mesh)) : vipRange(cidr4)
}
