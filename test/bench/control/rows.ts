import { figure } from '../table.ts'
import type { Found, Measure } from './measures.ts'

/** One line of `--json`. */
export interface ControlRow {
  measure: string
  /** `null`: it could not be measured. */
  ours: number | null
  goal: number
  unit: string
  /** `null`: not judged, since the machine was busy or nothing was measured. */
  ok: boolean | null
}

/** Less is better for every measure here. */
export function rowsOf(
  measures: readonly Measure[],
  found: Found,
  { only, busy }: { only?: RegExp | undefined; busy?: ReadonlySet<string> } = {},
): ControlRow[] {
  return measures
    .filter(({ measure }) => only === undefined || only.test(measure))
    .map(({ measure, goal, unit }) => {
      const ours = found[measure]
      const isJudged = ours !== undefined && busy?.has(measure) !== true
      return { measure, ours: ours === undefined ? null : tidy(ours), goal, unit, ok: isJudged ? ours <= goal : null }
    })
}

export function tableOf(rows: readonly ControlRow[]): string[] {
  const cells = rows.map(({ measure, ours, goal, unit, ok }) => [
    measure,
    ours === null ? '–' : figure(ours),
    `≤ ${figure(goal)} ${unit}`,
    ok === null ? (ours === null ? 'not measured' : 'busy: not judged') : ok ? 'reached' : 'NOT REACHED',
  ])
  const widths = [0, 1, 2].map((column) => Math.max(...cells.map((line) => (line[column] as string).length)))
  const padded = (cell: string, column: number) =>
    column === 1 ? cell.padStart(widths[1] as number) : cell.padEnd(widths[column] ?? 0)
  return cells.map((line) => line.map(padded).join('  ').trimEnd())
}

function tidy(value: number): number {
  return Number(value.toPrecision(4))
}
