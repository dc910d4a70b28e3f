import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  rmdirSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { KeptLog, lastLines, MAX_BYTES } from '../../src/orchestrator/worker/kept-log.ts'
import { filesOf } from '../../src/orchestrator/worker/output-files.ts'
import { isAlive, statOf } from '../../src/orchestrator/worker/process-group.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { assignmentOf } from '../orchestrator/specs.ts'
import { freshDir, nodeWith } from '../orchestrator/worker-node.ts'
import { heard } from '../support/heard.ts'
import { until } from '../support/until.ts'

/*
 * What instances print while their agent is killed or stopped. A pipe holds 64 KiB: a program that has printed many times that
 * while nobody else can have read it was not held up.
 */

t.setTimeout(280_000)
const PIPE_BYTES = 64 * 1024
const { instance } = assignmentOf()
let agents = 0

/** Prints numbered lines of 100 bytes, and writes to a file how many it has printed; `bytes` a second, at most. */
function printer(counter: string, bytesPerSecond: number): string[] {
  const lines = Math.max(1, Math.round(bytesPerSecond / 100 / 50))
  const program = `
    const { writeSync, writeFileSync, renameSync } = require('node:fs')
    let n = 0
    const print = () => {
      for (let i = 0; i < ${lines}; i++) writeSync(1, ('line ' + n++ + ' ').padEnd(98, 'x') + '.\\n')
      writeFileSync(${JSON.stringify(`${counter}.new`)}, String(n))
      renameSync(${JSON.stringify(`${counter}.new`)}, ${JSON.stringify(counter)})
      setTimeout(print, 20)
    }
    print()`
  return [process.execPath, '-e', program]
}

/** An agent with one instance, ended whatever happens. */
async function agentWith(t: Test, bytesPerSecond: number, dir = freshDir()) {
  const counter = join(tmpdir(), `hedgerow-output-${process.pid}-${++agents}`)
  const child = spawn(
    process.execPath,
    [join(import.meta.dirname, 'output-agent.ts'), dir, ...printer(counter, bytesPerSecond)],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  const pid = Number(String(await heard(child.stdout)))
  await until(() => existsSync(counter), 'it prints')
  const printed = () => Number(readFileSync(counter, 'utf8'))
  const signal = (name: NodeJS.Signals) => void (child as ChildProcess).kill(name)
  const startTime = statOf(pid)?.startTime ?? 0
  const end = () => {
    if (isAlive(pid, startTime)) process.kill(-pid, 'SIGKILL')
  }
  t.teardown(() => {
    end()
    signal('SIGKILL')
    for (const path of [dir, counter, `${counter}.new`]) rmSync(path, { recursive: true, force: true })
  })
  const { kept } = filesOf(instance, { runDir: join(dir, 'run'), logsDir: join(dir, 'logs') })
  const printsOn = async (pipes: number) => {
    const before = printed()
    await until(() => (printed() - before) * 100 > pipes * PIPE_BYTES, 'it prints on')
  }
  const exited = once(child, 'exit')
  return { dir, pid, child, exited, printed, printsOn, signal, end, kept }
}

/** The guard and the stand-in of an agent. */
function helpers(agentPid: number): { pid: number; argv: string[] }[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const argv = readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0')
        const isOne = argv.includes('hedgerow-output') || argv.some((word) => word.endsWith('/stand-in.ts'))
        return isOne && argv.includes(String(agentPid)) ? [{ pid: Number(name), argv }] : []
      } catch {
        return [] // it has ended meanwhile
      }
    })
}

function keptLines(kept: string): string[] {
  const read = (path: string) => {
    try {
      return readFileSync(path, 'utf8')
    } catch {
      return ''
    }
  }
  return (read(`${kept}.1`) + read(kept)).split('\n').filter((line) => line !== '')
}

/** The numbers of the printed lines in the order of the log; every line must be whole. */
function numbers(t: Test, lines: readonly string[]): number[] {
  const printed = lines.filter((line) => !/^\S+ hedgerow: /.test(line))
  const cut = printed.filter((line) => !/^\d{4}-\d\d-\d\dT[\d:.]+Z line \d+ x+\.$/.test(line) || line.length !== 124)
  t.same(cut, [], 'no line is cut, and each has its time')
  return printed.map((line) => Number(line.split(' ')[2]))
}

