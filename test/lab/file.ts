import { readFileSync } from 'node:fs'
import Type from 'typebox'
import { Compile } from 'typebox/compile'
import { parse } from 'yaml'
import type { LabSpec } from './lab.ts'
import { EGRESS_KINDS, NAT_KINDS } from './nat.ts'

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
const LabShape = Type.Object(
  {
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

/** @throws Error that names the file, the place in it and what is wrong */
export function readLab(path: string): LabSpec {
  let found: unknown
  try {
    found = parse(readFileSync(path, 'utf8'))
  } catch (error) {
    throw new Error(`${path}: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
  }
  if (labShape.Check(found)) return found
  throw new Error(`${path}: ${faults(labShape.Errors(found))}`)
}

/** @throws Error that says what is wrong */
export function readConditions(found: unknown): NonNullable<LabSpec['conditions']>[string] {
  if (conditionsShape.Check(found)) return found
  throw new Error(`conditions: ${faults(conditionsShape.Errors(found))}`)
}

function faults(errors: Iterable<{ instancePath: string; message: string; params?: unknown }>): string {
  return Array.from(errors, ({ instancePath, message, params }) => {
    const place = instancePath === '' ? 'the whole' : instancePath.slice(1).replaceAll('/', '.')
    const more = params === undefined ? '' : ` ${JSON.stringify(params)}`
    return `${place} ${message}${more}`
  }).join('; ')
}
