import { quoted, type Findings } from './findings.ts'
import { KEYS, levelsOf, type Key, type Kind, type Level } from './keys.ts'
import { nearest } from '../../core/kit/suggest.ts'

/**
 * One object of a document, checked against keys.ts: every value here has the type that is written there. A value of another type
 * is reported and reads as absent, so that one mistake never hides the next.
 */
export class Fields {
  readonly #values: ReadonlyMap<string, unknown>
  readonly #given: ReadonlySet<string>
  /** Where this object is in the document. */
  readonly path: string

  private constructor(values: ReadonlyMap<string, unknown>, given: ReadonlySet<string>, path: string) {
    this.#values = values
    this.#given = given
    this.path = path
  }

  static read(value: unknown, levels: readonly Level[], path: string, findings: Findings): Fields | undefined {
    if (!isObject(value)) {
      findings.fault(path, `must be an object, not ${nounOf(value)}`)
      return undefined
    }
    const known = new Map(levels.flatMap((level) => KEYS[level].map((key) => [key.name, key])))
    const values = new Map<string, unknown>()
    const presented = new Set<string>()
    for (const [name, given] of Object.entries(value)) {
      const key = known.get(name)
      const where = join(path, name)
      if (key === undefined) warnUnknown(name, where, levels, [...known.keys()], findings)
      if (key === undefined || given === null || given === undefined) continue // `cmd:` with nothing after it, in YAML
      presented.add(name)
      if (isValid(given, key.kind, where, findings)) {
        if (key.unused !== undefined && isRequest(given)) warnUnused(key, where, findings)
        values.set(name, given)
      }
    }
    return new Fields(values, presented, path)
  }

  at(name: string): string {
    return join(this.path, name)
  }

  has(name: string): boolean {
    return this.#values.has(name)
  }

  /** True when the document has a value there, valid or not. */
  isGiven(name: string): boolean {
    return this.#given.has(name)
  }

  value(name: string): unknown {
    return this.#values.get(name)
  }

  /** A number, where keys.ts allows one, is returned as text. */
  text(name: string): string | undefined {
    const value = this.#values.get(name) as string | number | undefined
    return value === undefined ? undefined : String(value)
  }

  number(name: string): number | undefined {
    return this.#values.get(name) as number | undefined
  }

  /** A number, or a percentage of something; 0 % is the number 0. */
  share(name: string): { count: number } | { percent: number } | undefined {
    const value = this.#values.get(name) as string | number | undefined
    if (value === undefined) return undefined
    const percent = typeof value === 'string' ? Number(value.slice(0, -1)) : 0
    return percent > 0 ? { percent } : { count: typeof value === 'string' ? 0 : value }
  }

  flag(name: string): boolean {
    return this.#values.get(name) === true
  }

