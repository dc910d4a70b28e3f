/**
 * What `npm test` runs: installs missing system tools, checks types, lint and format, runs the test files, and says
 * `N passed, N failed, N skipped` on the very last line.
 *
 *     npm test                        everything
 *     npm test -- test/model          only these files or folders (no types, lint, format)
 *     npm test -- --no-install        never calls apt-get
 *
 * With CI=true a skip is a failure: a machine that cannot run a test has not passed it. Only a skip whose reason begins
 * with `optional:` is not: it has nothing to test there.
 */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, globSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { sweep } from './lab/namespace.ts'
import { installTools, missingTools } from './machine.ts'
import { TapCount, type Point } from './tap-count.ts'

const startedAt = performance.now()
const args = process.argv.slice(2)
const wanted = args.filter((arg) => !arg.startsWith('--'))
const files = filesOf(wanted.length === 0 ? ['test'] : wanted)

if (!args.includes('--no-install')) installTools(missingTools(), say)
sweep()
const total = { passed: 0, failed: 0, skipped: 0 }
if (files.length === 0) fail(`no test file in ${wanted.join(', ')}`)
if (wanted.length === 0) for (const check of ['typecheck', 'lint', 'format:check']) runCheck(check)
const skips = files.length === 0 ? [] : await runFiles()
sweep()

for (const skip of skips) say(`skipped: ${skip}`)
if (process.env['CI'] === 'true' && skips.length > 0) {
  const refused = skips.filter((skip) => !/(^|\()optional: /.test(skip)).length
  if (refused > 0) say(`${refused} of them are failures, because CI=true`)
  total.failed += refused
  total.skipped -= refused
}
say(`in ${((performance.now() - startedAt) / 1_000).toFixed(0)} s`)
process.exitCode = total.failed === 0 ? 0 : 1
say(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`)

function filesOf(paths: readonly string[]): string[] {
  return paths.flatMap((path) => {
    const isFolder = statSync(path, { throwIfNoEntry: false })?.isDirectory() === true
    return globSync(isFolder ? `${path.replace(/\/$/, '')}/**/*.test.ts` : path).toSorted()
  })
}

function runCheck(script: string): void {
  const { status, stdout, stderr } = spawnSync('npm', ['run', '--silent', script], { encoding: 'utf8' })
  if (status === 0) {
    total.passed += 1
    say(`ok      npm run ${script}`)
  } else {
    process.stdout.write(`${stdout}${stderr}`)
    fail(`npm run ${script}`)
  }
}

/** tap's own class is generated from .taprc; without that the first run after an install fails. */
function buildTap(): void {
  const stamp = 'node_modules/.tap-built-for'
  const wanted = readFileSync('.taprc', 'utf8')
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return
  const { status } = spawnSync('tap', ['build'], { stdio: ['ignore', 'ignore', 'inherit'] })
  if (status === 0) writeFileSync(stamp, wanted)
  else fail('tap build')
}

/** Runs tap and follows its stream; returns what was skipped, with reasons. */
async function runFiles(): Promise<string[]> {
  buildTap()
  const child = spawn('tap', ['run', '--reporter=tap', '--no-color', ...files], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = new Promise<number | null>((resolve, reject) => child.on('close', resolve).on('error', reject))
  const counter = new TapCount()
  const skipped: string[] = []
  let before = { ...counter.count }
  let isShown = false
  for await (const line of createInterface({ input: child.stdout })) {
    const failedBefore = counter.count.failed
    const point = counter.line(line)
    if (point !== undefined) isShown = counter.count.failed > failedBefore
    else if (/^ *(# Subtest|\d+\.\.\d+)/.test(line)) isShown = false
    if (isShown && line.trim() !== '') say(line)
    if (point?.skipped !== undefined && !point.closes) skipped.push(`${point.name} (${point.skipped})`)
    if (point?.depth !== 0) continue
    sayFile(point, counter.count.passed - before.passed)
    before = { ...counter.count }
  }
  const code = await ended
  total.passed += counter.count.passed
  total.failed += counter.count.failed
  total.skipped += counter.count.skipped
  if (code !== 0 && counter.count.failed === 0) fail(`tap ended with code ${code}`)
  return skipped
}

function sayFile({ ok, name, timeMs }: Point, passed: number): void {
  say(`${ok ? 'ok    ' : 'NOT OK'}  ${name}  ${passed} passed in ${((timeMs ?? 0) / 1_000).toFixed(1)} s`)
}

function fail(what: string): void {
  total.failed += 1
  say(`NOT OK  ${what}`)
}

function say(line: string): void {
  process.stdout.write(`${line}\n`)
}
