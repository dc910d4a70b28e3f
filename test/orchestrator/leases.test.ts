import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { systemClock } from '../../src/core/kit/clock.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { fenceMs } from '../../src/orchestrator/cluster/fences.ts'
import { parseSla } from '../../src/orchestrator/sla/parse.ts'
import { Leases, LEASES_FILE, leasesText, parseLeases, readLeases } from '../../src/orchestrator/worker/leases.ts'
import { statOf } from '../../src/orchestrator/worker/process-group.ts'
import { mesh, sla } from './mesh.ts'
import { assignmentOf } from './specs.ts'
import { freshDir } from './worker-node.ts'
import { until } from '../support/until.ts'

/** Instances that never run twice: who may start one, who ends it, and when its cluster may place it again. */

t.setTimeout(280_000) // a busy machine takes several times as long

const NEVER = new AbortController().signal

const saved = (seconds: number | undefined, run?: string) => ({
  assignment: { ...assignmentOf(), spec: { ...assignmentOf().spec, leaseSeconds: seconds } },
  state: 'running' as const,
  restarts: 0,
  endpoints: {},
  ...(run === undefined ? {} : { trace: { run, pid: 1, startTime: 2 } }),
})
const leased = (seconds: number, run?: string) => saved(seconds, run) as Parameters<Leases['note']>[1]

t.test('nothing starts without a lease, and each counts from when it was asked for', async (t) => {
  const dir = freshDir()
  let now = 100
  const held: number[] = []
  const boot = 'b1'
  const leases = new Leases({ dir, log: silentLog, uptime: () => now, boot, onHeld: () => held.push(now) })
  t.equal(leases.shortest, undefined)
  let isStarted = false
  const start = leases.valid(20, NEVER)?.then(() => (isStarted = true))
  t.ok(start, 'the cluster has not answered yet')
  t.equal(leases.shortest, 20, 'so it is asked')
  const withdrawn = new AbortController()
  const waits = leases.valid(5, withdrawn.signal)
  t.equal(leases.shortest, 5)
  withdrawn.abort()
  await waits
  t.equal(leases.shortest, 20, 'nothing is left of one that was withdrawn before')
  const sentAt = leases.now()
  now += 5
  leases.renewed(sentAt)
  await start
  t.ok(isStarted)
  leases.note('a', leased(20, 'run-a'))
  leases.note('b', leased(60, 'run-b'))
  leases.note('c', saved(undefined, 'run-c') as Parameters<Leases['note']>[1])
  t.same(
    readLeases(dir).map(({ until, trace }) => [until, trace['run']]),
    [
      [120, 'run-a'],
      [160, 'run-b'],
    ],
    'from when it was sent; what has none is not there',
  )
  t.same(held, [105, 105], 'and somebody watches')
  leases.renewed(90)
  t.equal(readLeases(dir)[0]?.until, 120, 'an older answer takes nothing away')
  now = 120
  t.ok(leases.valid(20, NEVER), 'over')
  t.equal(leases.valid(60, NEVER), undefined)

  const later = new Leases({ dir, log: silentLog, uptime: () => 10, boot: 'b2' })
  t.ok(later.valid(60, NEVER), 'what was answered before the machine was started again counts no more')
  const next = new Leases({ dir, log: silentLog, uptime: () => now, boot })
  t.equal(next.valid(60, NEVER), undefined, 'the next agent goes on with what is left')
  t.ok(next.valid(20, NEVER))
  next.note('b', leased(60, 'run-b'))
  t.same(readLeases(dir).length, 2, 'what is not adopted yet is still guarded')
  next.restored()
  t.same(
    readLeases(dir).map(({ trace }) => trace['run']),
    ['run-b'],
  )
  next.note('b', leased(60))
  t.notOk(existsSync(join(dir, LEASES_FILE)), 'nothing is left to watch')
})

