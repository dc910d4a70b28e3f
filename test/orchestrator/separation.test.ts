import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { ownGroups } from '../../src/core/kit/cgroup.ts'
import { createInterface } from 'node:readline'
import t, { test } from 'tap'

import { InstanceUsers, makeHome } from '../../src/orchestrator/worker/instance-users.ts'
import { membersOf, statOf, uidsIn } from '../../src/orchestrator/worker/process-group.ts'
import { ProcessRuntime } from '../../src/orchestrator/worker/process-runtime.ts'
import type { Launch, Trace } from '../../src/orchestrator/worker/runtime.ts'
import { Separation } from '../../src/orchestrator/worker/separation.ts'
import type { InstanceReport } from '../../src/orchestrator/spec.ts'
import { runtimeContract } from '../contracts/runtime.ts'
import { assignmentOf } from './specs.ts'
import { nodeWith } from './worker-node.ts'
import '../support/no-orphans.ts'
import { noOtherUsers } from '../support/other-users.ts'
import { until } from '../support/until.ts'

/*
 * As root every run has a user and, where there are cgroups, a control group of its own.
 */

t.setTimeout(280_000) // a busy machine takes several times as long
const skip = noOtherUsers
const node = process.execPath
const SERVER =
  "require('net').createServer((s) => s.on('error', () => 0).end('hello')).listen(process.env.PORT, process.env.HOST)"
/** Of this test alone: other tests run as users of the usual range at the same time. */
const UIDS = '60100-60163'

/** A folder that everybody may enter, with one in it that only root may. */
function folders() {
  const dir = mkdtempSync('/tmp/hedgerow-separation-')
  chmodSync(dir, 0o755)
  const secret = join(dir, 'agent')
  mkdirSync(secret, { mode: 0o700 })
  writeFileSync(join(secret, 'key.pem'), 'key', { mode: 0o600 })
  const separation = Separation.open({ setting: 'separate', uids: UIDS, dir: secret })
  const output = join(dir, 'output')
  const runtime = new ProcessRuntime({ node: 'edge/n1', inherited: process.env, separation })
  return {
    dir,
    secret,
    separation,
    runtime,
    said: () => readFileSync(output, 'utf8'),
    launch(service: Record<string, unknown>, traces: Trace[] = []): Launch {
      const onTrace = (trace: Trace) => traces.push(trace)
      return {
        assignment: assignmentOf(service),
        endpoints: {},
        environment: {},
        output: async () => openSync(output, 'a'),
        secrets: async () => [],
        onTrace,
        mayStart: () => Promise.resolve(),
        signal: new AbortController().signal,
      }
    },
    [Symbol.dispose]: () => {
      separation.cgroups?.remove()
      rmSync(dir, { recursive: true, force: true })
    },
  }
}

const ended = (uid: number) => membersOf({ uid }).then((left) => left.length === 0)

if (skip === false) {
  runtimeContract('process, each with a user of its own', async () => {
    const { runtime, [Symbol.dispose]: remove } = folders()
    return {
      runtime,
      server: assignmentOf({ cmd: [node, '-e', SERVER], port: 80 }),
      impossible: assignmentOf({ cmd: ['/no/such/program'] }),
      output: async () => openSync('/dev/null', 'w'),
      ownsIt: true,
      shell: ['sh', '-c'],
      [Symbol.asyncDispose]: async () => remove(),
    }
  })
}

