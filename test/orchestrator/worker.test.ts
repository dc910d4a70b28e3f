import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { test } from 'tap'
import { instanceId } from '../../src/core/model/ids.ts'
import type { Assignment, InstanceReport } from '../../src/orchestrator/spec.ts'
import { InstanceLog } from '../../src/orchestrator/worker/instance-log.ts'
import { fileNameOf } from '../../src/orchestrator/worker/output-files.ts'
import { LineQueue } from '../../src/orchestrator/worker/line-queue.ts'
import { statOf } from '../../src/orchestrator/worker/process-group.ts'
import { pruneLogs } from '../../src/orchestrator/worker/prune-logs.ts'
import { judge } from '../../src/orchestrator/worker/readiness.ts'
import { assignmentOf } from './specs.ts'
import { forbiddenSteps, freshDir, nodeWith } from './worker-node.ts'
import '../support/no-orphans.ts'
import { heard } from '../support/heard.ts'
import { until } from '../support/until.ts'

const node = process.execPath
const SERVER = `
  const server = require('http').createServer((q, r) => {
    if (q.url === '/die') process.exit(3)
    if (q.url === '/sick') globalThis.sick = true
    if (q.url === '/well') globalThis.sick = false
    r.statusCode = globalThis.sick && q.url === '/ready' ? 503 : 200
    r.end(JSON.stringify({ env: process.env, pid: process.pid }))
  }).listen(process.env.PORT, process.env.HOST, () => console.log('listening on ' + process.env.PORT))
`
const server = (more: Record<string, unknown> = {}, ordinal = 0, generation = 1) =>
  assignmentOf({ cmd: [node, '-e', SERVER], port: 80, ...more }, ordinal, generation)

test('an assigned instance starts, runs once its port answers, drains, and leaves nothing but its log', async (t) => {
  const proxyEnvironment = (instance: string) => ({ HTTP_PROXY: `http://proxy/${instance}` })
  await using here = await nodeWith({ proxyEnvironment, openFlows: () => 0 })
  const { worker } = here
  const work = server({ environment: ['MODE=test'] })
  const { instance } = work
  worker.assign(work)
  t.equal(worker.endpointOf(instance, 80), undefined, 'not before it is ready')
  t.match(await here.becomes('starting'), { instance, generation: 1, restarts: 0 })
  const { pid } = await here.becomes('running')
  const endpoint = worker.endpointOf(instance, 80)
  t.match(endpoint, { host: '127.0.0.1', port: Number })
  t.equal(worker.endpointOf(instance, 81), undefined, 'no such port')
  t.equal(worker.endpointOf(instance, 80, 'udp'), undefined)
  const { env } = (await (await fetch(`http://127.0.0.1:${endpoint?.port}/`)).json()) as { env: Record<string, string> }
  t.match(env, {
    MODE: 'test',
    PORT: String(endpoint?.port),
    HEDGEROW_INSTANCE: instance,
    HEDGEROW_NODE: 'edge/n1',
    HTTP_PROXY: `http://proxy/${instance}`,
  })
  t.same([...worker.processes()], [{ instance, pids: [pid], isWhole: false }])
  t.match(worker.reports(), [{ instance, state: 'running', pid }])
  t.match(await here.metrics.registry.getSingleMetricAsString('hedgerow_worker_instances'), /state="running"[^\n]* 1$/m)

  t.equal(worker.withdraw(instance), true)
  t.equal(worker.isDraining(instance), true)
  t.equal(worker.endpointOf(instance, 80), undefined, 'nothing new from now on')
  await here.becomes('stopped')
  await until(() => worker.reports().length === 0)
  t.equal(statOf(pid as number), undefined, 'the process is gone')
  t.equal(worker.isDraining(instance), false)
  t.equal(worker.withdraw(instance), false, 'not here any more')
  t.same(readdirSync(join(here.dir, 'run')), [], 'no record, no pipe')
  const kept = await Array.fromAsync(worker.logs(instance))
  t.match(
    kept.join('\n'),
    /^\d{4}-\d\d-\d\dT[\d:.]+Z hedgerow: started, process \d+\n.* listening on \d+\n.*hedgerow: stopped$/s,
  )
  t.same(forbiddenSteps(here.told), [])
})

