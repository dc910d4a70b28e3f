import { isDeepStrictEqual } from 'node:util'
import { MeshError } from '../../core/errors.ts'
import type { ServiceId } from '../../core/model/ids.ts'
import type { ServiceSpec } from '../spec.ts'
import type { RevisionRecord, RootStore, ServiceRecord } from './root-store.ts'

/** As Kubernetes does. Smaller forgets sooner what one may go back to; larger stores more documents. */
export const MOST_REVISIONS = 10

export type RevisionReason = Pick<RevisionRecord, 'rollbackTo' | 'isAutomatic'>

export function revisionsOf(service: ServiceId, store: RootStore): RevisionRecord[] {
  return store.revisions.list(`${service} `)
}

/** Within the transaction that writes the service. `before`: what an earlier version applied without a history. */
export function recordRevision(
  { id, spec, generation }: Pick<ServiceRecord, 'id' | 'spec' | 'generation'>,
  { before, at, reason = {} }: { before: ServiceRecord | undefined; at: number; reason?: RevisionReason | undefined },
  store: RootStore,
): void {
  const known = revisionsOf(id, store)
  const put = (revision: RevisionRecord) => {
    known.push(revision)
    store.revisions.put(keyOf(id, revision.number), revision)
  }
  if (known.length === 0 && before !== undefined)
    put({ service: id, number: 1, spec: before.spec, generation: before.generation, at, isComplete: true })
  put({ service: id, number: (known.at(-1)?.number ?? 0) + 1, spec, generation, at, ...reason })
  for (const { number } of known.slice(0, -MOST_REVISIONS)) store.revisions.delete(keyOf(id, number))
}

/** Every instance runs the newest revision. */
export function completeRevision(service: ServiceId, store: RootStore): void {
  const newest = revisionsOf(service, store).at(-1)
  if (newest !== undefined && newest.isComplete === undefined)
    store.revisions.put(keyOf(service, newest.number), { ...newest, isComplete: true })
}

export function forgetRevisions(service: ServiceId, store: RootStore): void {
  for (const key of store.revisions.keys(`${service} `)) store.revisions.delete(key)
}

/**
 * The revision to go back to: the one that was asked for, or the newest before the present one that differs from it, one that every
 * instance ran if there is such a one.
 * @throws MeshError REVISION_UNKNOWN
 */
export function rollbackTarget(
  service: ServiceRecord,
  revisions: readonly RevisionRecord[],
  asked?: number,
): RevisionRecord {
  const { id, spec } = service
  const isPresent = (revision: RevisionRecord) => isDeepStrictEqual(contentOf(revision.spec), contentOf(spec))
  if (asked !== undefined) {
    const found = revisions.find(({ number }) => number === asked)
    if (found === undefined) throw noRevision(id, revisions, 'it was never applied, or is forgotten')
    return found
  }
  const others = revisions.filter((revision) => !isPresent(revision))
  const target = others.findLast(({ isComplete }) => isComplete === true) ?? others.at(-1)
  if (target === undefined) throw noRevision(id, revisions, 'it has no other revision')
  return target
}

/** How many instances there are is no part of a revision, as `scale` changes it too. */
export function contentOf(spec: ServiceSpec): unknown {
  return JSON.parse(JSON.stringify({ ...spec, replicas: undefined }))
}

function noRevision(service: ServiceId, revisions: readonly RevisionRecord[], reason: string): MeshError {
  const numbers = revisions.map(({ number }) => number).join(', ')
  return new MeshError('REVISION_UNKNOWN', {
    service,
    reason: numbers === '' ? reason : `${reason}; there are ${numbers}`,
  })
}

function keyOf(service: ServiceId, number: number): string {
  return `${service} ${String(number).padStart(9, '0')}`
}
