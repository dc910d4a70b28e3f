import type { Capacity, ServiceSpec } from '../spec.ts'

/** In the order in which shortages are reported. */
export const DIMENSIONS = [
  'memoryMb',
  'vcpus',
  'vgpus',
  'vtpus',
  'storageMb',
  'bandwidthInKbit',
  'bandwidthOutKbit',
] as const satisfies (keyof Capacity)[]
export type Dimension = (typeof DIMENSIONS)[number]

export const NOTHING: Capacity = { memoryMb: 0, vcpus: 0, vgpus: 0, vtpus: 0, storageMb: 0 }

/** What one instance of the service takes from its node. */
export function demandOf(spec: ServiceSpec): Capacity {
  const { memoryMb, vcpus, vgpus, vtpus, storageMb, bandwidthInKbit, bandwidthOutKbit } = spec
  return {
    memoryMb,
    vcpus,
    vgpus,
    vtpus,
    storageMb,
    ...(bandwidthInKbit > 0 ? { bandwidthInKbit } : {}),
    ...(bandwidthOutKbit > 0 ? { bandwidthOutKbit } : {}),
  }
}

/** What instances of all these take together; a dimension that an older agent did not record counts as none. */
export function sumOf(specs: readonly ServiceSpec[]): Capacity {
  const sum: Capacity = { ...NOTHING }
  const demands = specs.map(demandOf)
  for (const dimension of DIMENSIONS) {
    const taken = demands.reduce((total, demand) => total + (demand[dimension] ?? 0), 0)
    if (taken > 0) sum[dimension] = exact(taken)
  }
  return sum
}

export function isNothing(demand: Capacity): boolean {
  return DIMENSIONS.every((dimension) => (demand[dimension] ?? 0) <= 0)
}

/** The first dimension in which `free` is too small, or `undefined` when the demand fits. */
export function shortage(demand: Capacity, free: Capacity): Dimension | undefined {
  for (const dimension of DIMENSIONS) {
    const wanted = demand[dimension] ?? 0
    if (wanted > 0 && wanted > (free[dimension] ?? 0)) return dimension
  }
  return undefined
}

export function reserve(free: Capacity, demand: Capacity): Capacity {
  return combine(free, demand, (have, taken) => have - taken)
}

export function release(free: Capacity, demand: Capacity): Capacity {
  return combine(free, demand, (have, given) => have + given)
}

/** The larger of both in each dimension: no single node may have all of it, but nothing larger fits anywhere. */
export function largest(a: Capacity, b: Capacity): Capacity {
  return combine(a, b, Math.max)
}

function combine(a: Capacity, b: Capacity, join: (x: number, y: number) => number): Capacity {
  const joined: Capacity = { ...NOTHING }
  for (const dimension of DIMENSIONS) {
    const [x, y] = [a[dimension], b[dimension]]
    if (x !== undefined || y !== undefined) joined[dimension] = exact(join(x ?? 0, y ?? 0))
  }
  return joined
}

/** Thousandths are kept: a tenth of a core reserved and released ten times must leave what was there. */
function exact(amount: number): number {
  return Math.round(amount * 1000) / 1000
}
