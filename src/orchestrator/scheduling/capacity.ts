import type { Capacity, ServiceSpec } from '../spec.ts'

/** In the order in which shortages are reported. */
export const DIMENSIONS = ['memoryMb', 'vcpus', 'vgpus', 'vtpus', 'storageMb'] as const satisfies (keyof Capacity)[]
export type Dimension = (typeof DIMENSIONS)[number]

export const NOTHING: Capacity = { memoryMb: 0, vcpus: 0, vgpus: 0, vtpus: 0, storageMb: 0 }

/** What one instance of the service takes from its node. */
export function demandOf({ memoryMb, vcpus, vgpus, vtpus, storageMb }: ServiceSpec): Capacity {
  return { memoryMb, vcpus, vgpus, vtpus, storageMb }
}

/** The first dimension in which `free` is too small, or `undefined` when the demand fits. */
export function shortage(demand: Capacity, free: Capacity): Dimension | undefined {
  return DIMENSIONS.find((dimension) => demand[dimension] > 0 && demand[dimension] > free[dimension])
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
  return {
    memoryMb: exact(join(a.memoryMb, b.memoryMb)),
    vcpus: exact(join(a.vcpus, b.vcpus)),
    vgpus: exact(join(a.vgpus, b.vgpus)),
    vtpus: exact(join(a.vtpus, b.vtpus)),
    storageMb: exact(join(a.storageMb, b.storageMb)),
  }
}

/** Thousandths are kept: a tenth of a core reserved and released ten times must leave what was there. */
function exact(amount: number): number {
  return Math.round(amount * 1000) / 1000
}
