import { existsSync } from 'node:fs'
import type { Scenario } from './bench.ts'
import { udp } from './scenarios/datagrams.ts'
import { fairness } from './scenarios/fairness.ts'
import { idleAgent } from './scenarios/idle-agent.ts'
import { idleFlows } from './scenarios/idle-flows.ts'
import { names } from './scenarios/names.ts'
import { pick } from './scenarios/pick.ts'
import { requests, sameNode } from './scenarios/requests.ts'
import { streams } from './scenarios/streams.ts'

const ALL: readonly Scenario[] = [streams, requests, sameNode, udp, names, fairness, pick, idleFlows, idleAgent]

/** The scenarios with a row whose measure, or a lane whose name, matches. */
export async function scenariosFor(only: string | undefined): Promise<Scenario[]> {
  const all = [...ALL]
  const fastPath = new URL('./fast-path.ts', import.meta.url)
  if (existsSync(fastPath)) all.splice(3, 0, ((await import(fastPath.href)) as { fastPath: Scenario }).fastPath)
  if (only === undefined) return all
  const wanted = new RegExp(only, 'i')
  return all.filter(({ rows }) =>
    rows.some(({ measure, against }) => wanted.test([measure, ...Object.keys(against)].join(' '))),
  )
}
