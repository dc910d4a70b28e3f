import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { NewEvent } from '../../src/orchestrator/root/events/event.ts'
import { decideDue, dueText } from '../../src/orchestrator/root/jobs/due.ts'
import { Jobs } from '../../src/orchestrator/root/jobs/jobs.ts'
import { MOST_AT_ONCE, slotsFor } from '../../src/orchestrator/root/jobs/slots.ts'
import { MOST_RUNS, runsAfter } from '../../src/orchestrator/root/jobs/runs.ts'
import { plan, type ClusterConditions } from '../../src/orchestrator/root/plan.ts'
import {
  RootStore,
  type InstanceRecord,
  type JobRun,
  type ServiceRecord,
} from '../../src/orchestrator/root/root-store.ts'
import { systemClock, type Clock } from '../../src/core/kit/clock.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { afterTry, Deadline } from '../../src/orchestrator/worker/job.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { type InstanceRow, mesh, sla, type World } from './mesh.ts'
import { assignmentOf, specOf } from './specs.ts'
import { freshDir, nodeWith } from './worker-node.ts'
import { until } from '../support/until.ts'

/* Jobs: tries, deadline, schedule, runs. */

t.setTimeout(280_000)
const JOB = 'shop.acme.cart.prod'
const at = (text: string) => Date.parse(`2026-11-${text}Z`)
const HOURLY = { cron: '0 * * * *' }

t.test('whether a job is due', async (t) => {
  const rows: { why: string; schedule?: object; after: string; now: string; isBusy?: boolean; is: object }[] = [
    { why: 'not yet', after: '30T02:00', now: '30T02:59:59', is: { kind: 'wait', nextAt: at('30T03:00') } },
    { why: 'on time', after: '30T02:00', now: '30T03:00', is: { kind: 'run', due: at('30T03:00'), missed: 0 } },
    { why: 'decided before', after: '30T03:00', now: '30T03:00:01', is: { kind: 'wait', nextAt: at('30T04:00') } },
    {
      why: 'several were missed',
      after: '30T02:00',
      now: '30T05:30',
      is: { kind: 'run', due: at('30T05:00'), missed: 2 },
    },
    {
      why: 'a clock set forward',
      after: '01T02:00',
      now: '30T05:30',
      is: { kind: 'run', due: at('30T05:00'), missed: 100 },
    },
    { why: 'a clock set back', after: '30T03:00', now: '30T01:30', is: { kind: 'wait', nextAt: at('30T04:00') } },
    { why: 'set back by days', after: '30T03:00', now: '28T01:30', is: { kind: 'anew' } },
    {
      why: 'the one before has not ended',
      after: '30T02:00',
      now: '30T03:00',
      isBusy: true,
      is: { kind: 'skip', due: at('30T03:00'), why: /has not ended/ },
    },
    {
      why: 'and is replaced',
      schedule: { concurrency: 'replace' },
      after: '30T02:00',
      now: '30T03:00',
      isBusy: true,
      is: { kind: 'run' },
    },
    {
      why: 'and runs beside it',
      schedule: { concurrency: 'allow' },
      after: '30T02:00',
      now: '30T03:00',
      is: { kind: 'run' },
    },
    {
      why: 'beside too many',
      schedule: { concurrency: 'allow' },
      after: '30T02:00',
      now: '30T03:00',
      isBusy: true,
      is: { kind: 'skip', why: /10 runs have not ended/ },
    },
    {
      why: 'made up in time',
      schedule: { startWithinSeconds: 1_800 },
      after: '30T02:00',
      now: '30T03:30',
      is: { kind: 'run', due: at('30T03:00') },
    },
    {
      why: 'too late',
      schedule: { startWithinSeconds: 1_800 },
      after: '30T02:00',
      now: '30T03:30:01',
      is: { kind: 'skip', due: at('30T03:00'), why: /later than start_within_seconds \(1800\)/ },
    },
  ]
  for (const { why, schedule, after, now, isBusy = false, is } of rows)
    t.match(decideDue({ ...HOURLY, ...schedule }, { after: at(after), now: at(now), isBusy }), is, why)
  t.equal(dueText(at('30T03:00'), 0), 'scheduled for 2026-11-30T03:00:00Z')
  t.match(dueText(at('30T03:00'), 1), /; 1 earlier one was missed$/)
})

