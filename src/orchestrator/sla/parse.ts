import { driven, finished } from '../../core/kit/slices.ts'
import { nearest } from '../../core/kit/suggest.ts'
import { STRATEGY_WORDS, type AppSpec } from '../spec.ts'
import { linkConnectivity } from './connectivity.ts'
import { Fields, isObject } from './fields.ts'
import { Findings, quoted, type Fault } from './findings.ts'
import { MAX_SERVICES, type Level } from './keys.ts'
import { readName } from './names.ts'
import type { ReadService } from './read-service.ts'
import { readService } from './service.ts'

export type { Fault } from './findings.ts'
export { readSlaText } from './read.ts'

export type Parsed =
  | { kind: 'accepted'; apps: AppSpec[]; customer: string; warnings: Fault[] }
  | { kind: 'refused'; faults: Fault[]; warnings: Fault[] }

/**
 * Reads an SLA document: all of its faults at once, each with its path; nothing is accepted in part. Three forms:
 *
 *     { applications: [{ application_name, …, microservices: [{ microservice_name, … }] }] }      Oakestra v2.0
 *     { application_name, …, microservices: [ … ] }                                               one app
 *     { microservice_name, … }                                                                    one service
 *
 * The last is the form of the oldest slides. Its app is `application_name`, or else named like the service, and in
 * `application_namespace`, or else the namespace of the service.
 */
export function parseSla(document: unknown, options: ParseOptions = {}): Parsed {
  return finished(parsing(document, options))
}

/** The same, of a document of any size: a slice of it in each turn of the event loop. */
export function parseSlaInSlices(document: unknown, options: ParseOptions = {}): Promise<Parsed> {
  return driven(parsing(document, options))
}

export interface ParseOptions {
  /** The names of all strategies there are. */
  strategies?: readonly string[]
}

function* parsing(document: unknown, { strategies = STRATEGY_WORDS }: ParseOptions): Generator<undefined, Parsed> {
  const findings = new Findings()
  const { customer, apps: found } = yield* appsIn(document, findings)
  const all: ReadService[] = []
  const taken = new Map<string, string>()
  const apps: AppSpec[] = []
  for (const fields of found) apps.push(...(yield* readApp(fields, { all, taken, findings })))
  if (all.length > MAX_SERVICES) findings.fault('', `has ${all.length} services; ${MAX_SERVICES} is the limit`)
  reportDuplicateApps(found, findings)
  yield* linkConnectivity(all, findings)
  checkStrategies(all, strategies, findings)
  const warnings = findings.warnings()
  if (!findings.isClean) return { kind: 'refused', faults: findings.faults(), warnings }
  return { kind: 'accepted', apps, customer, warnings }
}

function checkStrategies(all: readonly ReadService[], known: readonly string[], findings: Findings): void {
  for (const { fields, service } of all) {
    if (known.includes(service.strategy)) continue
    const meant = nearest(service.strategy, known)
    const hint = meant === undefined ? '' : `; did you mean ${meant}?`
    findings.fault(fields.at('strategy'), `must be ${known.join(' or ')}, not ${quoted(service.strategy)}${hint}`)
  }
}

/** An app of the document: its own fields, and those of its services. */
interface AppFields {
  fields: Fields
  nameKey: string
  namespaceKey: string
  services: Fields[]
}

function* appsIn(document: unknown, findings: Findings): Generator<undefined, { customer: string; apps: AppFields[] }> {
  if (!isObject(document)) {
    findings.fault('', 'must be an object with "applications"', 'see docs/sla.md for the format and examples')
    return { customer: '', apps: [] }
  }
  const form = formOf(document)
  const fields = Fields.read(document, LEVELS[form], '', findings)
  if (fields === undefined) return { customer: '', apps: [] }
  checkVersion(fields, findings)
  const customer = fields.text('customerID') ?? ''
  switch (form) {
    case 'service':
      return { customer, apps: [singleService(fields)] }
    case 'app':
      return { customer, apps: [yield* appFields(fields, findings)] }
    case 'document': {
      if (!fields.isGiven('applications'))
        findings.fault('applications', 'is missing', 'add a list of applications, or write one app or one service')
      else if (fields.has('applications') && fields.list('applications').length === 0)
        findings.fault('applications', 'is empty')
      const apps: AppFields[] = []
      for (const app of yield* entries(fields, 'applications', 'application', findings))
        apps.push(yield* appFields(app, findings))
      return { customer, apps }
    }
    default:
      return form satisfies never
  }
}

