import type { ErrorCode } from '../../src/core/errors.ts'
import type { InstanceId, NodeId } from '../../src/core/model/ids.ts'
import type { PathKind } from '../../src/core/model/path-rule.ts'
import type { Refusal } from '../tunnel/contract.ts'
import type { FlowEnd } from './flow-line.ts'

/** One try to open a flow at an instance, for logs and `trace`. */
export interface Try {
  instance: InstanceId
  node: NodeId
  path: PathKind | undefined
  /** Measured before the try; `undefined`: never. */
  rttMs: number | undefined
  /** `clock.now()` when it began. */
  at: number
  /** `dropped`: another was faster, or the flow ended first. */
  outcome: 'opened' | 'dropped' | Refusal
  reason: string
  ms: number
  /** The caller's first bytes were sent to it before it had opened. */
  isEarly: boolean
}

/** `shop.acme.cart.prod.0: unreachable (ECONNREFUSED), …` */
export function triesText(tries: readonly Try[]): string {
  return tries.map(({ instance, outcome, reason }) => `${instance}: ${outcome} (${reason})`).join(', ')
}

/*
 * How a caller is answered when no instance took its flow: by the most informative of the tries, in this order.
 *
 *   a try was        end            SOCKS5 (RFC 1928 §6)      HTTP
 *   not-allowed      not-allowed    2 not allowed             403
 *   path-forbidden   path-forbidden 2 not allowed             403      node and service leave no path that works
 *   refused          refused        5 connection refused      502
 *   timeout, dropped timeout        6 TTL expired             504
 *   overloaded       too-many       1 general failure         503
 *   unreachable      unreachable    4 host unreachable        502
 *   anything else    no-instance    4 host unreachable        502      not here, draining: the table is behind
 *
 * A caller that came by VIP gets an RST in each case, before any byte.
 */

export interface FlowFailure {
  end: FlowEnd
  code: ErrorCode
}

const BY_INFORMATION: readonly (readonly [Try['outcome'], FlowFailure])[] = [
  ['not-allowed', { end: 'not-allowed', code: 'NOT_ALLOWED' }],
  ['path-forbidden', { end: 'path-forbidden', code: 'PATH_FORBIDDEN' }],
  ['refused', { end: 'refused', code: 'FLOW_REFUSED' }],
  ['timeout', { end: 'timeout', code: 'FLOW_TIMEOUT' }],
  ['dropped', { end: 'timeout', code: 'FLOW_TIMEOUT' }],
  ['overloaded', { end: 'too-many', code: 'TOO_MANY_FLOWS' }],
  ['unreachable', { end: 'unreachable', code: 'FLOW_UNREACHABLE' }],
]

/** `timeout`: the flow's own deadline passed before all had answered. `unsure`: no answer will come (race.ts). */
export function failureOf(why: 'refused' | 'timeout' | 'unsure', tries: readonly Pick<Try, 'outcome'>[]): FlowFailure {
  if (why === 'timeout') return { end: 'timeout', code: 'FLOW_TIMEOUT' }
  if (why === 'unsure') return { end: 'unreachable', code: 'FLOW_UNREACHABLE' }
  const found = BY_INFORMATION.find(([outcome]) => tries.some((made) => made.outcome === outcome))
  return found?.[1] ?? { end: 'no-instance', code: 'NO_INSTANCE' }
}
