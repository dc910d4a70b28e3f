import { spawn } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, chmodSync } from 'node:fs'
import { createSocket } from 'node:dgram'
import { createServer, type AddressInfo } from 'node:net'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'tap'
import { runtimeContract } from '../contracts/runtime.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { ExternalRuntime } from '../../src/orchestrator/worker/external-runtime.ts'
import { bootId, membersOf, parseStat, statOf } from '../../src/orchestrator/worker/process-group.ts'
import { Separation } from '../../src/orchestrator/worker/separation.ts'
import { ProcessRuntime } from '../../src/orchestrator/worker/process-runtime.ts'
import { PortPool } from '../../src/orchestrator/worker/ports.ts'
import { environmentOf, filledIn, programOf } from '../../src/orchestrator/worker/program.ts'
import { probe, watchReadiness } from '../../src/orchestrator/worker/readiness.ts'
import type { Launch, Trace } from '../../src/orchestrator/worker/runtime.ts'
import { assignmentOf, specOf } from './specs.ts'
import '../support/no-orphans.ts'
import { until } from '../support/until.ts'

const node = process.execPath
const SERVER = "require('net').createServer((s) => s.end('hello')).listen(process.env.PORT, process.env.HOST)"

runtimeContract('process', async () => {
  return {
    runtime: new ProcessRuntime({
      node: 'edge/n1',
      separation: Separation.open({ setting: 'agent', uids: '60100-60163', dir: '/tmp/hedgerow-contract' }),
    }),
    server: assignmentOf({ cmd: [node, '-e', SERVER], port: 80 }),
    impossible: assignmentOf({ cmd: ['/no/such/program'] }),
    output: async () => openSync('/dev/null', 'w'),
    ownsIt: true,
    shell: ['sh', '-c'],
    async [Symbol.asyncDispose]() {},
  }
})

runtimeContract('external', async () => {
  const server = createServer((socket) => socket.on('error', () => undefined).end('hello'))
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.address() as AddressInfo
  const code = `127.0.0.1:${port}`
  const impossible = assignmentOf({ runtime: 'external', code, port: 80 })
  return {
    runtime: new ExternalRuntime(),
    server: assignmentOf({ runtime: 'external', code, port: 80 }),
    impossible: { ...impossible, spec: { ...impossible.spec, code: 'no host:at all' } },
    output: () => Promise.reject(new Error('an external service prints nothing here')),
    ownsIt: false,
    shell: [],
    async [Symbol.asyncDispose]() {
      await new Promise((resolve) => server.close(resolve))
    },
  }
})

function folder(): { path: string } & Disposable {
  const path = mkdtempSync(join(tmpdir(), 'hedgerow-runtime-'))
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) }
}

function launchOf(assignment: ReturnType<typeof assignmentOf>, file: string, traces: Trace[] = []): Launch {
  const output = async () => openSync(file, 'a')
  const { signal } = new AbortController()
  const secrets = async () => []
  return {
    assignment,
    endpoints: {},
    environment: {},
    output,
    secrets,
    onTrace: (trace) => traces.push(trace),
    mayStart: () => Promise.resolve(),
    signal,
  }
}

test('processes: the whole group ends, also what ignores SIGTERM and what left the group', async (t) => {
  using dir = folder()
  const file = join(dir.path, 'out')
  // One child stays in the group and ignores SIGTERM; one makes a session of its own, as daemons do.
  const script = `trap '' TERM; sleep 1000 & echo $!; setsid sleep 1000 & while :; do sleep 1000; done`
  const runtime = new ProcessRuntime({ node: 'edge/n1' })
  const traces: Trace[] = []
  const running = await runtime.launch(launchOf(assignmentOf({ cmd: ['sh', '-c', script] }), file, traces))
  const mark = traces.at(-1)?.['run'] as string
  await until(async () => (await membersOf({ leader: running.pid, mark })).length >= 4)
  t.ok(running.pids().length >= 3, 'the processes of the instance are known')
  await running.stop(100)
  t.same(await membersOf({ leader: running.pid, mark }), [], 'nothing is left')
  t.equal((await running.ended).detail, 'ended by SIGKILL')
})

