import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import {
  chownSync,
  closeSync,
  constants,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { connect, createServer, type AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import type { StatusReport } from '../../src/client/reports.ts'
import { freeBase } from '../../src/lab/system-tools.ts'
import { eventually, Machines } from '../cli/program.ts'
import { sla } from '../walks/mesh.ts'
import '../support/no-orphans.ts'
import { noOtherUsers } from '../support/other-users.ts'
import { LAUNCHER } from '../support/launcher.ts'

/*
 * A role as a process: what stalls or fails beside it, the signals it gets, a start that fails, an exception.
 */

t.setTimeout(280_000)
const machines = await Machines.make()
t.teardown(() => machines[Symbol.asyncDispose]())
const base = await freeBase(19_600)
/** `up` listens on five ports from its first one on. */
const PORTS = 12
let started = 0
const running = new Set<ChildProcess>()
t.teardown(() => {
  for (const child of running) child.kill('SIGKILL')
})

interface Launch {
  args?: readonly string[]
  stderr?: number | 'ignore'
  env?: NodeJS.ProcessEnv
  uid?: number
}

/** `hedgerow up` in a state directory of its own. */
function up({ args = [], stderr = 'ignore', env = {}, uid }: Launch = {}) {
  const name = `m${started++}`
  const port = base + started * PORTS
  mkdirSync(machines.path(name))
  if (uid !== undefined) chownSync(machines.path(name), uid, uid)
  const argv = [
    '--state',
    machines.path(name),
    'up',
    '--name',
    'n0',
    '--prefix',
    '127.128.0.0/12',
    '--upstream',
    '127.0.0.1:9',
  ]
  const child = spawn(process.execPath, [LAUNCHER, ...argv, '--listen', `127.0.0.1:${port}`, ...args], {
    stdio: ['ignore', 'ignore', stderr],
    env: { ...process.env, HEDGEROW_STATE: undefined, ...env },
    ...(uid === undefined ? {} : { uid, gid: uid }),
  })
  running.add(child)
  const exited = once(child, 'exit').then((end) => {
    running.delete(child)
    return end as [code: number | null, signal: string | null]
  })
  const status = () => machines.json<{ agent?: StatusReport }>(name, 'status').then(({ agent }) => agent)
  const isUp = () =>
    status().then(
      (report) => report?.controlLink === 'up',
      () => false,
    )
  return { name, port, child, exited, status, ready: () => eventually(isUp, 'it serves', 30_000) }
}

async function endsWell(
  t: Test,
  { child, exited }: Pick<ReturnType<typeof up>, 'child' | 'exited'>,
  signal: NodeJS.Signals,
) {
  child.kill(signal)
  t.same(await exited, [0, null], `${signal} ends it well`)
}

t.test('the log goes to a FIFO that nobody reads: it serves, and SIGTERM ends it', async (t) => {
  const fifo = machines.path('fifo')
  execFileSync('mkfifo', [fifo])
  const reader = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK)
  const writer = openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK)
  try {
    const full = Buffer.alloc(65_536)
    for (;;) writeSync(writer, full)
  } catch {
    // the pipe is full before the first line
  }
  const process = up({ stderr: writer, args: ['--log-level', 'debug'] })
  await process.ready()
  await endsWell(t, process, 'SIGTERM')
  closeSync(reader)
  closeSync(writer)
})

t.test('the log goes to a full disk: it starts, serves and ends as usual', async (t) => {
  const process = up({ stderr: openSync('/dev/full', 'w') })
  await process.ready()
  await endsWell(t, process, 'SIGTERM')
})

t.test(
  'signals: SIGHUP reads the configuration again and goes on; each ending signal ends it as SIGTERM does',
  async (t) => {
    const config = machines.path('config.yaml')
    const logFile = machines.path('log')
    writeFileSync(config, 'log: info\n')
    const process = up({ args: ['--config', config], stderr: openSync(logFile, 'a') })
    await process.ready()
    process.child.kill('SIGUSR1')
    writeFileSync(config, 'log: debug\nagent:\n  maxFlows: 77\n')
    process.child.kill('SIGHUP')
    const logged = (text: string) => async () => readFileSync(logFile, 'utf8').includes(text)
    await eventually(logged('configuration read again'), 'SIGHUP is logged')
    t.match(readFileSync(logFile, 'utf8'), /changed settings take effect after a restart.*/)
    t.match(readFileSync(logFile, 'utf8'), '"settings":["agent.maxFlows"]')
    writeFileSync(config, 'log: loud\n')
    process.child.kill('SIGHUP')
    await eventually(logged('configuration not read again'), 'a faulty configuration changes nothing')
    t.match(readFileSync(logFile, 'utf8'), /"faults":\["log[^"]*/, 'and what is wrong is said')
    t.equal((await process.status())?.controlLink, 'up', 'it goes on')
    await endsWell(t, process, 'SIGUSR2')
    for (const signal of ['SIGQUIT', 'SIGALRM'] as const) {
      const another = up()
      await another.ready()
      await endsWell(t, another, signal)
    }
  },
)