test('an instance that ends by itself comes back at the same port, and the count says how often', async (t) => {
  await using here = await nodeWith()
  const work = server()
  here.worker.assign(work)
  const first = await here.becomes('running')
  const endpoint = here.worker.endpointOf(work.instance, 80)
  await fetch(`http://127.0.0.1:${endpoint?.port}/die`).catch(() => undefined)
  // its check may fail before its end is heard of
  const isStarted = (count: number) => (report: InstanceReport) =>
    report.state === 'starting' && report.restarts === count
  t.match(await here.hears(isStarted(1)), { detail: 'exited with code 3' })
  const second = await here.becomes('running')
  t.not(second.pid, first.pid)
  t.same(here.worker.endpointOf(work.instance, 80), endpoint)
  process.kill(second.pid as number, 'SIGKILL')
  t.match(await here.hears(isStarted(2)), { detail: 'ended by SIGKILL' })
  await here.becomes('running')
  t.match(await here.metrics.registry.getSingleMetricAsString('hedgerow_worker_restarts_total'), / 2$/m)
  t.same(forbiddenSteps(here.told), [])
})

test('an instance that does not answer its check any more takes no flows until it does', async (t) => {
  await using here = await nodeWith()
  const work = server({ check: { type: 'http', path: '/ready', interval_ms: 50, timeout_ms: 10_000 } })
  here.worker.assign(work)
  const { pid } = await here.becomes('running')
  const endpoint = here.worker.endpointOf(work.instance, 80)
  const ask = (path: string) => fetch(`http://127.0.0.1:${endpoint?.port}${path}`)
  await ask('/sick')
  t.match(await here.becomes('starting'), { detail: '/ready answered 503', pid })
  t.equal(here.worker.endpointOf(work.instance, 80), undefined)
  await ask('/well')
  t.match(await here.becomes('running'), { pid, restarts: 0 })
})

test('jobs', async (t) => {
  await using here = await nodeWith()
  const job = (name: string, script: string) =>
    assignmentOf({ microservice_name: name, cmd: ['sh', '-c', script], one_shot: true, port: 80 })
  const good = job('good', 'echo done')
  here.worker.assign(good)
  t.match(await here.becomes('stopped', good.instance), { detail: 'exited with code 0', restarts: 0 })
  here.worker.assign(good)
  t.equal(here.worker.reports().length, 1, 'assigned again, it is not run again')
  const lines = await Array.fromAsync(here.worker.logs(good.instance))
  t.equal(lines.filter((line) => line.endsWith(' done')).length, 1)

  const bad = job('bad', 'exit 1')
  here.worker.assign(bad)
  t.match(await here.becomes('failed', bad.instance), { detail: 'exited with code 1', restarts: 3 }, 'three more tries')
  here.worker.assign(bad)
  t.match(await here.becomes('failed', bad.instance), { restarts: 3 }, 'assigned again, it is not run again')
  here.worker.withdraw(bad.instance)
  await here.becomes('stopped', bad.instance)
  t.same(forbiddenSteps(here.told), [])
})

test('what cannot be started fails with the reason, and nothing else is disturbed', async (t) => {
  await using here = await nodeWith()
  const absent = assignmentOf({ cmd: ['/no/such/program'] })
  here.worker.assign(absent)
  t.match(await here.becomes('failed'), { detail: /\/no\/such\/program is not on this node/ })
  const lines = await Array.fromAsync(here.worker.logs(absent.instance))
  t.match(lines.at(-1), /hedgerow: .*is not on this node/)
  here.worker.withdraw(absent.instance)
  await here.becomes('stopped')
})

test('draining waits for open flows, up to its limit', async (t) => {
  let flows = 1
  await using here = await nodeWith({ openFlows: () => flows })
  const work = server({ drain_seconds: 600 })
  here.worker.assign(work)
  const { pid } = await here.becomes('running')
  const socket = connect(here.worker.endpointOf(work.instance, 80)?.port as number, '127.0.0.1')
  await once(socket, 'connect')
  here.worker.withdraw(work.instance)
  await here.becomes('stopping')
  socket.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n')
  t.match(String(await heard(socket)), /^HTTP\/1.1 200/, 'an open flow goes on')
  t.ok(statOf(pid as number))
  socket.destroy()
  flows = 0
  await here.becomes('stopped')
  t.equal(statOf(pid as number), undefined)

  flows = 1
  here.worker.assign(work)
  await here.becomes('running')
  here.worker.withdraw(work.instance)
  await here.becomes('stopping')
  here.worker.withdraw(work.instance, { drainSeconds: 0 })
  await here.becomes('stopped')
  t.pass('asked again with a shorter deadline, it ends at once')
})

