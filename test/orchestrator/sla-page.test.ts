import { readFileSync } from 'node:fs'
import t from 'tap'
import { parseSla } from '../../src/orchestrator/sla/parse.ts'
import { readSlaText } from '../../src/orchestrator/sla/read.ts'
import { PAGE, regenerated } from './sla-page.ts'

const page = readFileSync(PAGE, 'utf8')

t.test('docs/sla.md has every key as the parser knows it', (t) => {
  t.equal(regenerated(page), page, 'run: node_modules/.bin/node test/orchestrator/sla-page.ts')
  t.end()
})

t.test('every example in docs/sla.md is accepted as it stands, without a warning', (t) => {
  const examples = [...page.matchAll(/^```(yaml|json)\n(.*?)^```$/gms)]
  t.ok(examples.length >= 6, 'the examples are found')
  for (const [, language = '', text = ''] of examples) {
    const parsed = parseSla(readSlaText(text, `example.${language}`))
    t.match(parsed, { kind: 'accepted', warnings: [] }, `${text.slice(0, 60)}…`)
    t.same(parsed.warnings, [])
  }
  t.end()
})
