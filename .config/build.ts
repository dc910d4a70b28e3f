/**
 * `npm run build`: what the package ships, in `dist`.
 *
 *     modules and types     tsc, which checks nothing here: for programs that embed hedgerow
 *     programs              esbuild: each one file with all that it imports, which loads in a third of the processor time and into a
 *                           third less memory than hundreds of modules
 *     the page              esbuild: what the root serves to browsers (.config/page.ts)
 *
 * `--programs` builds these alone: what the tests start.
 */
import { build, type Plugin } from 'esbuild'
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { isBuiltin } from 'node:module'
import { dirname, join, relative, resolve } from 'node:path'
import { manPages } from './docs/man.ts'
import { buildPage } from './page.ts'
import { scriptOptions } from './script-options.ts'

const REPOSITORY = resolve(import.meta.dirname, '..')
/** What is started as a process or a thread. */
const PROGRAMS = [
  'src/main.ts',
  'src/roles/control-thread.ts',
  'src/orchestrator/worker/stand-in.ts',
  'src/orchestrator/worker/lease-end.ts',
  'src/lab/http-proxy.ts',
  'src/lab/link/wires.ts',
]
/** Native, and optional. */
const EXTERNAL = ['koffi', 'bufferutil', 'utf-8-validate']
/** CommonJS packages ask for Node's modules by `require`. */
const BANNER = "import { createRequire as createRequire_ } from 'node:module'; const require = createRequire_(import.meta.url);"

/** Of what Node brings along, and loads when it is first read: what the programs import. Anything else of the kind fails the build. */
const LATE = ['BlockList', 'AsyncLocalStorage']

/** What is required by it is taken in, and loaded when that line is reached. */
const REQUIRE = 'const require = createRequire(import.meta.url)'

/** Characters of a line: a trace of calls names places that can be found. */
const LINE = 160

const { out, programs, page } = scriptOptions({
  name: 'npm run build',
  about: 'Builds what the package ships.',
  options: {
    out: { kind: 'text', meaning: 'the folder', default: join(REPOSITORY, 'dist') },
    programs: { kind: 'flag', meaning: 'leaves out the page, and the modules and types for programs that embed hedgerow' },
    page: { kind: 'flag', meaning: 'with --programs: the page as well' },
  },
})

const fresh = `${out}.new-${process.pid}`
mkdirSync(join(fresh, 'src'), { recursive: true })
if (!programs) compile()
const packages = new Set<string>()
if (!programs || page) for (const name of await buildPage(join(fresh, 'src/page/built'))) packages.add(name)
for (const program of PROGRAMS) for (const name of await bundle(program)) packages.add(name)
for (const [name, page] of Object.entries(manPages())) {
  mkdirSync(join(fresh, 'man'), { recursive: true })
  writeFileSync(join(fresh, 'man', name), page)
}
writeFileSync(join(fresh, 'third-party-licenses.txt'), [...packages].toSorted().map(licenseOf).join('\n\n'))
copyFileSync(join(REPOSITORY, 'src/hedgerow.js'), join(fresh, 'src/hedgerow.js'))
rmSync(out, { recursive: true, force: true })
renameSync(fresh, out)
// the version is read there; in the package it lies there
const described = join(dirname(out), 'package.json')
if (!existsSync(described)) symlinkSync(join(REPOSITORY, 'package.json'), described)

function compile(): void {
  const tsc = join(folderOf('typescript'), 'bin/tsc')
  const project = join(REPOSITORY, '.config/tsconfig.build.json')
  // `npm run check` checks the types; to write the modules and their declarations takes a quarter of that
  const { status } = spawnSync(process.execPath, [tsc, '-p', project, '--noCheck', '--outDir', fresh], { stdio: 'inherit' })
  if (status !== 0) process.exit(status ?? 1)
}

