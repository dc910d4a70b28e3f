import { once } from 'node:events'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { test } from 'tap'
import { statOf } from '../../src/orchestrator/worker/process-group.ts'
import type { Assignment } from '../../src/orchestrator/spec.ts'
import { assignmentOf } from './specs.ts'
import { forbiddenSteps, freshDir, nodeWith, type TestNode } from './worker-node.ts'
import '../support/no-orphans.ts'
import { until } from '../support/until.ts'

/** One instance number, two runs of it on one node: the newer starts beside the one that serves and takes its place. */

const node = process.execPath
const server = (version: string) => [
  node,
  '-e',
  `require('http').createServer((q, r) => r.end('${version} ' + process.pid)).listen(process.env.PORT, process.env.HOST)`,
]
const work = (version: string, generation: number, more: Record<string, unknown> = {}): Assignment =>
  assignmentOf({ cmd: server(version), port: 80, ...more }, 0, generation)
const bad = (generation: number) => assignmentOf({ cmd: ['sh', '-c', 'exit 1'], port: 80 }, 0, generation)
const { instance } = work('v1', 1)

/** Those whose command line has this word. */
function programsWith(word: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        return readFileSync(`/proc/${name}/cmdline`, 'utf8').includes(word) ? [Number(name)] : []
      } catch {
        return [] // it has ended
      }
    })
}

function ask({ worker }: TestNode): Promise<string> {
  const { host, port } = worker.endpointOf(instance, 80) ?? {}
  return fetch(`http://${host}:${port}/`, { headers: { connection: 'close' } }).then((answer) => answer.text())
}

const generation = (wanted: number) => (report: { generation: number; state: string }) =>
  report.generation === wanted && report.state === 'running'

test('the newer run starts beside the one that serves, takes its place when it is ready, and the other one ends', async (t) => {
  await using here = await nodeWith({ openFlows: () => 0 })
  const { worker } = here
  worker.assign(work('v1', 1))
  const { pid } = await here.hears(generation(1))
  const done = new AbortController()
  const answers: string[] = []
  const calling = (async () => {
    while (!done.signal.aborted) answers.push((await ask(here)).slice(0, 2))
  })()
  worker.assign(work('v2', 2), 'beside')
  t.match(worker.reports(), [{ generation: 1, state: 'running', successor: { generation: 2, state: 'placed' } }])
  await here.hears(generation(2))
  await until(() => answers.at(-1) === 'v2')
  t.equal(worker.isDraining(instance), false, 'the instance takes flows')
  await until(() => statOf(pid as number) === undefined)
  await ask(here)
  done.abort()
  await calling
  t.same([...new Set(answers)], ['v1', 'v2'], 'every call is answered, first by one run and then by the other')
  t.notOk(
    here.told.some(({ state }) => state === 'stopping' || state === 'stopped'),
    'what is told of the instance is that it runs',
  )
  await until(() => readdirSync(join(here.dir, 'run')).length === 2)
  t.same(
    readdirSync(join(here.dir, 'run'))
      .map((name) => name.replace(/^.*\./, ''))
      .sort(),
    ['json', 'out'],
    'one record is left',
  )
  t.same(forbiddenSteps(here.told), [])
})

test('the run that was replaced ends when the flows that go to it have, or after its drain time', async (t) => {
  const counted: string[] = []
  let open = 1
  await using here = await nodeWith({
    openFlows: (_instance, to) => {
      counted.push(to === undefined ? 'all' : to.map(({ port }) => String(port)).join())
      return to === undefined ? 9 : open
    },
  })
  const { worker } = here
  worker.assign(work('v1', 1))
  const { pid } = await here.hears(generation(1))
  const old = worker.endpointOf(instance, 80)
  const flow = connect(old?.port as number, old?.host)
  await once(flow, 'connect')
  worker.assign(work('v2', 2), 'beside')
  await here.hears(generation(2))
  await until(() => counted.length > 0)
  t.ok(statOf(pid as number), 'it goes on while it has a flow')
  t.same([...new Set(counted)], [String(old?.port)], 'only its own flows count')
  t.equal(worker.isDraining(instance, old), true, 'and its endpoint drains')
  open = 0
  await until(() => statOf(pid as number) === undefined)
  flow.destroy()
  t.pass('then it ends')
})

test('a newer run that does not start leaves the one that serves alone; with its content again, that one goes on', async (t) => {
  await using here = await nodeWith()
  const { worker } = here
  worker.assign(work('v1', 1))
  const { pid } = await here.hears(generation(1))
  worker.assign(bad(2), 'beside')
  await here.hears(({ successor }) => (successor?.restarts ?? 0) >= 2)
  t.match(worker.reports(), [
    { generation: 1, state: 'running', successor: { generation: 2, detail: 'exited with code 1' } },
  ])
  t.match(await ask(here), `v1 ${pid}`)
  worker.assign(work('v1', 3), 'beside')
  const report = await here.hears(generation(3))
  t.equal(report.successor, undefined)
  t.equal(report.pid, pid, 'the same process')
  t.match(await ask(here), `v1 ${pid}`)
  worker.assign(bad(2), 'beside')
  t.match(worker.reports(), [{ generation: 3, state: 'running', successor: undefined }], 'what is older is not taken')
})