test('two instances have two users, no other groups, no way back to root, and cannot read the agent’s files', {
  skip,
}, async (t) => {
  using here = folders()
  const look = `cat ${here.secret}/key.pem; id; grep -E '^(Groups|CapEff|NoNewPrivs):' /proc/self/status; echo done`
  const traces: Trace[] = []
  const isolation = 'none' // else it does not even see the folder
  const one = await here.runtime.launch(here.launch({ cmd: ['sh', '-c', `${look}; exec sleep 60`], isolation }, traces))
  const two = await here.runtime.launch(here.launch({ cmd: ['sleep', '60'], isolation }, traces))
  await until(() => here.said().includes('done'))
  const uids = [one, two].map(({ pid }) => uidsIn(readFileSync(`/proc/${pid}/status`, 'latin1'))[0] as number)
  t.not(uids[0], uids[1])
  for (const uid of uids) t.ok(here.separation.users?.has(uid), `${uid} is of the range`)
  const said = here.said()
  t.match(said, /key\.pem: Permission denied/)
  t.match(said, `uid=${uids[0]} gid=${uids[0]} groups=${uids[0]}\n`)
  t.match(said, /^Groups:\s*$/m)
  t.match(said, /^CapEff:\s0+$/m)
  t.match(said, /^NoNewPrivs:\s1$/m)
  t.equal(traces.at(-1)?.['uid'], uids[1], 'a crash of the agent would find the user')
  await Promise.all([one.stop(1_000), two.stop(1_000)])
})

test('what leaves the session and clears its environment ends with the instance; user, group and HOME are freed', {
  skip,
}, async (t) => {
  using here = folders()
  const escape = "(setsid env -i sh -c 'sleep 61; :' &) ; echo $HOME; echo left; exec sleep 60"
  const traces: Trace[] = []
  const running = await here.runtime.launch(here.launch({ cmd: ['sh', '-c', escape], isolation: 'none' }, traces))
  await until(() => here.said().includes('left'))
  const { uid, cgroup } = traces.at(-1) as { uid: number; cgroup?: string }
  await until(async () => (await membersOf({ uid })).length >= 3)
  const [home = ''] = here.said().split('\n')
  t.equal(statSync(home).uid, uid)
  t.equal(statSync(home).mode & 0o777, 0o700)
  t.ok(existsSync(`/run/hedgerow/uids/${uid}`), 'no other agent of the machine takes this user')
  if (cgroup !== undefined) t.ok(running.pids().length >= 3, 'its control group has all of it')
  await running.stop(1_000)
  t.same(await membersOf({ uid }), [])
  t.notOk(existsSync(home), 'its HOME is gone')
  t.notOk(existsSync(`/run/hedgerow/uids/${uid}`), 'its uid is free')
  if (cgroup !== undefined) t.notOk(existsSync(cgroup), 'its control group is gone')
})

test('/tmp and HOME are one folder of its own, for commands beside it too, and hold what their document says', {
  skip,
}, async (t) => {
  using here = folders()
  if (here.separation.mountTools === undefined) return t.match(here.separation.mountReason, /./, 'told why not')
  const value = `it's "$HOME" \\ \n#`
  const show = 'echo mine > /tmp/a; cat $HOME/a /var/tmp/a; echo "$VALUE"; id -u; pwd; ulimit -n; exec sleep 60'
  const service = {
    cmd: ['sh', '-c', show],
    environment: [`VALUE=${value}`, 'IFS=a'],
    open_files: 500,
    workdir: '/usr',
  }
  const traces: Trace[] = []
  const running = await here.runtime.launch(here.launch(service, traces))
  await until(() => here.said().includes('500'))
  const { uid } = traces.at(-1) as { uid: number }
  t.equal(here.said(), `mine\nmine\n${value}\n${uid}\n/usr\n500\n`)
  t.notOk(existsSync('/tmp/a'), 'the machine does not have it')
  t.notMatch(readFileSync(`/proc/${running.pid}/cmdline`, 'latin1'), 'VALUE', 'nobody can read its environment')
  const outputOf = async (run: typeof running) => {
    const command = await run.exec?.(['sh', '-c', 'cat /tmp/a; echo "$VALUE"; id -u; cat'])
    command?.stdin.end('from outside\n')
    let text = ''
    for await (const chunk of command?.stdout ?? []) text += String(chunk)
    return text
  }
  const expected = `mine\n${value}\n${uid}\nfrom outside\n`
  t.equal(await outputOf(running), expected)
  running.letGo()
  const adopted = await here.runtime.adopt(here.launch(service), traces.at(-1) as Trace)
  if (adopted === undefined) throw new Error('it was not adopted')
  t.equal(await outputOf(adopted), expected, 'after a restart of the agent, too')
  await adopted.stop(1_000)
  await adopted.ended
  t.same(
    readdirSync('/tmp').filter((name) => name.startsWith(`hedgerow-${uid}-`)),
    [],
    'it is gone',
  )

  const shared = ['ls', here.dir]
  for (const more of [{ cmd: shared }, { cmd: ['sh', '-c', shared.join(' ')], isolation: 'none' }]) {
    const reading = await here.runtime.launch(here.launch(more))
    t.match(await reading.ended, { code: 0 }, 'what its document names is there')
  }
})

