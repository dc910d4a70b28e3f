import t from 'tap'
import { Program } from '../../src/lab/program.ts'
import { DEMO, leftBehind, sandbox, TIMEOUT_MS, walkDemo } from './demo.ts'
import '../support/no-orphans.ts'
import { until } from '../support/until.ts'

t.setTimeout(TIMEOUT_MS)

// With both, and on two networks: test/walks/demo-namespaces.test.ts.
t.test('the demo on loopback, on a machine without curl and dig', (t) =>
  walkDemo(t, ['--loopback', '--no-install'], { kind: 'loopback', path: /^direct$/, without: ['curl', 'dig'] }),
)

t.test('interrupted, the demo removes everything', async (t) => {
  const { folder, env } = await sandbox(t)
  await using program = Program.start([...DEMO, '--loopback'], { env })
  await until(async () => (await leftBehind(folder)).length >= 3 || program.exit !== undefined, 'something runs')
  t.equal(program.exit, undefined, 'something runs')
  process.kill(program.pid, 'SIGINT')
  t.equal(await program.exited, 'code 130')
  t.same(await leftBehind(folder), [])
})
