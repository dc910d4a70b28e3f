import type { ErrorCode } from '../../src/core/errors.ts'
import type { Try } from '../outbound/connect.ts'
import type { FlowEnd } from './ledger.ts'

/*
 * What a caller is told when no instance took its flow: the most telling of the tries.
 *
 *   a try was        end            SOCKS5 (RFC 1928 §6)      HTTP
 *   not-allowed      not-allowed    2 not allowed             403
 *   path-forbidden   path-forbidden 2 not allowed             403      node and service leave no path that works
 *   refused          refused        5 connection refused      502
 *   timeout, silent  timeout        6 TTL expired             504
 *   overloaded       too-many       1 general failure         503
 *   unreachable      unreachable    4 host unreachable        502
 *   anything else    no-instance    4 host unreachable        502      not here, draining: the table is behind
 *
 * Callers of a VIP are told all of it by RST, before any byte.
 */

export interface FlowFailure {
  end: FlowEnd
  code: ErrorCode
}

const TELLING: readonly (readonly [Try['outcome'], FlowFailure])[] = [
  ['not-allowed', { end: 'not-allowed', code: 'NOT_ALLOWED' }],
  ['path-forbidden', { end: 'path-forbidden', code: 'PATH_FORBIDDEN' }],
  ['refused', { end: 'refused', code: 'FLOW_REFUSED' }],
  ['timeout', { end: 'timeout', code: 'FLOW_TIMEOUT' }],
  ['dropped', { end: 'timeout', code: 'FLOW_TIMEOUT' }],
  ['overloaded', { end: 'too-many', code: 'TOO_MANY_FLOWS' }],
  ['unreachable', { end: 'unreachable', code: 'FLOW_UNREACHABLE' }],
]

/** `timeout`: the flow's own deadline came before all had answered. `unsure`: no answer will come (race.ts). */
export function failureOf(why: 'refused' | 'timeout' | 'unsure', tries: readonly Pick<Try, 'outcome'>[]): FlowFailure {
  if (why === 'timeout') return { end: 'timeout', code: 'FLOW_TIMEOUT' }
  if (why === 'unsure') return { end: 'unreachable', code: 'FLOW_UNREACHABLE' }
  const found = TELLING.find(([outcome]) => tries.some((made) => made.outcome === outcome))
  return found?.[1] ?? { end: 'no-instance', code: 'NO_INSTANCE' }
}
