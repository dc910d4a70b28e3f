import t from 'tap'
import { allows, ANY_PATH, bothOf, readPathRule, RULED_PATHS } from '../../src/model/path-rule.ts'

const rows: ReadonlyArray<[text: string, allowed: string]> = [
  ['any', 'direct reverse punched relayed'],
  ['direct-only', 'direct reverse punched'],
  ['relay-only', 'relayed'],
  ['no-punched', 'direct reverse relayed'],
  ['no-direct no-reverse no-punched', 'relayed'],
]

t.test('what a rule allows', async (t) => {
  for (const [text, allowed] of rows) {
    const rule = readPathRule(text)
    t.ok(rule, text)
    if (rule === undefined) continue
    t.equal(RULED_PATHS.filter((path) => allows(rule, path)).join(' '), allowed, text)
    t.ok(allows(rule, 'local'), `${text}: what stays on the node takes no path`)
  }
})

t.test('what is no rule', async (t) => {
  for (const text of ['', 'none', 'direct', 'no-local', 'direct-only no-punched', 'no-direct  no-punched', 'ANY'])
    t.equal(readPathRule(text), undefined, JSON.stringify(text))
  const all = RULED_PATHS.map((path) => `no-${path}`).join(' ')
  t.equal(readPathRule(all), undefined, 'a node without any path is a mistake')
})

t.test('of two rules both hold', async (t) => {
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
})