/** Where a number does not follow the one before it. */
function breaks(found: readonly number[]): [number, number][] {
  return found.flatMap((n, i) => {
    const before = found[i - 1]
    return before === undefined || n === before + 1 ? [] : [[before, n] as [number, number]]
  })
}

for (const [name, bytesPerSecond] of [
  ['8 KB/s, ten times as fast', 80_000],
  ['400 KB/s', 400_000],
] as const) {
  t.test(`the agent is stopped: a program that prints ${name} goes on, no line is lost, cut or doubled`, async (t) => {
    const agent = await agentWith(t, bytesPerSecond)
    await agent.printsOn(1)
    agent.signal('SIGSTOP')
    await agent.printsOn(8)
    t.equal(statOf(agent.child.pid as number)?.state, 'T', 'the agent stood still meanwhile')
    agent.signal('SIGCONT')
    await until(() => helpers(agent.child.pid as number).length === 1, 'the stand-in ends, the guard stays')
    await agent.printsOn(2)
    agent.end()
    const last = agent.printed() - 1
    await until(() => keptLines(agent.kept).some((line) => line.includes(` line ${last} `)), 'the last line is kept')
    const found = numbers(t, keptLines(agent.kept)).sort((a, b) => a - b)
    t.same(breaks(found), [], 'each line once')
    t.equal(found[0], 0)
  })
}

t.test(
  'the agent is killed: a program goes on, its lines are kept with their times, the next agent reads on',
  async (t) => {
    const agent = await agentWith(t, 100_000)
    await agent.printsOn(1)
    agent.signal('SIGKILL')
    await agent.exited
    const killedAt = Date.now()
    await agent.printsOn(8)
    t.ok(
      keptLines(agent.kept).filter((line) => Date.parse(line.slice(0, 24)) > killedAt + 1_000).length > 1_000,
      'lines of the dead time have the times of the dead time',
    )
    const { dir } = agent
    await using here = await nodeWith({}, dir)
    const { pid } = await here.becomes('running')
    t.equal(pid, agent.pid, 'adopted')
    t.same(helpers(agent.child.pid as number), [], 'guard and stand-in of the dead agent have ended')
    await agent.printsOn(2)
    const followed: string[] = []
    for await (const line of here.worker.logs(instance, { tail: 1, follow: true })) {
      if (followed.push(line) === 100) break
    }
    t.same(breaks(numbers(t, followed)), [], 'followed without a gap')
    agent.end()
    const all = numbers(t, keptLines(agent.kept))
    t.equal(new Set(all).size, all.length, 'no line is doubled')
    const gaps = breaks(all)
    t.ok(gaps.length <= 1, `lines are missing at most where the agent was killed: ${JSON.stringify(gaps)}`)
    for (const [before, after] of gaps)
      t.ok((after - before) * 100 < 4 * PIPE_BYTES, 'no more than it had read in one turn')
  },
)

t.test(
  'a program floods while the agent is killed: it is slowed, not held up, and two files are the bound',
  async (t) => {
    const dir = freshDir()
    const { kept } = filesOf(instance, { runDir: join(dir, 'run'), logsDir: join(dir, 'logs') })
    mkdirSync(join(dir, 'logs'), { recursive: true })
    for (const path of [kept, `${kept}.1`]) writeFileSync(path, `${'y'.repeat(127)}\n`.repeat(MAX_BYTES / 128 - 1_000))
    const agent = await agentWith(t, 50_000_000, dir)
    agent.signal('SIGKILL')
    await agent.exited
    await agent.printsOn(40)
    await agent.printsOn(40)
    t.match(readFileSync(kept, 'utf8'), / line \d+ /, 'the newest lines are kept')
    for (const path of [kept, `${kept}.1`])
      t.ok(statSync(path).size <= MAX_BYTES + 4 * PIPE_BYTES, `${path} is bounded`)
    t.same(readdirSync(join(dir, 'logs')).length, 2)
    t.same(
      readdirSync(join(dir, 'run')).filter((file) => !/\.(?:out|rest|json)$/.test(file)),
      [],
      'nothing else grows',
    )
  },
)

t.test('one small shell is all that a node pays, and it ends when the last program has', async (t) => {
  const agent = await agentWith(t, 40_000)
  const agentPid = agent.child.pid as number
  const [guard, ...others] = helpers(agentPid)
  t.same(others, [], 'one process')
  const anonymous = Number(/RssAnon:\s+(\d+) kB/.exec(readFileSync(`/proc/${guard?.pid}/status`, 'utf8'))?.[1])
  t.ok(anonymous < 1_024, `${anonymous} KiB of memory of its own`)
  process.kill(guard?.pid as number, 'SIGKILL')
  await until(() => helpers(agentPid).some(({ pid }) => pid !== guard?.pid), 'killed, it is started again')
  agent.signal('SIGKILL')
  await agent.exited
  await agent.printsOn(2)
  agent.end()
  await until(() => helpers(agentPid).length === 0, 'nothing is left')
})

