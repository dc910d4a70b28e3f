import { checkerOf } from '../core/kit/checker.ts'
import { Settings } from 'typebox/system'
import { MeshError } from '../core/errors.ts'
import { nearest } from '../core/kit/suggest.ts'
import { gatewayFaults } from './gateway.ts'
import { oidcFaults } from './oidc.ts'
import { Config, type PartialConfig } from './schema.ts'
import { wordsFor } from './shapes.ts'

Settings.Set({ maxErrors: 64 }) // every fault at once; 8 by default
const compiled = checkerOf(Config)

/**
 * Defaults, then the file, then the flags; every fault at once, each with its path.
 * @throws MeshError CONFIG_INVALID
 */
export function resolveConfig(base: Config, ...layers: readonly PartialConfig[]): Config {
  const merged = layers.reduce<unknown>((config, layer) => merge(config, layer), base)
  const faults = [...compiled.Errors(merged)]
    .filter(({ keyword }) => keyword !== 'boolean') // the same fault again, as "schema is false"
    .flatMap((fault) => {
      const at = fault.instancePath.slice(1).replaceAll('/', '.')
      if (fault.keyword === 'additionalProperties')
        return fault.params.additionalProperties.map((key) => unknownKey(key, at, keysAt(fault.instancePath)))
      if (fault.keyword === 'pattern') return [`${at}: must be ${wordsFor(String(fault.params.pattern))}`]
      if (fault.keyword === 'enum') return [`${at}: must be one of ${fault.params.allowedValues.join(', ')}`]
      return [`${at}: ${inWords(fault.message)}`]
    })
  if (faults.length > 0) throw new MeshError('CONFIG_INVALID', { faults: [...new Set(faults)] })
  const config = merged as Config
  const further = [...gatewayFaults(config.agent), ...oidcFaults(config.root.oidc)]
  if (further.length > 0) throw new MeshError('CONFIG_INVALID', { faults: further })
  return config
}

function unknownKey(key: string, section: string, keys: readonly string[]): string {
  const near = nearest(key, keys)
  const where = section === '' ? '' : ` in ${section}`
  return `unknown key "${key}"${where}; ${near === undefined ? `the keys are ${keys.join(', ')}` : `did you mean "${near}"?`}`
}

/** `must be >= 1` is how the schema puts it. */
function inWords(message: string): string {
  return message
    .replace(/^must be >= /, 'must be at least ')
    .replace(/^must be <= /, 'must be at most ')
    .replace(/^must be > /, 'must be more than ')
    .replace(
      /^must be (number|integer|string|boolean|array|object)$/,
      (_all, type: string) => `must be ${A[type] ?? type}`,
    )
}

const A: Readonly<Record<string, string>> = {
  number: 'a number',
  integer: 'a whole number',
  string: 'a text',
  boolean: 'true or false',
  array: 'a list',
  object: 'a mapping',
}

/** The keys that may stand at this place, as `/agent/resolver`. */
function keysAt(instancePath: string): string[] {
  type Node = { properties?: Readonly<Record<string, Node>> }
  const names = instancePath.split('/').slice(1)
  const at = names.reduce<Node | undefined>((node, name) => node?.properties?.[name], Config as Node)
  return Object.keys(at?.properties ?? {})
}

function merge(below: unknown, above: unknown): unknown {
  if (!isMapping(below) || !isMapping(above)) return above === undefined ? below : above
  const merged: Record<string, unknown> = { ...below }
  for (const [key, value] of Object.entries(above)) {
    if (key !== '__proto__') merged[key] = merge(merged[key], value)
  }
  return merged
}

function isMapping(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
