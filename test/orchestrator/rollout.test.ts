import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { recordRevision, revisionsOf } from '../../src/orchestrator/root/revisions.ts'
import { limitsOf, nextUpdates, rolloutOf, rolloutText, whyGap } from '../../src/orchestrator/root/rollout.ts'
import { RootStore, type InstanceRecord, type ServiceRecord } from '../../src/orchestrator/root/root-store.ts'
import { Updates } from '../../src/orchestrator/root/updates.ts'
import { recordingLog } from '../resolver/world.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { specOf } from './specs.ts'

const service = (
  replicas: number,
  update?: Record<string, unknown>,
  more: Record<string, unknown> = {},
): ServiceRecord => ({
  id: 'shop.acme.cart.prod',
  spec: specOf({ replicas, ...(update === undefined ? {} : { update }), ...more }),
  generation: 2,
  version: 1,
})
const at = (ordinal: number, changes: Partial<InstanceRecord> = {}): InstanceRecord => ({
  id: `shop.acme.cart.prod.${ordinal}`,
  service: 'shop.acme.cart.prod',
  ordinal,
  wanted: true,
  generation: 1,
  state: 'running',
  restarts: 0,
  cluster: 'edge',
  changedAt: 0,
  ...changes,
})
const done = { generation: 2 }
const starting = { generation: 2, successor: { generation: 2, state: 'starting', restarts: 0 } } as const
const all = () => true

t.test('which instances are updated next, and how', async (t) => {
  const rows = [
    { why: 'one replica: beside it', of: service(1), are: [at(0)], next: ['0 beside-if-possible'] },
    { why: 'one at a time', of: service(3), are: [at(0), at(1), at(2)], next: ['0 beside-if-possible'] },
    { why: 'while one starts, no other', of: service(2), are: [at(0, starting), at(1)], next: [] },
    { why: 'the next once it runs', of: service(2), are: [at(0, done), at(1)], next: ['1 beside-if-possible'] },
    {
      why: 'several beside, of which only the first may be stopped first',
      of: service(3, { max_surge: 2 }),
      are: [at(0), at(1), at(2)],
      next: ['0 beside-if-possible', '1 beside'],
    },
    {
      why: 'no surge: stopped first, one at a time',
      of: service(3, { max_surge: 0 }),
      are: [at(0), at(1), at(2)],
      next: ['0 stop-first'],
    },
    {
      why: 'no surge, two may be away',
      of: service(3, { max_surge: 0, max_unavailable: 2 }),
      are: [at(0), at(1), at(2)],
      next: ['0 stop-first', '1 stop-first'],
    },
    {
      why: 'no surge, and one is away already: that one',
      of: service(2, { max_surge: 0 }),
      are: [at(0), at(1, { state: 'starting' })],
      next: ['1 stop-first'],
    },
    {
      why: 'max_unavailable 0: never stopped first',
      of: service(1, { max_unavailable: 0 }),
      are: [at(0)],
      next: ['0 beside'],
    },
    {
      why: 'another is down: none is stopped for the update',
      of: service(2),
      are: [at(0), at(1, { state: 'lost' })],
      next: ['0 beside'],
    },
    {
      why: 'a successor of an earlier generation does not count',
      of: service(1),
      are: [at(0, { successor: { generation: 1, state: 'starting', restarts: 4 } })],
      next: ['0 beside-if-possible'],
    },
    {
      why: 'a failed one of the new generation holds up the others',
      of: service(2),
      are: [at(0, { ...done, state: 'failed' }), at(1)],
      next: [],
    },
  ]
  for (const { why, of, are, next } of rows) {
    const found = nextUpdates(of, are, all).map(({ record, how }) => `${record.ordinal} ${how}`)
    t.same(found, next, why)
  }
  t.same(
    nextUpdates(service(1), [at(0)], () => false),
    [],
    'a cluster that is away is not told',
  )
})

t.test('how far an update is, and what holds it up', async (t) => {
  const crashing = (restarts: number) => ({
    generation: 2,
    successor: { generation: 2, state: 'starting', restarts, detail: 'exited with code 1' } as const,
  })
  const rows = [
    { why: 'nothing to do', are: [at(0, done)], text: undefined },
    { why: 'a first start is no update', are: [at(0, { ...done, state: 'starting', restarts: 9 })], text: undefined },
    {
      why: 'a first start that waits is none either',
      are: [at(0, { generation: 0, state: 'requested' })],
      text: undefined,
    },
    { why: 'not begun', are: [at(0)], text: 'updated 0/1' },
    { why: 'under way', are: [at(0, starting)], text: 'updated 0/1' },
    { why: 'it crashes', are: [at(0, crashing(1))], text: 'updated 0/1, stuck: exited with code 1' },
    {
      why: 'it crashes for good',
      are: [at(0, crashing(3))],
      text: 'updated 0/1, stuck: exited with code 1',
      isHopeless: true,
    },
    {
      why: 'it cannot be started',
      are: [
        at(0, {
          generation: 2,
          successor: { generation: 2, state: 'failed', restarts: 0, detail: 'x is not on this node' },
        }),
      ],
      text: 'updated 0/1, stuck: x is not on this node',
      isHopeless: true,
    },
    { why: 'it waits', are: [at(0, { waits: 'too little memory' })], text: 'updated 0/1, stuck: too little memory' },
    { why: 'one of two', are: [at(0, done), at(1, starting)], text: 'updated 1/2' },
    {
      why: 'stopped first, and crashing',
      are: [at(0, { ...done, state: 'starting', gap: 'fixed_port', detail: 'exited with code 2' })],
      text: 'updated 0/1, stuck: exited with code 2',
    },
  ]
  for (const { why, are, text, isHopeless = false } of rows) {
    const rollout = rolloutOf(service(are.length), are)
    t.equal(rollout && rolloutText(rollout, false), text, why)
    t.equal(rollout?.isHopeless ?? false, isHopeless, why)
  }
  t.equal(rolloutText({ updated: 0, of: 1, isHopeless: false }, true), 'updated 0/1, stuck: no progress')
})