t.test('an agent that is killed and whose state is removed while a program runs leaves no guard', async (t) => {
  const agent = await agentWith(t, 40_000)
  agent.signal('SIGKILL')
  await agent.exited
  await agent.printsOn(2)
  rmSync(agent.dir, { recursive: true, maxRetries: 3 })
  await until(() => helpers(agent.child.pid as number).length === 0, 'it ends')
})

t.test('a worker that ends with its instances leaves no guard', async (t) => {
  const here = await nodeWith()
  here.worker.assign(assignmentOf({ cmd: ['sleep', '1000'] }))
  await here.becomes('running')
  t.equal(helpers(process.pid).length, 1)
  await here[Symbol.asyncDispose]()
  await until(() => helpers(process.pid).length === 0, 'it ends')
})

t.test(
  'the disk is full while the agent is killed: the program goes on, and lines come again with room',
  { skip: process.getuid?.() !== 0 && 'needs root, to mount a small disk' },
  async (t) => {
    const disk = freshDir()
    const run = (...argv: string[]) => spawnSync(argv[0] ?? '', argv.slice(1), { encoding: 'utf8' })
    const { status, stderr } = run('mount', '-t', 'tmpfs', '-o', 'size=512k', 'tmpfs', disk)
    if (status !== 0) throw new Error(stderr)
    t.teardown(() => {
      run('umount', '--lazy', disk)
      rmdirSync(disk)
    })
    const dir = join(disk, 'state')
    const agent = await agentWith(t, 100_000, dir)
    agent.signal('SIGKILL')
    await agent.exited
    await agent.printsOn(12)
    const fits = keptLines(agent.kept).length * 125
    t.ok(fits < 512 * 1024, 'there was no room for all of it')
    rmSync(`${agent.kept}.1`, { force: true })
    rmSync(agent.kept)
    await until(
      () => keptLines(agent.kept).some((line) => /hedgerow: \d+ lines are missing here/.test(line)),
      'lines come again, and the first says how many are missing',
    )
    agent.end()
    await until(() => helpers(agent.child.pid as number).length === 0, 'the stand-in ends')
  },
)

t.test('a FIFO in the place of the kept log: nobody waits for it, and its lines are counted as missing', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-kept-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const path = join(dir, 'x.log')
  spawnSync('mkfifo', [path])
  let now = 0
  const log = new KeptLog(path, { clock: { ...systemClock, now: () => now } })
  await log.append('one\n')
  t.same(await lastLines(path, 10), [])
  rmSync(path)
  now += 2_000
  await log.append('two\n')
  t.match(await lastLines(path, 10), [/hedgerow: 1 lines are missing here/, 'two'])
  await log.close()
})

t.test('a kept log that somebody removed or replaced is written again', async (t) => {
  const dir = freshDir()
  t.teardown(() => rmSync(dir, { recursive: true }))
  let now = 0
  const path = join(dir, 'logs', 'x.log')
  const log = new KeptLog(path, { clock: { ...systemClock, now: () => now } })
  t.same(await log.append('one\n'), { hadOthers: false }, 'the folder is made')
  now += 2_000
  t.same(await log.append('two\n'), { hadOthers: false })
  rmSync(path)
  now += 2_000
  t.same(await log.append('three\n'), { hadOthers: true })
  t.equal(readFileSync(path, 'utf8'), 'three\n')
  writeFileSync(path, 'stand-in\n', { flag: 'a' })
  now += 2_000
  t.same(await log.append('four\n'), { hadOthers: true })
  t.equal(readFileSync(path, 'utf8'), 'three\nstand-in\nfour\n')
  rmSync(join(dir, 'logs'), { recursive: true })
  mkdirSync(join(dir, 'logs', 'x.log'), { recursive: true })
  now += 2_000
  await log.append('lost\n')
  rmdirSync(path)
  await log.append('five\n')
  t.match(readFileSync(path, 'utf8'), /^\n\S+ hedgerow: 1 lines are missing here: they could not be written\nfive\n$/)
  await log.close()
})
