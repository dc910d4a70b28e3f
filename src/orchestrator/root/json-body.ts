import type { FastifyRequest } from 'fastify'
import { MeshError } from '../../core/errors.ts'
import type { App } from '../link/link-server.ts'
import { parseJsonInSlices } from '../sla/json-slices.ts'
import { duplicateKeyFaults } from '../sla/read.ts'

/** A longer body is parsed in slices: it would hold up everything else for more than a few milliseconds. */
const LONG_CHARS = 128 * 1024

/**
 * Reads JSON bodies as fastify does (without `__proto__`), and refuses those in which a key occurs twice: a document means the
 * same to the API as it does to `hedgerow apply`.
 */
export function refuseDuplicateKeys(app: App): void {
  const parse = app.getDefaultJsonParser('error', 'error')
  app.removeContentTypeParser('application/json')
  app.addContentTypeParser('application/json', { parseAs: 'string' }, async (request: FastifyRequest, body: string) => {
    const parsed = (text: string): unknown => {
      let outcome: { error: Error | null; value: unknown } = { error: null, value: undefined }
      void parse(request, text, (error, value: unknown) => {
        outcome = { error, value }
      })
      if (outcome.error !== null) throw outcome.error
      return outcome.value
    }
    const sliced = body.length > LONG_CHARS ? await inParts(body, parsed) : undefined
    if (sliced?.kind === 'read') return sliced.value
    const value = parsed(body) // also to say what is wrong with a long one
    const faults = duplicateKeyFaults(body, 'body')
    if (faults.length > 0) throw new MeshError('SLA_INVALID', { faults })
    return value
  })
}

/** A part that is no JSON is found, and told, in the whole. */
async function inParts(body: string, parsed: (text: string) => unknown) {
  try {
    return await parseJsonInSlices(body, parsed)
  } catch {
    return undefined
  }
}