test('a newer generation takes the place of the older one; an older one is ignored', async (t) => {
  await using here = await nodeWith()
  here.worker.assign(server({ environment: ['V=1'], drain_seconds: 0 }))
  const first = await here.becomes('running')
  const newer = server({ environment: ['V=2'], drain_seconds: 0 }, 0, 2)
  here.worker.assign(newer)
  const second = await here.hears(({ state, generation }) => state === 'running' && generation === 2)
  t.not(second.pid, first.pid)
  t.equal(statOf(first.pid as number), undefined)
  here.worker.assign(server())
  t.match(here.worker.reports(), [{ generation: 2, state: 'running', pid: second.pid }])
  t.same(forbiddenSteps(here.told), [])
})

test('a newer document of the same generation is taken over by the program that runs', async (t) => {
  await using here = await nodeWith()
  const work = server({ check: { type: 'tcp', interval_ms: 600_000 } })
  here.worker.assign(work)
  const { pid } = await here.becomes('running')
  const { host, port } = here.worker.endpointOf(work.instance, 80) ?? { host: '', port: 0 }
  await (await fetch(`http://${host}:${port}/sick`)).text()
  const check = { type: 'http', path: '/ready', interval_ms: 50 }
  here.worker.assign({ ...server({ check, drain_seconds: 7 }), revision: 2 })
  await here.hears(({ state, revision }) => state === 'running' && revision === 2)
  const failed = await here.becomes('starting')
  t.match(failed, { detail: /ready answered 503/, pid, restarts: 0 }, 'the new check counts at once')
  here.worker.assign({ ...work, revision: 1 })
  t.match(here.worker.reports(), [{ revision: 2, pid }], 'an older one does not')
  here.worker.assign({ ...work, revision: 3 })
  t.match(await here.becomes('running'), { pid, restarts: 0 }, 'and without it the program counts as ready again')
  const records = readdirSync(join(here.dir, 'run')).filter((name) => name.endsWith('.json')) // others are pipes
  const saved = records.map((name) => readFileSync(join(here.dir, 'run', name), 'utf8'))
  t.match(saved, [/"revision":3/], 'the next agent knows it')
})

test('withdrawn and wanted again before it ended: it begins anew', async (t) => {
  await using here = await nodeWith()
  const work = server({ drain_seconds: 0 })
  here.worker.assign(work)
  await here.becomes('running')
  here.worker.withdraw(work.instance)
  here.worker.assign(work)
  await here.becomes('stopped')
  await here.becomes('running')
  here.worker.withdraw(work.instance)
  await here.becomes('stopped')
  here.worker.assign(work) // the log is being closed now
  await here.becomes('running')
  t.equal(here.worker.reports().length, 1)
})

test('after a link came back: what is missing starts, what is not wanted ends, the rest stays', async (t) => {
  await using here = await nodeWith({ openFlows: () => 0 })
  const [keep, drop, add] = [server({}, 0), server({}, 1), server({}, 2)]
  here.worker.assign(keep)
  const { pid } = await here.becomes('running', keep.instance)
  here.worker.assign(drop)
  await here.becomes('running', drop.instance)
  const huge = assignmentOf({ memory: 100_000 }, 9)
  here.worker.sync([keep, add, huge])
  t.match(here.told.at(-1), { instance: huge.instance, state: 'failed', detail: /too little memoryMb free/ })
  await until(() => here.worker.reports().every(({ state }) => state === 'running'))
  t.same(
    here.worker.reports().map(({ instance }) => instance),
    [keep.instance, add.instance],
  )
  t.equal(here.worker.reports()[0]?.pid, pid, 'it was not touched')
  here.worker.keepOnly([add.instance])
  await until(() => here.worker.reports().length === 1)
  t.match(here.worker.reports(), [{ instance: add.instance }])
})

test('what the cluster no longer knows ends at once, however many flows it has', async (t) => {
  await using here = await nodeWith({ openFlows: () => 3 })
  const work = assignmentOf({ cmd: ['sleep', '1000'], drain_seconds: 3_600 })
  here.worker.assign(work)
  await here.becomes('running')
  here.worker.withdraw(work.instance)
  await here.becomes('stopping')
  const since = performance.now()
  here.worker.keepOnly([])
  await here.becomes('stopped')
  t.comment(`ended after ${Math.round(performance.now() - since)} ms`)
  t.same([...here.worker.processes()], [], 'nothing of it is left')
})

