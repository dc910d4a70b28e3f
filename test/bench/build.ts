import { createHash } from 'node:crypto'
import { copyFileSync, mkdirSync, readFileSync, realpathSync, rmSync, symlinkSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { run } from '../../src/lab/program.ts'

/** This checkout. */
export const REPOSITORY = resolve(import.meta.dirname, '../..')

/**
 * Compiles what `npm run build` would, into a folder of the benchmark's: agents are measured as users run them, from JavaScript
 * without types (running the sources costs about 15 MiB more a process). What starts `hedgerow`: Node, its flags, the launcher.
 */
export async function build(repository: string): Promise<string[]> {
  const folder = folderOf(repository)
  const dist = join(folder, 'dist')
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(dist, { recursive: true })
  const tsc = [process.execPath, join(repository, 'node_modules/typescript/bin/tsc')]
  const options = ['-p', join(repository, '.config/tsconfig.build.json'), '--outDir', dist, '--declaration', 'false']
  const { code, stdout } = await run([...tsc, ...options], { timeoutMs: 120_000, cwd: repository })
  const launcher = join(dist, 'src/hedgerow.js')
  if (code !== 0) process.stderr.write(`the build says: ${stdout.slice(0, 500)}\n`) // it is written in any case
  copyFileSync(join(repository, 'src/hedgerow.js'), launcher)
  symlinkSync(join(repository, 'package.json'), join(folder, 'package.json'))
  return [process.execPath, ...flagsOf(launcher), launcher]
}

/** Inside its node_modules, so that the packages are found and nothing is committed; checkouts may share these. */
function folderOf(repository: string): string {
  const name = createHash('sha256').update(realpathSync(repository)).digest('hex').slice(0, 12)
  return join(repository, 'node_modules/.cache/hedgerow-bench', name)
}

/** Those of the launcher's first line, which is not read when Node is named. */
function flagsOf(launcher: string): string[] {
  const [first = ''] = readFileSync(launcher, 'utf8').split('\n')
  return first.split(/\s+/).filter((word) => word.startsWith('--'))
}
