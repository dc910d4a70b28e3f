import type { InstanceId, NodeId } from '../../src/core/model/ids.ts'
import type { ServicePort, VipIndex } from '../../src/core/model/service.ts'
import type { Target } from '../../src/core/table/view.ts'
import { portText } from '../decide/admit.ts'
import { authorise } from '../decide/authorise.ts'
import { connect, type Try } from './connect.ts'
import { TcpAttempt, UdpAttempt } from './attempt.ts'
import { type Caller, callerText, nameOf } from '../flow/flow.ts'
import { type OutboundParts, triesText } from './outbound.ts'
import type { PathKind } from '../../src/core/model/path-rule.ts'

/** One decision in the life of a test connection; `ms` since its beginning. */
export type TraceStep =
  | { step: 'target'; name: string; vip: VipIndex; port: string; ms: number }
  | { step: 'authorised'; caller: string; allowed: boolean; reason: string; ms: number }
  | { step: 'ordered'; instances: readonly { instance: InstanceId; node: NodeId }[]; reason: string; ms: number }
  | ({ step: 'tried' } & Try)
  | { step: 'connected'; instance: InstanceId; node: NodeId; path: PathKind; ms: number }
  | { step: 'failed'; reason: string; ms: number }

/**
 * Makes the decisions of `outbound` for one connection that is really opened, and reset at once. Uses up one turn of `rr`.
 * UDP has nothing to open at the instance: `connected` says that the way there is, not that a program answers.
 */
export async function trace(
  target: Target,
  { port, protocol }: Pick<ServicePort, 'port' | 'protocol'>,
  caller: Caller,
  parts: OutboundParts,
  signal: AbortSignal,
): Promise<TraceStep[]> {
  const { service } = target
  const startedAt = parts.clock.now()
  const ms = () => parts.clock.now() - startedAt
  const steps: TraceStep[] = [
    { step: 'target', name: nameOf(target), vip: target.vip, port: portText(port, protocol), ms: 0 },
  ]
  const fail = (reason: string): TraceStep[] => [...steps, { step: 'failed', reason, ms: ms() }]

  if (!service.ports.some((served) => served.port === port && served.protocol === protocol)) {
    return fail(`${service.id} does not serve port ${portText(port, protocol)}`)
  }
  const who = callerText(caller, parts.self)
  const verdict = authorise(caller, service)
  steps.push({ step: 'authorised', caller: who, ...verdict, ms: ms() })
  if (!verdict.allowed) return fail(verdict.reason)

  const entry = parts.table.entry(service.id)
  if (entry === undefined) return fail(`${service.id} is not known`)
  const order = parts.balancer.order(target, entry, who, parts.limits.candidates)
  const instances = order.instances.map(({ id, node }) => ({ instance: id, node }))
  steps.push({ step: 'ordered', instances, reason: order.reason, ms: ms() })
  if (instances.length === 0) return fail(order.reason)

  const request = { service: service.id, port, protocol, caller, flow: parts.ledger.nextId() } as const
  const onWon = (attempt: TcpAttempt | UdpAttempt): void => attempt.stream?.reset()
  const options = { instances: order.instances, request, deadlineMs: parts.limits.deadlineMs, onWon }
  const connected = await (protocol === 'tcp'
    ? connect({ ...options, attempt: TcpAttempt }, parts, signal)
    : connect({ ...options, attempt: UdpAttempt }, parts, signal))
  for (const made of connected.tries) steps.push({ step: 'tried', ...made })
  if (connected.kind === 'lost')
    return fail(connected.why === 'timeout' ? 'no instance answered in time' : triesText(connected))
  const { instance, path } = connected.attempt
  return [...steps, { step: 'connected', instance: instance.id, node: instance.node, path: path ?? 'local', ms: ms() }]
}
