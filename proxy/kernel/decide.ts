import { isIPv4, isIPv6 } from 'node:net'
import type { ServiceEntry } from '../../src/core/model/change.ts'
import type { InstanceId, NodeId } from '../../src/core/model/ids.ts'
import type { Instance } from '../../src/core/model/instance.ts'
import type { ServicePort } from '../../src/core/model/service.ts'
import type { Target } from '../../src/core/table/view.ts'
import { authorise } from '../decide/authorise.ts'
import { type Caller, callerText, NODE_CALLER } from '../flow/flow.ts'
import { pinned } from '../policies/pinned.ts'

/*
 * Which flows the kernel may carry. User space stays the rule; the kernel gets a VIP and port only where nothing that user
 * space decides for each flow could come out otherwise:
 *
 *   may every process here call it?  ─▶ do only instances here come into question? ─▶ can the kernel reach each of them?
 *   (it cannot tell callers apart)      (it knows no other node)                      (an address of this machine)
 *
 * Instances of other nodes never: they listen on their own loopback, at ports that only their agents know, and their agents
 * check the permission from the certificate behind the flow.
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
  /** One instance, or several that take turns. */
  { path: 'kernel'; instances: readonly LocalInstance[]; reason: string } | { path: 'user'; reason: string }

/** What this node knows of itself. */
export interface LocalFacts {
  readonly self: NodeId
  /** Where a ready instance of this node listens; `undefined` when it is not here, not ready, or about to end. */
  endpointOf(instance: InstanceId, port: number, protocol: 'tcp' | 'udp'): KernelEndpoint | undefined
  /** Every instance whose processes run here, or are about to: who else than host processes may call. */
  callers(): readonly Caller[]
  /** Addresses no flow may reach (SEC-23). */
  forbids(address: string, port: number): boolean
  isThisMachine(address: string): boolean
}

export interface KernelEndpoint {
  host: string
  port: number
  /** The instance reads a header before each connection, which only user space can write. */
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
  const stranger = strangerTo(target, facts)
  if (stranger !== undefined) return user(stranger)
  const { instances, why } = candidates(target, entry, facts)
  if (instances.length === 0) return user(why)

  const reachable: LocalInstance[] = []
  let fault = ''
  for (const instance of instances) {
    const found = reach(instance, port, family, facts)
    if (typeof found === 'string') fault = found
    else reachable.push(found)
  }
  // One that is about to go would be tried in vain and left out by user space too; anything else is user space's to do.
  if (reachable.length === 0 || (fault !== '' && fault !== NOT_READY)) return user(fault)
  return { path: 'kernel', instances: reachable, reason: reachable.length === 1 ? why : turns(reachable.length) }
}

function turns(count: number): string {
  return `${count} local instances, round robin`
}

function strangerTo({ service, choice }: Target, facts: LocalFacts): string | undefined {
  const callers = facts.callers()
  if (choice.policy === 'pinned' && choice.instance === 'any' && callers.length > 0) {
    return 'each caller sticks to an instance of its own, and the kernel cannot tell who calls'
  }
  for (const caller of [NODE_CALLER, ...callers]) {
    if (authorise(caller, service).allowed) continue
    const who = caller.kind === 'node' ? 'host processes' : `${caller.id} on this node`
    return `${who} may not call it, and the kernel cannot tell who calls`
  }
  return undefined
}

interface Candidates {
  instances: readonly Instance[]
  /** Why these, or why none. */
  why: string
}

/** The instances among which the choice leaves nothing to decide but whose turn it is. */
function candidates({ choice, service }: Target, entry: ServiceEntry, { self }: LocalFacts): Candidates {
  const running = entry.instances
    .filter(({ state }) => state === 'running')
    .toSorted((one, other) => one.ordinal - other.ordinal)
  const isHere = ({ node }: Instance) => node === self
  const none = (why: string): Candidates => ({ instances: [], why })
  const only = (instance: Instance | undefined): Candidates => {
    if (instance === undefined) return none('no instance runs')
    if (!isHere(instance)) return none(`${instance.id} is on ${instance.node}`)
    return { instances: [instance], why: `${instance.id}, local` }
  }
  const numbered = running.find(({ ordinal }) => ordinal === choice.instance)
  if (numbered !== undefined) return only(numbered)
  switch (choice.policy) {
    case 'pinned': {
      if (choice.instance !== 'any')
        return none(`instance ${choice.instance} does not run, and the name allows no other`)
      const caller = callerText(NODE_CALLER, self)
      const view = { service: service.id, choice, caller, limit: 1, memory: {}, rttMs: () => undefined, now: () => 0 }
      return only(pinned(running, { ...view, isHere: (node) => node === self, openFlows: () => 0, random: () => 0 })[0])
    }
    case 'closest': {
      const here = running.filter(isHere)
      return here.length === 0
        ? none('no instance runs on this node')
        : { instances: here, why: `${here[0]?.id}, local` }
    }
    case 'rr': {
      if (running.length <= 1) return only(running[0])
      const elsewhere = running.find((instance) => !isHere(instance))
      if (elsewhere !== undefined) return none(`${elsewhere.id} on ${elsewhere.node} takes its turns too`)
      return { instances: running, why: `${running[0]?.id}, local` }
    }
    case 'least':
      return none('the kernel does not weigh open flows')
    default:
      return choice.policy satisfies never
  }
}

const NOT_READY = 'the instance here is not ready, or is about to end'

/** Where the kernel can send it, or why it cannot. */
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