test('a worker refuses what it cannot run, with the reason', async (t) => {
  await using here = await nodeWith()
  const volumes = [{ volume_id: 'data', mount_path: '/data' }]
  const first = { cmd: ['sleep', '1000'], memory: 1000, port: '80:8080', fixed_port: true, volumes }
  here.worker.assign(assignmentOf(first))
  const rows: { why: string; work: Assignment; reason: RegExp | undefined }[] = [
    {
      why: 'runtime',
      work: assignmentOf({ runtime: 'docker', code: 'nginx' }, 1),
      reason: /runtime docker is not offered/,
    },
    { why: 'memory', work: assignmentOf({ memory: 25 }, 1), reason: /too little memoryMb free: 24 of 1024/ },
    { why: 'the rest of it', work: assignmentOf({ memory: 24 }, 1), reason: undefined },
    { why: 'its own memory does not count', work: assignmentOf({ memory: 1024 }, 0, 2), reason: undefined },
    { why: 'cores', work: assignmentOf({ vcpus: 5 }, 1), reason: /vcpus/ },
    { why: 'architecture', work: assignmentOf({ arch: ['arm64'] }, 1), reason: /this node is amd64/ },
    { why: 'port', work: assignmentOf({ port: '81:8080', fixed_port: true }, 1), reason: /tcp\/8080 is taken by shop/ },
    { why: 'volume', work: assignmentOf({ volumes }, 1), reason: /volume shop\.acme\.data of this node is in use by/ },
    { why: 'other protocol', work: assignmentOf({ port: '81:8080/udp', fixed_port: true }, 1), reason: undefined },
    { why: 'a free port is found', work: assignmentOf({ port: '80:8080' }, 1), reason: undefined },
  ]
  for (const { why, work, reason } of rows) {
    const said = here.worker.refuses(work)
    if (reason === undefined) t.equal(said, undefined, why)
    else {
      t.match(said, reason, why)
      t.throws(() => here.worker.assign(work), { code: 'UNPLACEABLE' })
    }
  }
})

test('an external service is looked at, never started or ended', async (t) => {
  await using here = await nodeWith()
  const { createServer } = await import('node:http')
  const outside = createServer((_, response) => response.end('outside'))
  await once(outside.listen(0, '127.0.0.1'), 'listening')
  const { port } = outside.address() as { port: number }
  const work = assignmentOf({ runtime: 'external', code: `127.0.0.1:${port}`, port: 80, check: { interval_ms: 50 } })
  here.worker.assign(work)
  await here.becomes('running')
  t.same(here.worker.endpointOf(work.instance, 80), { host: '127.0.0.1', port })
  t.same([...here.worker.processes()], [])
  outside.closeAllConnections()
  outside.close()
  await here.becomes('starting')
  t.equal(here.worker.endpointOf(work.instance, 80), undefined)
  outside.listen(port, '127.0.0.1')
  await here.becomes('running')
  here.worker.withdraw(work.instance, { drainSeconds: 0 })
  await here.becomes('stopped')
  t.equal(await (await fetch(`http://127.0.0.1:${port}/`)).text(), 'outside', 'it is as it was')
  outside.closeAllConnections()
  outside.close()
})

/** An agent of its own, that can be killed. */
async function agentWith(dir: string, work: Assignment[]) {
  const file = new URL('worker-agent.ts', import.meta.url).pathname
  const agent = spawn(node, [file, dir, JSON.stringify(work)], { stdio: ['pipe', 'pipe', 'inherit'] })
  const told: InstanceReport[] = []
  createInterface(agent.stdout).on('line', (line) => told.push(JSON.parse(line) as InstanceReport))
  return { agent, told, ended: once(agent, 'exit') }
}

