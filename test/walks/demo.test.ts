import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { lacking } from '../lab/namespace.ts'
import { Program, run } from '../lab/program.ts'

/** The demo is the walk. What it claims it checks itself; here it must come to its end and leave nothing behind. */
const MAIN = resolve(import.meta.dirname, '../../examples/demo/main.ts')
const STEPS = ['mesh', 'apply', 'dig', 'rr', 'closest', 'pinned', 'chain', 'across', 'kill', 'lose', 'done']
const timeout = 110_000

interface Step {
  step: string
  ok: boolean
  kind?: string
  path?: string
  error?: string
  load?: { sent: number; answered: number; failed: number; longestGapMs: number }
}

const rows = [
  { where: 'two private networks behind NATs', args: [], kind: 'namespaces', path: 'relayed', skip: await lacking() },
  { where: 'loopback', args: ['--loopback'], kind: 'loopback', path: 'direct', skip: undefined },
]
for (const { where, args, kind, path, skip } of rows) {
  t.test(`the demo on ${where}`, { skip: skip ?? false, timeout }, async (t) => {
    const { folder, env } = await sandbox(t)
    const { code, stdout, stderr } = await run([process.execPath, MAIN, '--json', ...args], { env, timeoutMs: timeout })
    const steps = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Step)
    t.equal(code, 0, steps.at(-1)?.error ?? (stderr || 'it ends well'))
    t.same(
      steps.map(({ step }) => step),
      STEPS,
      'one line a step',
    )
    t.ok(
      steps.every(({ ok }) => ok),
      'each of them went well',
    )
    t.equal(steps.at(-1)?.kind, kind)
    t.equal(steps.find(({ step }) => step === 'across')?.path, path)
    for (const { step, load } of steps) if (load !== undefined) t.comment(`${step}: ${JSON.stringify(load)}`)
    t.same(await leftBehind(folder), [], 'nothing is left behind')
  })
}

t.test('interrupted, the demo removes everything', { timeout }, async (t) => {
  const { folder, env } = await sandbox(t)
  await using program = Program.start([process.execPath, MAIN, '--json', '--loopback'], { env })
  while ((await leftBehind(folder)).length < 3 && program.exit === undefined) await sleep(50)
  t.equal(program.exit, undefined, 'something runs')
  process.kill(program.pid, 'SIGINT')
  t.equal(await program.exited, 'code 130')
  t.same(await leftBehind(folder), [])
})

/** A temporary folder of the demo's own (a short path: sockets live in it). Whatever it starts has it in its environment. */
async function sandbox(t: { teardown(end: () => Promise<void>): void }) {
  const folder = await mkdtemp(join(tmpdir(), 'hedgerow-'))
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  return { folder, env: { TMPDIR: folder } }
}

/** Files and processes of a demo. */
async function leftBehind(folder: string): Promise<string[]> {
  const processes: string[] = []
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const environment = await readFile(`/proc/${pid}/environ`, 'utf8').catch(() => '')
    if (environment.includes(folder)) processes.push(`process ${pid}`)
  }
  return [...(await readdir(folder)), ...processes]
}
