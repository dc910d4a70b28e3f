import fc from 'fast-check'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import t from 'tap'
import { PenaltyList } from '../../proxy/decide/penalty-list.ts'
import { type FlowIntent, plan, type PlanParts, previewChoice, refusalForLoad } from '../../proxy/decide/plan.ts'
import { standingPlan } from '../../proxy/decide/standing.ts'
import { Outliers } from '../../proxy/decide/outliers.ts'
import { flowRules } from '../../proxy/decide/flow-rules.ts'
import { type Caller, instanceCaller, NODE_CALLER } from '../../proxy/flow/flow.ts'
import { FlowLedger } from '../../proxy/flow/ledger.ts'
import { OUTBOUND_LIMITS } from '../../proxy/outbound/establish.ts'
import { outbound, type OutboundParts } from '../../proxy/outbound/outbound.ts'
import { trace } from '../../proxy/outbound/trace.ts'
import { createBalancer } from '../../proxy/policies/index.ts'
import type { Refusal, Session } from '../../proxy/tunnel/contract.ts'
import { Cancellation } from '../../src/core/kit/cancellation.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { type Choice, POLICIES } from '../../src/core/model/choice.ts'
import { INSTANCE_STATES, type InstanceState } from '../../src/core/model/instance.ts'
import { readPathRule } from '../../src/core/model/path-rule.ts'
import { keptLog, LiteralTable, NEAR_BY, notAsked, peersWith, roomy, type ServiceFacts } from './world.ts'

/** A flow is decided about once, and everything that acts on or reports the decision has the same one. */

const CART = 'shop.acme.cart.prod'
const FRONT = instanceCaller('shop.acme.front.prod.0') as Caller
const STRANGER = instanceCaller('mail.acme.smtp.prod.0') as Caller

t.test('a plan is refused with the first reason, or names the candidates in the order to try', async (t) => {
  const rows: { why: string; facts?: Partial<ServiceFacts>; change?: Partial<FlowIntent>; expected: object }[] = [
    { why: 'a port that is not served', change: { port: 22 }, expected: { refusal: { end: 'port-unknown' } } },
    { why: 'served by TCP alone', change: { protocol: 'udp' }, expected: { refusal: { end: 'port-unknown' } } },
    {
      why: 'a caller that is not allowed',
      facts: { allow: ['shop.acme'] },
      change: { caller: STRANGER },
      expected: { permission: { allowed: false }, refusal: { end: 'not-allowed', code: 'NOT_ALLOWED' } },
    },
    {
      why: 'no instance runs',
      facts: { on: ['edge/b'], states: ['failed'] },
      expected: { permission: { allowed: true }, refusal: { end: 'no-instance', reason: 'no instance runs' } },
    },
    {
      why: 'instances here, with a session, and without one',
      facts: { on: ['edge/a', 'edge/b', 'edge/c'] },
      expected: {
        refusal: undefined,
        rule: { text: 'no-punched' },
        candidates: [
          { instance: { id: `${CART}.0` }, isHere: true, session: undefined, rttMs: 0 },
          { instance: { id: `${CART}.1` }, isHere: false, session: { peer: 'edge/b' }, rttMs: 7 },
          { instance: { id: `${CART}.2` }, isHere: false, session: undefined, rttMs: undefined },
        ],
      },
    },
  ]
  for (const { why, facts = {}, change = {}, expected } of rows) {
    const table = new LiteralTable({ id: CART, on: ['edge/b'], ...facts })
    const parts = partsFor(table, [sessionOf('edge/b', undefined)], { 'edge/b': 7 })
    const intent = { target: table.target(CART), port: 80, protocol: 'tcp', caller: FRONT, ...change } as const
    t.match(plan(intent, parts), expected, why)
  }
})

t.test('a plan knows nodes that were silent, and UDP instances whose port was closed', async (t) => {
  const table = new LiteralTable({ id: CART, on: ['edge/b', 'edge/c'], udp: [53] })
  const outliers = new Outliers()
  const penalties = new PenaltyList(systemClock)
  outliers.wasSilent('edge/b', systemClock.now())
  penalties.add(table.instance(`${CART}.0`)!, { isMute: true })
  const parts = { ...partsFor(table), outliers, penalties }
  const intent = { target: table.target(CART, { instance: 0, policy: 'rr' }), port: 80, protocol: 'tcp', caller: FRONT }
  const ids = (intent: FlowIntent) => plan(intent, parts).candidates.map(({ instance: { id } }) => id)
  const tcp = plan(intent as FlowIntent, parts)
  t.same(
    tcp.candidates.map(({ isOutlier }) => isOutlier),
    [true, false],
  )
  t.same(ids(intent as FlowIntent), [`${CART}.0`, `${CART}.1`], 'TCP was not refused there')
  t.same(ids({ ...intent, port: 53, protocol: 'udp' }), [`${CART}.1`, `${CART}.0`], 'the closed port comes last')
})

