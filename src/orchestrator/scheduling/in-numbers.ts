import type { Candidate } from './candidate.ts'
import { demandOf, shortage, type Dimension } from './capacity.ts'
import { excessOf, failed, nearness, valueText, type Nearness } from './nearness.ts'
import type { PlacementRequest } from './placement-request.ts'

/** A refusal with its numbers, for whoever looks at one candidate: those that are counted have none, so that equal ones count together. */
export interface InNumbers {
  text: string
  /** How far beyond what is allowed: 1 is exactly at the limit; `Infinity` where it is not known. */
  excess?: number
}

const UNITS: Readonly<Record<Dimension, string>> = {
  memoryMb: ' MB',
  vcpus: '',
  vgpus: '',
  vtpus: '',
  storageMb: ' MB',
  bandwidthInKbit: ' kbit/s',
  bandwidthOutKbit: ' kbit/s',
}

/** `reason` as the filter of this name gives it. */
export function inNumbers(filter: string, reason: string, request: PlacementRequest, candidate: Candidate): InNumbers {
  if (filter === 'capacity') return { text: shortageText(reason, request, candidate) }
  if (filter !== 'distance') return { text: reason }
  const far = tooFarOf(request, candidate)
  if (far?.value === undefined) return { text: reason, excess: Infinity }
  return { text: `${valueText(far)} instead of ${far.constraint.threshold}`, excess: excessOf(far) }
}

function shortageText(reason: string, { spec }: PlacementRequest, { total, largestFree }: Candidate): string {
  const demand = demandOf(spec)
  const short = shortage(demand, largestFree)
  if (short === undefined || (total[short] ?? 0) === 0) return reason
  return `${reason}: ${largestFree[short] ?? 0} of ${demand[short]}${UNITS[short]}`
}

function tooFarOf(request: PlacementRequest, candidate: Candidate): Nearness | undefined {
  return failed(request.spec.constraints.flatMap((each) => nearness(each, candidate, request) ?? []))
}
