import Type from 'typebox'
import { applyApps, existingService } from '../api-apps.ts'
import type { ApiContext } from '../api-context.ts'
import { appsOf, connected, disconnected, type Ends, endsOf } from '../connections.ts'
import { operation } from './operation.ts'
import { Applied } from './schemas.ts'

/** Connections between two services: what the one’s document says of the other, without the rest of it. */

const name = (description: string) => Type.String({ minLength: 1, maxLength: 400, description })
const params = Type.Object({ name: name('The service that calls.'), called: name('The service that is called.') })
const query = Type.Object({ dryRun: Type.Optional(Type.Boolean({ description: 'Changes nothing.' })) })
const PATH = '/services/{name}/connections/{called}'

const connect = operation({
  id: 'connect',
  needs: 'change service',
  method: 'put',
  path: PATH,
  summary: 'Says that a service calls another, how near it must be, and whether it is let in',
  params,
  query,
  body: Type.Object(
    {
      latencyMs: Type.Optional(
        Type.Number({
          minimum: 0,
          maximum: 1_000_000,
          description: 'The greatest round trip; any where it is absent.',
        }),
      ),
      allow: Type.Optional(
        Type.Boolean({
          description:
            'The called service lets the caller in, or no longer; as it is where absent. It needs `change` of that service.',
        }),
      ),
    },
    { additionalProperties: false },
  ),
  answer: Applied,
  refusals: [403, 404, 409, 415, 507],
  run: ({ params, query, body }, context) => change(params, query, context, (ends) => connected(ends, body)),
})

const disconnect = operation({
  id: 'disconnect',
  needs: 'change service',
  method: 'delete',
  path: PATH,
  summary: 'Says that a service no longer calls another',
  params,
  query,
  answer: Applied,
  refusals: [403, 404, 409, 507],
  run: ({ params, query }, context) => change(params, query, context, disconnected),
})

/** Of a service that the caller of the API may not change, only `allow` is needed; that it prefers to be near is left out. */
function change(
  { name, called }: { name: string; called: string },
  { dryRun = false }: { dryRun?: boolean },
  context: ApiContext,
  changed: (ends: Ends) => Ends,
) {
  const { store, view } = context
  const ends = endsOf(existingService(store, name), existingService(store, called))
  const after = changed(ends)
  const isAllowChanged = after.called.allow.join(' ') !== ends.called.allow.join(' ')
  const { app, appNamespace } = ends.called
  const mayBoth = view.may('change', context.people.app(`${app}.${appNamespace}`))
  const both = mayBoth || isAllowChanged ? [after.caller, after.called] : [after.caller]
  const apps = appsOf(both, (id) => store.apps.get(id))
  return applyApps({ apps, customer: '', warnings: [] }, { prune: false, dryRun }, context)
}

export const CONNECTIONS = [connect, disconnect]