test('processes: what outlives its leader ends with it', async (t) => {
  using dir = folder()
  const traces: Trace[] = []
  const runtime = new ProcessRuntime({ node: 'edge/n1' })
  const assignment = assignmentOf({ cmd: ['sh', '-c', 'sleep 1000 & setsid sleep 1000 & exit 3'] })
  const running = await runtime.launch(launchOf(assignment, join(dir.path, 'out'), traces))
  t.match(await running.ended, { code: 3, detail: 'exited with code 3' })
  t.same(await membersOf({ leader: running.pid, mark: traces.at(-1)?.['run'] as string }), [])
})

test('processes: a trace without a process, from a crash in the middle of a start, ends what carries the mark', async (t) => {
  using dir = folder()
  const run = 'test' + Math.random().toString(16).slice(2)
  const stray = spawn('sleep', ['1000'], { env: { HEDGEROW_RUN: run }, stdio: 'ignore' })
  await once(stray, 'spawn')
  const runtime = new ProcessRuntime({ node: 'edge/n1' })
  const gone = once(stray, 'exit')
  const trace = { run, boot: bootId() }
  t.equal(await runtime.adopt(launchOf(assignmentOf(), join(dir.path, 'out')), trace), undefined)
  await gone
  t.same(await membersOf({ mark: run }), [])
})

test('processes: another process with the same pid is never taken for the instance', async (t) => {
  using dir = folder()
  const runtime = new ProcessRuntime({ node: 'edge/n1' })
  const bystander = spawn('sleep', ['1000'], { detached: true, stdio: 'ignore' })
  await once(bystander, 'spawn')
  const pid = bystander.pid as number
  const trace = { run: 'somebody-else', boot: bootId(), pid, startTime: (statOf(pid)?.startTime ?? 0) - 1 }
  t.equal(await runtime.adopt(launchOf(assignmentOf(), join(dir.path, 'out')), trace), undefined)
  t.equal(await runtime.adopt(launchOf(assignmentOf(), join(dir.path, 'out')), { ...trace, boot: 'other' }), undefined)
  t.equal(bystander.exitCode, null)
  t.ok(statOf(pid), 'it lives')
  bystander.kill('SIGKILL')
  await once(bystander, 'exit')
})

test('processes: ports are kept over restarts where free, and never given twice', async (t) => {
  const pool = new PortPool(() => 0.5)
  const first = await pool.take('tcp')
  const second = await pool.take('tcp')
  t.not(first, second)
  pool.release('tcp', first)
  t.equal(await pool.take('tcp', first), first, 'the same again')
  t.not(await pool.take('tcp', second), second, 'taken')
  t.type(await pool.take('udp', second), 'number')
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  t.not(await pool.take('tcp', port), port, 'somebody else listens there')
  server.close()
})

test('processes: a fixed port that is taken is told', async (t) => {
  using dir = folder()
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const assignment = assignmentOf({ cmd: ['sleep', '1000'], port: `80:${port}`, fixed_port: true })
  const runtime = new ProcessRuntime({ node: 'edge/n1' })
  await t.rejects(runtime.launch(launchOf(assignment, join(dir.path, 'out'))), {
    code: 'RUNTIME_FAILED',
    details: { reason: `tcp port ${port} is taken on this node` },
  })
  server.close()
})

test('processes: a port of the node is the program’s own, on all addresses, and taken is told', async (t) => {
  using dir = folder()
  const server = createServer().listen(0, '0.0.0.0')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const assignment = assignmentOf({ cmd: ['sh', '-c', 'echo $HOST:$PORT'], ports: [{ port: 80, host_port: port }] })
  const runtime = new ProcessRuntime({ node: 'edge/n1', hostPorts: '1024-65535' })
  t.equal(runtime.refuses(assignment.spec), undefined)
  t.match(new ProcessRuntime({ node: 'edge/n1' }).refuses(assignment.spec), /host_port \d+ is not allowed on this node/)
  const file = join(dir.path, 'out')
  await t.rejects(runtime.launch(launchOf(assignment, file)), {
    code: 'RUNTIME_FAILED',
    details: { reason: `host_port ${port}/tcp is taken on this node` },
  })
  server.close()
  await once(server, 'close')
  const running = await runtime.launch(launchOf(assignment, file))
  t.same(running.endpoints, { 'tcp/80': { host: '127.0.0.1', port } })
  await running.ended
  t.match(readFileSync(file, 'utf8'), `0.0.0.0:${port}`)
})

