import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { instanceId } from '../../src/core/model/ids.ts'
import { filledIn } from '../../src/orchestrator/worker/program.ts'
import { pruneLogs } from '../../src/orchestrator/worker/prune-logs.ts'
import { assignmentOf } from './specs.ts'
import { nodeWith } from './worker-node.ts'

/* What programs are given, and what happens to those that hang. */

t.test('only what the node alone knows is filled in', async (t) => {
  const variables = {
    PORT: '8080',
    HOST: '127.0.0.1',
    HEDGEROW_NODE: 'edge/n1',
    http_proxy: 'http://user:secret@x',
    A: 'a',
  }
  const rows = [
    { text: '--listen=${HOST}:${PORT}', filled: '--listen=127.0.0.1:8080' },
    { text: '${HEDGEROW_NODE}', filled: 'edge/n1' },
    { text: '$${HOST}', filled: '${HOST}', why: 'two dollars are one' },
    { text: 'a$$b$$$$c', filled: 'a$b$$c' },
    { text: '${http_proxy}', filled: '${http_proxy}', why: 'a secret never gets into argv' },
    { text: '${A} ${HOME} $PORT', filled: '${A} ${HOME} $PORT', why: 'these are for a shell' },
    { text: '${HEDGEROW_NOTHING}', filled: '${HEDGEROW_NOTHING}' },
  ]
  for (const { text, filled, why } of rows) t.equal(filledIn(text, variables), filled, why ?? text)
})

const PROXIES = { HTTP_PROXY: 'h', http_proxy: 'h', ALL_PROXY: 's', all_proxy: 's', NO_PROXY: 'n', no_proxy: 'n' }

t.test('a program gets the proxy variables that its SLA asks for', async (t) => {
  await using here = await nodeWith({ proxyEnvironment: () => PROXIES })
  const rows = [
    { proxy: undefined, seen: ['HTTP_PROXY', 'NO_PROXY', 'http_proxy', 'no_proxy'] },
    { proxy: 'socks', seen: ['ALL_PROXY', 'HTTP_PROXY', 'NO_PROXY', 'all_proxy', 'http_proxy', 'no_proxy'] },
    { proxy: 'none', seen: [] },
  ] as const
  for (const [ordinal, { proxy, seen }] of rows.entries()) {
    const script = 'console.log("SEEN " + Object.keys(process.env).filter((key) => /proxy$/i.test(key)).sort())'
    const work = assignmentOf(
      { cmd: [process.execPath, '-e', script], one_shot: true, ...(proxy && { proxy }) },
      ordinal,
    )
    here.worker.assign(work)
    await here.becomes('stopped', work.instance)
    const lines = await Array.fromAsync(here.worker.logs(work.instance))
    t.match(lines.join('\n'), `SEEN ${seen.join(',')}\n`, `proxy: ${proxy ?? 'http'}`)
  }
})

t.test('a program may have 1,024 files open, or what its SLA says', async (t) => {
  await using here = await nodeWith()
  for (const [ordinal, openFiles] of [undefined, 77].entries()) {
    const cmd = ['sh', '-c', 'echo "SOFT $(ulimit -Sn)"']
    const work = assignmentOf(
      { cmd, one_shot: true, ...(openFiles === undefined ? {} : { open_files: openFiles }) },
      ordinal,
    )
    here.worker.assign(work)
    await here.becomes('stopped', work.instance)
    t.match((await Array.fromAsync(here.worker.logs(work.instance))).join('\n'), `SOFT ${openFiles ?? 1_024}\n`)
  }
})

t.test('what cannot be executed is said in the words of the system', async (t) => {
  const dir = t.testdir({ 'plain.txt': 'text' })
  await using here = await nodeWith()
  const rows: [string, RegExp][] = [
    ['no-such-program', /^the instance cannot start: no-such-program is not on this node$/],
    [join(dir, 'plain.txt'), /plain\.txt may not be executed$/],
  ]
  for (const [ordinal, [program, reason]] of rows.entries()) {
    const work = assignmentOf({ cmd: [program] }, ordinal)
    here.worker.assign(work)
    t.match((await here.becomes('failed', work.instance)).detail, reason)
  }
})

/** Answers until it is asked not to; then it closes its port and lives on. */
const HANGING = `
  const server = require('http').createServer((q, r) => { r.end(); if (q.url === '/hang') server.close(), server.closeAllConnections() })
  server.listen(process.env.PORT, process.env.HOST); setInterval(() => {}, 1000)`

t.test('a program that closes its port and lives on is started again', async (t) => {
  await using here = await nodeWith({ timings: { hungMs: 100 } })
  const check = { type: 'tcp', port: 80, interval_ms: 100, timeout_ms: 500 } as const
  const work = assignmentOf({ cmd: [process.execPath, '-e', HANGING], port: 80, check })
  here.worker.assign(work)
  const first = await here.becomes('running')
  const { port = 0 } = here.worker.endpointOf(work.instance, 80) ?? {}
  await fetch(`http://127.0.0.1:${port}/hang`)
  const again = await here.hears(({ state, restarts }) => state === 'running' && restarts === 1)
  t.not(again.pid, first.pid)
  t.ok(here.told.some(({ detail }) => detail?.startsWith('it has not answered for')))
})

t.test('a program that never answers fails after three restarts, so that its cluster can move it', async (t) => {
  await using here = await nodeWith({ timings: { startMs: 60 } })
  const work = assignmentOf({ cmd: [process.execPath, '-e', 'setInterval(() => {}, 1000)'], port: 80 })
  here.worker.assign(work)
  const { detail, restarts } = await here.becomes('failed')
  t.equal(restarts, 3)
  t.match(detail, /^it has not become ready for 0 s, also after 3 restarts$/)
})

t.test('many instances that go at once leave one pruning behind, and no error', async (t) => {
  const dir = t.testdir()
  mkdirSync(join(dir, 'logs'))
  const names = Array.from({ length: 40 }, (_, i) => instanceId('shop.acme.cart.prod', i))
  for (const name of names) writeFileSync(join(dir, 'logs', `${name}.log`), 'x')
  await Promise.all(Array.from({ length: 20 }, () => pruneLogs(join(dir, 'logs'), [], 5)))
  t.equal(readdirSync(join(dir, 'logs')).length, 5)
})
