/**
 * `npm run lint`: oxlint with the rules of the repository, over all of its code.
 *
 * npm leaves out optional packages whose `engines` exclude the Node it runs with, and Debian's own is 18: then the native part of oxlint
 * is missing, although this repository runs with Node 24. It is installed here, by npm under Node 24 (.config/node24.cjs has put that
 * first on the PATH).
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { scriptOptions } from './script-options.ts'

const REPOSITORY = resolve(import.meta.dirname, '..')
const BINDINGS = join(REPOSITORY, 'node_modules/@oxlint')
const OXLINT = join(REPOSITORY, 'node_modules/oxlint/bin/oxlint')
const FOLDERS = ['src', 'proxy', 'resolver', 'examples', 'test']

const { fix } = scriptOptions({
  name: 'npm run lint',
  about: 'Checks all code with the rules of the repository. Ends with 1 when it found a fault.',
  options: { fix: { kind: 'flag', meaning: 'mends what can be mended' } },
})

if (!existsSync(BINDINGS) || !readdirSync(BINDINGS).some((name) => name.startsWith('binding-'))) {
  process.stdout.write('npm left out the native part of oxlint, as its Node is too old: npm install --no-save, with Node 24\n')
  run('npm', ['install', '--no-save', '--no-audit', '--no-fund', '--ignore-scripts', '--prefer-offline'])
}
run(process.execPath, [OXLINT, '--type-aware', '--deny-warnings', ...(fix ? ['--fix'] : []), ...FOLDERS])

function run(program: string, args: readonly string[]): void {
  const { status, error } = spawnSync(program, args, { cwd: REPOSITORY, stdio: 'inherit' })
  if (error !== undefined) process.stderr.write(`${program} cannot be started: ${error.message}\n`)
  if (status !== 0) process.exit(status ?? 1)
}
