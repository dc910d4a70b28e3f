import type { LocatedReport } from '../link/messages.ts'
import type { InstanceChange } from './instance-records.ts'
import type { FormerPlace, InstanceRecord } from './root-store.ts'

/*
 * An instance that moves to another cluster keeps the place that it had until that cluster has accepted:
 *
 *     lost in `a` ─▶ `b` is asked, former: `a` ─▶ accepted: `a` ends it
 *                                              └▶ refused, or it was never there: bound to `a` again, as if nothing had been asked
 */

/** The record while `cluster` is asked to take it. */
export function askedOf(record: InstanceRecord, cluster: string, generation: number): InstanceChange {
  const former = record.former ?? placeOf(record)
  return { cluster, generation, state: 'placed', node: undefined, detail: undefined, noOtherNode: undefined, former }
}

/** The record when the cluster that was asked does not have it. */
export function refusedOf({ former }: InstanceRecord): InstanceChange {
  const nowhere = { cluster: undefined, node: undefined, detail: undefined, noOtherNode: undefined, former: undefined }
  return former === undefined ? { ...nowhere, state: 'requested' } : { ...nowhere, ...former }
}

/** More are of no use to anybody who looks. */
const MOST_LEFT = 16

/** The record once the cluster that was asked has accepted: it may still run where it was. */
export function leftBy({ former, leftOn = [] }: InstanceRecord, at: number): InstanceChange {
  const node = former?.node?.id
  if (node === undefined) return { former: undefined }
  const others = leftOn.filter((left) => left.node !== node)
  return { former: undefined, leftOn: [...others, { node, at }].slice(-MOST_LEFT) }
}

/** What its former cluster has reported since. */
export function heardOf(
  { cluster, generation }: FormerPlace,
  { report, node, noOtherNode }: LocatedReport,
): FormerPlace {
  const { state, detail } = report
  return {
    cluster,
    generation,
    state,
    ...(detail === undefined ? {} : { detail }),
    ...(node === undefined ? {} : { node }),
    ...(noOtherNode === true ? { noOtherNode } : {}),
  }
}

function placeOf({ cluster, generation, state, detail, node, noOtherNode }: InstanceRecord): FormerPlace | undefined {
  if (cluster === undefined) return undefined
  return {
    cluster,
    generation,
    state,
    ...(detail === undefined ? {} : { detail }),
    ...(node === undefined ? {} : { node }),
    ...(noOtherNode === undefined ? {} : { noOtherNode }),
  }
}
