import { readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import Type from 'typebox'
import { Compile } from 'typebox/compile'
import { type Document, isNode, LineCounter, parseDocument } from 'yaml'
import { nearest } from '../core/kit/suggest.ts'
import { EGRESS_KINDS, NAT_KINDS } from './nat.ts'
import { BACKENDS, type Fault, faultsIn, type LabSpec } from './spec.ts'

/*
 * A lab as a file, YAML or JSON: what `lab()` takes, by the same names.
 *
 *     sites:
 *       left:  { hosts: [a, b] }
 *       right: { hosts: [c], nat: symmetric, egress: no-udp }
 *     publics: [server]
 *     conditions:
 *       left: { delayMs: 25, lossPercent: 1, rateMbit: 50 }
 */
const strict = { additionalProperties: false }
const Name = Type.String({ pattern: '^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$' })
const ConditionsShape = Type.Object(
  {
    delayMs: Type.Optional(Type.Number()),
    jitterMs: Type.Optional(Type.Number()),
    lossPercent: Type.Optional(Type.Number()),
    reorderPercent: Type.Optional(Type.Number()),
    rateMbit: Type.Optional(Type.Number()),
    queueKiB: Type.Optional(Type.Number()),
  },
  strict,
)
const SiteShape = Type.Object(
  {
    hosts: Type.Array(Name, { maxItems: 100 }),
    nat: Type.Optional(Type.Enum([...NAT_KINDS])),
    prefix: Type.Optional(Type.String()),
    egress: Type.Optional(Type.Enum([...EGRESS_KINDS])),
    hairpin: Type.Optional(Type.Boolean()),
    family: Type.Optional(Type.Enum(['ipv4', 'ipv6', 'both'])),
    behind: Type.Optional(Name),
  },
  strict,
)
const Words = Type.Array(Type.String(), { minItems: 1 })
const ContainerShape = Type.Object(
  {
    image: Type.Optional(Type.String()),
    entrypoint: Type.Optional(Words),
    command: Type.Optional(Words),
    env: Type.Optional(Type.Record(Type.String(), Type.String())),
    volumes: Type.Optional(Type.Array(Type.String({ pattern: '^[^:]+:/[^:]*(:(ro|rw))?$' }))),
    user: Type.Optional(Type.String()),
    capabilities: Type.Optional(Type.Array(Type.String({ pattern: '^[A-Z_]+$' }))),
  },
  strict,
)
const LabShape = Type.Object(
  {
    backend: Type.Optional(Type.Enum([...BACKENDS])),
    image: Type.Optional(Type.String()),
    containers: Type.Optional(Type.Record(Name, ContainerShape, strict)),
    sites: Type.Optional(Type.Record(Name, SiteShape, strict)),
    publics: Type.Optional(Type.Array(Name, { maxItems: 80 })),
    nameserver: Type.Optional(Type.String()),
    links: Type.Optional(Type.Enum(['netem', 'user-space'])),
    conditions: Type.Optional(Type.Record(Name, ConditionsShape, strict)),
  },
  strict,
)
const labShape = Compile(LabShape)
const conditionsShape = Compile(ConditionsShape)

/** @throws Error that names the file, each place in it with its line, and what is wrong */
export function readLab(path: string): LabSpec {
  const lines = new LineCounter()
  let document: Document.Parsed
  try {
    document = parseDocument(readFileSync(path, 'utf8'), { lineCounter: lines })
  } catch (cause) {
    throw new Error(`${path}: ${reasonOf(cause)}`, { cause })
  }
  const [unread] = document.errors
  if (unread !== undefined) {
    const [said = ''] = unread.message.split(/ at line|\n/)
    throw new Error(`${path}:${unread.linePos?.[0].line ?? 1}: ${said}`)
  }
  const found: unknown = document.toJS()
  const refused = (faults: readonly Fault[]) => {
    const told = faults.map(({ keys, what }) => {
      const line = lineOf(document, keys, lines)
      return `${path}:${line}: ${keys.length === 0 ? '' : `${keys.join('.')}: `}${what}`
    })
    return new Error(told.join('\n'))
  }
  if (!labShape.Check(found)) throw refused(faultsOf(labShape.Errors(found)))
  const faults = faultsIn(found)
  if (faults.length > 0) throw refused(faults)
  return withVolumesFrom(dirname(resolve(path)), found)
}

/** @throws Error that says what is wrong */
export function readConditions(found: unknown): NonNullable<LabSpec['conditions']>[string] {
  if (conditionsShape.Check(found)) return found
  const faults = faultsOf(conditionsShape.Errors(found))
  throw new Error(`conditions: ${faults.map(({ keys, what }) => [...keys, what].join(': ')).join('; ')}`)
}

/** `./folder` is beside the file, wherever the command is called. */
function withVolumesFrom(folder: string, spec: LabSpec): LabSpec {
  if (spec.containers === undefined) return spec
  const full = (volume: string) => (volume.startsWith('.') ? join(folder, volume) : volume)
  const containers = Object.entries(spec.containers).map(([name, container]) => {
    const { volumes } = container
    return [name, volumes === undefined ? container : { ...container, volumes: volumes.map(full) }] as const
  })
  return { ...spec, containers: Object.fromEntries(containers) }
}

interface ShapeError {
  keyword: string
  instancePath: string
  message: string
  params?: unknown
}

/** What the shape says, in the words of somebody who wrote the file. */
function faultsOf(errors: Iterable<ShapeError>): Fault[] {
  const faults = Array.from(errors, (error) => faultOf(error)).filter((fault) => fault !== undefined)
  const said = new Set<string>()
  return faults.filter((fault) => {
    const text = JSON.stringify(fault)
    return said.has(text) ? false : said.add(text)
  })
}

function faultOf({ keyword, instancePath, message, params }: ShapeError): Fault | undefined {
  const keys = instancePath.split('/').slice(1)
  const {
    additionalProperties: unknown,
    requiredProperties: missing,
    allowedValues,
  } = (params ?? {}) as {
    additionalProperties?: string[]
    requiredProperties?: string[]
    allowedValues?: unknown[]
  }
  if (keyword === 'additionalProperties') {
    const known = knownAt(keys)
    const near = nearest(unknown?.[0] ?? '', known ?? [])
    const meant = near === undefined ? `use one of: ${known?.join(', ')}` : `did you mean "${near}"?`
    const what = known === undefined ? NAME_RULE : `unknown key; ${meant}`
    return { keys: [...keys, ...(unknown ?? [])], what }
  }
  if (keyword === 'required') return { keys, what: `${(missing ?? []).join(', ')} is missing` }
  if (keyword === 'enum') return { keys, what: `must be one of ${(allowedValues ?? []).join(', ')}` }
  if (keyword === 'pattern') return { keys, what: keys.includes('volumes') ? VOLUME_RULE : NAME_RULE }
  if (keys.length === 0) return { keys, what: `must be keys and values; there are ${knownAt([])?.join(', ')}` }
  // said again by another keyword, with the key
  return keyword === 'boolean' ? undefined : { keys, what: message }
}

const NAME_RULE = 'a name is lower-case letters, digits and hyphens, 20 at most'
const VOLUME_RULE = 'must be source:/target or source:/target:ro'

/** The keys of the object at a path; `undefined` where names are free. */
function knownAt(keys: readonly string[]): string[] | undefined {
  const [section, name] = keys
  if (section === undefined) return Object.keys(LabShape.properties)
  const shapes = { sites: SiteShape, conditions: ConditionsShape, containers: ContainerShape }
  if (name === undefined || !(section in shapes)) return undefined
  return Object.keys(shapes[section as keyof typeof shapes].properties)
}

/** Of the nearest that is written there. */
function lineOf(document: Document.Parsed, keys: readonly string[], lines: LineCounter): number {
  for (let depth = keys.length; depth >= 0; depth -= 1) {
    const node: unknown = depth === 0 ? document.contents : document.getIn(keys.slice(0, depth), true)
    if (isNode(node) && node.range !== undefined && node.range !== null) return lines.linePos(node.range[0]).line
  }
  return 1
}

function reasonOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause)
}
