/*
 * Which paths between two nodes an operator allows; `local` is not a path between nodes, and is always allowed.
 *
 *     any             all paths; the best that works is used
 *     direct-only     never through a relay
 *     relay-only      only through a relay, so nodes do not learn each other's addresses
 *     no-<path> …     all but these: no-direct, no-reverse, no-punched, no-relayed
 *     prefer-direct   without a relay while that is possible, however slow; else through a relay
 *     prefer-relayed  through a relay while one is available; else without
 *
 * A rule belongs to a node (agent.paths, for everything that it sends and receives) or to a service (paths in the SLA, for its
 * flows). A flow must satisfy both.
 */
export const RULED_PATHS = ['direct', 'reverse', 'punched', 'relayed'] as const
export type RuledPath = (typeof RULED_PATHS)[number]

/**
 * How a connection reaches a node. `local`: the same machine; `direct`: we dialled it; `reverse`: it dialled us because we
 * asked; `punched`: both dialled at the same moment, through their NATs; `relayed`: both dialled a relay.
 */
export type PathKind = 'local' | RuledPath

export interface PathRule {
  /** As it was written. */
  readonly text: string
  readonly allowed: ReadonlySet<string>
  /** Used before the others while they are available; empty: the best that works. */
  readonly preferred: ReadonlySet<string>
}

const NO = '(no-(direct|reverse|punched|relayed))'
/** The shape of a rule, for schemas. */
export const PATH_RULE = `^(any|(direct|relay)-only|prefer-(direct|relayed)|${NO}( ${NO}){0,2})$`
const SHAPE = new RegExp(PATH_RULE)

/** `undefined`: the text is not a rule. */
export function readPathRule(text: string): PathRule | undefined {
  if (!SHAPE.test(text)) return undefined
  return { text, allowed: new Set(RULED_PATHS.filter((path) => isAllowed(text, path))), preferred: preferredBy(text) }
}

export const ANY_PATH: PathRule = { text: 'any', allowed: new Set(RULED_PATHS), preferred: new Set() }

/** The rule of a service. Without one, every path is allowed. One that cannot be read comes from a later version, and allows nothing. */
export function ruleOf({ paths }: { readonly paths?: string }): PathRule {
  if (paths === undefined) return ANY_PATH
  return readPathRule(paths) ?? { text: paths, allowed: new Set(), preferred: new Set() }
}

export function allows({ allowed }: PathRule, path: string): boolean {
  return path === 'local' || allowed.has(path)
}

/** Whether a rule changes nothing. */
export function isAny({ allowed, preferred }: PathRule): boolean {
  return allowed.size === RULED_PATHS.length && preferred.size === 0
}

/** False for a path that is used only when no preferred one works. */
export function likes({ preferred }: PathRule, path: string): boolean {
  return preferred.size === 0 || preferred.has(path)
}

/** Whether datagrams may travel as UDP packets between the nodes instead of over a carrier. */
export function allowsPackets(rule: PathRule): boolean {
  return allows(rule, 'direct') && allows(rule, 'punched') && likes(rule, 'direct')
}

/** The rule as the other end must read it: a path that is `reverse` here is `direct` there, because the name depends on who dialled. */
export function seenFromThere(rule: PathRule): PathRule {
  let seen = fromThere.get(rule)
  if (seen === undefined) fromThere.set(rule, (seen = turned(rule)))
  return seen
}

/** Rules are few and asked for with each flow. */
const fromThere = new WeakMap<PathRule, PathRule>()

function turned(rule: PathRule): PathRule {
  const dialled = ['direct', 'reverse']
  const both = (paths: ReadonlySet<string>) =>
    dialled.some((path) => paths.has(path)) ? new Set([...paths, ...dialled]) : paths
  return { text: rule.text, allowed: both(rule.allowed), preferred: both(rule.preferred) }
}

/** The rule that satisfies both; where both prefer something, the preference of the second one counts. */
export function bothOf(one: PathRule, other: PathRule): PathRule {
  if (one.text === 'any' || one.text === other.text) return other
  if (other.text === 'any') return one
  const allowed = new Set([...one.allowed].filter((path) => other.allowed.has(path)))
  const preferred = other.preferred.size > 0 ? other.preferred : one.preferred
  return {
    text: `${one.text} and ${other.text}`,
    allowed,
    preferred: new Set([...preferred].filter((path) => allowed.has(path))),
  }
}

function isAllowed(text: string, path: RuledPath): boolean {
  if (text === 'any' || text.startsWith('prefer-')) return true
  if (text === 'direct-only') return path !== 'relayed'
  if (text === 'relay-only') return path === 'relayed'
  return !text.split(' ').includes(`no-${path}`)
}

function preferredBy(text: string): Set<RuledPath> {
  if (text === 'prefer-relayed') return new Set(['relayed'])
  return new Set(text === 'prefer-direct' ? RULED_PATHS.filter((path) => path !== 'relayed') : [])
}
