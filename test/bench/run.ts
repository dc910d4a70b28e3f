import type { Bench, Lane, Scenario } from './bench.ts'
import type { Watch } from './busy.ts'
import type { Figures } from './table.ts'

export interface RunOptions {
  readonly rounds: number
  /** How often all was started before. */
  readonly start: number
  readonly signal: AbortSignal
  /** Where what is measured goes. */
  readonly figures: Figures
  readonly watch: Watch
}

/**
 * Every round goes through all scenarios, and in each through all lanes, so that ours and the peers meet the same moods of
 * the machine. A lane that fails is left out from then on; the others go on. What could not be measured, and why.
 */
export async function run(
  scenarios: readonly Scenario[],
  bench: Bench,
  { rounds, start, signal, figures, watch }: RunOptions,
): Promise<string[]> {
  const failures: string[] = []
  const failed = new Set<Lane>()
  for (let round = 0; round < rounds && !signal.aborted; round++) {
    for (const { rows, lanes, isOnce = false } of scenarios.filter((scenario) => round === 0 || !scenario.isOnce)) {
      if (signal.aborted) break
      bench.say(await watch.before(rows.map(({ measure }) => measure)))
      for (const lane of inTurn(lanes, start + round)) {
        if (failed.has(lane) || signal.aborted) continue
        bench.say(`round ${round + 1} of ${isOnce ? 1 : rounds}: ${scenarioOf(scenarios, lane)}: ${lane.name}`)
        try {
          for (const [measure, value] of Object.entries(await lane.measure(bench)))
            figures.add(measure, lane.name, value)
        } catch (error) {
          if (signal.aborted) break
          failed.add(lane)
          failures.push(`${scenarioOf(scenarios, lane)}: ${lane.name}: ${(error as Error).message}`)
          bench.say(`failed: ${failures.at(-1)}`)
        }
      }
    }
  }
  return failures
}

/** Who is first may meet colder code, or a cooler machine: in every other round it is last. */
function inTurn(lanes: readonly Lane[], round: number): readonly Lane[] {
  return round % 2 === 0 ? lanes : lanes.toReversed()
}

/** What can run here, and a word for each that cannot. */
export function possible(
  scenarios: readonly Scenario[],
  { tools, testbed }: Pick<Bench, 'tools' | 'testbed'>,
): { kept: Scenario[]; left: string[] } {
  const left: string[] = []
  const kept = scenarios.flatMap((scenario) => {
    const [first] = scenario.rows
    const lacking = scenario.needs.filter((tool) => !tools.has(tool))
    if (lacking.length > 0) {
      left.push(`${first?.measure} …: left out, ${lacking.join(' and ')} is not installed`)
      return []
    }
    const lanes = scenario.lanes.filter((lane) => {
      const missing = (lane.needs ?? []).filter((tool) => !tools.has(tool))
      const why =
        missing.length > 0
          ? `${missing.join(' and ')} is not installed`
          : lane.needsNamespaces === true && testbed.kind === 'loopback'
            ? 'it needs namespaces (root)'
            : undefined
      if (why !== undefined) left.push(`${first?.measure} …: ${lane.name} left out, ${why}`)
      return why === undefined
    })
    return [{ ...scenario, lanes }]
  })
  return { kept, left }
}

function scenarioOf(scenarios: readonly Scenario[], lane: Lane): string {
  return scenarios.find(({ lanes }) => lanes.includes(lane))?.rows[0]?.measure ?? ''
}