t.test('whether there is room is asked once, and reserves one descriptor', async (t) => {
  let reserved = 0
  const descriptors = { reserve: (count: number) => ((reserved += count), true) }
  const limits = { maxFlows: 2 }
  t.equal(
    refusalForLoad({ ledger: { size: 2, isDraining: false }, limits, descriptors }),
    undefined,
    'the ledger holds this flow already: two of two may be open',
  )
  t.equal(reserved, 1, 'one descriptor is reserved')
  t.match(refusalForLoad({ ledger: { size: 3, isDraining: false }, limits, descriptors }), { end: 'too-many' })
  t.match(refusalForLoad({ ledger: { size: 0, isDraining: true }, limits, descriptors }), { reason: /closing/ })
  const none = { reserve: () => false }
  t.match(refusalForLoad({ ledger: { size: 0, isDraining: false }, limits, descriptors: none }), {
    code: 'TOO_MANY_FLOWS',
    reason: 'no descriptors are left',
  })
})

t.test('a preview is what the next flow gets, and takes no turn', async (t) => {
  const policies = POLICIES.filter((policy) => policy !== 'least') // which throws dice for each flow
  fc.assert(
    fc.property(tables, fc.constantFrom(...policies), fc.nat(3), ({ facts, rtts }, policy, flows) => {
      const table = new LiteralTable({ ...facts, allow: [] })
      const parts = partsFor(table, [], rtts)
      const choice: Choice = { instance: 'any', policy }
      const target = table.target(CART, choice)
      const intent = { target, port: 80, protocol: 'tcp', caller: NODE_CALLER } as const
      for (let flow = 0; flow < flows; flow++) plan(intent, parts)
      const previewed = previewChoice(target, NODE_CALLER, parts)
      const again = previewChoice(target, NODE_CALLER, parts)
      const { order } = plan(intent, parts)
      const ids = (instances: readonly { id: string }[]) => instances.map(({ id }) => id)
      t.same(ids(again.instances), ids(previewed.instances), 'looking twice changes nothing')
      t.same(ids(previewed.instances).slice(0, order?.instances.length ?? 0), ids(order?.instances ?? []))
      t.equal(previewed.reason, order?.reason)
    }),
    { numRuns: 100 },
  )
})

t.test('the kernel is given only what every flow would choose as well', async (t) => {
  let kernel = 0
  fc.assert(
    fc.property(tables, choices, fc.boolean(), ({ facts, rtts }, choice, hasResident) => {
      const table = new LiteralTable(facts)
      const target = table.target(CART, choice)
      const callers = hasResident ? [FRONT] : []
      const standing = standingPlan(target, table.entry(CART)!, { self: 'edge/a', callers: () => callers })
      if (standing.kind === 'differs') return
      kernel++
      const parts = partsFor(table, [], rtts)
      for (const caller of [NODE_CALLER, ...callers]) {
        const made = plan({ target, port: 80, protocol: 'tcp', caller }, parts)
        t.equal(made.refusal, undefined, 'what the kernel carries is refused to nobody')
        t.ok(standing.instances.includes(made.candidates[0]!.instance), standing.reason)
      }
    }),
    { numRuns: 500 },
  )
  t.ok(kernel > 20, `${kernel} of 500 tables leave something to the kernel`)
})

t.test('a trace reports what a flow does, whatever the table', async (t) => {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true })
  await once(server.listen({ host: '127.0.0.1', port: 0 }), 'listening')
  const { port } = server.address() as AddressInfo
  const outcomes = fc.dictionary(fc.constantFrom('edge/b', 'edge/c'), fc.constantFrom(...REFUSED, undefined))
  const callers = fc.constantFrom(NODE_CALLER, FRONT, STRANGER)
  await fc.assert(
    fc.asyncProperty(tables, choices, outcomes, callers, async ({ facts, rtts }, choice, answers, caller) => {
      const table = new LiteralTable(facts)
      const sessions = Object.entries(answers).map(([node, refusal]) => sessionOf(node, refusal))
      const wanted = { target: table.target(CART, choice), port: 80, protocol: 'tcp', caller } as const
      await using traced = await world(table, sessions, rtts)
      await using carried = await world(table, sessions, rtts)

      const steps = await trace(wanted, traced.parts, new Cancellation())
      const end = await carried.flow(wanted, await accepted(server, port))

      const last = steps.at(-1)
      if (last?.step === 'connected') {
        t.match(end, { instance: last.instance, node: last.node, path: last.path })
      } else {
        t.equal(end.instance, undefined, 'a flow reaches no instance where trace reaches none')
        t.match(last, { step: 'failed', reason: end.reason })
      }
    }),
    { numRuns: 80 },
  )
  server.close()
})

