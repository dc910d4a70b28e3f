import { MeshError } from '../../core/errors.ts'
import type { App } from '../link/link-server.ts'
import { duplicateKeyFaults } from '../sla/read.ts'

/**
 * Reads JSON bodies as fastify does (without `__proto__`), and refuses those in which a key occurs twice: a document means the
 * same to the API as it does to `hedgerow apply`.
 */
export function refuseDuplicateKeys(app: App): void {
  const parse = app.getDefaultJsonParser('error', 'error')
  app.removeContentTypeParser('application/json')
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (request, body, done) => {
    void parse(request, body as string, (error, value) => {
      if (error !== null) return done(error)
      const faults = duplicateKeyFaults(body as string, 'body')
      if (faults.length > 0) return done(new MeshError('SLA_INVALID', { faults }))
      done(null, value)
    })
  })
}