t.test('why a service does not answer while it is updated', async (t) => {
  const updated = (spec: ServiceRecord['spec'], effect: 'restart' | 'live' = 'restart') =>
    ({ kind: 'updated', spec, effect }) as const
  const fixed = service(1, undefined, { fixed_port: true, port: '80:8080' })
  const moved = service(1, undefined, { fixed_port: true, port: '80:8081' })
  const plain = service(1)
  const noSurge = service(2, { max_surge: 0 })
  const rows = [
    { why: 'two run beside each other', change: updated(plain.spec), before: plain, gap: undefined },
    {
      why: 'one port',
      change: updated(fixed.spec),
      before: fixed,
      gap: /port tcp\/8080 of one node \(fixed_port\), so it is stopped before/,
    },
    { why: 'another port', change: updated(moved.spec), before: fixed, gap: undefined },
    { why: 'taken over while it runs', change: updated(fixed.spec, 'live'), before: fixed, gap: undefined },
    {
      why: 'as asked',
      change: updated(noSurge.spec),
      before: noSurge,
      gap: /^max_surge is 0, so each instance is stopped/,
    },
  ]
  for (const { why, change, before, gap } of rows) {
    const found = whyGap(change, before, [at(0)])
    if (gap === undefined) t.equal(found, undefined, why)
    else t.match(found, gap, why)
  }
  t.equal(whyGap(updated(fixed.spec), fixed, [at(0, { state: 'starting' })]), undefined, 'nothing answers now either')
  t.same(limitsOf(plain.spec), { surge: 1, unavailable: 0, mayGap: true, progressMs: 600_000 })
})

t.test('limits as a share of the replicas are rounded as in Kubernetes', async (t) => {
  const rows = [
    { replicas: 10, update: { max_surge: '25%', max_unavailable: '25%' }, surge: 3, unavailable: 2 },
    { replicas: 3, update: { max_surge: '25%', max_unavailable: '25%' }, surge: 1, unavailable: 0 },
    { replicas: 1, update: { max_surge: '100%' }, surge: 1, unavailable: 0 },
    { replicas: 4, update: { max_surge: '0%', max_unavailable: '50%' }, surge: 0, unavailable: 2 },
    { replicas: 3, update: { max_surge: 0, max_unavailable: '10%' }, surge: 0, unavailable: 1 },
    { replicas: 0, update: { max_surge: '50%', max_unavailable: '50%' }, surge: 0, unavailable: 1 },
  ]
  for (const { replicas, update, ...limits } of rows)
    t.match(limitsOf(service(replicas, update).spec), limits, `${replicas} ${JSON.stringify(update)}`)
  t.equal(limitsOf(service(3, { max_unavailable: '0%' }).spec).mayGap, false, 'never stopped first')
  t.equal(limitsOf(service(3, { max_unavailable: '10%' }).spec).mayGap, true)
})

t.test('an update that makes no progress has failed, once; each updated instance begins the wait anew', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-rollout-'))
  using store = RootStore.open(dir)
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const clock = new ManualClock()
  const log = recordingLog()
  const updates = new Updates({
    events: { record: () => undefined },
    store,
    clock,
    log,
    vips: undefined as never,
    clusters: undefined as never,
  })
  const slow = service(2, { progress_deadline_seconds: 100, auto_rollback: true })
  recordRevision(slow, { before: undefined, at: 1 }, store)
  const follow = (...instances: InstanceRecord[]) => updates.follow(slow, instances)
  const failures = () => log.lines.filter(({ sentence }) => sentence === 'update has failed').length

  t.equal(follow(at(0, starting), at(1)), undefined)
  await clock.advance(99_000)
  t.equal(follow(at(0, starting), at(1)), undefined, 'it may take this long')
  t.equal(follow(at(0, done), at(1, starting)), undefined)
  await clock.advance(99_000)
  t.equal(follow(at(0, done), at(1, starting)), undefined, 'the second has as long')
  await clock.advance(1_000)
  t.equal(follow(at(0, done), at(1, starting)), 'failed', 'and no longer')
  t.equal(follow(at(0, done), at(1, starting)), undefined, 'said once')
  t.equal(failures(), 1)
  t.equal(updates.textOf(slow, [at(0, done), at(1, starting)]), 'updated 1/2, stuck: no progress')
  t.equal(revisionsOf(slow.id, store).at(-1)?.isComplete, undefined)
  follow(at(0, done), at(1, done))
  t.equal(revisionsOf(slow.id, store).at(-1)?.isComplete, true, 'if it gets on after all, it is complete')

  const crashing = { generation: 2, successor: { generation: 2, state: 'starting', restarts: 3 } } as const
  t.equal(follow(at(0, crashing), at(1)), 'failed', 'one that crashes again and again is not waited for')
  const plain = service(1)
  t.equal(
    updates.follow({ ...plain, id: 'a.b.c.d' }, [at(0, crashing)]),
    undefined,
    'only told where nobody asks for more',
  )
  t.equal(failures(), 3)
})
