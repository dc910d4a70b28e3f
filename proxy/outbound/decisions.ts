import type { FlowDecisions } from '../flow/spans.ts'
import type { Established } from './establish.ts'

/** What a trace shows of how the flow came to its instance, or did not. */
export function decisionsOf(established: Established<unknown>): FlowDecisions {
  if (established.kind === 'gone') return { tries: [] }
  const { plan, tries } = established
  if (plan === undefined) return { tries }
  const { madeAt, permission, rule, order, candidates } = plan
  return {
    plannedAt: madeAt,
    permission: permission?.reason,
    paths: rule.text,
    order: order?.reason,
    candidates: candidates.length,
    tries,
  }
}
