import { interestOf } from '../../core/model/ids.ts'
import type { AppSpec, Constraint, ServiceSpec } from '../spec.ts'
import { readConnection } from './constraints.ts'
import { Fields, isObject, nounOf } from './fields.ts'
import { quoted, type Findings } from './findings.ts'
import { labelsOf } from './names.ts'

/** A service, the object it was read from, and its app. */
export interface ReadService {
  fields: Fields
  app: AppSpec
  service: ServiceSpec
  /** `microserviceID`, if the document gives one. */
  givenId: string | undefined
}

/**
 * Step by step: resolves the services that each service calls, so that its node fetches them before the first call. A name means a service of
 * the same app (`cart`, `cart.prod`) or of another (`app.ns.service`, `app.ns.service.ns`).
 */
export function* linkConnectivity(all: readonly ReadService[], findings: Findings): Generator<undefined, void> {
  const ids = new Map(
    all.flatMap(({ givenId, service }) => (givenId === undefined ? [] : [[givenId, service] as const])),
  )
  const known = new Set(all.flatMap(({ service }) => [interestOf(service.id), service.id]))
  for (const { fields, app, service } of all) {
    yield
    const wanted = fields.list('connectivity').flatMap((value, i) => {
      const path = `${fields.at('connectivity')}[${i}]`
      const target = targetText(value, path, findings)
      if (target === undefined || target === '') return []
      const byId = ids.get(target)
      const meant = byId === undefined ? named(target, app, { path, known, findings }) : [byId.id]
      for (const to of meant) service.constraints.push(...connectionsIn(value, to, path, findings))
      return meant
    })
    service.connectivity = [...new Set(wanted)]
    service.constraints = service.constraints.flatMap((constraint) => {
      if (constraint.service === undefined) return [constraint]
      if (wanted.includes(constraint.service)) return [constraint]
      const to = ids.get(constraint.service)?.id
      if (to !== undefined) return [{ ...constraint, service: to }]
      const place = { path: fields.at('constraints'), known, findings }
      const [service] = named(constraint.service, app, place)
      if (service !== undefined) return [{ ...constraint, service }]
      findings.fault(place.path, `${quoted(constraint.service)} is not the name of a service`)
      return []
    })
  }
}

/** Constraints on the path to that service. */
function connectionsIn(value: unknown, to: string, path: string, findings: Findings): Constraint[] {
  const asked = isObject(value) && Array.isArray(value['con_constraints']) ? value['con_constraints'] : []
  return asked.flatMap((each, i) => readConnection(each, to, `${path}.con_constraints[${i}]`, findings))
}

function targetText(value: unknown, path: string, findings: Findings): string | undefined {
  if (typeof value === 'string') return value
  if (!isObject(value)) {
    findings.fault(path, `must be the name of a service, not ${nounOf(value)}`)
    return undefined
  }
  const fields = Fields.read(value, ['connectivity'], path, findings)
  if (fields !== undefined && !fields.isGiven('target_microservice_id')) {
    findings.fault(fields.at('target_microservice_id'), 'is missing')
  }
  return fields?.text('target_microservice_id')
}

interface NameContext {
  path: string
  /** Service ids and interest keys of the document. */
  known: ReadonlySet<string>
  findings: Findings
}

function named(target: string, app: AppSpec, { path, known, findings }: NameContext): string[] {
  const prefix = `${app.app}.${app.namespace}`
  const labels = labelsOf(target)
  const unknown = 'use the name of a service of the app, or app.ns.service'
  if (labels === undefined || labels.length > 4) {
    // The ids of another orchestrator mean nothing here; documents that contain them are accepted unchanged.
    findings.warn(path, `${quoted(target)} is not the name of a service, so it is ignored`, unknown)
    return []
  }
  if (labels.length > 2) return [labels.join('.')]
  const key = `${prefix}.${labels.join('.')}`
  if (!known.has(key)) findings.warn(path, `${quoted(target)} is not a service of this document`, unknown)
  return [key]
}