t.test('leases on disk: a shell reads the first word, and a damaged line is left out', async (t) => {
  const lease = { until: 12, seconds: 5, boot: 'b1', trace: { run: 'x' } }
  t.match(leasesText([lease]), /^12 \{/)
  t.same(parseLeases(leasesText([lease, lease])), [lease, lease])
  t.match(
    parseLeases('12 {"until":12,"seconds":5,"trace":{"run":"x","boot":"b0"}}'),
    [{ boot: 'b0' }],
    'of an earlier version',
  )
  t.same(parseLeases(`nonsense\n12 {"until":\n7 {"until":"7"}\n${leasesText([lease])}`), [lease])
})

t.test('a cluster waits for longer than the lease, however long that is', async (t) => {
  t.equal(fenceMs({}), undefined)
  for (const leaseSeconds of [5, 20, 86_400]) {
    const ms = fenceMs({ leaseSeconds }) as number
    t.ok(ms >= leaseSeconds * 1_000 * 1.0005 + 8_000 && ms <= leaseSeconds * 1_010 + 10_000, `${leaseSeconds} s: ${ms}`)
  }
})

t.test('a document says what contradicts a lease', async (t) => {
  const rows: { keys: Record<string, unknown>; fault?: RegExp }[] = [
    { keys: { lease_seconds: 20 } },
    { keys: { lease_seconds: 20, update: { auto_rollback: true } } },
    { keys: { lease_seconds: 4 }, fault: /lease_seconds/ },
    { keys: { lease_seconds: 20, virtualization: 'docker', code: 'x' } },
    {
      keys: { lease_seconds: 20, virtualization: 'external', code: 'h:1', cmd: [] },
      fault: /needs the runtime process or docker/,
    },
    { keys: { lease_seconds: 20, update: { max_surge: 1 } }, fault: /max_surge contradict/ },
    { keys: { lease_seconds: 20, update: { max_unavailable: 0 } }, fault: /max_unavailable 0 contradict/ },
  ]
  for (const { keys, fault } of rows) {
    const parsed = parseSla(sla({ microservice_name: 'cart', ...keys }))
    if (fault !== undefined) t.match(JSON.stringify(parsed), fault)
    else if (parsed.kind === 'refused') t.fail(JSON.stringify(parsed.faults))
    else t.match(parsed.apps[0]?.services[0], { leaseSeconds: 20, update: { maxSurge: 0 } }, 'it is stopped first')
  }
})

t.test('what has a lease is placed again only when that has surely run out', async (t) => {
  let aheadMs = 0
  const clock = { ...systemClock, now: () => systemClock.now() + aheadMs }
  await using world = await mesh({ cluster: { clock } })
  const n1 = await world.node('n1')
  await world.api.call(
    'POST',
    '/apps',
    sla({ microservice_name: 'cart', lease_seconds: 600 }, { microservice_name: 'free' }),
  )
  await world.running(2)
  t.equal(n1.has.size, 2)
  const n2 = await world.node('n2')
  const id = 'shop.acme.cart.prod.0'
  await n1.stop()
  await until(() => n2.has.has('shop.acme.free.prod.0'), 'the other is placed at once')
  const row = async () => (await world.instances()).find((each) => each.id === id)
  await until(async () => /has not surely run out: that takes 611 s/.test((await row())?.detail ?? ''), 'it is told')
  t.match(await row(), { state: 'lost', node: 'edge/n1' })
  t.notOk(n2.has.has(id))
  aheadMs = fenceMs({ leaseSeconds: 600 }) as number
  await until(() => n2.has.has(id), 'then it is placed')
  t.notOk('mayAlsoRunOn' in ((await row()) as object), 'and runs nowhere else')
})

t.test('a planned move ends it first, and does not wait for its lease', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'far'] })
  const n1 = await world.node('n1')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', lease_seconds: 600 }))
  await world.running(1)
  const id = 'shop.acme.cart.prod.0'
  const migrate = (to?: string) => world.api.call('POST', `/instances/${id}/migrate`, to === undefined ? {} : { to })
  await t.rejects(migrate(), { code: 'UNPLACEABLE' }, 'no other node: nothing changes')
  t.same(n1.withdrawn, [])
  const n2 = await world.node('n2', { refuses: 'not now' })
  const f1 = await world.node('f1', { cluster: 'far' })

  n2.refuses = undefined
  n1.isDeaf = true
  t.match(await migrate('edge/n2'), { from: 'edge/n1', node: 'edge/n2', gap: /stopped first/ })
  await until(async () => (await world.instances())[0]?.state === 'stopping', 'it ends where it is')
  await world.killCluster()
  await world.startCluster()
  await until(() => n1.uplink.isUp && n2.uplink.isUp, 'the nodes are back')
  t.equal(n2.assigned.length, 0, 'not before it has ended')
  n1.isDeaf = false
  await until(async () => (await world.running(1))[0]?.node === 'edge/n2', 'a cluster that was killed goes on')
  t.equal(n1.has.size, 0, 'and nothing is left where it was')

  n1.refuses = 'it is full now'
  const n3 = await world.node('n3')
  await world.api.call('POST', '/nodes/edge/n2/drain', {})
  await until(async () => (await world.running(1))[0]?.node === 'edge/n3', 'a node that refuses then is passed over')
  t.equal(n2.has.size, 0)
  t.equal(n3.assigned.length, 1)
  const moves = async () =>
    (await world.api.call<{ what: string; node?: string }[]>('GET', `/events?name=${id}`)).filter(
      ({ what }) => what === 'moved',
    )
  const drained = async () => (await moves()).find(({ node }) => node === 'edge/n3')
  await until(async () => (await drained()) !== undefined, 'and the move is told')
  t.match(await drained(), { by: 'cluster', why: 'from edge/n2; edge/n2 drains' }, 'not the node that refused')

  n3.isDeaf = true
  await until(
    async () => (await world.api.call<unknown[]>('GET', '/nodes')).length === 4,
    'the root knows the other cluster',
  )
  t.match(await migrate('far/f1'), { from: 'edge/n3', node: 'far/f1', gap: /stopped first/ })
  await until(() => n3.withdrawn.length > 0, 'it ends in its cluster')
  await world.killRoot()
  await world.startRoot()
  await until(() => world.cluster().isLinked && world.cluster('far').isLinked, 'the clusters are back')
  t.equal(f1.assigned.length, 0, 'it does not run twice')
  n3.isDeaf = false
  await until(async () => (await world.running(1))[0]?.node === 'far/f1', 'a root that was killed goes on')
  t.equal(n3.has.size, 0)
  t.match((await moves())[0], { node: 'edge/n2', by: 'user', why: 'from edge/n1; it was migrated' })
  await until(async () => (await moves()).at(-1)?.node === 'far/f1', 'the last move is told')
  t.match((await moves()).at(-1), { node: 'far/f1', by: 'user', why: 'from edge/n3; it was migrated' })
})

