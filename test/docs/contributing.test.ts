import { rmSync, symlinkSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t from 'tap'
import { run } from '../../src/lab/program.ts'
import { commandsOf, ROOT } from './markdown.ts'
import '../support/no-orphans.ts'

/* The commands of CONTRIBUTING.md are typed, line by line; the one thing that is filled in is the URL of the clone. */

t.setTimeout(280_000)
const [setUp = [], ...others] = commandsOf('CONTRIBUTING.md')

/** Why a line is not typed here. */
const ELSEWHERE = {
  'npm ci': '`npm run prove:first-commands` types it in a clean Debian; here its result is linked',
  'npm run check': '`npm test` begins with it',
  'npm cit': '`npm run prove:first-commands` types it; this is a part of it',
}

const TESTS = 'npm test -- test/model test/cli/errors.test.ts'

t.test('every command is typed below, or is listed with the reason why not', async (t) => {
  t.same(others, [], 'one block')
  const typed = ['git clone URL hedgerow && cd hedgerow', TESTS, ...Object.keys(ELSEWHERE)]
  t.same(new Set(setUp), new Set(typed))
})

t.test('the clone of CONTRIBUTING.md runs the tests that it names', { skip: await notCloned() }, async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'hedgerow-contributing-'))
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  const [clone = ''] = setUp
  t.match(await shell(clone.replace('URL', ROOT), folder), { code: 0 }, clone)
  const here = join(folder, 'hedgerow')
  symlinkSync(join(ROOT, 'node_modules'), join(here, 'node_modules'))
  const { code, stdout, stderr } = await shell(TESTS, here)
  t.equal(code, 0, TESTS)
  t.match(stdout, /^\d+ passed, 0 failed/m)
  if (code !== 0) t.comment(stdout.slice(-2_000), stderr.slice(-2_000))
  rmSync(join(here, 'node_modules'))
})

async function notCloned(): Promise<string | false> {
  const { code } = await run(['git', '-C', ROOT, 'rev-parse', 'HEAD'])
  return code === 0 ? false : 'optional: this is no git clone'
}

function shell(command: string, cwd: string) {
  const PATH = `${dirname(process.execPath)}:${process.env['PATH']}`
  return run(['bash', '-euc', command], { cwd, timeoutMs: 150_000, env: { PATH, CI: undefined } })
}
