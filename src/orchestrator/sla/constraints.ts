import { readLabelRule, type LabelRule } from '../../core/model/label-rule.ts'
import { CONSTRAINT_TYPES, type Constraint, type Topology } from '../spec.ts'
import { Fields, isObject } from './fields.ts'
import { quoted, type Findings } from './findings.ts'

/** Each constraint with the keys that its type needs, and `target_node` as one. */
export function readConstraints(service: Fields, findings: Findings): Constraint[] {
  const nodes = nodesIn(service.text('target_node') ?? '')
  const target: Constraint[] = nodes.length === 0 ? [] : [{ type: 'direct', nodes }]
  const listed = service.list('constraints').flatMap((value, i) => {
    if (!isObject(value)) return [] // reported already
    const fields = Fields.read(value, ['constraint'], `${service.at('constraints')}[${i}]`, findings)
    const constraint = fields === undefined ? undefined : one(fields, findings)
    return constraint === undefined ? [] : [constraint]
  })
  return [...listed, ...target]
}

function one(fields: Fields, findings: Findings): Constraint | undefined {
  const type = fields.text('type') as Constraint['type'] | undefined
  const missing = (key: string) => {
    if (!fields.isGiven(key)) findings.fault(fields.at(key), `is missing: a ${type} constraint needs it`)
    return undefined
  }
  switch (type) {
    case undefined:
      if (!fields.isGiven('type'))
        findings.fault(
          fields.at('type'),
          'is missing',
          `use ${CONSTRAINT_TYPES.slice(0, -1).join(', ')} or ${CONSTRAINT_TYPES.at(-1)}`,
        )
      return undefined
    case 'direct': {
      const cluster = fields.text('cluster')?.toLowerCase()
      const nodes = nodesIn(fields.text('node') ?? '')
      if (cluster === undefined && nodes.length === 0) {
        findings.fault(fields.path, 'names neither a node nor a cluster', 'add "node": "n1;n2" or "cluster": "…"')
        return undefined
      }
      return { type, nodes, ...(cluster === undefined ? {} : { cluster }) }
    }
    case 'clusters': {
      const allowed = fields.texts('allowed').map((name) => name.toLowerCase())
      return allowed.length === 0 ? missing('allowed') : { type, allowed }
    }
    case 'addons': {
      const needs = fields.texts('needs')
      return needs.length === 0 ? missing('needs') : { type, needs }
    }
    case 'labels':
      return fields.texts('match').length === 0 ? missing('match') : { type, match: rulesIn(fields, findings) }
    case 'anti-affinity': {
      const service = fields.text('service')
      return { type, ...overIn(fields), ...(service === undefined ? {} : { service }) }
    }
    case 'spread': {
      const maxSkew = fields.number('max_skew')
      if (!fields.isGiven('over')) return missing('over')
      return { type, ...overIn(fields), ...(maxSkew === undefined ? {} : { maxSkew }) }
    }
    case 'latency': {
      const area = fields.text('area')
      if (area !== undefined) return { type, area, ...measures(fields) }
      const service = fields.text('service')
      if (service === undefined && !fields.isGiven('location')) return missing('area')
      if (!fields.has('threshold')) return missing('threshold')
      if (service !== undefined) return { type, service, ...measures(fields) }
      const location = placeIn(fields, findings)
      return location && { type, location, ...measures(fields) }
    }
    case 'geo': {
      if (!fields.has('location')) return missing('location')
      const location = placeIn(fields, findings)
      return location && { type, location, ...measures(fields) }
    }
    default:
      return type satisfies never
  }
}

/** What is asked of the connection to another service. */
export type Connection = { latency: Constraint } | { bandwidthKbit: number }

/** A constraint in `connectivity`: how far away the other service may be, or how much they send each other. */
export function readConnection(
  value: unknown,
  service: string,
  path: string,
  findings: Findings,
): Connection | undefined {
  const fields = Fields.read(value, ['connection'], path, findings)
  const type = fields?.text('type') as 'latency' | 'bandwidth' | undefined
  if (fields === undefined) return undefined
  if (type === undefined) {
    if (!fields.isGiven('type')) findings.fault(fields.at('type'), 'is missing', 'use latency or bandwidth')
    return undefined
  }
  const threshold = fields.number('threshold')
  if (threshold === undefined) {
    const what =
      type === 'latency' ? 'the highest latency allowed between the two, in ms' : 'what the two need, in kbit/s'
    if (!fields.isGiven('threshold')) findings.fault(fields.at('threshold'), `is missing: ${what}`)
    return undefined
  }
  return type === 'latency' ? { latency: { type, service, ...measures(fields) } } : { bandwidthKbit: threshold }
}

function placeIn(fields: Fields, findings: Findings): { lat: number; lon: number } | undefined {
  const text = fields.text('location') ?? ''
  const location = locationOf(text)
  if (location === undefined && fields.has('location')) {
    findings.fault(
      fields.at('location'),
      `${quoted(text)} is not a location`,
      'write "latitude,longitude", for example "48.137,11.576"',
    )
  }
  return location
}

function rulesIn(fields: Fields, findings: Findings): LabelRule[] {
  return fields.texts('match').flatMap((text, i) => {
    const rule = readLabelRule(text)
    if (rule !== undefined) return [rule]
    const remedy = 'write disk=ssd, disk!=hdd, zone in (eu, us), zone notin (eu, us), camera or !spot'
    findings.fault(`${fields.at('match')}[${i}]`, `${quoted(text)} is not a condition on labels`, remedy)
    return []
  })
}

function overIn(fields: Fields): Pick<Constraint, 'over'> {
  const over = fields.text('over') as Topology | undefined
  return over === undefined ? {} : { over }
}

function nodesIn(text: string): string[] {
  const names = text.split(';').map((name) => name.trim().toLowerCase())
  return names.filter((name) => name !== '')
}

function measures(fields: Fields): Pick<Constraint, 'threshold' | 'rigidness' | 'convergenceSeconds'> {
  const threshold = fields.number('threshold')
  const rigidness = fields.number('rigidness')
  return {
    ...(threshold === undefined ? {} : { threshold }),
    ...(rigidness === undefined ? {} : { rigidness }),
    convergenceSeconds: fields.number('convergence_time') ?? 300,
  }
}

const PLACE = /^\(?\s*(-?\d{1,3}(?:\.\d{1,15})?)\s*([,;])\s*(-?\d{1,3}(?:\.\d{1,15})?)\s*\)?$/

/** `lat,lon` with or without brackets as on the slides, `lon; lat` with a semicolon as in Oakestra's old page. */
export function locationOf(text: string): { lat: number; lon: number } | undefined {
  const match = PLACE.exec(text.trim())
  if (match === null) return undefined
  const [first, second] = [Number(match[1]), Number(match[3])]
  const { lat, lon } = match[2] === ',' ? { lat: first, lon: second } : { lat: second, lon: first }
  return Math.abs(lat) <= 90 && Math.abs(lon) <= 180 ? { lat, lon } : undefined
}