const noLimits = (() => {
  if (skip !== false) return skip
  using here = folders()
  const { controls = {} } = here.separation.cgroups ?? {}
  return ['memory', 'cpu', 'pids'].every((name) => name in controls) ? false : 'needs the controllers of cgroups'
})()

test('what a program leaves in a volume, its next run has, as another user', { skip }, async (t) => {
  using here = folders()
  const volumes = [{ volume_id: 'data', mount_path: '/data' }]
  const traces: Trace[] = []
  const ended = async (script: string) => {
    const running = await here.runtime.launch(here.launch({ cmd: ['sh', '-c', script], volumes }, traces))
    return (await running.ended).detail
  }
  await ended('umask 077; mkdir $HEDGEROW_VOLUMES/data/a; echo 1 > $HEDGEROW_VOLUMES/data/a/b; echo $HEDGEROW_VOLUMES')
  const path = here.said().trim()
  t.teardown(() => rmSync(dirname(path), { recursive: true }))
  t.equal(statSync(join(path, 'data')).uid, 0, 'between runs nobody else may enter')
  await ended('cd $HEDGEROW_VOLUMES/data/a && echo 2 >> b && cat b')
  t.match(here.said(), /1\n2\n$/)
  t.ok(
    traces.every(({ volumes: given }) => String(given).includes(path)),
    'a crash of the agent would find it',
  )
})

test('a program that wants more than its memory is ended and told, alone; one of several is counted', {
  skip: noLimits,
}, async (t) => {
  using here = folders()
  const traces: Trace[] = []
  const neighbour = await here.runtime.launch(here.launch({ cmd: ['sleep', '60'], memory: 16 }))
  const helped = await here.runtime.launch(
    here.launch({ cmd: ['sh', '-c', 'tail /dev/zero; echo went on; exec sleep 60'], memory: 16 }),
  )
  const greedy = await here.runtime.launch(here.launch({ cmd: ['tail', '/dev/zero'], memory: 16 }, traces))
  t.match(await greedy.ended, { detail: 'killed: out of memory (its limit is 16 MB)', usage: { oomKills: 1 } })
  const { controls } = traces.at(-1) as { controls: string }
  for (const folder of Object.values(JSON.parse(controls) as Record<string, string>))
    t.notOk(existsSync(folder), `${folder} is gone`)
  await until(() => here.said().includes('went on'))
  t.match(await helped.usage?.(), { oomKills: 1, memoryBytes: Number })
  t.match(await neighbour.usage?.(), { oomKills: 0 })
  process.kill(helped.pid as number, 'SIGTERM')
  t.equal(
    (await helped.ended).detail,
    'ended by SIGTERM; a process of it was killed: out of memory (its limit is 16 MB)',
  )
  await neighbour.stop(1_000)
  t.equal((await neighbour.ended).detail, 'ended by SIGTERM', 'it was not touched')
})

