/**
 * The scale of the control plane: root, clusters and simulated workers, a process each (of workers a few hundred), over real links.
 *
 *     npm run bench:control                        the table of docs/benchmarks.md
 *     npm run bench:control -- --only 'at rest'    only the scenarios with such a measure, and of those only such rows
 *     npm run bench:control -- --profile DIR       with a CPU profile of every process
 *     npm run bench:control -- --growth DIR        instead: how the cost grows with the number of services, with pictures
 *
 * With --json one object a line: {"measure", "ours", "goal", "unit", "ok"}.
 */
import '../../support/no-orphans.ts'
import { scriptOptions } from '../../../.config/script-options.ts'
import { Watch } from '../busy.ts'
import { GROWTH, growth } from './growth.ts'
import { FULL, SCENARIOS, TINY } from './measures.ts'
import { rowsOf, tableOf } from './rows.ts'

const values = scriptOptions({
  name: 'npm run bench:control',
  about: 'Measures root, clusters and agents with thousands of services and workers.',
  options: {
    only: { kind: 'pattern', meaning: 'only rows whose measure matches' },
    json: { kind: 'flag', meaning: 'prints one JSON object a line' },
    tiny: { kind: 'flag', meaning: 'a few of everything, to see that it runs; the figures mean nothing' },
    growth: {
      kind: 'text',
      meaning: 'instead: how the cost grows with the number of services; the folder for its pictures',
    },
    profile: { kind: 'text', meaning: 'the folder for CPU profiles of all processes' },
    'busy-anyway': { kind: 'flag', meaning: 'judges figures also when other programs use the machine' },
  },
})
const note = (line: string) => void process.stderr.write(`${line}\n`)
const print = (line: string) => void process.stdout.write(`${line}\n`)

if (values.growth !== undefined) {
  await growth(values.tiny ? { services: [10, 20], nodes: 2 } : GROWTH, { out: values.growth, say: note, print })
  process.exit()
}
const scenarios = SCENARIOS.filter(({ measures }) => rowsOf(measures, {}, { only: values.only }).length > 0)
if (scenarios.length === 0) {
  note(`npm run bench:control: no row matches ${String(values.only)}`)
  process.exit(2)
}
const { watch, said } = await Watch.start(values['busy-anyway'])
note(said)
for (const scenario of scenarios) {
  const { measures } = scenario
  note(await watch.before(measures.map(({ measure }) => measure)))
  try {
    const found = await scenario.run(values.tiny ? TINY : FULL, { say: note, profile: values.profile })
    const rows = rowsOf(measures, found, { only: values.only, busy: watch.busy })
    for (const line of values.json ? rows.map((row) => JSON.stringify(row)) : tableOf(rows)) print(line)
  } catch (error) {
    note(`failed: ${(error as Error).message}`)
    process.exitCode = 1
  }
}
process.exit(process.exitCode)