const service = (more: Record<string, unknown> = {}, record: Partial<ServiceRecord> = {}): ServiceRecord => ({
  id: JOB,
  spec: specOf({ one_shot: true, ...more }),
  generation: 2,
  version: 1,
  ...record,
})
const is = (state: InstanceRecord['state'], more: Partial<InstanceRecord> = {}): InstanceRecord => ({
  id: `${JOB}.0`,
  service: JOB,
  ordinal: 0,
  wanted: true,
  generation: 2,
  state,
  restarts: 0,
  cluster: 'edge',
  changedAt: 0,
  ...more,
})
const up: ClusterConditions = {
  isUp: () => true,
  isLost: () => false,
  hasRoomElsewhere: () => true,
  mayUpdate: () => true,
  whyWaiting: () => undefined,
}

t.test('what the root does with jobs', async (t) => {
  const schedule = { schedule: { cron: '@daily' } }
  const lost = { ...up, isLost: () => true, isUp: () => false }
  const { cluster: _, ...nowhere } = is('requested', { generation: 0 })
  const again = [{ kind: 'update', id: `${JOB}.0`, cluster: 'edge', how: 'stop-first' }]
  const rows = [
    { why: 'it has ended', of: service(), are: is('stopped'), steps: [] },
    {
      why: 'what has ended is not run elsewhere when its cluster is lost',
      of: service(),
      are: is('failed'),
      on: lost,
      steps: [],
    },
    { why: 'what runs is', of: service(), are: is('running'), on: lost, steps: [{ kind: 'place', id: `${JOB}.0` }] },
    { why: 'a newer document', of: service({}, { generation: 3 }), are: is('stopped'), steps: again },
    {
      why: 'with a schedule, that waits for the next run',
      of: service(schedule, { generation: 3 }),
      are: is('stopped'),
      steps: [],
    },
    {
      why: 'and its first run for the schedule',
      of: service(schedule),
      are: { ...nowhere, isIdle: true as const },
      steps: [],
    },
    {
      why: 'which is taken out of the document',
      of: service(),
      are: { ...nowhere, isIdle: true as const },
      steps: [{ kind: 'place' }],
    },
    {
      why: 'a run is due',
      of: service(schedule, { generation: 5, run: { generation: 5, by: 'schedule' } }),
      are: is('stopped'),
      steps: again,
    },
    {
      why: 'and its cluster is lost',
      of: service(schedule, { generation: 5, run: { generation: 5, by: 'schedule' } }),
      are: is('stopped'),
      on: lost,
      steps: [{ kind: 'place' }],
    },
  ]
  for (const { why, of, are, on = up, steps } of rows) {
    const found = plan(of, [are], on)
    t.match(found, steps, why)
    t.equal(found.length, steps.length, why)
  }
})

t.test('the runs of an instance', async (t) => {
  const node = { id: 'edge/n1', addresses: [], relays: [] }
  let runs: readonly JobRun[] = []
  let clock = 0
  const told = (report: Partial<InstanceRecord>, of: ServiceRecord = service()) => {
    clock += 1
    const before = runs
    runs = runsAfter(runs, is('running', { node, ...report }), { service: of, at: clock })
    return runs !== before
  }
  t.notOk(told({ state: 'placed' }), 'nothing runs yet')
  told({ state: 'starting' })
  told({ state: 'starting', restarts: 1, detail: 'exited with code 1' })
  t.match(runs, [{ number: 1, by: 'document', at: 2, state: 'running', tries: 2, detail: 'exited with code 1' }])
  told({ state: 'stopped', restarts: 1 })
  t.match(runs, [{ state: 'succeeded', endedAt: 4, detail: undefined }])
  t.notOk(told({ state: 'stopped', restarts: 1 }), 'reported again after a restart of the cluster')
  told({ epoch: 1 })
  t.match(runs.at(-1), { number: 2, by: 'user', epoch: 1 }, 'one instance, by hand')
  const due = service({}, { generation: 9, run: { generation: 9, by: 'schedule', due: 77 } })
  told({ generation: 9, epoch: 1 }, due)
  t.match(runs.slice(1), [{ state: 'replaced' }, { number: 3, by: 'schedule', due: 77, state: 'running' }])
  t.notOk(told({ generation: 2, epoch: 1, state: 'stopped' }, due), 'a report that comes late')
  told({ generation: 9, epoch: 1, state: 'failed', detail: 'exited with code 3', restarts: 3 }, due)
  t.match(runs.at(-1), { state: 'failed', tries: 4, detail: 'exited with code 3' })
  for (let generation = 10; generation < 50; generation++) told({ generation, state: 'stopped' })
  t.equal(runs.length, MOST_RUNS, 'bounded')
  t.equal(runs.at(-1)?.number, 43)
})

