import { createHash } from 'node:crypto'
import Type from 'typebox'
import { MeshError } from '../../../core/errors.ts'
import type { ServiceRecord } from '../root-store.ts'

/** What a change is allowed for: the document of the service as it was read. How many run is not part of it. */

export const ifMatch = Type.Object({
  'if-match': Type.Optional(Type.String({ description: 'Only while the service is as it was read, by its `etag`.' })),
})

export function etagOf({ generation, spec }: Pick<ServiceRecord, 'generation' | 'spec'>): string {
  const hash = createHash('sha256').update(JSON.stringify([generation, spec]))
  return `"${hash.digest('base64url').slice(0, 16)}"`
}

/** RFC 9110, section 13.1.1. @throws MeshError PRECONDITION_FAILED */
export function checkMatch(given: string | undefined, service: ServiceRecord): void {
  if (given === undefined || given.trim() === '*') return
  const etag = etagOf(service)
  if (given.split(',').some((one) => one.trim() === etag)) return
  throw new MeshError('PRECONDITION_FAILED', { service: service.id, etag })
}
