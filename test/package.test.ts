import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { chmod, mkdir, mkdtemp, readdir, readFile, realpath, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join, resolve } from 'node:path'
import t from 'tap'
import { lackingFor } from '../src/lab/missing-rights.ts'
import { Program, run, text } from '../src/lab/program.ts'
import { freeBase, hasTool } from '../src/lab/system-tools.ts'
import './support/no-orphans.ts'

/** What is published, as a stranger gets it: packed, installed into an empty folder, run from there. */
const REPOSITORY = resolve(import.meta.dirname, '..')
const folder = await realpath(await mkdtemp(join(tmpdir(), 'hedgerow-package-')))
await chmod(folder, 0o755) // as root, instances are users of their own, and must get at their program
t.setTimeout(280_000)
t.teardown(() => rm(folder, { recursive: true, force: true }))

/** npm as on a new machine: nothing of this repository in its environment. */
const env: NodeJS.ProcessEnv = {
  ...Object.fromEntries(
    Object.keys(process.env)
      .filter((key) => /^npm_/i.test(key))
      .map((key) => [key, undefined]),
  ),
  PATH: `${dirname(process.execPath)}${delimiter}${process.env['PATH'] ?? ''}`,
  npm_config_audit: 'false',
  npm_config_fund: 'false',
  npm_config_update_notifier: 'false',
  // of the compiler, which is a Go program: on one thread, with fewer collections, it takes half the processor time
  GOMAXPROCS: '1',
  GOGC: '400',
}
const installed = join(folder, 'node_modules/hedgerow')
const launcher = join(installed, 'dist/src/hedgerow.js')

const tarball = await pack()
await writeFile(join(folder, 'package.json'), '{ "private": true }')
await text(['npm', 'install', '--omit=dev', '--prefer-offline', tarball], { cwd: folder, env, timeoutMs: 120_000 })

t.test('the package holds what it needs and nothing else', async (t) => {
  t.same(
    (await readdir(installed)).toSorted(),
    'LICENSE README.md ARCHITECTURE.md CHANGELOG.md CONTRIBUTING.md SECURITY.md dist docs examples package.json'
      .split(' ')
      .toSorted(),
    'its folder holds these, and nothing else',
  )
  t.same(
    (await readdir(join(installed, 'dist'))).toSorted(),
    ['man', 'proxy', 'resolver', 'src', 'third-party-licenses.txt'],
    'dist holds the man pages, the three rooms of the sources, and the licenses of what its programs contain',
  )
  const sources = (await readdir(join(installed, 'dist'), { recursive: true })).filter((name) =>
    /(?<!\.d)\.ts$/.test(name),
  )
  t.notMatch(
    await readFile(join(installed, 'dist/src/main.js'), 'utf8'),
    /__callDispose/,
    'Node does `using` itself: in a loop, what esbuild writes for it throws the error of an earlier turn again',
  )
  t.same(sources, [], 'every source is compiled, because Node strips no types under node_modules')
})

t.test('hedgerow --version says the version', async (t) => {
  const { version } = JSON.parse(await text(['npm', 'pkg', 'get', 'name', 'version'], { cwd: installed, env })) as {
    version: string
  }
  t.equal(
    (await text([join(folder, 'node_modules/.bin/hedgerow'), '--version'], { env })).trim(),
    version,
    'the version is that of package.json',
  )
})

t.test('a program can embed the package', async (t) => {
  const script = "import('hedgerow').then((module) => console.log(Object.keys(module).length > 0))"
  t.equal(
    (await text([process.execPath, '-e', script], { cwd: folder, env })).trim(),
    'true',
    'it can be imported, and exports something',
  )
})

const noLab = (await lackingFor('namespaces')) ?? false
t.test('a test of one’s own builds a lab with the package', { skip: noLab }, async (t) => {
  const script = `
    import { lab } from 'hedgerow/lab'
    await using net = await lab({
      sites: { home: { hosts: ['a'] }, office: { hosts: ['b'], egress: 'only-proxy' } },
      publics: ['server'],
      conditions: { home: { delayMs: 5 } },
    })
    const seen = await net.host('a').text(['ip', '-4', '-o', 'addr', 'show', 'eth0'])
    console.log(seen.includes('192.168.1.10/24'), net.site('home').conditions, net.site('office').proxy)`
  await writeFile(join(folder, 'own.mjs'), script)
  const said = await text([process.execPath, join(folder, 'own.mjs')], { cwd: folder, env, timeoutMs: 60_000 })
  t.equal(
    said.trim(),
    'true { delayMs: 5 } http://192.168.1.1:3128',
    'its links and its proxy run, which are programs of the package',
  )
  const types = join(installed, 'dist/src/lab/index.d.ts')
  t.match(await readFile(types, 'utf8'), /export \{ type Lab, lab, type Site \}/, 'its types come along')
})

t.test('a program of a strict TypeScript project that embeds it compiles', async (t) => {
  const project = join(folder, 'strict')
  await mkdir(project)
  await symlink(join(REPOSITORY, 'node_modules/@types'), join(folder, 'node_modules/@types'))
  await writeFile(
    join(project, 'main.ts'),
    `
    import { Agent, type AgentOptions, readCredential, RootClient, startCluster, startRoot, Up, type UpOptions } from 'hedgerow'
    import { lab } from 'hedgerow/lab'

    export async function relayed(file: string): Promise<string[]> {
      const root = new RootClient(readCredential(file))
      const { items } = await root.ask('GET', '/v1/links', { query: { path: 'relayed', limit: 20 } })
      // @ts-expect-error: the document has no such call
      await root.ask('GET', '/v1/nothing')
      // @ts-expect-error: nor such a field
      items.map(({ nothing }) => nothing)
      return items.map(({ from, to, rttMs }) => [from, to, rttMs?.toFixed(1) ?? ''].join(' '))
    }
    export const parts = [Agent, Up, startRoot, startCluster, lab]
    export type Options = AgentOptions & UpOptions`,
  )
  const compilerOptions = {
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    skipLibCheck: false,
    module: 'nodenext',
    target: 'esnext',
    types: ['node'],
    noEmit: true,
  }
  await writeFile(join(project, 'package.json'), '{ "private": true, "type": "module" }')
  await writeFile(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['main.ts'] }))
  const tsc = join(REPOSITORY, 'node_modules/typescript/bin/tsc')
  const { code, stdout } = await run([process.execPath, tsc, '-p', project], { cwd: project, env, timeoutMs: 120_000 })
  t.same({ code, stdout }, { code: 0, stdout: '' })
})