t.test('which instances a run takes', async (t) => {
  const allow = { schedule: { cron: '@daily', concurrency: 'allow' as const } }
  const at = (ordinal: number, state: InstanceRecord['state'], more: Partial<InstanceRecord> = {}) =>
    is(state, { id: `${JOB}.${ordinal}`, ordinal, ...(ordinal === 0 ? {} : { isFurther: true as const }), ...more })
  const asked = { asked: { generation: 9, by: 'schedule' as const } }
  const all = Array.from({ length: MOST_AT_ONCE }, (_, ordinal) => at(ordinal, 'running'))
  const rows = [
    { why: 'all of them', of: service(), are: [at(0, 'stopped')], slots: { free: [0], added: [] } },
    { why: 'which have not ended', of: service(), are: [at(0, 'running')], slots: undefined },
    { why: 'a further one', of: service(allow), are: [at(0, 'running')], slots: { free: [], added: [1] } },
    {
      why: 'one that is free',
      of: service(allow),
      are: [at(0, 'running'), at(1, 'failed')],
      slots: { free: [1], added: [] },
    },
    {
      why: 'which has a run that is not sent',
      of: service(allow),
      are: [at(0, 'stopped', asked)],
      slots: { free: [], added: [1] },
    },
    {
      why: 'one that has not run yet',
      of: service(allow),
      are: [at(0, 'requested', { isIdle: true })],
      slots: { free: [0], added: [] },
    },
    { why: 'no more than that', of: service(allow), are: all, slots: undefined },
  ]
  for (const { why, of, are, slots } of rows) {
    const found = slotsFor(of, are)
    const told = found && { free: found.free.map(({ ordinal }) => ordinal), added: [...found.added] }
    t.same(told, slots, why)
  }
  const further = at(1, 'stopped')
  t.same(plan(service(allow), [at(0, 'running'), further], up), [], 'a further one stays for the next run')
  t.match(plan(service({ schedule: { cron: '@daily' } }), [at(0, 'running'), further], up), [
    { kind: 'retire', id: `${JOB}.1` },
    { kind: 'withdraw' },
  ])
  t.match(
    plan(service(allow), [at(0, 'running'), { ...further, ...asked }], up),
    [{ kind: 'update', id: `${JOB}.1` }],
    'and is the only one that is told of it',
  )
})

t.test('a schedule over restarts of the root and steps of the clock', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-jobs-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const clock = new ManualClock()
  let step = 0
  const stepped: Clock = {
    now: () => clock.now(),
    wall: () => clock.wall() + step,
    sleep: (ms) => clock.sleep(ms),
    after: (ms, act) => clock.after(ms, act),
  }
  const told: NewEvent[] = []
  const begin = (store: RootStore) =>
    new Jobs({
      store,
      clock: stepped,
      events: { record: (event) => void told.push(event) },
      log: silentLog,
      addInstances: () => t.fail('they are there'),
    })
  const look = (jobs: Jobs) => jobs.due().filter((id) => jobs.decide(id)).length
  const hour = 3_600_000

  const store = RootStore.open(dir)
  store.services.put(JOB, service({ schedule: HOURLY }, { scheduled: { after: clock.wall() } }))
  store.instances.put(`${JOB}.0`, { ...is('requested', { generation: 0 }), isIdle: true })
  let jobs = begin(store)
  t.equal(look(jobs), 0, 'not at once')
  const first = jobs.nextAt(store.services.get(JOB) as ServiceRecord)
  await clock.advance(hour)
  t.equal(look(jobs), 1)
  const { generation, run } = store.services.get(JOB) as ServiceRecord
  t.match(run, { generation, by: 'schedule', due: first })
  t.equal(store.instances.get(`${JOB}.0`)?.isIdle, undefined, 'its instances may be placed')
  t.match(told, [{ what: 'due', by: 'reconciler', why: /^scheduled for 2023-/ }])
  t.equal(look(jobs), 0, 'once')

  await clock.advance(hour)
  t.equal(look(jobs), 0)
  t.match(told.at(-1), { what: 'skipped', why: /has not ended/ })
  store.instances.put(`${JOB}.0`, is('stopped', { generation }))

  await clock.advance(10 * hour)
  jobs = begin(store) // another process, after ten hours
  t.equal(look(jobs), 1, 'one run is made up')
  t.match(told.at(-1), { what: 'due', why: /; 9 earlier ones were missed$/ })
  const ended = () =>
    store.instances.put(`${JOB}.0`, is('stopped', { generation: store.services.get(JOB)?.generation ?? 0 }))
  ended()
  t.equal(look(begin(store)), 0, 'and not once more by the next one')

  step = 100 * 24 * hour // forward
  t.equal(look(jobs), 1, 'one, not 2,400')
  ended()
  t.equal(look(jobs), 0)
  step -= 3 * hour // back
  t.equal(look(jobs), 0)
  await clock.advance(2 * hour)
  t.equal(look(jobs), 0, 'what has run does not run twice')
  await clock.advance(2 * hour)
  t.equal(look(jobs), 1, 'it goes on when the clock has come back')
  ended()
  step = 0 // the clock had been wrong all the time
  t.equal(look(jobs), 0)
  await clock.advance(hour)
  t.equal(look(jobs), 1, 'it begins anew')
  store[Symbol.dispose]()
})

