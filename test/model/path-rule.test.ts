import t from 'tap'
import {
  allows,
  allowsPackets,
  ANY_PATH,
  bothOf,
  isAny,
  likes,
  readPathRule,
  ruleOf,
  RULED_PATHS,
  seenFromThere,
} from '../../src/core/model/path-rule.ts'

const ALL = 'direct reverse punched relayed'
const rows: ReadonlyArray<[text: string, allowed: string, liked: string, packets: boolean]> = [
  ['any', ALL, ALL, true],
  ['direct-only', 'direct reverse punched', ALL, true],
  ['relay-only', 'relayed', ALL, false],
  ['no-punched', 'direct reverse relayed', ALL, false],
  ['no-reverse', 'direct punched relayed', ALL, true],
  ['no-direct no-reverse no-punched', 'relayed', ALL, false],
  ['prefer-direct', ALL, 'direct reverse punched', true],
  ['prefer-relayed', ALL, 'relayed', false],
]

t.test('each rule allows the expected paths', async (t) => {
  for (const [text, allowed, liked, packets] of rows) {
    const rule = readPathRule(text)
    t.ok(rule, text)
    if (rule === undefined) continue
    t.equal(RULED_PATHS.filter((path) => allows(rule, path)).join(' '), allowed, text)
    t.ok(allows(rule, 'local'), `${text}: what stays on the node takes no path`)
    t.equal(RULED_PATHS.filter((path) => likes(rule, path)).join(' '), liked, `${text}: liked`)
    t.equal(allowsPackets(rule), packets, `${text}: UDP packets`)
    t.equal(isAny(rule), text === 'any', `${text}: changes something`)
  }
})

t.test('text that is not a rule is refused', async (t) => {
  for (const text of [
    '',
    'none',
    'direct',
    'no-local',
    'direct-only no-punched',
    'no-direct  no-punched',
    'ANY',
    'prefer-punched',
    'prefer-direct no-punched',
  ])
    t.equal(readPathRule(text), undefined, JSON.stringify(text))
  const all = RULED_PATHS.map((path) => `no-${path}`).join(' ')
  t.equal(readPathRule(all), undefined, 'a node without any path is a mistake')
})

t.test('two combined rules both apply', async (t) => {
  const direct = readPathRule('direct-only')!
  const noPunch = readPathRule('no-punched')!
  t.equal(bothOf(ANY_PATH, direct), direct)
  t.equal(bothOf(direct, ANY_PATH), direct)
  t.equal(bothOf(direct, direct), direct)
  const both = bothOf(direct, noPunch)
  t.equal(RULED_PATHS.filter((path) => allows(both, path)).join(' '), 'direct reverse')
  t.equal(both.text, 'direct-only and no-punched')
  const none = bothOf(direct, readPathRule('relay-only')!)
  t.equal(none.allowed.size, 0)

  const relayed = readPathRule('prefer-relayed')!
  const straight = readPathRule('prefer-direct')!
  t.strictSame([...bothOf(straight, relayed).preferred], ['relayed'], 'the second one’s word')
  t.strictSame([...bothOf(relayed, noPunch).preferred], ['relayed'], 'the only one’s word')
  t.equal(bothOf(relayed, direct).preferred.size, 0, 'what is forbidden is not preferred')
})

t.test('each path has the expected name at the other end', async (t) => {
  const rows = [
    ['no-direct', 'direct reverse punched relayed'],
    ['no-direct no-reverse', 'punched relayed'],
    ['no-punched no-relayed', 'direct reverse'],
    ['relay-only', 'relayed'],
  ] as const
  for (const [text, allowed] of rows) {
    const there = seenFromThere(readPathRule(text)!)
    t.equal(RULED_PATHS.filter((path) => allows(there, path)).join(' '), allowed, text)
  }
})

t.test('a service gets the rule configured for it', async (t) => {
  t.equal(ruleOf({}), ANY_PATH)
  t.equal(ruleOf({ paths: 'relay-only' }).text, 'relay-only')
  const later = ruleOf({ paths: 'moon-only' })
  t.equal(later.allowed.size, 0, 'what this node cannot read lets nothing leave it')
  t.ok(allows(later, 'local'), 'an instance on the same node needs no path')
})
