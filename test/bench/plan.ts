import type { Scenario } from './bench.ts'
import { cost } from './scenarios/cost.ts'
import { udp } from './scenarios/datagrams.ts'
import { effort } from './scenarios/effort.ts'
import { fairness } from './scenarios/fairness.ts'
import { idleAgent } from './scenarios/idle-agent.ts'
import { idleFlows } from './scenarios/idle-flows.ts'
import { kernel } from './scenarios/kernel.ts'
import { names } from './scenarios/names.ts'
import { pick } from './scenarios/pick.ts'
import { relay } from './scenarios/relay.ts'
import { requests, sameNode } from './scenarios/requests.ts'
import { streams } from './scenarios/streams.ts'

const ALL: readonly Scenario[] = [
  streams,
  cost,
  requests,
  effort,
  sameNode,
  kernel,
  udp,
  names,
  fairness,
  pick,
  relay,
  idleFlows,
  idleAgent,
]

/** The scenarios with a row whose measure, or a lane whose name, matches. */
export function scenariosFor(only: RegExp | undefined): Scenario[] {
  if (only === undefined) return [...ALL]
  return ALL.filter(({ rows }) =>
    rows.some(({ measure, against }) => only.test([measure, ...Object.keys(against)].join(' '))),
  )
}