t.test('what follows a try', async (t) => {
  const rows = [
    { why: 'success', ended: { code: 0 }, follows: 'succeeded' },
    { why: 'failure', ended: { code: 1 }, follows: 'again' },
    { why: 'after all retries', ended: { code: 1 }, retries: 3, follows: 'failed' },
    { why: 'by the document', job: { retries: 5 }, ended: { code: 1 }, retries: 4, follows: 'again' },
    { why: 'never again', job: { retries: 0 }, ended: { code: 1 }, follows: 'failed' },
    { why: 'killed, as by the kernel when memory is short', ended: { signal: 'SIGKILL' }, follows: 'again' },
    { why: 'it hung', ended: { isHung: true }, follows: 'again' },
    { why: 'the result is not known: it may have succeeded', ended: {}, follows: 'failed' },
    { why: 'too late', ended: { isOverdue: true }, follows: 'failed' },
  ]
  for (const { why, job, ended, retries = 0, follows } of rows)
    t.equal(afterTry(job === undefined ? {} : { job }, { detail: '', ...ended }, retries), follows, why)
})

t.test('a deadline goes on over a restart of the agent, and follows the document', async (t) => {
  const clock = new ManualClock()
  const spec = (deadlineSeconds: number) => ({ job: { deadlineSeconds } })
  const first = new Deadline(clock)
  first.set(spec(60))
  await clock.advance(59_000)
  t.notOk(first.signal.aborted)
  using second = new Deadline(clock, first.beganAt) // of the next agent
  first[Symbol.dispose]()
  second.set(spec(60))
  await clock.advance(999)
  t.notOk(second.signal.aborted)
  second.set(spec(90))
  await clock.advance(29_000)
  t.notOk(second.signal.aborted, 'longer now')
  await clock.advance(1_001)
  t.ok(second.signal.aborted)
  t.notOk(first.signal.aborted)
  using ahead = new Deadline(clock, clock.wall() + 1e9)
  ahead.set(spec(1))
  await clock.advance(1_000)
  t.ok(ahead.signal.aborted, 'a clock that was set back does not prolong it')
})