test('processes: what a program is told', async (t) => {
  const { instance, spec, ordinal } = assignmentOf(
    { port: '80;53/udp', environment: ['PORT=1', 'MODE=x=y', 'HEDGEROW_NODE=me', 'ALL_PROXY=mine'] },
    2,
  )
  const endpoints = { 'tcp/80': { host: '127.0.0.1', port: 20_001 }, 'udp/53': { host: '127.0.0.1', port: 20_002 } }
  const facts = {
    assignment: { instance, spec, ordinal, generation: 1 },
    endpoints,
    node: 'edge/n1',
    run: 'abc',
    inherited: { PATH: '/bin', SECRET: 'of the agent' },
    given: { HTTP_PROXY: 'http://127.30.0.1:3128', ALL_PROXY: 'socks5h://127.30.0.1:1080' },
  }
  t.same(environmentOf(facts), {
    PATH: '/bin',
    HTTP_PROXY: 'http://127.30.0.1:3128',
    ALL_PROXY: 'mine',
    PORT: '20001',
    HOST: '127.0.0.1',
    MODE: 'x=y',
    HEDGEROW_PORT_80: '20001',
    HEDGEROW_PORT_53: '20002',
    HEDGEROW_PORT_53_UDP: '20002',
    HEDGEROW_APP: 'shop.acme',
    HEDGEROW_SERVICE: 'shop.acme.cart.prod',
    HEDGEROW_INSTANCE: 'shop.acme.cart.prod.2',
    HEDGEROW_ORDINAL: '2',
    HEDGEROW_NODE: 'edge/n1',
    HEDGEROW_RUN: 'abc',
  })
  t.match(environmentOf({ ...facts, inherited: {} })['PATH'], /^\/.*:\/usr\/bin/, 'without a PATH, the usual one')
  const fixed = { ...facts, assignment: { ...facts.assignment, spec: { ...spec, fixedPorts: true } } }
  t.equal(environmentOf(fixed)['PORT'], '1', 'with a fixed port the SLA decides')
  t.equal(
    filledIn('--listen=${HOST}:${PORT} ${OTHER} $PORT ${__proto__}', { HOST: 'h', PORT: '1' }),
    '--listen=h:1 ${OTHER} $PORT ${__proto__}',
  )
})

test('processes: tcp 53 and udp 53 are one number where it is free', async (t) => {
  using dir = folder()
  const runtime = new ProcessRuntime({ node: 'edge/n1' })
  const launch = launchOf(assignmentOf({ cmd: ['sleep', '1000'], port: '53;53/udp;80' }), join(dir.path, 'out'))
  const running = await runtime.launch(launch)
  const { endpoints } = running
  t.equal(endpoints['udp/53']?.port, endpoints['tcp/53']?.port)
  t.not(endpoints['tcp/80']?.port, endpoints['tcp/53']?.port)
  await running.stop(0)
})

test('a service of UDP alone is ready once something has its port, and not when it has gone', async (t) => {
  const { spec } = assignmentOf({ cmd: ['true'], port: '53/udp' })
  const socket = createSocket('udp4')
  await once(socket.bind(0, '127.0.0.1'), 'listening')
  const { port } = socket.address()
  const end = new AbortController()
  const verdicts: boolean[] = []
  const clock = { ...systemClock, after: (_ms: number, act: () => void) => systemClock.after(1, act) }
  const watching = watchReadiness(
    {
      now: () => ({ spec, changed: end.signal }),
      endpoints: { 'udp/53': { host: '127.0.0.1', port } },
      clock,
      onVerdict: (isReady, reason) => {
        verdicts.push(isReady)
        if (isReady) socket.close()
        else {
          t.match(reason, /nothing listens on UDP port/)
          end.abort()
        }
      },
    },
    end.signal,
  )
  await watching
  t.same(verdicts, [true, false])

  const told: boolean[] = []
  const external = { ...spec, runtime: 'external' }
  const over = new AbortController()
  const watch = {
    now: () => ({ spec: external, changed: over.signal }),
    endpoints: { 'udp/53': { host: '127.0.0.1', port } },
    clock: {
      ...clock,
      after: () => {
        over.abort()
        return () => undefined
      },
    },
  }
  await watchReadiness({ ...watch, onVerdict: (isReady) => void told.push(isReady) }, over.signal)
  t.same(told, [true], 'what runs elsewhere is believed')
})

