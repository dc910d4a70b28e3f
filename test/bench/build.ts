import { createHash } from 'node:crypto'
import { copyFileSync, existsSync, mkdirSync, readFileSync, realpathSync, rmSync, symlinkSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { run } from '../../src/lab/program.ts'

/** This checkout. */
export const REPOSITORY = resolve(import.meta.dirname, '../..')

/**
 * Builds the programs as `npm run build` does, into a folder of the benchmark's: agents are measured as users run them. What starts
 * `hedgerow`: Node, its flags, the launcher.
 */
export async function build(repository: string): Promise<string[]> {
  const folder = folderOf(repository)
  const dist = join(folder, 'dist')
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(dist, { recursive: true })
  const script = join(repository, '.config/build.ts')
  if (existsSync(script)) {
    const { code, stderr } = await run([process.execPath, script, '--programs', '--out', dist], { timeoutMs: 120_000 })
    if (code !== 0) throw new Error(`${repository} cannot be built: ${stderr}`)
  } else await compile(repository, dist)
  const launcher = join(dist, 'src/hedgerow.js')
  return [process.execPath, ...flagsOf(launcher), launcher]
}

/** Checkouts without that script. */
async function compile(repository: string, dist: string): Promise<void> {
  const tsc = [process.execPath, join(repository, 'node_modules/typescript/bin/tsc')]
  const options = ['-p', join(repository, '.config/tsconfig.build.json'), '--outDir', dist, '--declaration', 'false']
  const { code, stdout } = await run([...tsc, ...options], { timeoutMs: 120_000, cwd: repository })
  if (code !== 0) process.stderr.write(`the build says: ${stdout.slice(0, 500)}\n`) // it is written in any case
  copyFileSync(join(repository, 'src/hedgerow.js'), join(dist, 'src/hedgerow.js'))
  symlinkSync(join(repository, 'package.json'), join(dist, '../package.json'))
}

/** Inside its node_modules, so that the packages are found and nothing is committed; checkouts may share these. */
export function folderOf(repository: string): string {
  const name = createHash('sha256').update(realpathSync(repository)).digest('hex').slice(0, 12)
  return join(repository, 'node_modules/.cache/hedgerow-bench', name)
}

/** Those of the launcher's first line, which is not read when Node is named. */
function flagsOf(launcher: string): string[] {
  const [first = ''] = readFileSync(launcher, 'utf8').split('\n')
  return first.split(/\s+/).filter((word) => word.startsWith('--'))
}
