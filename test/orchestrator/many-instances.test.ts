import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { wireOutcomes } from '../../src/orchestrator/link/outcomes.ts'
import { MeshError } from '../../src/core/errors.ts'
import { refusalOf } from '../../src/orchestrator/worker/refusal.ts'
import type { Slot } from '../../src/orchestrator/worker/slot.ts'
import { Slots } from '../../src/orchestrator/worker/slots.ts'
import type { Assignment } from '../../src/orchestrator/spec.ts'
import { until } from '../support/until.ts'
import { assignmentOf, factsOf } from './specs.ts'
import { freshDir, nodeWith } from './worker-node.ts'
import '../support/no-orphans.ts'

/* What thousands of instances on one node cost each that is placed. */

const runtimes = ['process', 'external'].map((name) => ({ name }))
const refusal = (assignment: Assignment, others: () => Assignment[]) =>
  refusalOf(assignment, { facts: factsOf(), runtimes, others })

t.test('only what takes something of the node is compared with what is there', async (t) => {
  const rows: { why: string; service: Record<string, unknown>; isCompared: boolean }[] = [
    { why: 'nothing', service: {}, isCompared: false },
    { why: 'a port that is found', service: { port: '80:8080' }, isCompared: false },
    { why: 'an external service', service: { virtualization: 'external', code: 'h:1', cmd: [] }, isCompared: false },
    { why: 'memory', service: { memory: 1 }, isCompared: true },
    { why: 'a tenth of a core', service: { vcpus: 0.1 }, isCompared: true },
    { why: 'bandwidth', service: { bandwidth_in: 1 }, isCompared: true },
    { why: 'a port of its own', service: { port: '80:8080', fixed_port: true }, isCompared: true },
    { why: 'a port of the node', service: { ports: [{ port: 80, target: 8080, host_port: 90 }] }, isCompared: true },
    { why: 'a volume', service: { volumes: [{ volume_id: 'data', mount_path: '/data' }] }, isCompared: true },
    { why: 'a job', service: { one_shot: true }, isCompared: true },
  ]
  for (const { why, service, isCompared } of rows) {
    let asked = 0
    refusal(assignmentOf(service), () => {
      asked++
      return []
    })
    t.equal(asked, isCompared ? 1 : 0, why)
  }
})

t.test('what all of them take is added up', async (t) => {
  const others = (service: Record<string, unknown>, count: number) => () =>
    Array.from({ length: count }, (_, i) => assignmentOf(service, i + 1))
  const tenth = { vcpus: 0.1 }
  t.equal(refusal(assignmentOf(tenth), others(tenth, 39)), undefined, 'forty tenths are four cores')
  t.match(refusal(assignmentOf(tenth), others(tenth, 40)), /too little vcpus free: 0 of 4/)
  t.equal(refusal(assignmentOf({ memory: 25 }), others({ memory: 333 }, 3)), undefined)
  const { bandwidthOutKbit: _, ...older } = assignmentOf({ memory: 1024 }).spec
  const recorded = () => [{ ...assignmentOf({}, 1), spec: older as Assignment['spec'] }]
  t.match(refusal(assignmentOf({ memory: 1 }), recorded), /too little memoryMb free: 0 of 1024/, 'an older record')
  t.match(refusal(assignmentOf({ memory: 26 }), others({ memory: 333 }, 3)), /too little memoryMb free: 25 of 1024/)
})

t.test('many that arrive in one message are placed in many turns', async (t) => {
  let turns = 0
  const count = () => void (turns++, (turning = setImmediate(count)))
  let turning = setImmediate(count)
  const placed: number[] = []
  const outcomes = await wireOutcomes(
    Array.from({ length: 60 }, (_, i) => i),
    async (i) => {
      for (const until = performance.now() + 1; performance.now() < until; ); // as long as one takes where there is much to look at
      if (i === 30) throw new MeshError('UNPLACEABLE', { reason: 'full' })
      placed.push(i)
    },
  )
  clearImmediate(turning)
  t.ok(turns > 3, `${turns} turns`)
  t.equal(placed.length, 59)
  t.same(outcomes[30], { error: { code: 'UNPLACEABLE', details: { reason: 'full' } } })
})

t.test('which services are on a node', async (t) => {
  const slots = new Slots()
  const slotOf = (microservice_name: string) => {
    const assignment = assignmentOf({ microservice_name })
    return { serving: { assignment } } as unknown as Slot
  }
  const [cart, web] = ['shop.acme.cart.prod', 'shop.acme.web.prod']
  slots.set(`${cart}.0`, slotOf('cart')).set(`${cart}.1`, slotOf('cart')).set(`${web}.0`, slotOf('web'))
  slots.set(`${cart}.0`, slotOf('cart')) // another in its place
  slots.delete(`${cart}.0`)
  t.ok(slots.hasService(cart), 'one is left')
  t.notOk(slots.delete(`${cart}.0`), 'it is gone already')
  slots.delete(`${cart}.1`)
  t.notOk(slots.hasService(cart))
  t.ok(slots.hasService(web))
})

t.test(
  'records of external instances are written and removed in later turns, and all of them at the end',
  async (t) => {
    const dir = freshDir()
    const external = (ordinal: number) =>
      assignmentOf({ virtualization: 'external', code: '127.0.0.1:1', cmd: [] }, ordinal)
    const records = () => readdirSync(join(dir, 'run')).filter((name) => name.endsWith('.json')).length
    const start = () => nodeWith({ keepOnClose: true }, dir)
    {
      const { worker } = await start()
      for (let i = 0; i < 300; i++) worker.assign(external(i))
      t.equal(records(), 0, 'nothing runs that could be without one')
      await until(() => records() === 300, 'all are written')
      for (let i = 0; i < 100; i++) worker.withdraw(external(i).instance, { drainSeconds: 0 })
      await until(() => records() === 200, 'of those that are gone none is left')
      for (let i = 300; i < 400; i++) worker.assign(external(i))
      await worker.close()
      t.equal(records(), 300, 'an agent that ends writes what it has not written yet')
    }
    await using node = await start()
    const { worker } = node
    await until(() => worker.reports().length === 300, 'the next agent takes all of them over')
    for (const { instance } of worker.reports()) worker.withdraw(instance, { drainSeconds: 0 })
    worker.assign(external(200)) // once more, while its record is about to go
    await until(() => worker.reports().length === 1, 'the others are gone')
    await until(() => records() === 1, 'its record is not lost')
    t.equal(worker.reports()[0]?.instance, external(200).instance)
  },
)
