import { interestOf } from '../../core/model/ids.ts'
import type { AppSpec, Constraint } from '../spec.ts'
import { applyToBothEnds, type Asked } from './both-ends.ts'
import { readConnection, type Connection } from './constraints.ts'
import { Fields, isObject, nounOf } from './fields.ts'
import { quoted, type Findings } from './findings.ts'
import { labelsOf } from './names.ts'
import type { ReadService } from './read-service.ts'
import { cycleIn, cycleText, isMeant } from './start-order.ts'

/**
 * Step by step: resolves the services that each service calls, so that its node fetches them before the first call. A name means a service of
 * the same app (`cart`, `cart.prod`) or of another (`app.ns.service`, `app.ns.service.ns`).
 */
export function* linkConnectivity(all: readonly ReadService[], findings: Findings): Generator<undefined, void> {
  const ids = new Map(
    all.flatMap(({ givenId, service }) => (givenId === undefined ? [] : [[givenId, service] as const])),
  )
  const known = new Set(all.flatMap(({ service }) => [interestOf(service.id), service.id]))
  const [latencies, bandwidths]: [Asked<Constraint>[], Asked<number>[]] = [[], []]
  for (const { fields, app, service } of all) {
    yield
    const wanted = fields.list('connectivity').flatMap((value, i) => {
      const path = `${fields.at('connectivity')}[${i}]`
      const target = targetText(value, path, findings)
      if (target === undefined || target === '') return []
      const byId = ids.get(target)
      const meant = byId === undefined ? named(target, app, { path, known, findings }) : [byId.id]
      for (const to of meant)
        for (const connection of connectionsIn(value, to, path, findings))
          if ('latency' in connection) {
            service.constraints.push(connection.latency)
            latencies.push({ service, to, what: connection.latency })
          } else bandwidths.push({ service, to, what: connection.bandwidthKbit })
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
  yield* applyToBothEnds({ latencies, bandwidths }, all, findings)
  refuseCycle(all, findings)
}

/** What is asked of the connection to that service. */
function connectionsIn(value: unknown, to: string, path: string, findings: Findings): Connection[] {
  const asked = isObject(value) && Array.isArray(value['con_constraints']) ? value['con_constraints'] : []
  return asked.flatMap((each, i) => readConnection(each, to, `${path}.con_constraints[${i}]`, findings) ?? [])
}

/** Services that start after one another in a circle would never start. */
function refuseCycle(all: readonly ReadService[], findings: Findings): void {
  const cycle = cycleIn(all.map(({ service }) => service))
  if (cycle === undefined) return
  const [first = '', second = first] = cycle
  const { fields, service } = all.find((each) => each.service.id === first) as ReadService
  const entry =
    fields.list('connectivity').length === service.connectivity.length
      ? `[${service.connectivity.findIndex((key) => isMeant(second, key))}]`
      : ''
  findings.fault(
    `${fields.at('connectivity')}${entry}`,
    `each would wait for the next to be ready, for ever: ${cycleText(cycle)}`,
    'leave out start_after_connectivity, or the entry, of one of them',
  )
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