t.test('a job that takes too long is ended, over all of its tries, and its retries survive the agent', async (t) => {
  const dir = freshDir()
  const work = (script: string, job: object) => {
    const assignment = assignmentOf({ cmd: ['sh', '-c', script], one_shot: true })
    return { ...assignment, spec: { ...assignment.spec, job } }
  }
  {
    const clock = new ManualClock()
    await using here = await nodeWith({ clock })
    here.worker.assign(work('sleep 600', { deadlineSeconds: 60 }))
    await here.becomes('running')
    await clock.advance(60_000)
    const { detail, restarts } = await here.becomes('failed')
    t.equal(detail, 'it has not ended within its deadline_seconds (60)')
    t.equal(restarts, 0)
  }
  {
    const clock = new ManualClock()
    await using here = await nodeWith({ clock })
    here.worker.assign(work('exit 1', { deadlineSeconds: 60, backoffSeconds: 600 }))
    await here.hears(({ retryInMs }) => retryInMs !== undefined)
    await clock.advance(60_000)
    t.match(await here.becomes('failed'), { detail: /^it has not ended within/, restarts: 1 }, 'while it waits')
  }
  const failing = work('echo tried; exit 1', { retries: 1 })
  const first = await nodeWith({}, dir)
  first.worker.assign(failing)
  t.match(await first.becomes('failed'), { restarts: 1 })
  await first.worker.close()
  await using here = await nodeWith({}, dir)
  t.match(await here.becomes('failed'), { restarts: 1 }, 'the next agent says so')
  here.worker.assign(failing)
  here.worker.assign({ ...failing, revision: 7 })
  const lines = await Array.fromAsync(here.worker.logs(failing.instance))
  t.equal(lines.filter((line) => line.endsWith(' tried')).length, 2, 'and does not run it')
  here.worker.assign({ ...failing, generation: 2 })
  await here.hears(({ generation, state }) => generation === 2 && state === 'failed')
  const more = await Array.fromAsync(here.worker.logs(failing.instance))
  t.equal(more.filter((line) => line.endsWith(' tried')).length, 4, 'a newer generation is a run of its own')
})

type Row = InstanceRow & { outcome?: string; nextRunAt?: number; detail?: string }

const instance = async (world: World) => (await world.api.call<Row[]>('GET', '/instances'))[0]
const ends = (world: World, outcome: string) =>
  until(async () => (await instance(world))?.outcome === outcome, `it has ${outcome}`)

t.test('a job is run again by hand, and not because something was restarted', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', one_shot: true }))
  await world.running(1)
  await t.rejects(world.api.call('POST', `/services/${JOB}/run`), { code: 'UNPLACEABLE' }, 'not twice at a time')
  n1.say(`${JOB}.0`, 'failed', 'exited with code 1')
  await ends(world, 'failed')
  t.match(await instance(world), { detail: 'after 1 try: exited with code 1' })
  const [row] = await world.api.call<{ detail: string }[]>('GET', '/services')
  t.equal(row?.detail, '1 failed after 1 try: exited with code 1')

  await world.api.call('POST', `/services/${JOB}/run`)
  await until(() => n1.assigned.length === 2, 'it runs again')
  n1.say(`${JOB}.0`, 'stopped', 'exited with code 0')
  await ends(world, 'succeeded')
  await world.api.call('POST', `/instances/${JOB}.0/restart`)
  await until(() => n1.assigned.length === 3, 'one instance runs again')
  n1.say(`${JOB}.0`, 'stopped')
  await ends(world, 'succeeded')

  n1.has.clear() // it no longer runs there
  await world.stopCluster()
  await world.stopRoot()
  await world.startRoot()
  await world.startCluster()
  await world.node('n2', { process: 'other' })
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', one_shot: true, drain_seconds: 3 }))
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', one_shot: true, memory: 5_000 }))
  await n1.stop()
  await until(async () => world.cluster().isLinked && (await instance(world))?.outcome === 'succeeded', 'all is back')
  t.equal(n1.assigned.length, 3, 'nothing of that runs it')
  const runs = await world.api.call<{ state: string; by: string; number: number }[]>('GET', '/runs')
  t.match(runs, [
    { number: 1, by: 'document', state: 'failed' },
    { number: 2, by: 'user', state: 'succeeded' },
    { number: 3, by: 'user', state: 'succeeded' },
  ])
  t.equal(runs.length, 3)
})

t.test('a job with a schedule runs when it is due', async (t) => {
  let skipMs = 0
  const clock = { ...systemClock, wall: () => Date.now() + skipMs }
  await using world = await mesh({ root: { clock } })
  const n1 = await world.node('n1')
  const job = { microservice_name: 'cart', one_shot: true, schedule: { cron: '0 0 * * *' } }
  await world.api.call('POST', '/apps', sla(job))
  await until(async () => (await instance(world))?.outcome === 'idle', 'it waits')
  t.ok(((await instance(world))?.nextRunAt ?? 0) > Date.now())
  t.match(await world.api.call('GET', '/services'), [{ detail: 'has not run yet', schedule: '0 0 * * *' }])
  skipMs = 2 * 86_400_000
  await until(() => n1.assigned.length === 1, 'it runs')
  n1.say(`${JOB}.0`, 'stopped')
  await ends(world, 'succeeded')
  await world.api.call('POST', '/apps', sla({ ...job, cmd: ['other'] }))
  await world.api.call('POST', `/services/${JOB}/run`)
  await until(() => n1.assigned.length === 2, 'by hand too')
  t.same(n1.assigned.at(-1)?.spec.cmd, ['other'], 'with the newest document')
  const runs = () => world.api.call<{ by: string; state: string }[]>('GET', '/runs')
  await until(async () => (await runs()).length === 2, 'both are remembered')
  t.match(await runs(), [
    { by: 'schedule', state: 'succeeded' },
    { by: 'user', state: 'running' },
  ])
})

