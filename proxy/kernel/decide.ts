import { isIPv4, isIPv6 } from 'node:net'
import type { ServiceEntry } from '../../src/core/model/change.ts'
import type { InstanceId } from '../../src/core/model/ids.ts'
import type { Instance } from '../../src/core/model/instance.ts'
import type { ServicePort } from '../../src/core/model/service.ts'
import type { Target } from '../../src/core/table/view.ts'
import { type StandingFacts, standingPlan } from '../decide/standing.ts'

/*
 * Which flows the kernel may carry. Flows normally go through user space; the kernel gets a VIP and port only where every
 * decision that user space makes for a flow would have the same outcome:
 *
 *   does one plan hold for every caller, with instances here only? ─▶ can the kernel reach each of them?
 *   (decide/standing.ts)                                              (an address of this machine)
 *
 * Instances of other nodes never qualify: they listen on their own loopback, at ports that only their agents know, and their
 * agents check the permission against the certificate behind the flow.
 */

export type Family = 4 | 6

/** An instance of this node, and where it listens. */
export interface LocalInstance {
  readonly instance: InstanceId
  readonly ordinal: number
  readonly host: string
  readonly port: number
}

export type Decision =
  /** One instance, or several in turn. */
  { path: 'kernel'; instances: readonly LocalInstance[]; reason: string } | { path: 'user'; reason: string }

/** What this node knows about itself. */
export interface LocalFacts extends StandingFacts {
  /** Where a ready instance of this node listens; `undefined` when it is not here, not ready, or about to end. */
  endpointOf(instance: InstanceId, port: number, protocol: 'tcp' | 'udp'): KernelEndpoint | undefined
  /** Addresses no flow may reach (SEC-23). */
  forbids(address: string, port: number): boolean
  isThisMachine(address: string): boolean
}

export interface KernelEndpoint {
  host: string
  port: number
  /** The instance expects a header before each connection, which only user space can write. */
  proxyProtocol?: string
}

/** The path of flows from this node to one VIP and port, in one address family. */
export function decide(
  target: Target,
  port: Pick<ServicePort, 'port' | 'protocol'>,
  family: Family,
  entry: ServiceEntry,
  facts: LocalFacts,
): Decision {
  const standing = standingPlan(target, entry, facts)
  if (standing.kind === 'differs') return user(standing.reason)
  const reachable: LocalInstance[] = []
  let fault = ''
  for (const instance of standing.instances) {
    const found = reach(instance, port, family, facts)
    if (typeof found === 'string') fault = found
    else reachable.push(found)
  }
  // User space would skip an instance that is not ready as well; any other fault is for user space to handle.
  if (reachable.length === 0 || (fault !== '' && fault !== NOT_READY)) return user(fault)
  return {
    path: 'kernel',
    instances: reachable,
    reason: reachable.length === 1 ? standing.reason : inTurn(reachable.length),
  }
}

function inTurn(count: number): string {
  return `${count} local instances, round robin`
}

const NOT_READY = 'the instance here is not ready, or is about to end'

/** Where the kernel can send a flow to this instance, or why it cannot. */
function reach(
  { id, ordinal }: Instance,
  { port, protocol }: Pick<ServicePort, 'port' | 'protocol'>,
  family: Family,
  facts: LocalFacts,
): LocalInstance | string {
  const endpoint = facts.endpointOf(id, port, protocol)
  if (endpoint === undefined) return NOT_READY
  const { host, port: at, proxyProtocol } = endpoint
  if (proxyProtocol !== undefined) return 'the instance reads the PROXY protocol, which the kernel does not write'
  if (!(family === 4 ? isIPv4(host) : isIPv6(host))) return `the instance listens at ${host}, which is not IPv${family}`
  if (facts.forbids(host, at)) return `no flow may reach ${host}:${at}`
  if (!facts.isThisMachine(host)) return `${host} is not an address of this machine`
  return { instance: id, ordinal, host, port: at }
}

function user(reason: string): Decision {
  return { path: 'user', reason }
}
