import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import t from 'tap'
import { addressToVip, VIP_COUNT, vipRange } from '../../src/core/model/address.ts'
import { POLICY_WORDS, choiceOf } from '../../src/core/model/choice.ts'
import { parseName } from '../../src/core/model/name.ts'

const page = readFileSync(resolve(import.meta.dirname, '../../docs/naming.md'), 'utf8')
const code = [...page.matchAll(/`([^`\n]+)`/g)].map((match) => match[1] as string)

t.test('every name in docs/naming.md is a name, and all three forms mean the same service', async (t) => {
  const names = code.filter((text) => /^[a-z0-9]+(\.[a-z0-9]+){3,}\.local$/.test(text))
  t.ok(names.length >= 3, `the page has ${names.length} names`)
  for (const name of names) t.match(parseName(name, ['local']), { kind: 'name', name: { service: 'cart' } }, name)
})

t.test('every choice in docs/naming.md is read, and every policy word is there', async (t) => {
  const choices = code.filter((text) => /^(any|\d+)\.[a-z-]+$/.test(text))
  t.ok(choices.length >= 8, `the page has ${choices.length} choices`)
  for (const choice of choices) t.ok(choiceOf(choice), choice)
  const written = new Set(code.flatMap((text) => text.split('.')))
  for (const word of POLICY_WORDS.keys()) t.ok(written.has(word), word)
})

t.test('the ranges and addresses in docs/naming.md belong together', async (t) => {
  const rows = [
    ['127.16.0.0/12', '127.30.1.35'],
    ['10.16.0.0/12', '10.30.1.35'],
  ] as const
  for (const [range, address] of rows) {
    t.ok(code.includes(range) && code.includes(address), range)
    t.ok((addressToVip(vipRange(range), address) ?? VIP_COUNT) < VIP_COUNT, address)
  }
})