test('instances outlive kill -9 of the agent, and the next one adopts them with all they printed', async (t) => {
  const dir = freshDir()
  const counter = "let n = 0; setInterval(() => console.log('tick', n++), 5).unref(); " + SERVER
  const [work, job] = [
    server({ cmd: [node, '-e', counter] }),
    assignmentOf({ microservice_name: 'job', cmd: ['sh', '-c', 'echo once'], one_shot: true }),
  ]
  const first = await agentWith(dir, [work, job])
  const isUp = ({ state, instance }: InstanceReport) => state === 'running' && instance === work.instance
  await until(() => first.told.some(isUp) && first.told.some(({ state }) => state === 'stopped'))
  const { pid } = first.told.find(isUp) as InstanceReport
  first.agent.kill('SIGKILL')
  await first.ended
  t.ok(statOf(pid as number), 'the instance goes on')

  const here = await nodeWith({}, dir)
  t.match(await here.becomes('running', work.instance), { pid, restarts: 0 })
  const port = here.worker.endpointOf(work.instance, 80)?.port
  t.equal(((await (await fetch(`http://127.0.0.1:${port}/`)).json()) as { pid: number }).pid, pid, 'at the same place')
  t.match(
    here.worker.reports().find(({ instance }) => instance === job.instance),
    { state: 'stopped' },
    'the job is over',
  )

  // Every tick is there once, in order: what was printed without an agent was kept in the pipe. Only what the agent had
  // read and not yet written when it was killed is gone: the lines of one turn, so one gap.
  let last = -1
  let gaps = 0
  for await (const line of here.worker.logs(work.instance, { tail: 100_000, follow: true })) {
    const tick = / tick (\d+)$/.exec(line)
    if (tick === null) continue
    if (Number(tick[1]) <= last) t.fail(`${line} after ${last}`)
    if (Number(tick[1]) > last + 1) gaps++
    last = Number(tick[1])
    if (last > 20 && here.worker.endpointOf(work.instance, 80) !== undefined && last % 10 === 0) break
  }
  t.ok(gaps <= 1, `${gaps} gaps`)
  process.kill(pid as number, 'SIGKILL')
  t.match(await here.becomes('starting', work.instance), { detail: /exit code is not known/, restarts: 1 })
  const again = await here.becomes('running', work.instance)
  await here.worker.close()
  t.equal(statOf(again.pid as number), undefined, 'a worker that closes ends them')
  t.same(forbiddenSteps(here.told.filter(({ instance }) => instance === work.instance)), [])

  // The records stay: what ran is run again, unless the cluster objects before.
  const third = await nodeWith({}, dir)
  await third.becomes('running', work.instance)
  await third.worker.close()
  const fourth = await nodeWith({ timings: { restoreMs: 600_000 } }, dir)
  fourth.worker.keepOnly([])
  await until(() => fourth.worker.reports().length === 0)
  t.same(
    fourth.told.filter(({ state }) => state === 'running'),
    [],
  )
  t.same(readdirSync(join(dir, 'run')), [])
  await fourth[Symbol.asyncDispose]()
})

test('an agent that exits without closing leaves nothing behind', async (t) => {
  const dir = freshDir()
  const { agent, told, ended } = await agentWith(dir, [server()])
  await until(() => told.some(({ state }) => state === 'running'))
  const { pid } = told.find(({ state }) => state === 'running') as InstanceReport
  agent.stdin.write('end')
  t.same((await ended)[0], 7)
  await until(() => (statOf(pid as number)?.state ?? 'Z') === 'Z')
  t.pass('the instance is gone')
  rmSync(dir, { recursive: true })
})

test('a worker may leave its instances to the next one', async (t) => {
  const dir = freshDir()
  const work = server()
  const before = await nodeWith({ keepOnClose: true }, dir)
  before.worker.assign(work)
  const { pid } = await before.becomes('running')
  await before.worker.close()
  await using after = await nodeWith({}, dir)
  t.match(await after.becomes('running'), { pid })
})

test('a damaged record is left alone, the others are used', async (t) => {
  const dir = freshDir()
  const before = await nodeWith({}, dir)
  const work = server()
  before.worker.assign(work)
  await before.becomes('running')
  await before.worker.close()
  writeFileSync(join(dir, 'run', 'broken.json'), '{"format":1,')
  await using after = await nodeWith({}, dir)
  await after.becomes('running', work.instance)
  t.equal(readFileSync(join(dir, 'run', 'broken.json'), 'utf8'), '{"format":1,')
})

test('a folder that cannot be written is told', async (t) => {
  const dir = freshDir()
  writeFileSync(join(dir, 'file'), '')
  await t.rejects(nodeWith({ runDir: join(dir, 'file', 'run') }, dir), { code: 'STATE_UNREADABLE' })
  await t.rejects(nodeWith({ logsDir: join(dir, 'file', 'logs') }, dir), { code: 'STATE_UNREADABLE' })
  rmSync(dir, { recursive: true })
})

