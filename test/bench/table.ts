/**
 * What the benchmark says, from what was measured: medians of the rounds, ratios of medians, and whether a goal is reached.
 * Pure; `main.ts` prints.
 */
export interface RowSpec {
  readonly measure: string
  readonly unit: string
  /** Which way is better; the goals below are least ratios for `higher`, greatest ones for `lower`. */
  readonly better: 'higher' | 'lower'
  /** Whom it is measured against, and the ratio to reach; `report`: only told. A limit is a peer that is a fixed figure. */
  readonly against: Readonly<Record<string, number | 'report'>>
  /** Fixed figures among the peers, by name. */
  readonly limits?: Readonly<Record<string, number>>
}

/** One line of `--json`. */
export interface Row {
  measure: string
  ours: number
  peer: number
  peerName: string
  unit: string
  ratio: number
  /** For a row that is only told: 0 where more is better, `NO_GOAL` where less is, so that `ok` follows by the same rule. */
  goal: number
  /** `null`: not judged, the machine was busy. */
  ok: boolean | null
  /** The highest load average (1 min) just before it was measured. */
  load: number
}

/** What the machine was like, by measure. */
export interface Conditions {
  /** Measures of which a figure does not count. */
  readonly busy: ReadonlySet<string>
  readonly loads: ReadonlyMap<string, number>
}

export const OURS = 'hedgerow'
/** A ratio no measurement reaches. */
export const NO_GOAL = 1_000_000

/** Everything measured so far: by measure, then by lane, a figure a round. */
export class Figures {
  readonly #all = new Map<string, Map<string, number[]>>()

  add(measure: string, lane: string, value: number): void {
    if (!Number.isFinite(value)) return
    const lanes = this.#all.get(measure) ?? new Map<string, number[]>()
    this.#all.set(measure, lanes)
    lanes.set(lane, [...(lanes.get(lane) ?? []), value])
  }

  of(measure: string, lane: string): readonly number[] {
    return this.#all.get(measure)?.get(lane) ?? []
  }
}

/** The rows that can be told: those of which both sides were measured. */
export function rowsOf(specs: readonly RowSpec[], figures: Figures, { busy, loads }: Conditions): Row[] {
  return specs.flatMap((spec) =>
    Object.entries(spec.against).flatMap(([peerName, wanted]) => {
      const ours = median(figures.of(spec.measure, OURS))
      const peer = spec.limits?.[peerName] ?? median(figures.of(spec.measure, peerName))
      if (ours === undefined || peer === undefined || peer === 0) return []
      const ratio = ours / peer
      const goal = wanted === 'report' ? (spec.better === 'higher' ? 0 : NO_GOAL) : wanted
      const { measure, unit } = spec
      const isReached = spec.better === 'higher' ? ratio >= goal : ratio <= goal
      const ok = busy.has(measure) ? null : isReached
      const load = tidy(loads.get(measure) ?? 0)
      return [{ measure, ours: tidy(ours), peer: tidy(peer), peerName, unit, ratio: tidy(ratio), goal, ok, load }]
    }),
  )
}

/** The middle one, or the mean of the two in the middle; `undefined` of nothing. */
export function median(figures: readonly number[]): number | undefined {
  const sorted = figures.toSorted((a, b) => a - b)
  const [low, high] = [sorted[(sorted.length - 1) >> 1], sorted[sorted.length >> 1]]
  return low === undefined || high === undefined ? undefined : (low + high) / 2
}

/** The smallest figure that `share` of all do not exceed (nearest rank). */
export function quantile(figures: readonly number[], share: number): number | undefined {
  const sorted = figures.toSorted((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)]
}

/** Lines for people, columns aligned. */
export function tableOf(rows: readonly Row[], specs: readonly RowSpec[]): string[] {
  const head = ['measure', 'hedgerow', 'peer', '', 'ratio', 'goal', '', 'load before']
  const cells = rows.map((row, i) => {
    const isFirst = rows[i - 1]?.measure !== row.measure
    const isHigher = specs.find(({ measure }) => measure === row.measure)?.better === 'higher'
    const isTold = row.goal === 0 || row.goal === NO_GOAL
    return [
      isFirst ? row.measure : '',
      isFirst ? `${figure(row.ours)} ${row.unit}` : '',
      figure(row.peer),
      row.peerName,
      `${row.ratio.toFixed(2)}×`,
      isTold ? 'told' : `${isHigher ? '≥' : '≤'} ${row.goal}×`,
      row.ok === null ? 'busy: not judged' : isTold ? '' : row.ok ? 'reached' : 'NOT REACHED',
      isFirst ? row.load.toFixed(2) : '',
    ]
  })
  const all = [head, ...cells]
  const widths = head.map((_, column) => Math.max(...all.map((line) => (line[column] as string).length)))
  const isRight = (column: number) => column === 1 || column === 2 || column === 4
  return all.map((line) =>
    line
      .map((cell, column) =>
        isRight(column) ? cell.padStart(widths[column] as number) : cell.padEnd(widths[column] as number),
      )
      .join('  ')
      .trimEnd(),
  )
}

export function figure(value: number): string {
  if (value >= 10_000) return Math.round(value).toLocaleString('en-US')
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(3)
}

/** Six digits are more than any of it is worth. */
function tidy(value: number): number {
  return Number(value.toPrecision(6))
}