t.test('runs of a job overlap where its document allows it', async (t) => {
  let skipMs = 0
  const clock = { ...systemClock, wall: () => Date.now() + skipMs }
  await using world = await mesh({ root: { clock } })
  const n1 = await world.node('n1')
  const schedule = { cron: '0 * * * *', concurrency: 'allow' }
  const job = { microservice_name: 'cart', one_shot: true, schedule }
  await world.api.call('POST', '/apps', sla(job))
  const due = async (runs: number) => {
    skipMs += 3_600_000
    await until(() => n1.assigned.length === runs, `run ${runs} begins`)
    return n1.assigned.at(-1)?.instance
  }
  t.equal(await due(1), `${JOB}.0`)
  await world.killRoot() // while its clock is ahead by no more than certificates bear
  await world.startRoot()
  await until(() => world.cluster().isLinked, 'the cluster is back')
  t.equal(await due(2), `${JOB}.1`, 'beside the first')
  t.equal(await due(3), `${JOB}.2`)
  n1.say(`${JOB}.1`, 'stopped')
  await until(async () => (await world.instances()).some(({ state }) => state === 'stopped'), 'one has ended')
  t.equal(await due(4), `${JOB}.1`, 'an instance that is free runs again')
  await world.api.call('POST', `/services/${JOB}/run`)
  await until(() => n1.assigned.length === 5, 'and one by hand')
  const runs = () => world.api.call<{ id: string; by: string; state: string }[]>('GET', '/runs')
  await until(async () => (await runs()).length === 5, 'its node has reported it')
  t.match(
    (await runs()).map(({ id, by, state }) => [id.slice(JOB.length + 1), by, state].join(' ')),
    ['0 schedule running', '1 schedule succeeded', '1 schedule running', '2 schedule running', '3 user running'],
  )
  await world.api.call('POST', '/apps', sla({ ...job, schedule: { cron: '0 * * * *' } }))
  await until(async () => (await world.instances()).length === 1, 'without it the further ones go')
  t.ok(n1.has.has(`${JOB}.0`))
})

t.test('a run is one run, whoever is killed while it is due or runs', async (t) => {
  let skipMs = 0
  const clock = { ...systemClock, wall: () => Date.now() + skipMs }
  await using world = await mesh({ root: { clock }, cluster: { nodeGraceMs: 60_000 } })
  const n1 = await world.node('n1')
  const job = { microservice_name: 'cart', one_shot: true, schedule: { cron: '0 * * * *' } }
  await world.api.call('POST', '/apps', sla(job))
  const runs = () => world.api.call<{ state: string }[]>('GET', '/runs')
  const isBack = () => until(() => world.cluster().isLinked, 'the cluster is back')

  await world.killCluster()
  skipMs += 3_600_000
  const isDue = async () =>
    (await world.api.call<{ what: string }[]>('GET', '/events')).some(({ what }) => what === 'due')
  await until(isDue, 'it is due, and its cluster is away')
  await world.killRoot()
  await world.startRoot()
  await world.startCluster()
  await until(() => n1.assigned.length === 1, 'it runs')
  await world.killRoot()
  await world.startRoot()
  await isBack()
  await world.killCluster()
  await world.startCluster()
  await isBack()
  await n1.stop()
  const next = await world.node('n1', { runs: n1.has.values(), process: 'the next agent' })
  await until(async () => (await world.instances())[0]?.state === 'running', 'the next agent has it')
  t.match(await runs(), [{ state: 'running' }])
  next.say(`${JOB}.0`, 'stopped', 'exited with code 0')
  await ends(world, 'succeeded')
  await world.killRoot()
  await world.startRoot()
  await isBack()
  await world.killCluster()
  await world.startCluster()
  await isBack()
  t.same([n1.assigned.length, next.assigned.length], [1, 0], 'it was started once')
  t.match(await runs(), [{ state: 'succeeded' }])
  t.equal((await runs()).length, 1)
})
