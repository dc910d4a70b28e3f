import { copyFileSync, mkdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { run } from '../../src/lab/program.ts'

const REPOSITORY = resolve(import.meta.dirname, '../..')
/** Inside node_modules, so that the packages are found and nothing is committed. */
const FOLDER = join(REPOSITORY, 'node_modules/.cache/hedgerow-bench')

/**
 * Compiles what `npm run build` would, into a folder of the benchmark's: agents are measured as users run them, from JavaScript
 * without types (running the sources costs about 15 MiB more a process). What starts `hedgerow`: Node, its flags, the launcher.
 */
export async function build(): Promise<string[]> {
  const dist = join(FOLDER, 'dist')
  rmSync(FOLDER, { recursive: true, force: true })
  mkdirSync(dist, { recursive: true })
  const tsc = [process.execPath, join(REPOSITORY, 'node_modules/typescript/bin/tsc')]
  const options = ['-p', join(REPOSITORY, '.config/tsconfig.build.json'), '--outDir', dist, '--declaration', 'false']
  const { code, stdout } = await run([...tsc, ...options], { timeoutMs: 120_000, cwd: REPOSITORY })
  const launcher = join(dist, 'src/hedgerow.js')
  if (code !== 0) process.stderr.write(`the build says: ${stdout.slice(0, 500)}\n`) // it is written in any case
  copyFileSync(join(REPOSITORY, 'src/hedgerow.js'), launcher)
  symlinkSync(join(REPOSITORY, 'package.json'), join(FOLDER, 'package.json'))
  return [process.execPath, ...flagsOf(launcher), launcher]
}

/** Those of the launcher's first line, which is not read when Node is named. */
function flagsOf(launcher: string): string[] {
  const [first = ''] = readFileSync(launcher, 'utf8').split('\n')
  return first.split(/\s+/).filter((word) => word.startsWith('--'))
}
