import Type from 'typebox'
import { type App, reader } from '../link/link-server.ts'
import type { ApiContext } from './api-context.ts'

const readForce = reader(Type.Object({ force: Type.Optional(Type.Boolean()) }, { additionalProperties: false }))

/** The certificate authority, and its rotation. */
export function authorityRoutes(app: App, { rotation }: ApiContext): void {
  app.get('/authority', () => rotation.status())
  app.post('/authority/rotate', ({ body }) => rotation.rotate(optionsOf(body)))
  app.post('/authority/retire', ({ body }) => rotation.retire(optionsOf(body)))
}

function optionsOf(body: unknown): { force: boolean } {
  const { force = false } = readForce(body ?? {})
  return { force }
}