  texts(name: string): string[] {
    return (this.#values.get(name) ?? []) as string[]
  }

  list(name: string): unknown[] {
    return (this.#values.get(name) ?? []) as unknown[]
  }
}

function join(path: string, name: string): string {
  const shown = name.length > 60 ? `${name.slice(0, 60)}…` : name
  return path === '' ? shown : `${path}.${shown}`
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

export function nounOf(value: unknown): string {
  if (Array.isArray(value)) return 'a list'
  if (value === null || value === undefined) return 'nothing'
  if (typeof value === 'string') return `the string ${quoted(value)}`
  if (typeof value === 'number') return `the number ${value}`
  return typeof value === 'boolean' ? String(value) : 'an object'
}

function isValid(value: unknown, kind: Kind, path: string, findings: Findings): boolean {
  const wrong = faultOf(value, kind)
  if (wrong !== undefined) {
    findings.fault(path, wrong)
    return false
  }
  if (kind.type !== 'list' || kind.of === 'any') return true
  const item: Kind = kind.of === 'text' ? { type: 'text', max: kind.textMax ?? 256 } : { type: 'object' }
  const wrongItems = (value as unknown[]).flatMap((entry, i) => {
    const problem = faultOf(entry, item)
    return problem === undefined ? [] : [{ path: `${path}[${i}]`, problem }]
  })
  for (const { path, problem } of wrongItems) findings.fault(path, problem)
  return kind.of === 'object' || wrongItems.length === 0 // valid objects beside a wrong one are read, for their own faults
}

function faultOf(value: unknown, kind: Kind): string | undefined {
  switch (kind.type) {
    case 'text':
      if (kind.orNumber === true && typeof value === 'number') return undefined
      if (typeof value !== 'string') return `must be a string, not ${nounOf(value)}`
      if (value.length > kind.max) return `is ${value.length} characters long; ${kind.max} is the limit`
      return value.includes('\0') ? 'contains a NUL character' : undefined
    case 'number':
      return kind.percent === undefined ? numberFault(value, kind) : shareFault(value, kind, kind.percent)
    case 'flag':
      return typeof value === 'boolean' ? undefined : `must be true or false, not ${nounOf(value)}`
    case 'choice': {
      if (typeof value === 'string' && kind.words.includes(value)) return undefined
      const meant = typeof value === 'string' ? nearest(value, kind.words) : undefined
      const hint = meant === undefined ? '' : `; did you mean ${meant}?`
      return `must be ${kind.words.join(' or ')}, not ${nounOf(value)}${hint}`
    }
    case 'list':
      if (!Array.isArray(value)) return `must be a list, not ${nounOf(value)}`
      return value.length > kind.max ? `has ${value.length} entries; ${kind.max} is the limit` : undefined
    case 'object':
      return isObject(value) ? undefined : `must be an object, not ${nounOf(value)}`
    case 'any':
      return undefined
    default:
      return kind satisfies never
  }
}

function numberFault(value: unknown, kind: Extract<Kind, { type: 'number' }>): string | undefined {
  const wanted = kind.whole === true ? 'a whole number' : 'a number'
  if (typeof value !== 'number' || !Number.isFinite(value)) return `must be ${wanted}, not ${nounOf(value)}`
  if (kind.whole === true && !Number.isInteger(value)) return `must be ${wanted}, not ${value}`
  return value < kind.min || value > kind.max ? `must be ${kind.min} to ${kind.max}, not ${value}` : undefined
}

const PERCENT = /^\d{1,4}%$/

function shareFault(value: unknown, kind: Extract<Kind, { type: 'number' }>, most: number): string | undefined {
  if (typeof value === 'number') return numberFault(value, kind)
  if (typeof value !== 'string' || !PERCENT.test(value))
    return `must be a whole number or a percentage such as "25%", not ${nounOf(value)}`
  return Number(value.slice(0, -1)) > most ? `must be 0% to ${most}%, not ${value}` : undefined
}

/** `0`, `''`, `[]` and `false` are placeholders and request nothing. */
function isRequest(value: unknown): boolean {
  if (Array.isArray(value)) return value.length > 0
  return value !== '' && value !== 0 && value !== false
}

function warnUnused({ name, unused }: Key, path: string, findings: Findings): void {
  findings.warn(path, `${name} has no effect`, unused?.instead)
}

function warnUnknown(name: string, path: string, levels: readonly Level[], known: string[], findings: Findings): void {
  const meant = findings.hasRoom ? nearest(name, known) : undefined
  if (meant !== undefined) return findings.warn(path, 'unknown key, ignored', `did you mean ${meant}?`)
  const elsewhere = levelsOf(name).find((level) => !levels.includes(level))
  findings.warn(
    path,
    'unknown key, ignored',
    elsewhere === undefined ? undefined : `${name} belongs in ${PLACES[elsewhere]}`,
  )
}

const PLACES: Readonly<Record<Level, string>> = {
  document: 'the document itself',
  application: 'an entry of applications',
  microservice: 'an entry of microservices',
  port: 'an entry of ports',
  file: 'an entry of files',
  volume: 'an entry of volumes',
  check: 'check',
  livenessProbe: 'livenessProbe',
  probeTarget: 'httpGet or tcpSocket',
  constraint: 'an entry of constraints',
  connectivity: 'an entry of connectivity',
  connection: 'an entry of con_constraints',
  addresses: 'addresses',
  instances: 'an entry of addresses.instances',
  update: 'update',
  job: 'job',
  schedule: 'schedule',
}