test('processes: what is executed, and where', async (t) => {
  using dir = folder()
  const script = join(dir.path, 'cart.mjs')
  writeFileSync(script, '')
  const run = (service: Record<string, unknown>) => programOf(specOf(service), { PORT: '9' })
  t.match(await run({ cmd: ['serve', '${PORT}'] }), { argv: ['serve', '9'], cwd: process.cwd() })
  t.match(await run({ cmd: ['serve'], code: dir.path }), { argv: ['serve'], cwd: dir.path })
  t.match(await run({ cmd: [], code: script }), { argv: [node, script], cwd: dir.path })
  t.match(await run({ cmd: ['ls'], code: script, workdir: '..' }), { argv: ['ls'], cwd: tmpdir() })
  const binary = join(dir.path, 'cart')
  writeFileSync(binary, '#!/bin/sh\n')
  t.match(await run({ cmd: [], code: binary }), { argv: [binary] })
  const refusals = [
    { why: 'no such file', service: { code: join(dir.path, 'none') }, reason: 'not on this node' },
    { why: 'no such workdir', service: { workdir: join(dir.path, 'none') }, reason: 'not on this node' },
    { why: 'workdir is a file', service: { workdir: script }, reason: 'workdir is not a folder on this node' },
    {
      why: 'a folder cannot run',
      service: { cmd: [], code: dir.path },
      reason: 'cmd is empty, and code is not a file to run',
    },
  ]
  for (const { why, service, reason } of refusals)
    await t.rejects(run(service), { code: 'RUNTIME_FAILED', details: { reason } }, why)
  chmodSync(binary, 0o600)
  await t.rejects(
    new ProcessRuntime({ node: 'edge/n1' }).launch(
      launchOf(assignmentOf({ cmd: [], code: binary }), join(dir.path, 'out')),
    ),
    { code: 'RUNTIME_FAILED', details: { reason: `${binary} may not be executed` } },
  )
})

test('processes: the agent sees what the kernel writes', async (t) => {
  t.same(parseStat('12 (a) b (c)) S 1 10 11 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0'), {
    pid: 12,
    state: 'S',
    pgrp: 10,
    session: 11,
    startTime: 12_345,
  })
  t.equal(parseStat(''), undefined)
  t.equal(parseStat('12 (cut) S 1 10'), undefined)
  t.equal(statOf(process.pid)?.pid, process.pid)
  const closed = openSync('/dev/null', 'r')
  closeSync(closed)
  t.equal(statOf(-1), undefined)
  t.match(readFileSync('/proc/self/stat', 'latin1'), /^\d+ /)
})

test('readiness: an HTTP check wants a good status, in time', async (t) => {
  const { createServer: createHttp } = await import('node:http')
  const server = createHttp((request, response) => {
    if (request.url === '/slow') return
    response.statusCode = request.url === '/bad' ? 503 : 204
    response.end()
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.address() as AddressInfo
  const look = (path: string) =>
    probe(
      { kind: 'http', port, path, intervalMs: 50, timeoutMs: path === '/slow' ? 100 : 10_000 },
      { host: '127.0.0.1', port },
      new AbortController().signal,
    )
  t.equal(await look('/'), undefined)
  t.equal(await look('/bad'), '/bad answered 503')
  t.equal(await look('/slow'), `no answer from 127.0.0.1:${port} in 100 ms`)
  server.closeAllConnections()
  await new Promise((resolve) => server.close(resolve))
  t.match(await look('/'), /ECONNREFUSED/)
})
