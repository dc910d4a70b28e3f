import type { Cancellation } from '../../src/core/kit/cancellation.ts'
import type { InstanceId, NodeId } from '../../src/core/model/ids.ts'
import type { PathKind } from '../../src/core/model/path-rule.ts'
import type { VipIndex } from '../../src/core/model/service.ts'
import type { FlowIntent, Plan } from '../decide/plan.ts'
import { nameOf, portText } from '../flow/flow.ts'
import type { Try } from '../flow/tries.ts'
import { TcpAttempt, UdpAttempt } from './attempt.ts'
import { establish } from './establish.ts'
import type { OutboundParts } from './outbound.ts'

/** One decision in the life of a test connection; `ms` since its beginning. */
export type TraceStep =
  | { step: 'target'; name: string; vip: VipIndex; port: string; ms: number }
  | { step: 'authorised'; caller: string; allowed: boolean; reason: string; ms: number }
  | { step: 'ordered'; instances: readonly { instance: InstanceId; node: NodeId }[]; reason: string; ms: number }
  | ({ step: 'tried' } & Try)
  | { step: 'connected'; instance: InstanceId; node: NodeId; path: PathKind; ms: number }
  | { step: 'failed'; reason: string; ms: number }

/**
 * Opens one connection as any flow is opened, resets it at once, and reports the plan and the tries it was opened by. Uses
 * up one turn of `rr`. UDP opens nothing at the instance: `connected` means that a path is there, not that a program answers.
 */
export async function trace(intent: FlowIntent, parts: OutboundParts, gone: Cancellation): Promise<TraceStep[]> {
  const { target, port, protocol } = intent
  const startedAt = parts.clock.now()
  const ms = (): number => parts.clock.now() - startedAt
  const steps: TraceStep[] = [
    { step: 'target', name: nameOf(target), vip: target.vip, port: portText(port, protocol), ms: 0 },
  ]
  const onWon = (attempt: TcpAttempt | UdpAttempt): void => attempt.stream?.reset()
  const options = { intent, flow: parts.ledger.nextId(), early: undefined, onWon }
  const established = await (protocol === 'tcp'
    ? establish({ ...options, attempt: TcpAttempt }, parts, gone)
    : establish({ ...options, attempt: UdpAttempt }, parts, gone))
  if (established.kind === 'gone')
    return [...steps, { step: 'failed', reason: 'no instance answered in time', ms: ms() }]
  if (established.plan !== undefined) steps.push(...planSteps(established.plan, startedAt))
  for (const made of established.tries) steps.push({ step: 'tried', ...made })
  if (established.kind === 'refused') {
    const reason = established.why === 'timeout' ? 'no instance answered in time' : established.refusal.reason
    return [...steps, { step: 'failed', reason, ms: ms() }]
  }
  const { instance, path } = established.attempt
  return [...steps, { step: 'connected', instance: instance.id, node: instance.node, path: path ?? 'local', ms: ms() }]
}

/** The plan as it was made, in the order of its questions. */
function planSteps({ caller, permission, order, candidates, madeAt }: Plan, startedAt: number): TraceStep[] {
  const ms = madeAt - startedAt
  const instances = candidates.map(({ instance: { id, node } }) => ({ instance: id, node }))
  return [
    ...(permission === undefined ? [] : [{ step: 'authorised', caller, ...permission, ms } as const]),
    ...(order === undefined ? [] : [{ step: 'ordered', instances, reason: order.reason, ms } as const]),
  ]
}
