import { isDeepStrictEqual } from 'node:util'
import type { ServiceId } from '../../core/model/ids.ts'
import { changedFields, effectOf, FIELDS, type Effect } from '../sla/changes.ts'
import type { ServiceSpec } from '../spec.ts'
import type { ServiceRecord } from './root-store.ts'

/** What a document changes about one service, and what that means for its running instances. */
export type ServiceChange =
  | { kind: 'created'; spec: ServiceSpec }
  | { kind: 'updated'; spec: ServiceSpec; effect: Effect }
  | { kind: 'unchanged'; id: ServiceId }
  | { kind: 'removed'; id: ServiceId }

/** Compares a document with the services there are. Those it does not name stay, or are removed with `prune`. */
export function difference(
  existing: readonly ServiceRecord[],
  wanted: readonly ServiceSpec[],
  { prune }: { prune: boolean },
): ServiceChange[] {
  const before = new Map(existing.map(({ id, spec }) => [id, spec]))
  const named = wanted.map((spec): ServiceChange => {
    const old = before.get(spec.id)
    if (old === undefined) return { kind: 'created', spec }
    if (isDeepStrictEqual(plain(old), plain(spec))) return { kind: 'unchanged', id: spec.id }
    return { kind: 'updated', spec, effect: effectOf(old, spec) }
  })
  if (!prune) return named
  const ids = new Set(wanted.map(({ id }) => id))
  return [...named, ...existing.filter(({ id }) => !ids.has(id)).map(({ id }) => ({ kind: 'removed', id }) as const)]
}

/** One thing that is different, as the mesh has read it: defaults are filled in, names are complete. */
export interface ChangedKeys {
  /** The keys of a document that it comes from. */
  keys: string[]
  /** Absent: there was nothing. */
  before?: unknown
  /** Absent: there is nothing any more. */
  after?: unknown
}

/** All that is different between what a service is and what it would be. */
export function changedKeys(before: ServiceSpec, after: ServiceSpec): ChangedKeys[] {
  return changedFields(before, after).map((field) => {
    const { keys } = FIELDS[field]
    const [was, is] = [plain(before[field]), plain(after[field])]
    return {
      keys: keys.length === 0 ? [field] : [...keys],
      ...(was === undefined ? {} : { before: was }),
      ...(is === undefined ? {} : { after: is }),
    }
  })
}

/** As the store returns it: without keys whose value is `undefined`. */
function plain(value: unknown): unknown {
  return value === undefined ? undefined : JSON.parse(JSON.stringify(value))
}
