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
