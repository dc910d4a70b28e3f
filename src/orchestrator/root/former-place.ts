import type { LocatedReport } from '../link/messages/cluster-root.ts'
import { MOST_ALSO } from '../link/schemas.ts'
import type { MoveCause } from '../spec.ts'
import type { FormerPlace, InstanceChange, InstanceRecord, ServiceRecord } from './root-store.ts'

/*
 * An instance that moves to another cluster keeps the place that it had until that cluster has accepted:
 *
 *     lost in `a` ─▶ `b` is asked, former: `a` ─▶ accepted: `a` ends it
 *                                              └▶ refused, or it was never there: bound to `a` again, as if nothing had been asked
 *
 * One that still runs in `a` is called there until the one in `b` is ready; then `a` lets it drain.
 */

/** It runs at its former place, and not at the new one yet. */
export function runsAtFormer({ former, state }: Pick<InstanceRecord, 'former' | 'state'>): boolean {
  return former?.state === 'running' && former.node !== undefined && state !== 'running'
}

/** The record as callers must see it: where it runs. */
export function servingOf(record: InstanceRecord): InstanceRecord {
  const { former, node, cluster } = record
  if (former === undefined || !runsAtFormer(record)) return withFormer(record)
  const { detail: _detail, also: _also, epoch: _epoch, ...rest } = record
  const { generation, state, restarts, detail: told } = record
  const detail = cluster === undefined ? {} : { detail: `its successor in ${cluster} is ${state}` }
  const also = node === undefined ? {} : { also: [node.id] }
  const successor = {
    generation,
    state,
    restarts,
    ...(told === undefined ? {} : { detail: told }),
    ...(node === undefined ? {} : { node: node.id }),
  }
  return { ...rest, ...former, ...detail, ...also, successor }
}

/** It may still call from where it was. */
function withFormer(record: InstanceRecord): InstanceRecord {
  const { drainsOn, also = [] } = record
  return drainsOn === undefined ? record : { ...record, also: [drainsOn, ...also].slice(0, MOST_ALSO) }
}

/** Nothing of this is known of an instance without a place. */
const NOWHERE = {
  cluster: undefined,
  node: undefined,
  was: undefined,
  detail: undefined,
  noOtherNode: undefined,
  violation: undefined,
  unsuited: undefined,
  former: undefined,
  isIdle: undefined,
  successor: undefined,
  servingGeneration: undefined,
  waits: undefined,
  gap: undefined,
  also: undefined,
  drainsOn: undefined,
}

/** The record while `cluster` is asked to take it. */
export function askedOf(
  record: InstanceRecord,
  cluster: string,
  { generation, revision, cause }: Pick<ServiceRecord, 'generation' | 'revision'> & { cause?: MoveCause | undefined },
) {
  const place = record.former ?? placeOf(record)
  const former = place === undefined || cause === undefined ? place : { ...place, cause }
  return { ...NOWHERE, cluster, generation, revision, state: 'placed', former } satisfies InstanceChange
}

/** The record when the cluster that was asked does not have it. */
export function refusedOf({ former }: { former?: FormerPlace | undefined }): InstanceChange {
  if (former === undefined) return { ...NOWHERE, state: 'requested' }
  const { cause: _cause, ...place } = former
  return { ...NOWHERE, ...place }
}

/** More are of no use to anybody who looks. */
const MOST_LEFT = 16

/** The record once the cluster that was asked has accepted: it may still run where it was. */
export function leftBy(
  { former, leftOn = [] }: InstanceRecord,
  { at, drains }: { at: number; drains: boolean },
): InstanceChange {
  const node = former?.node?.id
  if (node === undefined) return { former: undefined }
  const others = leftOn.filter((left) => left.node !== node)
  const left = drains ? { node, at, drains } : { node, at }
  return { former: undefined, leftOn: [...others, left].slice(-MOST_LEFT) }
}

/** What its former cluster has reported since. */
export function heardOf(former: FormerPlace, { report, node, noOtherNode }: LocatedReport): FormerPlace {
  const { detail: _detail, node: _node, noOtherNode: _noOtherNode, ...rest } = former
  const { state, detail } = report
  return {
    ...rest,
    state,
    ...(detail === undefined ? {} : { detail }),
    ...(node === undefined ? {} : { node }),
    ...(noOtherNode === true ? { noOtherNode } : {}),
  }
}

function placeOf(record: InstanceRecord): FormerPlace | undefined {
  const { cluster, generation, revision, unsuited, state, detail, node, noOtherNode, violation } = record
  if (cluster === undefined) return undefined
  const known = { cluster, generation, revision, unsuited, state, detail, node, noOtherNode, violation }
  return Object.fromEntries(Object.entries(known).filter(([, value]) => value !== undefined)) as unknown as FormerPlace
}