/** V8 keeps a text with one other character at two bytes for each. What is left of them after esbuild is in regular expressions. */
function inAscii(text: string): string {
  return text.replaceAll(/[^\x00-\x7f]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

/** The names of the packages in it. */
async function bundle(program: string): Promise<string[]> {
  const outfile = join(fresh, program.replace(/\.ts$/, '.js'))
  const { metafile } = await build({
    absWorkingDir: REPOSITORY,
    entryPoints: [program],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'esnext', // nothing is rewritten: what esbuild makes of `using` in a loop throws an earlier error again
    external: EXTERNAL,
    banner: { js: BANNER },
    legalComments: 'none', // third-party-licenses.txt has them whole
    minifyWhitespace: true, // a process keeps the text of its program
    lineLimit: LINE,
    logLevel: 'warning',
    metafile: true,
    plugins: [ownLocations(program), packetAlone(), builtins()],
  })
  // src/core/kit/node-http.ts says why
  const costly = Object.values(metafile.outputs).some(({ imports }) =>
    imports.some(({ path, kind }) => path === 'node:http' && kind === 'import-statement'),
  )
  if (costly) throw new Error(`${program} imports node:http: take src/core/kit/node-http.ts`)
  writeFileSync(outfile, inAscii(readFileSync(outfile, 'utf8')))
  return Object.keys(metafile.inputs).flatMap((path) => /.*node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1] ?? [])
}

/** `import.meta` of a source that is in another's file: where it would lie by itself; what it requires is in that file, too. */
function ownLocations(program: string): Plugin {
  return {
    name: 'own locations',
    setup: ({ onLoad }) => {
      onLoad({ filter: /\/(src|proxy|resolver)\/[^.]*\.ts$/ }, ({ path }) => {
        const text = readFileSync(path, 'utf8')
        const source = relative(REPOSITORY, path)
        if (path.includes('/node_modules/') || source === program || !text.includes('import.meta.')) return undefined
        if (text.includes(REQUIRE)) return { contents: text.replaceAll(REQUIRE, ''), loader: 'ts' }
        const place = (to: string) => `new URL(${JSON.stringify(relative(dirname(program), to))}, import.meta.url)`
        const file = (to: string) => `process.getBuiltinModule('node:url').fileURLToPath(${place(to)})`
        const built = source.replace(/\.ts$/, '.js')
        const own = text
          .replaceAll('import.meta.url', `${place(built)}.href`)
          .replaceAll('import.meta.dirname', file(dirname(source)))
          .replaceAll('import.meta.filename', file(built))
        return { contents: own, loader: 'ts' }
      })
    },
  }
}

/**
 * What Node brings along is asked for when a module that needs it is loaded. By imports, which are of the whole file, every command would
 * load what any of them needs, and Node would read all that such a module offers, also what it has not loaded yet: a third of a start.
 */
function builtins(): Plugin {
  return {
    name: 'what Node brings along',
    setup: ({ onResolve, onLoad }) => {
      onResolve({ filter: /^(node:)?[a-z0-9_]+(\/[a-z]+)?$/ }, ({ path, kind }) =>
        kind === 'import-statement' && isBuiltin(path) ? { path: path.replace(/^node:/, ''), namespace: 'builtin' } : undefined,
      )
      onLoad({ filter: /./, namespace: 'builtin' }, ({ path }) => {
        const offered = Object.getOwnPropertyDescriptors(process.getBuiltinModule(`node:${path}`) ?? {})
        const names = Object.keys(offered).filter(
          (name) => /^[A-Za-z_]\w*$/.test(name) && name !== 'default' && (LATE.includes(name) || offered[name]?.get === undefined),
        )
        return {
          contents: `const all = process.getBuiltinModule('node:${path}')\nexport default all\nexport const { ${names.join(', ')} } = all\n`,
        }
      })
    },
  }
}

/** Of dns2 the packet alone: its clients and servers would load `node:http2`, a thirtieth of the start of an agent. */
function packetAlone(): Plugin {
  return {
    name: 'the packet of dns2',
    setup: ({ onLoad }) => {
      onLoad({ filter: /\/node_modules\/dns2\/index\.mjs$/ }, ({ path }) => ({
        contents: "import Packet from './packet.js'; export { Packet }",
        resolveDir: dirname(path),
      }))
    },
  }
}

/** Of a package: here, or one folder up, as in the image. */
function folderOf(name: string): string {
  const [folder] = ['.', '..'].map((up) => join(REPOSITORY, up, 'node_modules', name)).filter(existsSync)
  if (folder === undefined) throw new Error(`${name} is not installed: npm ci`)
  return folder
}

function licenseOf(name: string): string {
  const folder = folderOf(name)
  const { version, license } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Record<string, string>
  const file = ['LICENSE', 'LICENSE.md', 'LICENSE.txt', 'license', 'LICENCE'].find((each) => existsSync(join(folder, each)))
  const text = file === undefined ? '' : `\n\n${readFileSync(join(folder, file), 'utf8').trim()}`
  return `${name} ${version} (${license})${text}`
}