t.test('a start that fails undoes what it began and exits 1, whichever part fails', async (t) => {
  /** The port offset that somebody else holds: root, cluster, tunnel, health of root and of cluster. */
  for (const offset of [0, 1, 2, 10, 11]) {
    const taken = createServer()
    taken.listen(base + (started + 1) * PORTS + offset, '127.0.0.1')
    await once(taken, 'listening')
    const { port, exited } = up()
    t.same(await exited, [1, null], `port ${offset} is taken`)
    for (const other of [0, 1, 2, 10, 11]) if (other !== offset) await isFree(t, port + other)
    taken.close()
    await once(taken, 'close')
  }
  const proxy = createServer().listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  const { exited } = up({ args: ['--http-port', String((proxy.address() as AddressInfo).port)] })
  t.same(await exited, [1, null], 'the port of the HTTP proxy is taken')
  proxy.close()
})

t.test('a state directory that cannot be made is an error at once', async (t) => {
  const child = spawn(process.execPath, [LAUNCHER, '--state', '/proc/hedgerow', 'up'], { stdio: 'ignore' })
  t.match(await once(child, 'exit'), [1])
})

t.test('a start without the rights it needs exits 1', { skip: noOtherUsers }, async (t) => {
  const { exited, port } = up({ uid: 65_534, args: ['--mode', 'host'] })
  t.same(await exited, [1, null], 'host mode')
  await isFree(t, port + 2)
})

t.test('an exception ends the process with 1, and its instances go on', async (t) => {
  const file = machines.path('throw.mjs')
  const trigger = machines.path('trigger')
  writeFileSync(
    file,
    `import { isMainThread } from 'node:worker_threads'
     import { existsSync } from 'node:fs'
     if (isMainThread) setInterval(() => { if (existsSync(${JSON.stringify(trigger)})) throw new Error('injected') }, 50).unref()`,
  )
  const first = up({ env: { NODE_OPTIONS: `--import ${file}` } })
  await first.ready()
  /** Told apart from every other program by its argument. */
  const seconds = String(100_000 + process.pid)
  writeFileSync(machines.path('shop.json'), JSON.stringify(sla([{ ...SLEEP, cmd: ['sleep', seconds] }])))
  await machines.json(first.name, 'apply', '-f', machines.path('shop.json'))
  await eventually(async () => pidOf(seconds) !== undefined, 'the instance runs')
  const pid = pidOf(seconds) as number
  t.teardown(() => process.kill(pid, 'SIGKILL'))
  writeFileSync(trigger, '')
  t.same(await first.exited, [1, null])
  t.ok(process.kill(pid, 0), 'its instance lives')
})

t.test('root and cluster of `up` fail: their thread is started again, names and flows go on meanwhile', async (t) => {
  const file = machines.path('throw-once.mjs')
  const trigger = machines.path('trigger-once')
  writeFileSync(
    file,
    `import { isMainThread } from 'node:worker_threads'
     import { existsSync, rmSync } from 'node:fs'
     if (!isMainThread) setInterval(() => { if (existsSync(${JSON.stringify(trigger)})) { rmSync(${JSON.stringify(trigger)}); throw new Error('injected') } }, 50).unref()`,
  )
  const it = up({ env: { NODE_OPTIONS: `--import ${file}` } })
  await it.ready()
  writeFileSync(trigger, '')
  const failures = async () => {
    const { stdout } = await machines.run(it.name, 'check', '-o', 'json')
    return /root and cluster/.test(stdout)
  }
  await eventually(failures, 'check shows the failure')
  await it.ready()
  await endsWell(t, it, 'SIGINT')
})

const SLEEP = {
  microservice_name: 'sleep',
  microservice_namespace: 'prod',
  virtualization: 'process',
  port: '',
  code: '',
}

/** The process whose last argument this is. */
function pidOf(argument: string): number | undefined {
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      if (readFileSync(`/proc/${pid}/cmdline`, 'utf8').endsWith(`\0${argument}\0`)) return Number(pid)
    } catch {
      // it has ended meanwhile
    }
  }
  return undefined
}

/** Nobody listens there. */
async function isFree(t: Test, port: number): Promise<void> {
  const socket = connect(port, '127.0.0.1')
  const answer = await once(socket, 'connect').then(
    () => 'taken',
    () => 'free',
  )
  socket.destroy()
  t.equal(answer, 'free', `port ${port}`)
}
