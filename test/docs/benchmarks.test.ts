import { dirname } from 'node:path'
import t from 'tap'
import { run } from '../../src/lab/program.ts'
import { scenariosFor } from '../bench/plan.ts'
import { commandsOf, ROOT } from './markdown.ts'
import '../support/no-orphans.ts'

/* The commands of docs/benchmarks.md are typed where short parameters behind them make them short. */

t.setTimeout(280_000)
const [commands = [], ...others] = commandsOf('docs/benchmarks.md')

const SHORT = {
  'npm run bench:relay': '-- --nodes 5 --idle 0 --carry 1 --kill',
  'npm run bench:scheduling': '-- --rounds 2',
  'npm run bench:control': '-- --tiny --only "document of"',
  'npm run soak': '-- --minutes 0.05 --flows 10 --outage 1',
}

/** Why a line is not typed here. test/docs/inline.test.ts looks at its options. */
const ELSEWHERE = {
  'npm run bench': 'minutes of both cores; test/bench has tests of its own',
  'npm run bench -- --only dns': 'compares two programs on an idle machine; here only the rows that it names',
  'npm run bench -- --starts 3 --against ../before': 'needs another checkout, and three times the minutes',
  'npm run bench -- --no-aes --only udp': 'the same on an idle machine; here only the rows that it names',
  'npm run bench:containers':
    'needs an engine of its own, and minutes of both cores; test/orchestrator/containers.test.ts does the same at small size',
  'npm run bench:failure': 'minutes of both cores; test/walks/failure-*.test.ts do the same at small size',
  'npm run bench:nat': 'half an hour of both cores; test/walks connects the same networks',
}

t.test('every command is typed below, or is listed with the reason why not', async (t) => {
  t.same(others, [], 'one block')
  t.same(new Set(commands), new Set([...Object.keys(SHORT), ...Object.keys(ELSEWHERE)]))
})

for (const [line, short] of Object.entries(SHORT)) {
  t.test(`${line}, with ${short}`, async (t) => {
    const { code, stdout, stderr } = await shell(`${line} ${short}`)
    t.equal(code, 0, line)
    if (code !== 0) t.comment(stdout.slice(-2_000), stderr.slice(-2_000))
  })
}

t.test('--only chooses rows of the benchmark', async (t) => {
  t.ok(scenariosFor(/dns/i).length > 0, 'the benchmark has rows about DNS')
  t.ok(scenariosFor(/udp/i).length > 0, 'the benchmark has rows about UDP')
})

function shell(command: string) {
  const PATH = `${dirname(process.execPath)}:${process.env['PATH']}`
  return run(['bash', '-euc', command], { cwd: ROOT, timeoutMs: 150_000, env: { PATH } })
}
