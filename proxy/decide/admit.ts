import type { ErrorCode } from '../../src/core/errors.ts'
import type { Instance } from '../../src/core/model/instance.ts'
import type { Target } from '../../src/core/table/view.ts'
import { authorise } from './authorise.ts'
import { type Caller, callerText } from '../flow/flow.ts'
import type { FlowEnd } from '../flow/ledger.ts'
import type { OutboundParts } from '../outbound/outbound.ts'
import type { Protocol } from '../flow/request.ts'

/** What a caller wants, whichever way it came. */
export interface Wish {
  readonly target: Target
  readonly port: number
  readonly protocol: Protocol
  readonly caller: Caller
}

export type Admission =
  | { kind: 'order'; instances: readonly Instance[] }
  | { kind: 'refused'; end: FlowEnd; code: ErrorCode; reason: string }

/** Why this agent takes no more flows now, whatever they are for. */
export function whyFull({ ledger, limits, descriptors }: OutboundParts): string | undefined {
  if (ledger.isDraining) return 'this agent is closing'
  if (ledger.size > limits.maxFlows) return `${limits.maxFlows} flows are open`
  return descriptors.reserve(1) ? undefined : 'no descriptors are left'
}

/** May the flow be, and which instances are to be tried in which order? From what this node knows now; nothing is opened. */
export function admit({ target, port, protocol, caller }: Wish, parts: OutboundParts): Admission {
  const { table, limits, self, balancer } = parts
  const { service } = target
  const full = whyFull(parts)
  if (full !== undefined) return refused('too-many', 'TOO_MANY_FLOWS', full)
  if (!service.ports.some((served) => served.port === port && served.protocol === protocol)) {
    return refused('port-unknown', 'PORT_UNKNOWN', `${service.id} does not serve port ${portText(port, protocol)}`)
  }
  const verdict = authorise(caller, service)
  if (!verdict.allowed) return refused('not-allowed', 'NOT_ALLOWED', verdict.reason)

  const entry = table.entry(service.id)
  if (entry === undefined) return refused('no-instance', 'SERVICE_UNKNOWN', `${service.id} is no longer known`)
  const { instances, reason } = balancer.order(target, entry, callerText(caller, self), limits.candidates)
  return instances.length === 0 ? refused('no-instance', 'NO_INSTANCE', reason) : { kind: 'order', instances }
}

/** `80`, `53/udp`: TCP is what everybody expects. */
export function portText(port: number, protocol: Protocol): string {
  return protocol === 'tcp' ? String(port) : `${port}/${protocol}`
}

function refused(end: FlowEnd, code: ErrorCode, reason: string): Admission {
  return { kind: 'refused', end, code, reason }
}
