import type { Constraint } from '../spec.ts'
import type { Candidate } from './candidate.ts'
import { failed, nearness, valueText, type Nearness } from './nearness.ts'
import type { PlacementRequest } from './placement-request.ts'

/*
 * Whether a running instance keeps to its `latency` and `geo` constraints, by measurements that go on as long as it runs:
 *
 *     runs, or its constraints are others
 *        │
 *        ▼     convergence_time is over             kept < rigidness, and the last one was missed
 *    converging ───────────────────────▶ kept ────────────────────────────────────────────────────▶ violated
 *        ▲                                 ▲                                                          │  │
 *        │ it has moved                    └─────── kept >= rigidness, or the last was kept ──────────┘  │
 *        └───────────────────────────────────────────────────────────────────────────────────────────────┘
 *
 * What cannot be measured is not counted, neither for it nor against it.
 */

/** Constraints that hold together: one service, or all places of one kind, of which one is enough. */
export type Group = readonly Constraint[]

/** How often is measured. Smaller reacts faster and costs more. */
export const MEASURE_MS = 5_000
/** Measurements of one group that count; where `convergence_time` is longer than these, they are farther apart. */
export const MOST_SAMPLES = 120
/** The share is of the measurements in `convergence_time`, but of no less than a minute. Smaller lets one decide for many. */
const LEAST_WINDOW_MS = 60_000
/** Of a document that does not say: nine of ten. */
const RIGIDNESS = 0.9
const CONVERGENCE_SECONDS = 300

export interface History {
  /** When it began to run here with these constraints. */
  since: number
  /** When each measurement was taken, in ms; negative where it was missed. */
  samples: readonly number[]
}

export type Verdict =
  | { kind: 'converging' }
  | { kind: 'kept'; kept: number; of: number }
  | { kind: 'violated'; kept: number; of: number }

export function groupsOf(constraints: readonly Constraint[]): Group[] {
  const measured = constraints.filter(({ type }) => type === 'latency' || type === 'geo')
  const services = measured.filter(({ service }) => service !== undefined).map((each) => [each])
  const places = (['latency', 'geo'] as const).map((type) =>
    measured.filter((each) => each.type === type && each.service === undefined),
  )
  return [...services, ...places.filter((group) => group.length > 0)]
}

/** The best of the group for an instance on this candidate; `undefined` where nothing is known of it. */
export function measure(group: Group, candidate: Candidate, request: PlacementRequest): Nearness | undefined {
  const all = group.flatMap((constraint) => nearness(constraint, candidate, request) ?? [])
  const known = all.filter(
    ({ value, kept, constraint }) => kept || value !== undefined || constraint.area !== undefined,
  )
  return failed(known) ?? known.find(({ kept }) => kept)
}

export function taken(history: History, { at, kept }: { at: number; kept: boolean }, group: Group): History {
  const last = history.samples.at(-1)
  if (last !== undefined && at - Math.abs(last) < everyMs(group)) return history
  const from = at - windowMs(group)
  const samples = history.samples.filter((sample) => Math.abs(sample) > from).slice(1 - MOST_SAMPLES)
  const when = Math.max(at, 1) // 0 has no sign
  return { ...history, samples: [...samples, kept ? when : -when] }
}

export function verdict({ since, samples }: History, group: Group, now: number): Verdict {
  const recent = samples.filter((sample) => Math.abs(sample) > now - windowMs(group))
  const of = recent.length
  if (of === 0 || now - since < convergenceMs(group)) return { kind: 'converging' }
  const kept = recent.filter((sample) => sample > 0).length
  const isMissed = (recent.at(-1) as number) < 0
  return { kind: isMissed && kept / of < rigidnessOf(group) ? 'violated' : 'kept', kept, of }
}

/** `45 ms from shop.acme.db instead of 20; kept in 3 of 20 measurements, 18 are required`. */
export function violationText(found: Nearness, { kept, of }: { kept: number; of: number }, group: Group): string {
  const { constraint } = found
  const what =
    constraint.area === undefined
      ? `${valueText(found)} instead of ${constraint.threshold}`
      : `not in the area ${constraint.area}`
  return `${what}; kept in ${kept} of ${of} measurements, ${Math.ceil(of * rigidnessOf(group))} are required`
}

/*
 * Damping. A move must be worth it, and each one makes the next wait longer, so that two nodes near the threshold never pass an
 * instance to and fro:
 *
 *     first ── 1 min or convergence_time ── second ── twice that ── third ── … an hour       forgotten after two hours without a move
 */

/** A node must keep to the constraint with so much to spare. Larger moves for little, smaller leaves fewer nodes to move to. */
const SPARE = 0.9
const LEAST_REST_MS = 60_000
const MOST_REST_MS = 3_600_000
const FORGOTTEN_MS = 2 * MOST_REST_MS

/** How long after its last move an instance stays where it is. `moves`: when it moved for its constraints, oldest first. */
export function mayMoveAt(moves: readonly number[], group: Group): number {
  const last = moves.at(-1)
  if (last === undefined) return Number.NEGATIVE_INFINITY
  let recent = 1
  while (recent < moves.length && gapBefore(moves, moves.length - recent) < FORGOTTEN_MS) recent++
  const restMs = Math.max(LEAST_REST_MS, convergenceMs(group)) * 2 ** (recent - 1)
  return last + Math.min(restMs, MOST_REST_MS)
}

function gapBefore(moves: readonly number[], at: number): number {
  return (moves[at] ?? 0) - (moves[at - 1] ?? 0)
}

/** The request for another place: what is violated must be kept with something to spare there, all else as the document says. */
export function requestElsewhere(request: PlacementRequest, group: Group): PlacementRequest {
  const constraints = request.spec.constraints.map((constraint) =>
    group.includes(constraint) && constraint.threshold !== undefined
      ? { ...constraint, threshold: constraint.threshold * SPARE }
      : constraint,
  )
  return { ...request, spec: { ...request.spec, constraints } }
}

function everyMs(group: Group): number {
  return Math.max(MEASURE_MS / 2, windowMs(group) / MOST_SAMPLES) // half: a timer that is early counts
}

function windowMs(group: Group): number {
  return Math.max(LEAST_WINDOW_MS, convergenceMs(group))
}

/** Of several places the most patient. */
function convergenceMs(group: Group): number {
  return 1_000 * Math.max(...group.map(({ convergenceSeconds = CONVERGENCE_SECONDS }) => convergenceSeconds))
}

function rigidnessOf(group: Group): number {
  return Math.min(...group.map(({ rigidness = RIGIDNESS }) => rigidness))
}
