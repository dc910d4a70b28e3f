import { chmodSync, mkdirSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join, resolve } from 'node:path'
import t from 'tap'
import { readLab } from '../../src/lab/lab-file.ts'
import { lackingFor } from '../../src/lab/missing-rights.ts'
import { run } from '../../src/lab/program.ts'
import { blocksOf, page, ROOT } from './markdown.ts'
import { LAUNCHER } from '../support/launcher.ts'

/** docs/lab.md: its files are read, its commands are typed, its test runs. */

t.setTimeout(280_000)
const skip = (await lackingFor('namespaces')) ?? false
const blocks = blocksOf(page('docs/lab.md'))
const folder = await mkdtemp(join(tmpdir(), 'hedgerow-lab-doc-'))
t.teardown(() => rm(folder, { recursive: true, force: true }))

t.test('the files are read without a fault', async (t) => {
  const [all = '', docker = ''] = blocks.filter(({ syntax }) => syntax === 'yaml').map(({ text }) => text)
  const file = join(folder, 'lab.yaml')
  writeFileSync(file, all)
  t.match(Object.keys(readLab(file).sites ?? {}), ['left', 'right', 'carrier', 'phone'])
  writeFileSync(file, `publics: [server]\n${docker}`)
  t.match(readLab(file), { image: 'my-app', containers: { server: { image: 'nginx' } } })
})

t.test('the commands do what the page says', { skip }, async (t) => {
  const [commands = ''] = blocks.filter(({ section }) => section === 'Commands').map(({ text }) => text)
  mkdirSync(join(folder, 'bin'))
  const shim = join(folder, 'bin/hedgerow')
  writeFileSync(shim, `#!/bin/sh\nexec ${process.execPath} ${LAUNCHER} "$@"\n`)
  chmodSync(shim, 0o755)
  t.teardown(() => run([shim, 'lab', 'down']))
  const PATH = [join(folder, 'bin'), dirname(process.execPath), process.env['PATH']].join(delimiter)
  const { code, stdout, stderr } = await run(['bash', '-euc', commands], {
    cwd: ROOT,
    env: { PATH },
    timeoutMs: 100_000,
  })
  t.equal(code, 0, stderr)
  t.match(stdout, /exit code 7: no server runs there yet/)
})

t.test('the test runs as it is printed', { skip }, async (t) => {
  const [example = ''] = blocks.filter(({ syntax }) => syntax === 'ts').map(({ text }) => text)
  const file = join(folder, 'own.test.ts')
  writeFileSync(file, example.replace("'hedgerow/lab'", `'${resolve(ROOT, 'src/lab/index.ts')}'`))
  const { code, stdout } = await run([process.execPath, '--test-reporter=tap', file], { timeoutMs: 60_000 })
  t.equal(code, 0, 'it passes')
  t.match(stdout, /^ok 1 - a download survives a bad uplink$/m)
})