type Form = 'document' | 'app' | 'service'

const LEVELS: Readonly<Record<Form, Level[]>> = {
  document: ['document'],
  app: ['document', 'application'],
  service: ['document', 'microservice', 'application'],
}

function formOf(document: Record<string, unknown>): Form {
  const has = (key: string) => Object.hasOwn(document, key)
  if (has('applications')) return 'document'
  if (has('microservices')) return 'app'
  return has('microservice_name') ? 'service' : 'document'
}

function checkVersion(fields: Fields, findings: Findings): void {
  const version = fields.text('sla_version')
  if (version === undefined || version === '' || /^v?[12](\.0)?$/i.test(version)) return
  findings.fault('sla_version', `${quoted(version)} is not a supported version`, 'write "v2.0"')
}

function* appFields(fields: Fields, findings: Findings): Generator<undefined, AppFields> {
  const services = yield* entries(fields, 'microservices', 'microservice', findings)
  return { fields, nameKey: 'application_name', namespaceKey: 'application_namespace', services }
}

function singleService(fields: Fields): AppFields {
  return {
    fields,
    nameKey: fields.isGiven('application_name') ? 'application_name' : 'microservice_name',
    namespaceKey: fields.isGiven('application_namespace') ? 'application_namespace' : 'microservice_namespace',
    services: [fields],
  }
}

function* entries(fields: Fields, key: string, level: Level, findings: Findings): Generator<undefined, Fields[]> {
  const read: Fields[] = []
  for (const [i, value] of fields.list(key).entries()) {
    yield
    if (!isObject(value)) continue // reported already
    const entry = Fields.read(value, [level], `${fields.at(key)}[${i}]`, findings)
    if (entry !== undefined) read.push(entry)
  }
  return read
}

/** What reading one app adds to. */
interface SoFar {
  all: ReadService[]
  taken: Map<string, string>
  findings: Findings
}

/** Services are read even when the app has no valid name, so that their faults are reported too. */
function* readApp(
  { fields, nameKey, namespaceKey, services }: AppFields,
  { all, taken, findings }: SoFar,
): Generator<undefined, AppSpec[]> {
  const single = nameKey === 'microservice_name' // the reader of the service reports what is wrong with the name
  const target = single ? new Findings() : findings
  const name = readName(fields, nameKey, target)
  const namespace = readName(fields, namespaceKey, namespaceKey === 'microservice_namespace' ? target : findings)
  const app: AppSpec = {
    app: name ?? 'unnamed',
    namespace: namespace ?? 'unnamed',
    description: fields.text('application_desc') ?? '',
    services: [],
  }
  const seen = new Map<string, string>()
  for (const each of services) {
    yield
    const startsAfterConnectivity = fields.flag('start_after_connectivity')
    const names = { app: app.app, namespace: app.namespace, startsAfterConnectivity }
    const service = readService(each, names, taken, findings)
    if (service === undefined) continue
    const before = seen.get(service.id)
    if (before !== undefined) {
      const problem = `${quoted(service.name)} in namespace ${quoted(service.namespace)} is already defined at ${before}`
      findings.fault(
        each.at('microservice_name'),
        problem,
        'names that differ only in upper and lower case are the same',
      )
      continue
    }
    seen.set(service.id, each.path === '' ? 'the document' : each.path)
    app.services.push(service)
    all.push({ fields: each, app, service, givenId: each.text('microserviceID') || undefined })
  }
  return name === undefined || namespace === undefined ? [] : [app]
}

function reportDuplicateApps(apps: readonly AppFields[], findings: Findings): void {
  const seen = new Map<string, string>()
  for (const { fields, nameKey, namespaceKey } of apps) {
    const [name, namespace] = [fields.text(nameKey), fields.text(namespaceKey)]
    if (name === undefined || namespace === undefined) continue
    const key = `${name}.${namespace}`.toLowerCase()
    const before = seen.get(key)
    if (before === undefined) seen.set(key, fields.path)
    else
      findings.fault(
        fields.at(nameKey),
        `${quoted(name)} in namespace ${quoted(namespace)} is already defined at ${before}`,
      )
  }
}
