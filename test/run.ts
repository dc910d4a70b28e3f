/**
 * What `npm test` runs: installs missing system tools, checks types, lint and format, runs the test files, and says
 * `N passed, N failed, N skipped` on the very last line, after each failure once more in short. Beside each stands how long it took, and the processor time of all
 * it started and waited for.
 *
 *     npm test                        everything
 *     npm test -- test/model          only these files or folders (no types, lint, format)
 *     npm test -- --no-install        never calls apt-get
 *
 * Each file is a tap program, run by itself: `tap run` would put a loader into every process that a test starts.
 *
 * With CI=true a skip is a failure: a machine that cannot run a test has not passed it. Only a skip whose reason begins
 * with `optional:` is not: it has nothing to test there.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { globSync, readFileSync, statSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { scriptOptions } from '../.config/script-options.ts'
import { sweep } from '../src/lab/namespace.ts'
import { killMarked } from './support/no-orphans.ts'
import { fetchEngine, fetchPodman, sweepEngines } from './docker-engine.ts'
import { hasTool, installTools, missingTools } from '../src/lab/system-tools.ts'
import { TapCount, type Count, type Failure } from './tap-count.ts'

/** A file that takes longer is ended and has failed. */
const FILE_TIMEOUT_SECONDS = 300
/** Code stripped of its types is kept between processes: each starts in half the time. Agents that the launcher starts keep theirs there too. */
process.env['NODE_COMPILE_CACHE'] ??= resolve(import.meta.dirname, '../node_modules/.cache/hedgerow')
const WITHOUT_DOMAINS = resolve(import.meta.dirname, 'support/without-domains.ts')
/** Files that start whole meshes and watch how soon they come back: one at a time, beside the others. */
const HEAVY = /^test\/(walks|lab|faults\/(?:process|init|systemd|roles)\.test)/
/** Of those, those that assert no times: they wait more than they compute, and run beside the others. */
const PATIENT =
  /^test\/(lab\/(docker|control-socket|lab|link|netcheck)|walks\/(containers|control|drain|examples|failure|source|unasked))\.test/
/** Files that need a Docker engine. */
const CONTAINERS = /^test\/(lab\/docker|walks\/containers|orchestrator\/(?:containers|podman))\.test/
/** Files that look at the page with a browser. */
const BROWSER = /^test\/page\/browser\.test/

/** The longest files of each lane, longest first: what begins last should be short, so that the lanes end together. */
const LONGEST = `
  lab/docker walks/containers lab/netcheck walks/failure walks/moves
  walks/networks lab/networks-change walks/demo-loopback lab/fast-path faults/process
  walks/rotation lab/paths walks/demo-namespaces walks/revoked-node walks/control
  faults/output faults/memory packages/packages package orchestrator/podman cli/cli docs/operations bench/control/control
  docs/benchmarks docs/inline orchestrator/rotation orchestrator/silent-node orchestrator/containers
  page/browser fuzz/fuzz faults/sockets orchestrator/cluster proxy/limits cli/usage timeouts docs/readme`
  .split(/\s+/)
  .map((name) => `test/${name}.test.ts`)
/**
 * The checks of types and lint are Go programs. Shared out over threads they do much of their work several times, and beside the
 * lanes no processor is idle that would do it: on one thread, with no collection before 2 GiB, they take a third of the processor time.
 */
const ON_ONE_THREAD = { GOMAXPROCS: '1', GOGC: 'off', GOMEMLIMIT: '2GiB' }
/** Of a line of /proc/self/stat, after the name: the ticks that waited-for children spent, in the program and in the kernel. */
const CHILDREN_TICKS = [13, 14]
const TICKS_PER_SECOND = 100

/** How often it is looked whether the processors are idle, and from which share on one more file is begun. */
const IDLE_LOOK_MS = 1_500
const IDLE_SHARE = 0.35

interface Outcome {
  count: Count
  skipped: string[]
  /** What failed, and what the file wrote to stderr. */
  lines: string[]
  /** Each failure in one line. */
  failures: string[]
  /** Seconds; unknown where there is no /proc. */
  processorTime: number
}

const startedAt = performance.now()
const values = scriptOptions({
  name: 'npm test',
  about: 'Runs the checks and all tests, or only the tests that are named.',
  options: { 'no-install': { kind: 'flag', meaning: 'never calls apt-get' } },
  positionals: { name: 'FILE…', meaning: 'test files or folders; types, lint and format are then left out' },
})
const wanted = values.positionals
const files = filesOf(wanted.length === 0 ? ['test'] : wanted)
const total: Count = { passed: 0, failed: 0, skipped: 0 }
const skips: string[] = []
/** All failures in one line each: said again at the end, where a cut output still has them. */
const failures: string[] = []
/** Each file has a number of its own: whatever it has started ends with it. */
let filesStarted = 0

