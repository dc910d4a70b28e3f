import type { InstanceId } from '../../core/model/ids.ts'
import type { Capacity, ServiceSpec } from '../spec.ts'

/** Storage is not among them: what is free when an agent starts does not count what instances have written already. */
const WATCHED = [
  { dimension: 'memoryMb', unit: 'MB of memory' },
  { dimension: 'vcpus', unit: 'vcpus' },
  { dimension: 'vgpus', unit: 'gpus' },
  { dimension: 'vtpus', unit: 'tpus' },
  { dimension: 'bandwidthInKbit', unit: 'kbit/s in' },
  { dimension: 'bandwidthOutKbit', unit: 'kbit/s out' },
] as const

/**
 * Which instances a node no longer has the room for that they reserve, and why: its link is slower, it has lost a GPU, or its agent is told to give
 * less. Those with the largest part first, until the rest fits, so that few are concerned.
 */
export function shortOfCapacity(
  total: Capacity,
  instances: readonly { id: InstanceId; spec: ServiceSpec }[],
): Map<InstanceId, string> {
  const short = new Map<InstanceId, string>()
  for (const { dimension, unit } of WATCHED) {
    const has = total[dimension]
    if (has === undefined) continue // it does not say any more
    let reserved = round(instances.reduce((sum, { spec }) => sum + spec[dimension], 0))
    if (reserved <= has) continue
    const text = `its node has ${has} ${unit}, and ${reserved} are reserved there`
    for (const { id, spec } of instances.toSorted((a, b) => b.spec[dimension] - a.spec[dimension])) {
      if (reserved <= has) break
      reserved = round(reserved - spec[dimension])
      if (!short.has(id)) short.set(id, text)
    }
  }
  return short
}

/** As capacity is reserved: ten tenths of a core are one. */
function round(amount: number): number {
  return Math.round(amount * 1_000) / 1_000
}
