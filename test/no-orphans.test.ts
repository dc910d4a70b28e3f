import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import t from 'tap'
import { Program } from '../src/lab/program.ts'
import { until } from './support/until.ts'

/** A test that is ended by force leaves no program behind, although the lab starts each in a process group of its own. */

t.setTimeout(280_000)
const RUNNER = resolve(import.meta.dirname, 'run.ts')
const FIXTURE = `
  import t from '${import.meta.resolve('tap')}'
  import '${resolve(import.meta.dirname, 'support/no-orphans.ts')}'
  import { Program } from '${resolve(import.meta.dirname, '../src/lab/program.ts')}'
  t.test('never ends', async () => {
    const program = Program.start(['sh', '-c', 'sleep 600 & wait'], { env: { HEDGEROW_ORPHAN: process.argv[1] } })
    await program.exited
  })
`

interface Row {
  why: string
  byRunner: boolean
  /** Ends what was started. */
  end: (started: Program, file: string) => void
}

const ROWS: readonly Row[] = [
  { why: 'kill -9 of a test file', byRunner: false, end: ({ pid }) => process.kill(pid, 'SIGKILL') },
  { why: 'Ctrl-C of a test file', byRunner: false, end: (started) => started.signal('SIGINT') },
  { why: 'kill -9 of the runner', byRunner: true, end: ({ pid }) => process.kill(pid, 'SIGKILL') },
  { why: 'Ctrl-C of the runner', byRunner: true, end: (started) => started.signal('SIGINT') },
  {
    why: 'kill -9 of a test file of the runner',
    byRunner: true,
    end: (_started, file) => {
      for (const pid of processes((text) => text.endsWith(`\0${file}\0`), 'cmdline')) process.kill(pid, 'SIGKILL')
    },
  },
]

for (const { why, byRunner, end } of ROWS) {
  t.test(`${why} leaves no program behind`, async (t) => {
    const file = join(t.testdir(), 'endless.test.ts')
    writeFileSync(file, FIXTURE)
    const orphans = () => processes((text) => text.includes(`HEDGEROW_ORPHAN=${file}\0`), 'environ')
    const argv = byRunner ? [RUNNER, '--no-install', file] : [file]
    // as if this test itself had not been started by the runner
    const env = { HEDGEROW_TEST_RUN: undefined, HEDGEROW_TEST_FILE: undefined }
    const started = Program.start([process.execPath, ...argv], { env })
    t.teardown(() => {
      started.signal('SIGKILL')
      for (const pid of orphans()) process.kill(pid, 'SIGKILL')
    })
    await until(() => orphans().length === 2, 'the fixture starts a program, and that another')
    end(started, file)
    await until(() => orphans().length === 0, 'both have ended')
    t.pass('both have ended')
    if (byRunner) await started.exited
  })
}

function processes(matches: (text: string) => boolean, kind: 'cmdline' | 'environ'): number[] {
  return readdirSync('/proc').flatMap((name) => {
    if (!/^\d+$/.test(name)) return []
    try {
      return matches(readFileSync(`/proc/${name}/${kind}`, 'utf8')) ? [Number(name)] : []
    } catch {
      return [] // ended meanwhile
    }
  })
}
