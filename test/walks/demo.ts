import { mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { Test } from 'tap'
import { run } from '../../src/lab/program.ts'
import { LAUNCHER } from '../support/launcher.ts'

/** The demo is the walk. What it claims it checks itself; here it must come to its end and leave nothing behind. */
export const DEMO = [process.execPath, resolve(import.meta.dirname, '../../examples/demo/main.ts'), '--json'] as const
const STEPS = ['mesh', 'apply', 'dig', 'rr', 'closest', 'pinned', 'chain', 'across', 'kill', 'lose', 'done']
export const TIMEOUT_MS = 170_000

interface Step {
  step: string
  ok: boolean
  kind?: string
  path?: string
  error?: string
  load?: { sent: number; answered: number; failed: number; longestGapMs: number }
}

export async function walkDemo(
  t: Test,
  args: readonly string[],
  expected: { kind: string; path: RegExp; without?: readonly string[] },
): Promise<void> {
  const { folder, env: own } = await sandbox(t)
  const env = { ...own, ...(expected.without ? { PATH: await pathWithout(t, expected.without) } : {}) }
  // a machine that runs other tests beside it answers 200 requests a second later and later
  const { code, stdout, stderr } = await run([...DEMO, '--rate', '50', ...args], { env, timeoutMs: TIMEOUT_MS })
  const steps = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Step)
  const names = steps.map(({ step }) => step)
  t.equal(code, 0, steps.at(-1)?.error ?? (stderr || 'it ends well'))
  t.same(names, STEPS, 'one line a step')
  for (const { step, ok, error } of steps) t.ok(ok, error ?? `${step} went well`)
  t.equal(steps.at(-1)?.kind, expected.kind)
  t.match(steps.find(({ step }) => step === 'across')?.path, expected.path, 'the path between nodes')
  for (const { step, load } of steps) if (load !== undefined) t.comment(`${step}: ${JSON.stringify(load)}`)
  t.same(await leftBehind(folder), [], 'nothing is left behind')
}

/** PATH for a machine on which these programs are not installed. */
async function pathWithout(t: Test, programs: readonly string[]): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'without-'))
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  for (const from of ['/bin', '/usr/bin', '/sbin', '/usr/sbin'])
    for (const name of await readdir(from).catch(() => []))
      if (!programs.includes(name)) await symlink(join(from, name), join(folder, name)).catch(() => undefined)
  return folder
}

/** A temporary folder of the demo's own (a short path: sockets live in it). Whatever it starts has it in its environment. */
export async function sandbox(t: Test) {
  const folder = await mkdtemp(join(tmpdir(), 'hedgerow-'))
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  return { folder, env: { TMPDIR: folder, HEDGEROW_LAUNCHER: LAUNCHER } }
}

/** Files and processes of a demo. */
export async function leftBehind(folder: string): Promise<string[]> {
  const processes: string[] = []
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const environment = await readFile(`/proc/${pid}/environ`, 'utf8').catch(() => '')
    if (environment.includes(folder)) processes.push(`process ${pid}`)
  }
  return [...(await readdir(folder)), ...processes]
}
