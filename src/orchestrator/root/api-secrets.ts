import Type from 'typebox'
import { MeshError } from '../../core/errors.ts'
import { type App, reader } from '../link/link-server.ts'
import { labelsOf } from '../sla/names.ts'
import type { ApiContext, Id } from './api-context.ts'
import { MAX_SECRET_BYTES } from './secrets.ts'

const readSecret = reader(
  Type.Object(
    {
      name: Type.String({ maxLength: 200 }),
      /** Base64. */
      value: Type.String({ maxLength: Math.ceil(MAX_SECRET_BYTES / 3) * 4 }),
      replace: Type.Optional(Type.Boolean()),
    },
    { additionalProperties: false },
  ),
)

/** Secrets come in and are listed; no answer has the value of one. */
export function secretRoutes(app: App, { secrets }: ApiContext): void {
  app.get('/secrets', () => secrets.list())

  app.post('/secrets', ({ body }) => {
    const { name, value, replace } = readSecret(body)
    const id = secretNamed(name)
    return { name: id, result: secrets.put(id, Buffer.from(value, 'base64'), { mayReplace: replace === true }) }
  })

  app.delete<Id>('/secrets/:id', ({ params }) => {
    const id = secretNamed(params.id)
    secrets.delete(id)
    return { deleted: [id] }
  })
}

/** `app.namespace.name`; @throws MeshError USAGE */
export function secretNamed(given: string): string {
  const labels = labelsOf(given)
  if (labels?.length === 3) return labels.join('.')
  throw new MeshError('USAGE', {
    reason: `"${given.slice(0, 200)}" is not the name of a secret`,
    remedy: 'Write app.namespace.name, for example shop.acme.db-password.',
  })
}