test('what ended for want of memory is started again and counted; what cannot be limited is told', {
  skip: noLimits,
}, async (t) => {
  using here = folders()
  await using limited = await nodeWith({ runtimes: [here.runtime] }, here.secret)
  limited.worker.assign(assignmentOf({ cmd: ['tail', '/dev/zero'], memory: 16 }))
  const again = await limited.hears(({ restarts }) => restarts === 2)
  t.match(again, { state: 'starting', detail: 'killed: out of memory (its limit is 16 MB)' })
  const { values } = await limited.metrics.oomKills.get()
  t.match(values, [{ labels: { service: 'shop.acme.cart.prod' } }])
  t.ok((values[0]?.value ?? 0) >= 2, 'counted')
  const isPressureCounted =
    existsSync('/proc/pressure/memory') && existsSync(join(ownGroups()[0] ?? '', 'cgroup.controllers'))
  const waits = (await limited.metrics.pressure.get()).values.map(({ labels }) => labels.resource)
  t.same(waits, isPressureCounted ? ['cpu', 'memory', 'io'] : [], 'and what it waited for, where the kernel says')

  await using free = await nodeWith()
  const assignment = assignmentOf({ cmd: ['sleep', '60'], memory: 16, vcpus: 1 })
  free.worker.assign(assignment)
  await free.becomes('running')
  const [usage] = await free.worker.usage()
  t.match(usage, { instance: assignment.instance, throttled: 0, oomKills: 0 })
  t.equal(usage?.memoryLimitMb, undefined, 'a limit that does not hold is not shown')
  const lines = []
  for await (const line of free.worker.logs(assignment.instance)) lines.push(line)
  t.match(lines.join('\n'), /not limited on this node: memory, vcpus \(not asked for\)/)
})

test('processors, processes and open files are limited; a new document limits what runs', {
  skip: noLimits,
}, async (t) => {
  using here = folders()
  const traces: Trace[] = []
  const cmd = ['sh', '-c', 'ulimit -Hn; for i in 1 2 3 4 5 6 7 8 9; do sleep 60 & done; while :; do :; done']
  const launch = here.launch({ cmd, vcpus: 0.05, pids: 6, open_files: 500, memory: 64 }, traces)
  const running = await here.runtime.launch(launch)
  t.equal(running.shortcoming, undefined)
  await until(() => here.said().includes('fork'))
  t.match(here.said(), /^500\n/)
  t.ok(running.pids().length <= 6, 'no more processes than it may have')
  await running.stop(100)

  const busy = await here.runtime.launch(here.launch({ cmd: ['sh', '-c', 'while :; do :; done'], vcpus: 0.05 }, traces))
  await until(async () => ((await busy.usage?.())?.throttledSeconds ?? 0) > 0)
  t.pass('that it waits for its limit is seen')
  const { memory = '' } = JSON.parse(traces.at(-1)?.['controls'] as string) as Record<string, string>
  const file = join(memory, existsSync(join(memory, 'memory.max')) ? 'memory.max' : 'memory.limit_in_bytes')
  for (const mb of [32, 16, 64]) {
    busy.adapt?.(assignmentOf({ cmd, memory: mb }).spec)
    t.equal(Number(readFileSync(file, 'latin1')), mb * 2 ** 20, `${mb} MB`)
  }
  busy.letGo()
  const adopted = await here.runtime.adopt(here.launch({ cmd, memory: 64 }), traces.at(-1) as Trace)
  t.ok(((await adopted?.usage?.())?.cpuSeconds ?? 0) > 0, 'the next agent finds its figures')
  await adopted?.stop(100)
  t.notOk(existsSync(memory), 'and ends with its groups')
})

test('a start that fails half way leaves no process, and frees user and group', { skip }, async (t) => {
  using here = folders()
  let last: Trace = {}
  const onTrace = (trace: Trace) => {
    last = trace
    if (typeof trace['pid'] === 'number') rmdirSync(String(trace['cgroup'])) // before the process is moved into it
  }
  if (here.separation.cgroups === undefined) return t.comment('no control groups here')
  const launch = { ...here.launch({ cmd: ['sleep', '60'] }), onTrace }
  await t.rejects(here.runtime.launch(launch), { code: 'RUNTIME_FAILED' })
  const uid = last['uid'] as number
  t.same(await membersOf({ uid }), [], 'the shell that waits for its group has ended')
  t.notOk(existsSync(`/run/hedgerow/uids/${uid}`), 'its uid is free')
})