const noCurl = !hasTool('curl') && 'curl is not installed'
/** `hedgerow` of the package, on a state of its own. */
const hedgerow = (...args: string[]) =>
  text([process.execPath, launcher, '--state', join(folder, 'state'), ...args], { cwd: folder, env, timeoutMs: 60_000 })

t.test('a mesh of one node serves a request from the package', { skip: noCurl }, async (t) => {
  await writeService(join(folder, 'service'))
  await using mesh = await upFromPackage()
  await hedgerow('apply', '-f', join(folder, 'echo.json'))
  while (!(await isEachInstanceRunning())) t.equal(mesh.exit, undefined, 'the mesh is up while its instance starts')
  const url = 'http://demo.test.echo.test.any.rr.local:8080/'
  const said = await hedgerow('exec', '--', 'curl', '-sS', '--max-time', '10', url)
  t.equal(said, 'hello from demo.test.echo.test.0', 'the instance answers under its name')
  await mesh.stop()
  t.equal(mesh.exit, 'code 0', 'it stops when asked')
})

const old = olderNode() ?? ''
const skip = old === '' && 'optional: no Node older than 24.19 on this machine'

t.test('an older Node is told what is needed', { skip }, async (t) => {
  for (const [where, script] of [
    ['clone', join(REPOSITORY, 'src/hedgerow.js')],
    ['package', launcher],
  ] as const) {
    const { code, stdout, stderr } = await run([old, script, 'status'], { env })
    t.equal(code, 1, `${where}: it fails`)
    t.equal(stdout, '', `${where}: nothing comes on standard output`)
    t.match(
      stderr,
      /^hedgerow needs Node 24\.19 or newer; this is Node \d+\.\d+\.\d+ \(/,
      `${where}: it says which Node is needed and which is there`,
    )
    t.match(stderr, where === 'clone' ? 'npm run hedgerow' : 'npx --package node-', `${where}: it says how to get it`)
    t.equal(stderr.trim().split('\n').length, 2, `${where}: it says nothing else`)
  }
})

/** The program of the echo service in a folder of its own, and the document for it. */
async function writeService(service: string): Promise<void> {
  await mkdir(service)
  await writeFile(
    join(service, 'echo.js'),
    "require('node:http').createServer((q, s) => s.end('hello from ' + process.env.HEDGEROW_INSTANCE)).listen(process.env.PORT, process.env.HOST)",
  )
  await writeFile(join(folder, 'echo.json'), JSON.stringify(echo(service)))
}

/** `hedgerow up`, once it says that it is ready. */
async function upFromPackage(): Promise<Program> {
  const ready = Promise.withResolvers<void>()
  const onLine = (line: string) => {
    if (line === '{') ready.resolve()
  }
  const listen = `127.0.0.1:${await freeBase()}`
  const args = ['--state', join(folder, 'state'), 'up', '--listen', listen, '--name', 'only', '-o', 'json']
  const mesh = Program.start([process.execPath, launcher, ...args], { cwd: folder, env, onLine })
  void mesh.exited.then((how) => ready.reject(new Error(`up ended with ${how}: ${mesh.lines.slice(-5).join('\n')}`)))
  await ready.promise
  return mesh
}

async function isEachInstanceRunning(): Promise<boolean> {
  const said = await hedgerow('get', 'instances', '-o', 'json')
  const instances = JSON.parse(said) as Array<{ state: string }>
  if (instances.some(({ state }) => state === 'failed')) throw new Error(said)
  return instances.length > 0 && instances.every(({ state }) => state === 'running')
}

async function pack(): Promise<string> {
  const listed = await text(['npm', 'pack', '--json', '--pack-destination', folder], {
    cwd: REPOSITORY,
    env,
    timeoutMs: 120_000,
  })
  const [packed] = JSON.parse(listed.slice(listed.indexOf('['))) as Array<{ filename: string }>
  return join(folder, packed?.filename ?? '')
}

function echo(code: string) {
  return {
    sla_version: 'v2.0',
    customerID: 'Admin',
    applications: [
      {
        application_name: 'demo',
        application_namespace: 'test',
        microservices: [
          {
            microservice_name: 'echo',
            microservice_namespace: 'test',
            virtualization: 'process',
            runtime: 'process',
            code,
            cmd: [process.execPath, 'echo.js'],
            port: '8080',
          },
        ],
      },
    ],
  }
}

/** The first Node on the way that is too old; npm scripts put the one of this repository before it. */
function olderNode(): string | undefined {
  const candidates = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/local/bin', '/usr/bin'].map((dir) =>
    join(dir, 'node'),
  )
  return candidates.find((node) => {
    if (!existsSync(node) || dirname(node).includes('node_modules')) return false
    const { stdout } = spawnSync(node, ['-p', 'process.versions.node'], { encoding: 'utf8' })
    const [major = 0, minor = 0] = stdout.split('.').map(Number)
    return major < 24 || (major === 24 && minor < 19)
  })
}