/** An agent with a program whose lease is renewed once; it is ended whatever happens. */
async function agent(t: Test): Promise<{ child: ChildProcess; program: number }> {
  const dir = freshDir()
  const assignment = assignmentOf({ cmd: ['sleep', '300'], code: '/bin', port: '' })
  const work = [{ ...assignment, spec: { ...assignment.spec, leaseSeconds: 2, oneShot: true } }]
  const child = spawn(process.execPath, [join(import.meta.dirname, 'worker-agent.ts'), dir, JSON.stringify(work)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  t.teardown(() => child.kill('SIGKILL'))
  let text = ''
  child.stdout?.on('data', (chunk: Buffer) => (text += chunk.toString()))
  const pid = () => /"pid":(\d+)/.exec(text)?.[1]
  await until(
    () => pid() !== undefined,
    'the program runs',
    async () => text,
  )
  const program = Number(pid())
  t.teardown(() => {
    if (statOf(program)?.pgrp === program) process.kill(-program, 'SIGKILL')
  })
  return { child, program }
}

t.test('its program ends when its agent is stopped, killed, or hears nothing', async (t) => {
  const [stopped, killed, silent] = await Promise.all([agent(t), agent(t), agent(t)])
  stopped.child.kill('SIGSTOP')
  const ended = once(killed.child, 'exit')
  killed.child.kill('SIGKILL')
  await ended
  const isGone = (pid: number) => !['R', 'S', 'D', 'T'].includes(statOf(pid)?.state ?? 'X')
  await until(() => isGone(stopped.program), 'the one of a stopped agent is gone')
  await until(() => isGone(killed.program), 'the one of a killed agent is gone')
  await until(() => isGone(silent.program), 'the one of an agent that hears nothing is gone')
  t.equal(statOf(stopped.child.pid as number)?.state, 'T', 'the agent was stopped all the time')
})
