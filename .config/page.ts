/**
 * `npm run page`: the page of the root (src/page) as files that a browser loads, in `src/page/built`. `npm run build` puts the same into
 * the package.
 *
 *     index.html        as it is, with the names of the others
 *     app-HASH.js       what is needed at first
 *     part-HASH.js      what is loaded when it is needed
 *     app-HASH.css      all styles, one file
 *     NAME.gz           each of them packed, so that the root need not
 */
import { build } from 'esbuild'
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { gzipSync } from 'node:zlib'
import { scriptOptions } from './script-options.ts'

const REPOSITORY = resolve(import.meta.dirname, '..')
const SOURCES = join(REPOSITORY, 'src/page')

/** Browsers of the last three years. */
const BROWSERS = ['chrome115', 'firefox115', 'safari16.4']

/** The names of the packages in it. */
export async function buildPage(folder: string): Promise<string[]> {
  const fresh = `${folder}.new-${process.pid}`
  const { metafile, outputFiles } = await build({
    absWorkingDir: REPOSITORY,
    entryPoints: { app: 'src/page/main.tsx' },
    outdir: fresh,
    entryNames: '[name]-[hash]',
    chunkNames: 'part-[hash]',
    bundle: true,
    splitting: true,
    platform: 'browser',
    format: 'esm',
    target: BROWSERS,
    jsx: 'automatic',
    jsxImportSource: 'preact',
    minify: true,
    legalComments: 'none', // third-party-licenses.txt has them whole
    logLevel: 'warning',
    metafile: true,
    write: false,
  })
  rmSync(fresh, { recursive: true, force: true })
  mkdirSync(fresh, { recursive: true })
  const write = (name: string, bytes: Uint8Array) => {
    writeFileSync(join(fresh, name), bytes)
    writeFileSync(join(fresh, `${name}.gz`), gzipSync(bytes, { level: 9 }))
  }
  let html = readFileSync(join(SOURCES, 'index.html'), 'utf8')
  for (const { path, contents } of outputFiles) {
    const name = basename(path)
    write(name, contents)
    if (name.startsWith('app-')) html = html.replace(`app.${name.split('.').at(-1)}`, name)
  }
  write('index.html', Buffer.from(html))
  write('icon.svg', readFileSync(join(SOURCES, 'icon.svg')))
  rmSync(folder, { recursive: true, force: true })
  renameSync(fresh, folder)
  return Object.keys(metafile.inputs).flatMap((path) => /.*node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1] ?? [])
}

if (import.meta.main) {
  scriptOptions({ name: 'npm run page', about: 'Builds the page that a root serves.', options: {} })
  await buildPage(join(SOURCES, 'built'))
}
