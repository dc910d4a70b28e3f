import Type from 'typebox'
import { MeshError } from '../../core/errors.ts'
import { splitInstanceId } from '../../core/model/ids.ts'
import { type App, reader } from '../link/link-server.ts'
import type { ApiContext, Id } from './api-context.ts'
import { explainPlacement, type ExplainOptions } from './explain.ts'

const readExplain = reader(
  Type.Object(
    {
      anew: Type.Optional(Type.Enum(['true', 'false'])),
      most: Type.Optional(Type.String({ pattern: '^[1-9]\\d{0,3}$' })),
    },
    { additionalProperties: false },
  ),
)

/** Candidates of each tier, when the caller does not say; and at most, as a cluster may have thousands of nodes. */
const MOST = 100
const MOST_OF_ALL = 1_000

/** Why an instance is where it is, and where one of a service would go. */
export function explainRoutes(app: App, context: ApiContext): void {
  const { store } = context
  app.get<Id>('/services/:id/explain', ({ params, query }) => {
    const service = store.services.get(params.id.toLowerCase())
    if (service === undefined) throw new MeshError('SERVICE_UNKNOWN', { service: params.id.slice(0, 300) })
    return explainPlacement(service, undefined, optionsOf(query), context)
  })

  app.get<Id>('/instances/:id/explain', ({ params, query }) => {
    const id = params.id.toLowerCase()
    const record = store.instances.get(id)
    const service = store.services.get(splitInstanceId(id)?.service ?? '')
    if (record === undefined || service === undefined)
      throw new MeshError('INSTANCE_UNKNOWN', { instance: params.id.slice(0, 400) })
    return explainPlacement(service, record, optionsOf(query), context)
  })
}

function optionsOf(query: unknown): ExplainOptions {
  const { anew, most } = readExplain(query)
  return { anew: anew === 'true', most: Math.min(most === undefined ? MOST : Number(most), MOST_OF_ALL) }
}