if (!values['no-install']) {
  installTools(missingTools(), say)
  if (files.some((file) => CONTAINERS.test(file))) fetchEngine(say)
  if (files.some((file) => file.endsWith('podman.test.ts'))) fetchPodman(say)
  if (files.some((file) => BROWSER.test(file)) && !hasTool('chromium')) installTools(['chromium'], say)
}
sweep()
sweepEngines()
if (files.length === 0) fail(`no test file in ${wanted.join(', ')}`)
if (process.env['HEDGEROW_TEST_LAUNCHER'] === undefined) buildPrograms() // a test may run this program, too
const checks = wanted.length === 0 ? ['lint', 'typecheck', 'format:check'] : []
const patient = files.filter((file) => PATIENT.test(file))
const heavy = files.filter((file) => HEAVY.test(file) && !PATIENT.test(file))
const light = files.filter((file) => !HEAVY.test(file))
let childrenBefore = childrenSeconds()
await Promise.all([
  runAll(() => heavy.shift() ?? patient.shift() ?? light.shift()),
  runChecks().then(() => runAll(() => light.shift() ?? patient.shift())),
  runAll(() => patient.shift() ?? light.shift()),
  fillIdle(() => light.pop()),
])
sweep()
sweepEngines()

for (const skip of skips) say(`skipped: ${skip}`)
if (process.env['CI'] === 'true' && skips.length > 0) {
  const refused = skips.filter((skip) => !/(^|\()optional: /.test(skip)).length
  if (refused > 0) say(`${refused} of them are failures, because CI=true`)
  total.failed += refused
  total.skipped -= refused
}
for (const failure of failures) say(`failed: ${failure}`)
say(`in ${((performance.now() - startedAt) / 1_000).toFixed(0)} s, ${childrenSeconds().toFixed(0)} s of processor time`)
say(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`)
process.exit(total.failed === 0 ? 0 : 1)

function filesOf(paths: readonly string[]): string[] {
  const place = (file: string) => (LONGEST.includes(file) ? LONGEST.indexOf(file) : LONGEST.length)
  return paths
    .flatMap((path) => {
      const isFolder = statSync(path, { throwIfNoEntry: false })?.isDirectory() === true
      return globSync(isFolder ? `${path.replace(/\/$/, '')}/**/*.test.ts` : path).toSorted()
    })
    .toSorted((a, b) => place(a) - place(b))
}

/** What tests start is what the package ships, which also costs less processor time to load. */
function buildPrograms(): void {
  const dist = resolve(import.meta.dirname, '../node_modules/.cache/hedgerow-tests/dist')
  const script = resolve(import.meta.dirname, '../.config/build.ts')
  const { status } = spawnSync(process.execPath, [script, '--programs', '--out', dist], { stdio: 'inherit' })
  if (status === 0) process.env['HEDGEROW_TEST_LAUNCHER'] = join(dist, 'src/hedgerow.js')
  else fail('npm run build -- --programs')
}

async function runChecks(): Promise<void> {
  for (const check of checks) {
    const startedAt = performance.now()
    const child = spawn('npm', ['run', '--silent', check], {
      env: { ...process.env, ...ON_ONE_THREAD },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const said: Buffer[] = []
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => said.push(chunk))
    const seconds = processorTimeOf(child)
    const [code] = (await once(child, 'close')) as [number | null]
    if (code === 0) {
      total.passed += 1
      say(`ok      npm run ${check}  in ${wallAndProcessor(startedAt, await seconds)}`)
    } else {
      process.stdout.write(Buffer.concat(said))
      fail(`npm run ${check}`)
    }
  }
}

async function runAll(next: () => string | undefined): Promise<void> {
  for (let file = next(); file !== undefined; file = next()) await runOne(file)
}

async function runOne(file: string): Promise<void> {
  const fileStartedAt = performance.now()
  const { count, skipped, lines, failures: failed, processorTime } = await runFile(file)
  if (lines.length > 0) say(`${count.failed === 0 ? 'said by' : 'NOT OK '} ${file}:`)
  for (const line of lines) say(line)
  const took = wallAndProcessor(fileStartedAt, processorTime)
  say(`${count.failed === 0 ? 'ok    ' : 'NOT OK'}  ${file}  ${count.passed} passed in ${took}`)
  total.passed += count.passed
  total.failed += count.failed
  total.skipped += count.skipped
  skips.push(...skipped)
  failures.push(...failed)
}

/** One more lane, of short files, that takes one whenever the processors have had too little to do: the lanes often wait. */
async function fillIdle(next: () => string | undefined): Promise<void> {
  for (let before = processorTicks(); before !== undefined; ) {
    await sleep(IDLE_LOOK_MS)
    const now = processorTicks()
    if (now === undefined || light.length === 0) return
    const share = (now.idle - before.idle) / (now.all - before.all)
    before = now
    if (share < IDLE_SHARE) continue
    const file = next()
    if (file !== undefined) await runOne(file)
    before = processorTicks()
  }
}

/** Of all processors, since the machine was started: `cpu user nice system idle iowait …`. */
function processorTicks(): { idle: number; all: number } | undefined {
  try {
    const line = readFileSync('/proc/stat', 'latin1').split('\n', 1)[0] ?? ''
    const fields = line.split(/\s+/).slice(1, 9).map(Number) // what guests spent, after them, is in `user` already
    return { idle: (fields[3] ?? 0) + (fields[4] ?? 0), all: fields.reduce((sum, ticks) => sum + ticks, 0) }
  } catch {
    return undefined // not Linux
  }
}

/** Runs one file and follows its TAP; a crash, a time-out or an exit code without a failed assertion counts as one failure. */
async function runFile(file: string): Promise<Outcome> {
  filesStarted += 1
  const mark = { name: 'HEDGEROW_TEST_FILE', value: `${process.pid}-${filesStarted}` }
  const env = { ...process.env, TAP_TIMEOUT: String(FILE_TIMEOUT_SECONDS - 5), [mark.name]: mark.value }
  const child = spawn(process.execPath, ['--import', WITHOUT_DOMAINS, file], { env, stdio: ['ignore', 'pipe', 'pipe'] })
  const processorTime = processorTimeOf(child)
  const ended = Promise.withResolvers<string>()
  child.on('close', (code, signal) => ended.resolve(signal ?? `code ${code}`))
  child.on('exit', (_code, signal) => {
    if (signal !== null) killMarked(`${mark.name}=${mark.value}`) // they hold its output open
  })
  const limit = setTimeout(() => {
    child.kill('SIGKILL')
    ended.resolve(`no end within ${FILE_TIMEOUT_SECONDS} s`) // its output may be held open by what it started
  }, FILE_TIMEOUT_SECONDS * 1_000)
  const said: string[] = []
  createInterface({ input: child.stderr }).on('line', (line) => said.push(line))
  const counter = new TapCount()
  const outcome: Outcome = { count: counter.count, skipped: [], lines: said, failures: [], processorTime: Number.NaN }
  let isShown = false
  const follow = (line: string) => {
    const failedBefore = counter.count.failed
    const point = counter.line(line)
    if (point !== undefined) isShown = counter.count.failed > failedBefore
    if (point !== undefined && isShown && point.within.length > 0) said.push(`in ${point.within.join(' › ')}`)
    else if (/^ *(# Subtest|\d+\.\.\d+)/.test(line)) isShown = false
    if (isShown && line.trim() !== '') said.push(line)
    if (point?.skipped !== undefined && !point.closes) outcome.skipped.push(`${file}: ${point.name} (${point.skipped})`)
  }
  createInterface({ input: child.stdout }).on('line', follow)
  const how = await ended.promise
  clearTimeout(limit)
  killMarked(`${mark.name}=${mark.value}`)
  const fails = (what: string) => {
    counter.count.failed += 1
    said.push(`${file} ${what}`)
    outcome.failures.push(`${file} ${what}`)
  }
  outcome.failures.push(...counter.failures.map((failure) => inShort(file, failure)))
  const where = counter.running.length === 0 ? '' : ` in ${counter.running.join(' › ')}`
  if (how !== 'code 0' && (counter.count.failed === 0 || where !== '')) fails(`ended with ${how}${where}`)
  if (counter.count.passed + counter.count.failed + counter.count.skipped === 0) fails('asserted nothing')
  outcome.processorTime = await processorTime
  return outcome
}

function inShort(file: string, { within, name, line }: Failure): string {
  return `${file}${line === undefined ? '' : `:${line}`}  ${[...within, name].join(' › ')}`
}

/** The kernel adds up what children spent when one of them has ended: what is new in the sum is the last one's. */
async function processorTimeOf(child: ChildProcess): Promise<number> {
  await new Promise((resolve) => child.once('exit', resolve))
  const before = childrenBefore
  childrenBefore = childrenSeconds()
  return childrenBefore - before
}

function childrenSeconds(): number {
  try {
    const fields = readFileSync('/proc/self/stat', 'latin1').split(') ')[1]?.split(' ') ?? []
    return CHILDREN_TICKS.reduce((sum, at) => sum + Number(fields[at]), 0) / TICKS_PER_SECOND
  } catch {
    return Number.NaN // not Linux
  }
}

function wallAndProcessor(startedAt: number, processorTime: number): string {
  const wall = `${((performance.now() - startedAt) / 1_000).toFixed(1)} s`
  return Number.isNaN(processorTime) ? wall : `${wall} (processor ${processorTime.toFixed(1)} s)`
}

function fail(what: string): void {
  total.failed += 1
  failures.push(what)
  say(`NOT OK  ${what}`)
}

function say(line: string): void {
  process.stdout.write(`${line}\n`)
}