test('a restart is a newer epoch of the same generation', async (t) => {
  await using here = await nodeWith()
  here.worker.assign(work('v1', 1))
  const { pid } = await here.hears(generation(1))
  here.worker.assign({ ...work('v1', 1), epoch: 1 }, 'beside')
  const report = await here.hears((each) => each.epoch === 1 && each.state === 'running')
  t.not(report.pid, pid)
  here.worker.assign({ ...work('v1', 1), epoch: 2 }, 'beside')
  await here.hears(({ successor }) => successor?.epoch === 2)
  here.worker.cancel(instance, { generation: 1, epoch: 2 })
  t.equal(here.worker.reports()[0]?.successor, undefined, 'one that does not serve yet can be taken back')
  here.worker.cancel(instance, { generation: 1, epoch: 1 })
  t.match(here.worker.reports(), [{ epoch: 1, state: 'running' }], 'one that serves cannot')
})

test('where no second run fits beside it, the node says why, and goes on', async (t) => {
  await using here = await nodeWith()
  const { worker } = here
  const refusal = (next: Assignment) => {
    try {
      worker.assign(next, 'beside')
      return undefined
    } catch (error) {
      return (error as { details: { reason: string } }).details.reason
    }
  }
  const cases = [
    {
      why: 'one port for both',
      more: { fixed_port: true, port: '80:18080', cmd: ['sleep', '100'] },
      reason: /^fixed_port: two of them cannot listen on port tcp\/18080 of one node$/,
    },
    { why: 'a job', more: { one_shot: true, cmd: ['sleep', '100'] }, reason: /does not run twice/ },
    {
      why: 'no room',
      more: { memory: 600, cmd: ['sleep', '100'] },
      reason: /^too little memory.* for a second one beside it/,
    },
  ]
  for (const [i, { why, more, reason }] of cases.entries()) {
    const assigned = (generation: number) =>
      assignmentOf({ microservice_name: `s${i}`, port: 80, environment: [`G=${generation}`], ...more }, 0, generation)
    worker.assign(assigned(1))
    t.match(refusal(assigned(2)), reason, why)
    t.match(
      worker.reports().find((report) => report.instance === assigned(1).instance),
      { generation: 1, successor: undefined },
      'and nothing has changed',
    )
    worker.withdraw(assigned(1).instance, { drainSeconds: 0 })
    await until(() => !worker.reports().some((report) => report.instance === assigned(1).instance))
  }
})

test('an agent that closes while it starts a program leaves none that the next one does not know', async (t) => {
  for (let turns = 0; turns < 16; turns++) {
    const dir = freshDir()
    const word = `started${process.pid}x${turns}`
    const first = await nodeWith({ keepOnClose: true }, dir)
    first.worker.assign(assignmentOf({ cmd: [node, '-e', `'${word}'; ${server('v1')[2]}`], port: 80 }))
    for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve))
    await first.worker.close()
    await using second = await nodeWith({}, dir)
    second.worker.keepOnly([instance])
    const { pid } = await second.hears(generation(1))
    t.same(programsWith(word), [pid], `closed after ${turns} turns: one program`)
  }
})

test('the next agent finds both runs, and the newer one takes its place then', async (t) => {
  const dir = freshDir()
  const go = join(dir, 'go')
  const script = `const wait = setInterval(() => {
    if (!require('fs').existsSync('${go}')) return
    clearInterval(wait)
    ${server('v2')[2]}
  }, 20)`
  const slow = assignmentOf({ cmd: [node, '-e', script], port: 80 }, 0, 2)
  const first = await nodeWith({ keepOnClose: true }, dir)
  first.worker.assign(work('v1', 1))
  const { pid } = await first.hears(generation(1))
  first.worker.assign(slow, 'beside')
  await first.hears(({ successor }) => successor?.state === 'starting')
  await until(() => readdirSync(join(dir, 'run')).some((name) => name.endsWith('.run')))
  await first.worker.close()

  await using second = await nodeWith({ openFlows: () => 0 }, dir)
  const { worker } = second
  await worker.restored()
  t.match(worker.reports(), [{ generation: 1, state: 'running', pid, successor: { generation: 2 } }])
  writeFileSync(go, '')
  worker.keepOnly([instance])
  await second.hears(generation(2))
  t.match(await ask(second), /^v2/)
  await until(() => statOf(pid as number) === undefined)
  t.pass('the one before has ended')
})
