import fc from 'fast-check'
import t from 'tap'
import { POLICIES, POLICY_WORDS, choiceKey, choiceOf, instanceOf, policyOf } from '../../src/core/model/choice.ts'
import { labelFault, isReserved } from '../../src/core/model/label.ts'
import { parseName, printName, type ServiceName } from '../../src/core/model/name.ts'
import { ZONES, invalid, outside, valid } from './vectors.ts'

t.test('each name of the test vectors is parsed as expected', async (t) => {
  t.ok(valid.length + invalid.length >= 80, 'there are at least 80')
  for (const { why, name, means, zone } of valid) {
    const parsed = parseName(name, ZONES)
    if (parsed.kind !== 'name') {
      t.fail(`${why}: ${name}`, { parsed })
      continue
    }
    t.equal(relative(parsed.name), means, why)
    t.equal(parsed.name.zone, zone, `${why}: zone`)
  }
  for (const { why, name, label, reason } of invalid) {
    const parsed = parseName(name, ZONES)
    t.match(parsed, { kind: 'invalid', label }, why)
    if (parsed.kind === 'invalid') t.ok(parsed.reason.includes(reason), `${why}: ${parsed.reason}`)
  }
  for (const { why, name } of outside) t.same(parseName(name, ZONES), { kind: 'outside' }, why)
})

t.test('without a zone every name is outside', async (t) => {
  t.same(parseName('shop.acme.cart.prod.any.rr.local', []), { kind: 'outside' })
})

const label = fc
  .stringMatching(/^[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?$/)
  .filter((text) => text.length > 0 && labelFault(text) === undefined)
const choice = fc.record({
  instance: fc.oneof(fc.constant('any' as const), fc.integer({ min: 0, max: 999_999 })),
  policy: fc.constantFrom(...POLICIES),
})
const parts = fc.record({ app: label, appNamespace: label, service: label, serviceNamespace: label, choice })
const zone = fc.constantFrom(...ZONES)

t.test('a printed name is parsed back, in each form and in any case', async (t) => {
  fc.assert(
    fc.property(parts, zone, fc.infiniteStream(fc.boolean()), (name, zone, upper) => {
      const { app, appNamespace, service, serviceNamespace } = name
      const key = choiceKey(name.choice)
      const expected = { kind: 'name', name: { ...name, zone } }
      const mixed = (text: string) =>
        Array.from(text, (letter) => (upper.next().value === true ? letter.toUpperCase() : letter)).join('')
      t.same(parseName(mixed(printName(name, zone)), ZONES), expected)
      t.same(parseName(mixed(`${key}.${service}.${serviceNamespace}.${app}.${appNamespace}.${zone}.`), ZONES), expected)
      t.same(parseName(mixed(`${app}.${appNamespace}.${service}.${key}.${zone}`), ZONES), {
        kind: 'name',
        name: { app, appNamespace, service, choice: name.choice, zone },
      })
    }),
    { numRuns: 200 },
  )
})

t.test('any text gives one of three results, and a parsed name prints as the same name', async (t) => {
  const word = fc.oneof(fc.constantFrom('any', '3', '', '-', 'local', ...POLICY_WORDS.keys()), fc.string(), label)
  const text = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.array(word, { maxLength: 9 }).map((words) => words.join('.')),
  )
  const kinds = new Set<string>()
  fc.assert(
    fc.property(text, fc.constantFrom('', '.local', '.local.'), (head, end) => {
      const parsed = parseName(head + end, ZONES)
      kinds.add(parsed.kind)
      if (parsed.kind === 'invalid' && parsed.reason === '') throw new Error('a fault without a reason')
      if (parsed.kind !== 'name') return
      const { serviceNamespace = 'x', zone, ...rest } = parsed.name
      const again = parseName(printName({ ...rest, serviceNamespace }, zone), ZONES)
      if (again.kind !== 'name' || relative(again.name) !== relative({ ...parsed.name, serviceNamespace })) {
        throw new Error(`${head}${end} is not stable`)
      }
    }),
    { numRuns: 2_000 },
  )
  t.ok(kinds.has('invalid') && kinds.has('outside'), 'both were met')
})

t.test('a very long name is refused without being parsed', async (t) => {
  t.match(parseName(`${'a.'.repeat(100_000)}local`, ZONES), { kind: 'invalid', reason: /longer than 253/ })
})

t.test('valid labels are accepted, and reserved or malformed ones are refused', async (t) => {
  for (const good of ['a', '0a', 'a-b', 'a--b', 'x'.repeat(63)]) t.equal(labelFault(good), undefined, good)
  for (const word of ['any', '0', '12', ...POLICY_WORDS.keys()]) {
    t.ok(isReserved(word), `${word} is reserved`)
    t.type(labelFault(word), 'string', word)
  }
  for (const bad of ['', '-a', 'a-', 'a.b', 'a_b', 'ä', 'x'.repeat(64)]) {
    t.notOk(isReserved(bad), `"${bad}" is no label, so it is not reserved`)
    t.type(labelFault(bad), 'string', bad)
  }
})

t.test('a choice is parsed from its key, and malformed keys are refused', async (t) => {
  for (const policy of POLICIES) {
    t.equal(policyOf(policy), policy)
    for (const instance of ['any', 0, 7, 999_999] as const) {
      t.same(choiceOf(choiceKey({ instance, policy })), { instance, policy }, `${instance}.${policy}`)
    }
  }
  for (const bad of [
    '',
    '.',
    'any',
    'any.',
    '.rr',
    'any.rr.rr',
    '01.rr',
    '1000000.rr',
    'any.RR',
    'all.rr',
    '__proto__.rr',
  ]) {
    t.equal(choiceOf(bad), undefined, bad)
  }
  t.equal(policyOf('constructor'), undefined)
  t.equal(instanceOf(''), undefined)
})

/** The canonical form without its zone; `*` for a namespace that was left out. */
function relative({ serviceNamespace = '*', ...name }: ServiceName): string {
  return printName({ ...name, serviceNamespace }, '').slice(0, -1)
}
