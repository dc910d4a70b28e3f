/*
 * Which ways between two nodes an operator lets traffic take; `local` is no way between nodes, and always allowed.
 *
 *     any             all of them, the best that works
 *     direct-only     straight between the two nodes: never through a relay
 *     relay-only      through a relay only: nodes hear nothing of each other's addresses
 *     no-<path> …     all but these: no-direct, no-reverse, no-punched, no-relayed
 *     prefer-direct   straight while that is possible, however slow; else through a relay
 *     prefer-relayed  through a relay while one can be had; else straight
 *
 * A rule is a node's (agent.paths), for all that it sends and takes, or a service's (paths in the SLA), for its flows: of a
 * flow both hold.
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
  /** Taken before the others while they are to be had; empty: the best that works. */
  readonly preferred: ReadonlySet<string>
}

const NO = '(no-(direct|reverse|punched|relayed))'
/** What a rule may look like, for those that read it at a door. */
export const PATH_RULE = `^(any|(direct|relay)-only|prefer-(direct|relayed)|${NO}( ${NO}){0,2})$`
const SHAPE = new RegExp(PATH_RULE)

/** `undefined`: no rule. */
export function readPathRule(text: string): PathRule | undefined {
  if (!SHAPE.test(text)) return undefined
  return { text, allowed: new Set(RULED_PATHS.filter((path) => isAllowed(text, path))), preferred: preferredBy(text) }
}

export const ANY_PATH: PathRule = { text: 'any', allowed: new Set(RULED_PATHS), preferred: new Set() }

/** Of a service: none is any; one that cannot be read is of a later version, and lets nothing leave the node. */
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

/** False where a path is only for want of a better one. */
export function likes({ preferred }: PathRule, path: string): boolean {
  return preferred.size === 0 || preferred.has(path)
}

/** Whether datagrams may leave their carrier for UDP packets, which go straight or through holes that were punched. */
export function allowsPackets(rule: PathRule): boolean {
  return allows(rule, 'direct') && allows(rule, 'punched') && likes(rule, 'direct')
}

/** As the other end must read it: which end dialled decides what a straight path is called, so `reverse` here is `direct` there. */
export function seenFromThere(rule: PathRule): PathRule {
  const dialled = ['direct', 'reverse']
  const both = (paths: ReadonlySet<string>) =>
    dialled.some((path) => paths.has(path)) ? new Set([...paths, ...dialled]) : paths
  return { text: rule.text, allowed: both(rule.allowed), preferred: both(rule.preferred) }
}

/** Both hold; where both prefer something, the second one's word counts. */
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
