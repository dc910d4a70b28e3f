import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { build } from 'esbuild'
import { folderOf, REPOSITORY } from '../build.ts'

/** CommonJS packages ask for Node's modules by `require`. */
const BANNER =
  "import { createRequire as createRequire_ } from 'node:module'; const require = createRequire_(import.meta.url);"

let built: Promise<string> | undefined

/**
 * program.ts in one file, as users have their programs: to read hundreds of modules of TypeScript costs each process seconds of a
 * processor, and a root that is killed would be measured by that.
 */
export function builtProgram(): Promise<string> {
  return (built ??= bundle())
}

async function bundle(): Promise<string> {
  const folder = join(folderOf(REPOSITORY), 'control')
  mkdirSync(folder, { recursive: true })
  const outfile = join(folder, `program-${process.pid}.mjs`)
  await build({
    entryPoints: [join(import.meta.dirname, 'program.ts')],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'esnext',
    external: ['koffi', 'bufferutil', 'utf-8-validate'],
    banner: { js: BANNER },
    logLevel: 'warning',
  })
  process.once('exit', () => rmSync(outfile, { force: true }))
  return outfile
}