const REFUSED = ['unreachable', 'not-here', 'draining', 'overloaded', 'refused', 'not-allowed'] as const

/** One service with up to five instances in any state on three nodes, of which `edge/a` is this one. */
const tables = fc
  .record({
    on: fc.array(fc.constantFrom('edge/a', 'edge/b', 'edge/c'), { maxLength: 5 }),
    states: fc.array(
      fc.oneof({ weight: 3, arbitrary: fc.constant<InstanceState>('running') }, fc.constantFrom(...INSTANCE_STATES)),
      {
        minLength: 5,
        maxLength: 5,
      },
    ),
    allow: fc.constantFrom<string[]>([], ['shop.acme'], ['mail.acme'], ['node'], ['*']),
    rtts: fc.dictionary(fc.constantFrom('edge/b', 'edge/c'), fc.integer({ min: 1, max: 50 })),
  })
  .map(({ on, states, allow, rtts }) => ({ facts: { id: CART, on, states, allow } satisfies ServiceFacts, rtts }))

const choices: fc.Arbitrary<Choice> = fc.record({
  instance: fc.oneof(fc.constant('any' as const), fc.nat(5)),
  policy: fc.constantFrom(...POLICIES),
})

function partsFor(table: LiteralTable, sessions: Session[] = [], rtts: Record<string, number> = {}) {
  return {
    table,
    peers: peersWith(sessions, rtts),
    self: 'edge/a',
    clock: { now: () => 0 },
    balancer: createBalancer({
      rttMs: (node) => rtts[node],
      isHere: (node) => node === 'edge/a',
      openFlows: () => 0,
      random: () => 0.5,
      now: () => 0,
    }),
    ruleOf: flowRules(readPathRule('no-punched')!, table),
    limits: { candidates: 4 },
  } satisfies PlanParts
}

/** A session that answers each OPEN in the same way. */
function sessionOf(peer: string, refusal: Refusal | undefined): Session {
  const stream = { write: () => true, consumed: () => undefined, end: () => undefined, reset: () => undefined }
  const open: Session['open'] = (_request, events) => {
    setImmediate(() => (refusal === undefined ? events.opened() : events.refused(refusal)))
    return { ...stream, withdraw: () => undefined }
  }
  const openDatagrams = () => {
    throw new Error('not in this test')
  }
  return { peer, path: 'direct', rttMs: 1, streams: 0, report: notAsked, route: () => NEAR_BY, open, openDatagrams }
}

async function world(table: LiteralTable, sessions: Session[], rtts: Record<string, number>) {
  const metrics = openMetrics('agent')
  const ledger = await FlowLedger.start({ drainMs: 0 }, { clock: systemClock, log: keptLog(), metrics })
  const parts: OutboundParts = {
    ...partsFor(table, sessions, rtts),
    ...roomy(),
    table,
    peers: peersWith(sessions, rtts),
    endpointOf: () => undefined,
    clock: systemClock,
    dial: () => ({ timeoutMs: 1_000 }),
    ledger,
    limits: OUTBOUND_LIMITS,
    metrics,
  }
  return {
    parts,
    /** Carries one flow, and returns its line in the ledger. */
    async flow({ target, port, caller }: FlowIntent, { client, socket }: { client: Socket; socket: Socket }) {
      const carried = outbound({ target, port, caller, socket, mode: 'loopback', startedAt: 0 }, parts)
      while (ledger.flows().some(({ instance }) => instance === undefined)) await new Promise(setImmediate)
      client.resetAndDestroy()
      await carried
      return ledger.recent()[0]!
    },
    async [Symbol.asyncDispose]() {
      await ledger.close()
      metrics.registry.clear()
    },
  }
}

async function accepted(server: ReturnType<typeof createServer>, port: number) {
  const taken = once(server, 'connection') as Promise<[Socket]>
  const client = connect({ host: '127.0.0.1', port })
  client.on('error', () => undefined)
  const [socket] = await taken
  return { client, socket }
}
