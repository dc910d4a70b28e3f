import type { NodeId } from '../../../core/model/ids.ts'
import type { InstanceState } from '../../../core/model/instance.ts'
import type { MoveCause } from '../../spec.ts'
import type { InstanceRecord } from '../root-store.ts'
import type { Actor, EventWord, NewEvent } from './event.ts'

/** What is told when an instance comes to this state, and who has brought it there. The root may not see each: reports are gathered. */
export const STATE_WORDS = {
  requested: undefined, // by the root alone: its document, or what took its place away, is told
  placed: undefined, // told with the node, which may come with a later state
  starting: { what: 'started', by: 'worker' },
  running: { what: 'ready', by: 'worker' },
  lost: { what: 'lost', by: 'cluster' },
  stopping: { what: 'draining', by: 'reconciler' },
  stopped: { what: 'finished', by: 'worker' },
  failed: { what: 'failed', by: 'worker' },
  unplaceable: { what: 'unplaceable', by: 'reconciler' },
} as const satisfies Record<InstanceState, { what: EventWord; by: Actor } | undefined>

/** What is known beside the records: of a new place, a new document or the end; and of a move, who wanted it. */
export interface Known {
  why?: string | undefined
  cause?: MoveCause | undefined
}

/** What the change of a record means, in order. */
export function eventsOf(before: InstanceRecord, after: InstanceRecord, { why, cause }: Known = {}): NewEvent[] {
  if (isBackAgain(before, after)) return [] // whoever refused, or gave it up, has told that
  const told = { instance: after.id, node: after.node?.id, cluster: after.cluster }
  const events: NewEvent[] = []
  // one that waits is asked for again and again: that it is updated is told once it no longer waits
  const isNewer = after.generation > before.generation && before.generation > 0 && after.waits === undefined
  const waitsNoMore = before.waits !== undefined && after.waits === undefined
  if (isNewer || waitsNoMore) events.push({ ...told, what: 'updated', by: 'reconciler', why: why ?? howUpdated(after) })
  if (after.waits !== undefined && after.waits !== before.waits)
    events.push({ ...told, what: 'stuck', by: 'cluster', why: after.waits })
  if (after.node !== undefined && after.node.id !== (before.node?.id ?? before.was?.node))
    events.push({ ...told, ...placedOf(before, { why, cause }) })
  if (after.restarts > before.restarts)
    events.push({ ...told, what: 'restarted', by: 'worker', why: after.detail ?? before.detail })
  const state = stateOf(before, after)
  const replaced = replacedOf(before, after)
  if (replaced !== undefined) events.push({ ...told, ...replaced })
  if (isStartUnseen(before, after)) events.push({ ...told, ...STATE_WORDS.starting })
  if (state !== undefined) events.push({ ...told, ...state, why: state.what === 'draining' ? why : after.detail })
  return events
}

/** Another cluster was asked to take it, and has not. */
function isBackAgain({ former }: InstanceRecord, after: InstanceRecord): boolean {
  return former !== undefined && after.former === undefined && after.cluster === former.cluster
}

function howUpdated({ successor, gap, generation }: InstanceRecord): string {
  if (successor !== undefined) return `a run of generation ${generation} starts beside it`
  return gap === undefined ? `generation ${generation}` : `generation ${generation}, it is stopped first: ${gap}`
}

/** Of two runs of it one is left: the newer, unless its cluster has only the older generation now. */
function replacedOf(before: InstanceRecord, after: InstanceRecord): Omit<NewEvent, 'instance'> | undefined {
  const { successor } = before
  if (successor === undefined || after.successor !== undefined || after.state !== before.state) return undefined
  if (after.generation < before.generation)
    return {
      what: 'failed',
      by: 'worker',
      why: `its newer run, so the older goes on: ${successor.detail ?? 'it ended'}`,
    }
  return after.state === 'running' ? { what: 'ready', by: 'worker', why: 'it has one run again' } : undefined
}

/** A place that it had before counts, also one from which it was lost or which it has just left. */
function placedOf(before: InstanceRecord, { why, cause = causeOf(before) }: Known) {
  const { node, was, former, movesTo, leftOn = [] } = before
  const from = node?.id ?? was?.node ?? former?.node?.id ?? movesTo?.from ?? leftOn.at(-1)?.node
  if (from === undefined) return { what: 'placed', by: 'cluster', why } as const
  const { by = 'cluster' } = cause ?? {}
  const known = cause?.why ?? why ?? (hasGone(before) ? before.detail : undefined)
  return { what: 'moved', by, why: known === undefined ? `from ${from}` : `from ${from}; ${known}` } as const
}

function causeOf({ former, movesTo, was }: InstanceRecord): MoveCause | undefined {
  return former?.cause ?? movesTo?.cause ?? was?.cause
}

function hasGone({ state }: InstanceRecord): boolean {
  return state === 'lost' || state === 'failed'
}

/** It was started and ready before anybody was told of the first. */
function isStartUnseen(before: InstanceRecord, after: InstanceRecord): boolean {
  return after.state === 'running' && (before.state === 'requested' || before.state === 'placed')
}

function isOther(before: NodeId | undefined, after: NodeId | undefined): boolean {
  return before !== undefined && after !== undefined && before !== after
}

function stateOf(before: InstanceRecord, after: InstanceRecord): { what: EventWord; by: Actor } | undefined {
  const isSaidAnew = after.state === 'unplaceable' && after.detail !== before.detail
  // what it was between two places may not have been told
  const isReadyElsewhere =
    after.state === 'running' && before.successor === undefined && isOther(before.node?.id, after.node?.id)
  if (before.state === after.state && !isSaidAnew && !isReadyElsewhere) return undefined
  const isWorse = before.state === 'running' && after.state === 'starting'
  if (isWorse && after.generation === before.generation)
    return after.restarts > before.restarts ? undefined : { what: 'unready', by: 'worker' }
  if (after.state === 'starting' && after.restarts > before.restarts) return undefined // restarted says it
  return STATE_WORDS[after.state]
}
