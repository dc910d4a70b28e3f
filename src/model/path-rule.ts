/*
 * Which ways between two nodes an operator lets traffic take; `local` is no way between nodes, and always allowed.
 *
 *     any             all of them, the best that works
 *     direct-only     straight between the two nodes: never through a relay
 *     relay-only      through a relay only: nodes hear nothing of each other's addresses
 *     no-<path> …     all but these: no-direct, no-reverse, no-punched, no-relayed
 */
export const RULED_PATHS = ['direct', 'reverse', 'punched', 'relayed'] as const
export type RuledPath = (typeof RULED_PATHS)[number]

export interface PathRule {
  /** As it was written. */
  readonly text: string
  readonly allowed: ReadonlySet<string>
}

const NO = '(no-(direct|reverse|punched|relayed))'
/** What a rule may look like, for those that read it at a door. */
export const PATH_RULE = `^(any|direct-only|relay-only|${NO}( ${NO}){0,2})$`
const SHAPE = new RegExp(PATH_RULE)

/** `undefined`: no rule. */
export function readPathRule(text: string): PathRule | undefined {
  if (!SHAPE.test(text)) return undefined
  return { text, allowed: new Set(RULED_PATHS.filter((path) => isAllowed(text, path))) }
}

export const ANY_PATH: PathRule = { text: 'any', allowed: new Set(RULED_PATHS) }

export function allows({ allowed }: PathRule, path: string): boolean {
  return path === 'local' || allowed.has(path)
}

/** Both hold. */
export function bothOf(one: PathRule, other: PathRule): PathRule {
  if (one.text === 'any' || one.text === other.text) return other
  if (other.text === 'any') return one
  const allowed = [...one.allowed].filter((path) => other.allowed.has(path))
  return { text: `${one.text} and ${other.text}`, allowed: new Set(allowed) }
}

function isAllowed(text: string, path: RuledPath): boolean {
  if (text === 'any') return true
  if (text === 'direct-only') return path !== 'relayed'
  if (text === 'relay-only') return path === 'relayed'
  return !text.split(' ').includes(`no-${path}`)
}
