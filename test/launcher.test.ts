import { chmod, cp, mkdir, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import t from 'tap'
import { Program, run } from '../src/lab/program.ts'
import './support/no-orphans.ts'
import { until } from './support/until.ts'

/*
 * `.config/node24.cjs` starts every npm script. Here it runs under this Node, which a preloaded file makes look like Node 18:
 * without `process.execve`, as on Debian bookworm.
 */
const LAUNCHER = resolve(import.meta.dirname, '../.config/node24.cjs')
const LOOK_OLD = `
  process.execve = undefined
  Object.defineProperty(process, 'versions', { value: { ...process.versions, node: '18.20.4' } })`
const name = `node-${process.platform}-${process.arch}`

/** A repository with the launcher and, in `folder`, a program in the place of Node 24. */
async function repository(dir: string, folder: string | undefined): Promise<(...argv: string[]) => string[]> {
  await mkdir(join(dir, '.config'), { recursive: true })
  await cp(LAUNCHER, join(dir, '.config/node24.cjs'))
  await writeFile(join(dir, 'look-old.cjs'), LOOK_OLD)
  if (folder !== undefined) {
    const node = join(dir, folder, name, 'bin/node')
    await mkdir(join(node, '..'), { recursive: true })
    await writeFile(node, `#!/bin/sh\nexec "${process.execPath}" "$@"\n`)
    await chmod(node, 0o755)
  }
  return (...argv) => [process.execPath, '-r', join(dir, 'look-old.cjs'), join(dir, '.config/node24.cjs'), ...argv]
}

for (const folder of ['node_modules', '.config/node24/node_modules']) {
  t.test(`an old Node starts the Node 24 in ${folder}`, async (t) => {
    const dir = t.testdir()
    const argv = await repository(dir, folder)
    const program = join(dir, 'program.js')
    await writeFile(program, 'console.log(process.versions.node, process.argv.slice(2).join()); process.exit(7)')
    const { code, stdout } = await run(argv('--no-warnings', program, 'a', '--b'))
    t.equal(stdout.trim(), `${process.versions.node} a,--b`, 'options and arguments arrive')
    t.equal(code, 7, 'so does the exit code')
    const { stdout: path } = await run(argv('-p', 'process.env.PATH'))
    t.ok(
      path.startsWith(join(dir, folder, name, 'bin')),
      'programs that it starts by the name `node` get the same Node',
    )
  })
}

t.test('signals reach the program, and its end by a signal becomes an exit code', async (t) => {
  const argv = await repository(t.testdir(), 'node_modules')
  const lines: string[] = []
  const script = `process.on('SIGHUP', () => console.log('HUP')); setInterval(() => {}, 1000); console.log('up')`
  await using program = Program.start(argv('-e', script), { onLine: (line) => lines.push(line) })
  await until(() => lines.includes('up'))
  process.kill(program.pid, 'SIGHUP')
  await until(() => lines.includes('HUP'))
  process.kill(program.pid, 'SIGTERM')
  t.equal(await program.exited, 'code 143')
})

t.test('without a Node 24 the launcher says what is needed', async (t) => {
  const argv = await repository(t.testdir(), undefined)
  const { code, stdout, stderr } = await run(argv('-p', '1'))
  t.same([code, stdout], [1, ''])
  t.match(stderr, /^hedgerow needs Node 24\.19 or newer; this is Node 18\.20\.4 /)
  t.match(stderr, 'npm ci', 'and how to get it')
})

t.test('root and cluster collect garbage beside their event loop, and whoever set flags keeps them', async (t) => {
  const dir = t.testdir({
    'package.json': '{"type":"module"}',
    'main.js': 'console.log(JSON.stringify([process.execArgv, process.argv.slice(2)]))',
  })
  const launcher = join(dir, 'hedgerow.js')
  await cp(resolve(import.meta.dirname, '../src/hedgerow.js'), launcher)
  const usual = ['--max-semi-space-size=2', '--single-threaded-gc']
  const control = ['--max-semi-space-size=8', '--no-parallel-scavenge']
  const rows = [
    { flags: usual, args: ['agent', '--name', 'root'], gets: usual },
    { flags: usual, args: ['root', '--state', 'a b'], gets: control },
    { flags: usual, args: ['--json', 'cluster'], gets: control },
    { flags: usual, args: ['--state', '/srv/a', '-o', 'json', 'root'], gets: control },
    { flags: usual, args: ['--state', 'root', 'agent'], gets: usual },
    { flags: usual, args: ['--state=root', 'get', 'cluster'], gets: usual },
    { flags: ['--no-warnings', ...usual], args: ['cluster'], gets: [...control, '--no-warnings'] },
    { flags: ['--max-semi-space-size=1'], args: ['root'], gets: ['--max-semi-space-size=1'] },
    { flags: [], args: ['root'], gets: [] },
  ]
  for (const { flags, args, gets } of rows) {
    const { stdout, stderr, code } = await run([process.execPath, ...flags, launcher, ...args])
    t.same([code, stderr, JSON.parse(stdout || '[]')], [0, '', [gets, args]], `${flags.join(' ')} ${args.join(' ')}`)
  }
})
