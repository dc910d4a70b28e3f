import '../../support/no-orphans.ts'
import t from 'tap'
import { documentsOf } from './documents.ts'
import { SCENARIOS, TINY } from './measures.ts'
import { rowsOf, tableOf } from './rows.ts'

t.setTimeout(280_000)

/** Of each kind of process one scenario: the others differ in sizes. */
const SHORT = [/^10,000 instances on/, /^agent with 170/, /^a document of/]

for (const [i, pattern] of SHORT.entries()) {
  t.test(`the benchmark measures what it says, of a few: ${pattern.source}`, async (t) => {
    const scenario = SCENARIOS.find(({ measures }) => measures.some(({ measure }) => pattern.test(measure)))
    if (scenario === undefined) throw new Error(`no scenario measures ${pattern.source}`)
    const found = await scenario.run(TINY, { say: () => undefined })
    const rows = rowsOf(scenario.measures, found)
    const missing = rows.filter(({ ours }) => ours === null || !Number.isFinite(ours))
    const isWithoutSs = missing.every(({ measure }) => measure.includes('per worker and minute'))
    t.ok(missing.length === 0 || isWithoutSs, `of scenario ${i} everything is measured: ${JSON.stringify(missing)}`)
  })
}

t.test('a row is judged by its goal, unless the machine was busy or nothing was measured', async (t) => {
  const measures = [
    { measure: 'a', goal: 5, unit: 's' },
    { measure: 'b', goal: 50, unit: 'ms' },
    { measure: 'c', goal: 1, unit: 's' },
    { measure: 'd', goal: 1, unit: 's' },
  ]
  const rows = rowsOf(measures, { a: 5, b: 51, c: 0.5 }, { busy: new Set(['c']) })
  t.same(
    rows.map(({ measure, ours, ok }) => ({ measure, ours, ok })),
    [
      { measure: 'a', ours: 5, ok: true },
      { measure: 'b', ours: 51, ok: false },
      { measure: 'c', ours: 0.5, ok: null },
      { measure: 'd', ours: null, ok: null },
    ],
  )
  t.equal(rowsOf(measures, {}, { only: /^[ab]$/ }).length, 2, '--only')
  t.match(tableOf(rows)[1], /b +51\.0 +≤ 50\.0 ms +NOT REACHED/)
  t.match(tableOf(rows)[3], /d +– +≤ 1\.000 s +not measured/)
})

t.test('documents have the apps and services that were asked for', async (t) => {
  const documents = documentsOf({ apps: 3, services: 4, replicas: 2 })
  t.equal(documents.length, 3)
  t.match(documents[2], { applications: [{ application_name: 'app3', microservices: { length: 4 } }] })
})
