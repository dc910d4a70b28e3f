import type { InstanceId } from '../../core/model/ids.ts'
import type { Capacity, ServiceSpec } from '../spec.ts'

const DIRECTIONS = [
  { dimension: 'bandwidthInKbit', word: 'in' },
  { dimension: 'bandwidthOutKbit', word: 'out' },
] as const

/**
 * Which instances a node no longer has the bandwidth for that they reserve, and why: its link is slower than when they were placed. Those
 * with the largest part first, until the rest fits, so that few are concerned.
 */
export function shortOfBandwidth(
  total: Capacity,
  instances: readonly { id: InstanceId; spec: ServiceSpec }[],
): Map<InstanceId, string> {
  const short = new Map<InstanceId, string>()
  for (const { dimension, word } of DIRECTIONS) {
    const has = total[dimension]
    if (has === undefined) continue // it does not say any more
    let reserved = instances.reduce((sum, { spec }) => sum + spec[dimension], 0)
    const text = `its node has ${has} kbit/s ${word}, and ${reserved} are reserved there`
    for (const { id, spec } of instances.toSorted((a, b) => b.spec[dimension] - a.spec[dimension])) {
      if (reserved <= has) break
      reserved -= spec[dimension]
      if (!short.has(id)) short.set(id, text)
    }
  }
  return short
}