test('without its session, group and environment an instance is found by its control group alone', {
  skip,
}, async (t) => {
  using here = folders()
  if (here.separation.cgroups === undefined) return t.pass('no cgroup may be made here')
  const separation = Separation.open({ setting: 'agent', uids: UIDS, dir: here.secret })
  t.match(separation.reason, /instanceUsers is agent/)
  const runtime = new ProcessRuntime({ node: 'edge/n1', inherited: process.env, separation })
  const traces: Trace[] = []
  const seconds = String(100_000 + process.pid)
  const escape = `(setsid env -i sleep ${seconds} &) ; exec sleep 60`
  const running = await runtime.launch(here.launch({ cmd: ['sh', '-c', escape] }, traces))
  await until(() => running.pids().length >= 2)
  t.ok(running.isWhole, 'the control group has all of it')
  t.equal(traces.at(-1)?.['uid'], undefined)
  await running.stop(1_000)
  t.same(running.pids(), [])
})

test('after kill -9 of the agent the next one adopts user and group; what no record names is ended', {
  skip,
}, async (t) => {
  using here = folders()
  const file = new URL('worker-agent.ts', import.meta.url).pathname
  const escaping = (name: string) => {
    const cmd = ['sh', '-c', `(setsid env -i sleep 62 &) ; exec ${node} -e "${SERVER}"`]
    return assignmentOf({ microservice_name: name, cmd, port: 80 })
  }
  const [kept, lost, dead] = [escaping('kept'), escaping('lost'), escaping('dead')]
  const agent = spawn(node, [file, here.secret, JSON.stringify([kept, lost, dead]), UIDS], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const told: InstanceReport[] = []
  createInterface(agent.stdout).on('line', (line) => told.push(JSON.parse(line) as InstanceReport))
  await until(() => new Set(told.flatMap((r) => (r.state === 'running' ? [r.instance] : []))).size === 3)
  agent.kill('SIGKILL')
  await once(agent, 'exit')
  const record = (instance: string) => join(here.secret, 'run', `${instance}.json`)
  const uidOf = ({ instance }: { instance: string }) =>
    (JSON.parse(readFileSync(record(instance), 'utf8')) as { trace: { uid: number; pid: number } }).trace
  const [was, gone, fallen] = [uidOf(kept), uidOf(lost), uidOf(dead)]
  t.teardown(async () => {
    for (const { uid } of [was, gone, fallen]) for (const pid of await membersOf({ uid })) process.kill(pid, 'SIGKILL')
  })
  rmSync(record(lost.instance))
  process.kill(fallen.pid, 'SIGKILL') // its leader is gone, what it left runs
  await until(() => statOf(fallen.pid)?.state !== 'S' && statOf(fallen.pid)?.state !== 'R')

  const separation = Separation.open({ setting: 'separate', uids: UIDS, dir: here.secret })
  const runtime = new ProcessRuntime({ node: 'edge/n1', inherited: process.env, separation })
  const next = await nodeWith({ runtimes: [runtime], timings: { restoreMs: 60_000 } }, here.secret)
  await next.worker.restored()
  t.match([...next.worker.processes()], [{ instance: kept.instance, uid: was.uid }], 'its calls are known as before')
  t.ok(statOf(was.pid), 'it goes on')
  t.ok(await ended(gone.uid), 'what no record names is ended')
  t.ok(await ended(fallen.uid), 'so is what a dead leader left')
  for (const { uid } of [gone, fallen]) t.notOk(existsSync(`/run/hedgerow/uids/${uid}`), 'and its user is free')
  const claim = JSON.parse(readFileSync(`/run/hedgerow/uids/${was.uid}`, 'utf8')) as { pid: number }
  t.equal(claim.pid, process.pid, 'the user is held by the agent that adopted')
  await next[Symbol.asyncDispose]()
  t.ok(await ended(was.uid), 'closing the agent ends the instance that it adopted')
})

test('uids of agents whose directory is gone are freed with their HOMEs, unless something runs as them', {
  skip,
}, async (t) => {
  using here = folders()
  const claim = (uid: number) => {
    const path = `/run/hedgerow/uids/${uid}`
    writeFileSync(path, JSON.stringify({ dir: join(here.dir, 'gone'), pid: 2 ** 22 + 1, startTime: 1 }))
    t.teardown(() => rmSync(path, { force: true }))
    return path
  }
  const [unused, used] = [claim(60_180), claim(60_181)]
  const home = makeHome(60_180)
  const other = spawn('sleep', ['60'], { uid: 60_181, gid: 60_181, stdio: 'ignore' })
  t.teardown(() => other.kill('SIGKILL'))
  await once(other, 'spawn')
  await here.runtime.tidy([])
  t.notOk(existsSync(unused), 'the uid that nothing uses is free')
  t.notOk(existsSync(home), 'its HOME is gone')
  t.ok(existsSync(used), 'the uid that a process uses stays claimed')
  t.equal(other.exitCode, null, 'and it goes on')
})

test('a program that forks faster than one can look ends too', { skip }, async (t) => {
  using here = folders()
  for (const withGroup of [true, false]) {
    const parts = { users: here.separation.users, setpriv: here.separation.setpriv }
    const separation = withGroup
      ? here.separation
      : Object.assign(Object.create(Separation.prototype) as Separation, parts)
    const runtime = new ProcessRuntime({ node: 'edge/n1', inherited: process.env, separation })
    const traces: Trace[] = []
    const bomb =
      'f() { (setsid env -i sleep 63 &); }; for i in 1 2 3 4; do (while :; do f; sleep 0.01; done) & done; wait'
    const running = await runtime.launch(here.launch({ cmd: ['sh', '-c', bomb] }, traces))
    const { uid } = traces.at(-1) as { uid: number }
    await until(async () => (await membersOf({ uid })).length > 20)
    await running.stop(200)
    t.ok(await ended(uid), withGroup ? 'with a control group' : 'without one')
  }
})

test('what the instance’s user may not enter, read or execute is named, with what to do', { skip }, async (t) => {
  using here = folders()
  const script = join(here.secret, 'serve.js')
  writeFileSync(script, 'setTimeout(() => undefined, 60_000)')
  const tool = join(here.secret, 'tool')
  writeFileSync(tool, '#!/bin/sh\nexec sleep 60\n', { mode: 0o755 })
  const rows = [
    { cmd: [tool] },
    { code: script, cmd: [] },
    { code: here.secret, cmd: ['sleep', '60'] },
    { code: here.dir, workdir: 'agent', cmd: ['sleep', '60'] },
  ]
  for (const row of rows) {
    await t.rejects(
      here.runtime.launch(here.launch(row)),
      {
        code: 'RUNTIME_FAILED',
        details: { reason: new RegExp(`${here.secret}.*(entered|executed|read) by other users`) },
      },
      JSON.stringify(row),
    )
  }
  const code = join(here.dir, 'serve.js')
  writeFileSync(code, 'console.log("read")', { mode: 0o600 })
  await t.rejects(here.runtime.launch(here.launch({ code, cmd: [] })), {
    code: 'RUNTIME_FAILED',
    details: { reason: new RegExp(`chmod o\\+r ${code}`) },
  })
  chmodSync(code, 0o644)
  const running = await here.runtime.launch(here.launch({ code, cmd: [] }))
  await running.ended
  t.match(here.said(), 'read')
})

test('with neither code nor workdir it runs where the agent does, or in its HOME where it may not go there', {
  skip,
}, async (t) => {
  using here = folders()
  const before = process.cwd()
  t.teardown(() => process.chdir(before))
  process.chdir(here.secret)
  const running = await here.runtime.launch(here.launch({ cmd: ['sh', '-c', 'pwd; echo $HOME $TMPDIR'] }))
  await running.ended
  const [where = '', homes = ''] = here.said().split('\n')
  t.match(where, /^\/tmp\/hedgerow-\d+-/)
  t.equal(homes, `${where} ${where}`)
})

test('a port that is root’s is refused with what to do', { skip }, async (t) => {
  using here = folders()
  const start = Number(readFileSync('/proc/sys/net/ipv4/ip_unprivileged_port_start', 'latin1'))
  if (start === 0) return t.pass('every port may be taken here')
  const service = { cmd: ['sleep', '60'], port: `80:${start - 1}`, fixed_port: true }
  await t.rejects(here.runtime.launch(here.launch(service)), {
    code: 'RUNTIME_FAILED',
    details: { reason: /may not listen on tcp port.*ip_unprivileged_port_start=.*agent\.instanceUsers/ },
  })
})

test('programs may open /dev/stdout and /dev/stderr anew', { skip }, async (t) => {
  using here = folders()
  const cmd = ['sh', '-c', 'echo one > /dev/stdout; echo two > /dev/stderr; sleep 60']
  await using nodeHere = await nodeWith({ runtimes: [here.runtime] }, here.secret)
  const assignment = assignmentOf({ cmd })
  nodeHere.worker.assign(assignment)
  await until(async () => {
    const lines = []
    for await (const line of nodeHere.worker.logs(assignment.instance)) lines.push(line.slice(25))
    return lines.includes('one') && lines.includes('two')
  })
  t.pass('both lines came')
})

test('no uid is given twice, by whatever agent; one that is in use or has a name is left out', { skip }, async (t) => {
  const dirs = [folders(), folders()]
  const range = { first: 60_170, last: 60_173 }
  const agents = dirs.map(({ secret }) => InstanceUsers.open(range, secret))
  const other = spawn('sleep', ['60'], { uid: 60_171, gid: 60_171, stdio: 'ignore' })
  t.teardown(() => {
    other.kill('SIGKILL')
    for (const dir of dirs) dir[Symbol.dispose]()
  })
  await once(other, 'spawn')
  const taken: number[] = []
  for (const i of [0, 1, 0]) taken.push(await (agents[i] as InstanceUsers).take())
  t.same(
    taken.toSorted((a, b) => a - b),
    [60_170, 60_172, 60_173],
  )
  await t.rejects((agents[1] as InstanceUsers).take(), {
    code: 'RUNTIME_FAILED',
    details: { reason: /every uid from 60170 to 60173 is in use/ },
  })
  agents[1]?.release(taken[1] as number)
  t.equal(await agents[0]?.take(), taken[1])
  for (const uid of taken) agents[0]?.release(uid)
  const named = InstanceUsers.open({ first: 65_534, last: 65_534 }, dirs[0]?.secret ?? '')
  await t.rejects(named.take(), { code: 'RUNTIME_FAILED' }, 'nobody has a name')
})

test('`separate` that is impossible is an error; `auto` says why it is not', { skip }, (t) => {
  const open = (setting: 'auto' | 'separate') => `
    import { Separation } from ${JSON.stringify(new URL('../../src/orchestrator/worker/separation.ts', import.meta.url).href)}
    try {
      console.log(Separation.open({ setting: '${setting}', uids: '60100-60163', dir: '/tmp' }).reason)
    } catch (error) { console.log(error.details.faults[0]) }`
  const say = async (setting: 'auto' | 'separate') => {
    const child = spawn(node, ['--input-type=module', '-e', open(setting)], { uid: 65_534, gid: 65_534, cwd: '/' })
    const said: Buffer[] = []
    child.stdout.on('data', (chunk: Buffer) => said.push(chunk))
    await once(child, 'close')
    return Buffer.concat(said).toString()
  }
  return Promise.all([
    say('auto').then((said) => t.match(said, /^the agent does not run as root/)),
    say('separate').then((said) =>
      t.match(said, /instanceUsers: separate is not possible: the agent does not run as root/),
    ),
  ])
})