test('logs are bounded, whole, and followed without a gap', async (t) => {
  const dir = freshDir()
  const log = InstanceLog.open({ instance: 'a.b.c.d.0', logsDir: dir, runDir: dir, maxBytes: 20_000 })
  const printer = spawn(
    'sh',
    ['-c', 'i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; printf "no end"'],
    {
      stdio: ['ignore', await log.output(), 'inherit'],
    },
  )
  const followed: string[] = []
  const stop = new AbortController()
  const following = (async () => {
    for await (const line of log.read({ tail: 100_000, follow: true }, stop.signal)) {
      followed.push(line.slice(25))
      if (line.endsWith(' end of it')) stop.abort()
    }
  })()
  await once(printer, 'exit')
  await until(() => followed.includes('line 1999'))
  log.note('end of it')
  await following
  t.same(followed, [...Array.from({ length: 2000 }, (_, i) => `line ${i}`), 'no end', 'hedgerow: end of it'])
  const tail = await Array.fromAsync(log.read({ tail: 3, follow: false }))
  t.same(
    tail.map((line) => line.slice(25)),
    ['line 1999', 'no end', 'hedgerow: end of it'],
  )
  t.same(await Array.fromAsync(log.read({ tail: 0, follow: false })), [])
  await log.forget()
  const files = readdirSync(dir).map((name) => ({ name, size: readFileSync(join(dir, name)).length }))
  t.same(files.map(({ name }) => name).sort(), ['a.b.c.d.0.log', 'a.b.c.d.0.log.1'], 'two files, no pipe')
  t.ok(
    files.every(({ size }) => size <= 70_000),
    'bounded, but for what came in one turn',
  )

  const long = InstanceLog.open({ instance: 'a.b.c.d.1', logsDir: dir, runDir: dir })
  long.note('x'.repeat(40_000))
  const lines = await Array.fromAsync(long.read({ tail: 10, follow: false }))
  t.equal(lines.length, 3, 'a line without end is cut')
  await long.forget()
  const label = 'x'.repeat(63)
  const id = instanceId([label, label, label, label].join('.'), 999_999)
  t.ok(fileNameOf(id).length < 200, 'the longest id fits a file name')
  t.not(fileNameOf(id), fileNameOf(`${id.slice(0, -1)}8`))
  rmSync(dir, { recursive: true })
})

test('logs of instances that are gone are kept, but not without end', async (t) => {
  const dir = freshDir()
  const write = (name: string, age: number) => {
    writeFileSync(join(dir, name), 'x')
    utimesSync(join(dir, name), age, age)
  }
  for (const [age, name] of ['a.b.c.d.0', 'a.b.c.d.1', 'a.b.c.d.2', 'a.b.c.d.3'].entries()) write(`${name}.log`, age)
  write('a.b.c.d.1.log.1', 0)
  await pruneLogs(dir, ['a.b.c.d.0'], 2)
  t.same(
    readdirSync(dir).sort(),
    ['a.b.c.d.0.log', 'a.b.c.d.2.log', 'a.b.c.d.3.log'],
    'the oldest went, but for one that is here',
  )
  rmSync(dir, { recursive: true })
})

test('a reader that is far behind is told what it missed', async (t) => {
  const queue = new LineQueue()
  for (let i = 0; i < 10_002; i++) queue.push(`line ${i}`)
  const stop = new AbortController()
  stop.abort()
  const lines = await Array.fromAsync(queue.lines(stop.signal))
  t.equal(lines.length, 10_001)
  t.match(lines.at(-1), /2 lines are missing here/)
})

test('readiness: one answer is enough to be ready, three silences to lose it', async (t) => {
  const rows = [
    {
      why: 'first answer',
      before: { isReady: false, failures: 7 },
      fault: undefined,
      after: { isReady: true, failures: 0 },
    },
    {
      why: 'still waiting',
      before: { isReady: false, failures: 0 },
      fault: 'no',
      after: { isReady: false, failures: 1 },
    },
    { why: 'one miss', before: { isReady: true, failures: 0 }, fault: 'no', after: { isReady: true, failures: 1 } },
    { why: 'two misses', before: { isReady: true, failures: 1 }, fault: 'no', after: { isReady: true, failures: 2 } },
    {
      why: 'three misses',
      before: { isReady: true, failures: 2 },
      fault: 'no',
      after: { isReady: false, failures: 3 },
    },
    {
      why: 'not in a row',
      before: { isReady: true, failures: 2 },
      fault: undefined,
      after: { isReady: true, failures: 0 },
    },
  ]
  for (const { why, before, fault, after } of rows) t.same(judge(before, fault), after, why)
})
