import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
  type Stats,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import t from 'tap'
import { ServiceManager } from '../../src/cli/service-manager.ts'
import { freeBase } from '../../src/lab/system-tools.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import '../support/no-orphans.ts'
import { LAUNCHER } from '../support/launcher.ts'
import { until } from '../support/until.ts'

/*
 * Under systemd: the unit files, and what the process tells the service manager. A systemd that has booted runs the units in
 * `npm run prove:systemd` (test/systemd).
 */

const UNITS = resolve(import.meta.dirname, '../../examples/systemd')
const hasSystemd = existsSync('/usr/bin/systemd-analyze') && existsSync('/usr/bin/systemd-notify')
const skip = hasSystemd ? false : 'optional: systemd is not installed'
const dir = mkdtempSync(join(tmpdir(), 'hedgerow-unit-'))
t.teardown(() => rmSync(dir, { recursive: true, force: true }))

t.test('systemd accepts every unit file', { skip }, async (t) => {
  const units = readdirSync(UNITS)
  t.same(
    units.toSorted(),
    ['agent', 'cluster', 'relay', 'root'].map((role) => `hedgerow-${role}.service`),
  )
  for (const unit of units) {
    // the program may not be installed here, and the user may not exist
    const text = readFileSync(join(UNITS, unit), 'utf8').replaceAll('/usr/bin/hedgerow', process.execPath)
    writeFileSync(join(dir, unit), text.replace('User=hedgerow', 'User=daemon'))
    const { stderr } = await promisify(execFile)('systemd-analyze', ['verify', '--man=no', join(dir, unit)])
    t.equal(
      stderr
        .split('\n')
        .filter((line) => line.includes(unit))
        .join('\n'),
      '',
      unit,
    )
  }
})

t.test('the instances of an agent survive a restart of its unit', (t) => {
  const text = readFileSync(join(UNITS, 'hedgerow-agent.service'), 'utf8')
  t.match(text, /^KillMode=process$/m, 'only the agent is signalled')
  t.match(text, /^ExecStart=.* --keep-instances$/m, 'and leaves its instances')
  t.end()
})

t.test('each line has its priority in the journal, and nowhere else', async (t) => {
  const state = join(dir, 'journal')
  const run = async (args: string[], streamOf: (file: Stats) => string | undefined) => {
    const path = join(dir, 'stderr')
    const file = openSync(path, 'w')
    const env = { ...process.env, JOURNAL_STREAM: streamOf(fstatSync(file)), HEDGEROW_STATE: undefined }
    const argv = [LAUNCHER, '--state', state, ...args]
    const child = spawn(process.execPath, argv, { env, stdio: ['ignore', 'pipe', file] })
    closeSync(file)
    const closed = once(child, 'close')
    const hasDebug = () => readFileSync(path, 'utf8').includes('"level":"debug"')
    const ready = new Promise<void>((resolve) => {
      child.stdout?.on('data', (text: Buffer) => text.includes('READY') && resolve())
    })
    await Promise.race([ready, closed])
    await until(() => child.exitCode !== null || hasDebug()) // the first of them may be said after that
    child.kill('SIGINT')
    await closed
    return readFileSync(path, 'utf8').trimEnd().split('\n')
  }
  const inode = ({ dev, ino }: Stats) => `${dev}:${ino}`
  const up = [
    'up',
    '--listen',
    `127.0.0.1:${await freeBase(28_000)}`,
    '--upstream',
    '127.0.0.1:9',
    '--log-level',
    'debug',
  ]
  const PRIORITY = { error: 3, warn: 4, info: 6, debug: 7 }
  const lines = await run(up, inode)
  for (const line of lines) {
    const [, priority, json] = /^<([3467])>(\{.*\})$/.exec(line) ?? []
    if (json === undefined) throw new Error(`no line of a log: ${line}`)
    const { level } = JSON.parse(json) as { level: keyof typeof PRIORITY }
    if (Number(priority) !== PRIORITY[level]) t.equal(Number(priority), PRIORITY[level], line)
  }
  t.ok(
    lines.some((line) => line.includes('"cluster":')),
    'also the lines of the thread of root and cluster',
  )
  t.ok(lines.some((line) => line.startsWith('<7>')) && lines.some((line) => line.startsWith('<6>')))
  const refused = ['agent', '--listen', 'nonsense', '--name', 'n1']
  for (const line of await run(refused, inode))
    t.match(line, /^<3>/, 'why a role does not start is an error, line by line')
  for (const line of await run(refused, ({ dev, ino }) => `${dev}:${ino + 1}`)) t.notMatch(line, /^</)
  for (const line of await run(refused, () => undefined)) t.notMatch(line, /^</)
})

/** What is received on a datagram socket, as systemd listens: Node has no such sockets. */
const RECEIVER = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
name = sys.argv[1]
s.bind('\\0' + name[1:] if name.startswith('@') else name)
print('bound', flush=True)
while True: print(s.recv(4096).decode().replace('\\n', ' '), flush=True)
`

for (const socket of [join(dir, 'notify'), `@hedgerow-test-${process.pid}`]) {
  t.test(`notifications on ${socket.startsWith('@') ? 'an abstract socket' : 'a socket file'}`, { skip }, async (t) => {
    const receiver = spawn('python3', ['-c', RECEIVER, socket], { stdio: ['ignore', 'pipe', 'inherit'] })
    t.teardown(() => receiver.kill())
    const lines = createInterface(receiver.stdout)
    await once(lines, 'line')
    const got: string[] = []
    lines.on('line', (line) => got.push(line))
    const until = async (text: string) => {
      while (!got.some((line) => line.includes(text))) await once(lines, 'line')
    }
    const environment = { NOTIFY_SOCKET: socket, WATCHDOG_USEC: '400000', PATH: process.env['PATH'] }
    const manager = new ServiceManager(environment, silentLog)
    // without a service manager at the other end the barrier of systemd-notify is not answered
    void manager.ready()
    await until('WATCHDOG=1') // the event loop shows that it turns
    void manager.stopping()
    await until('STOPPING=1')
    t.match(
      got.find((line) => line.includes('READY=1')),
      `MAINPID=${process.pid}`,
    )
  })
}

t.test('after a hand-over the old process names its successor and does not ping: that one is watched', async (t) => {
  const bin = join(dir, 'bin')
  mkdirSync(bin)
  // says what it was called with
  writeFileSync(join(bin, 'systemd-notify'), `#!/bin/sh\necho "$@" >> ${dir}/sent\n`, { mode: 0o755 })
  const sent = () => (existsSync(join(dir, 'sent')) ? readFileSync(join(dir, 'sent'), 'utf8') : '')
  const environment = { NOTIFY_SOCKET: '/dev/null', WATCHDOG_USEC: '200000', PATH: `${bin}:/usr/bin:/bin` }
  const manager = new ServiceManager(environment, silentLog)
  await manager.ready()
  await until(() => sent().includes('WATCHDOG=1'))
  await manager.handedOver(4_711)
  t.match(sent(), /^MAINPID=4711$/m)
  let before: string
  do {
    before = sent()
    await sleep(1_000) // ten pings would be due
  } while (sent() !== before) // what was under way
  t.pass('no more pings')
})

t.test('without a service manager nothing is sent', async (t) => {
  await new ServiceManager({}, silentLog).ready()
  t.pass('and nothing fails')
})
