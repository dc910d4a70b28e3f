import fc from 'fast-check'
import t from 'tap'
import { authorise } from '../../proxy/decide/authorise.ts'
import { callerAddress } from '../../proxy/inbound/caller.ts'
import { checkRequest } from '../../proxy/inbound/check-request.ts'
import { type Caller, instanceCaller, nameOf, NODE_CALLER } from '../../proxy/flow/flow.ts'
import { maySendEarly } from '../../proxy/decide/early.ts'
import { hedgeDelayMs, Race, type RaceAction } from '../../proxy/outbound/race.ts'
import { failureOf, type Try } from '../../proxy/flow/tries.ts'
import { decodeRequest, encodeRequest, type FlowRequest, REQUEST_LIMIT } from '../../proxy/flow/request.ts'
import type { Refusal } from '../../proxy/tunnel/contract.ts'
import { vipRange } from '../../src/core/model/address.ts'
import { entryOf, LiteralTable } from './world.ts'

const caller = (id: string): Caller => instanceCaller(id) as Caller

t.test('who may call whom', async (t) => {
  const cart = 'shop.acme.cart.prod.0'
  const other = 'mail.acme.smtp.prod.3'
  const rows = [
    { why: 'same app', who: caller(cart), allow: [], allowed: true },
    { why: 'same app, whatever the list', who: caller(cart), allow: ['mail.acme'], allowed: true },
    { why: 'another app', who: caller(other), allow: [], allowed: false },
    { why: 'another app, by app', who: caller(other), allow: ['mail.acme'], allowed: true },
    { why: 'another app, by service', who: caller(other), allow: ['mail.acme.smtp.prod'], allowed: true },
    { why: 'another service of that app', who: caller(other), allow: ['mail.acme.imap.prod'], allowed: false },
    { why: 'a prefix of an app is not the app', who: caller(other), allow: ['mail.ac'], allowed: false },
    { why: 'same app name, other namespace', who: caller('shop.evil.cart.prod.0'), allow: [], allowed: false },
    { why: 'anyone', who: caller(other), allow: ['*'], allowed: true },
    { why: '`node` is for host processes only', who: caller(other), allow: ['node'], allowed: false },
    { why: 'host process, no list', who: NODE_CALLER, allow: [], allowed: true },
    { why: 'host process, a list without it', who: NODE_CALLER, allow: ['mail.acme'], allowed: false },
    { why: 'host process, a list with it', who: NODE_CALLER, allow: ['mail.acme', 'node'], allowed: true },
    { why: 'host process, anyone', who: NODE_CALLER, allow: ['*'], allowed: true },
  ]
  for (const { why, who, allow, allowed } of rows) {
    const { service } = entryOf({ id: 'shop.acme.stock.prod', allow })
    t.equal(authorise(who, service).allowed, allowed, why)
  }
})

t.test('the destination believes its table, not the request', async (t) => {
  const table = new LiteralTable(
    { id: 'shop.acme.cart.prod', on: ['edge/n1', 'edge/n2'] },
    { id: 'shop.acme.stock.prod', on: ['edge/n2', 'edge/n3'], ports: [80] },
    { id: 'mail.acme.smtp.prod', on: ['edge/n1'] },
    { id: 'shop.acme.secret.prod', on: ['edge/n2'], allow: ['shop.acme'] },
  )
  const parts = {
    table,
    self: 'edge/n2',
    endpointOf: (id: string, port: number) =>
      ['shop.acme.stock.prod.0', 'shop.acme.secret.prod.0'].includes(id) && port === 80
        ? { host: '127.0.0.1', port: 1 }
        : undefined,
    isDraining: () => false,
  }
  const asked: FlowRequest = {
    service: 'shop.acme.stock.prod',
    ordinal: 0,
    port: 80,
    protocol: 'tcp',
    caller: caller('shop.acme.cart.prod.0'),
    flow: '0123456789abcdef',
  }
  const rows: { why: string; peer?: string; change?: Partial<FlowRequest>; draining?: boolean; outcome: string }[] = [
    { why: 'as it should be', outcome: 'here' },
    { why: 'a node cannot speak for an instance of another node', peer: 'edge/n3', outcome: 'not-allowed' },
    {
      why: 'nor for one on this very node',
      change: { caller: caller('shop.acme.cart.prod.1') },
      outcome: 'not-allowed',
    },
    { why: 'an app that is not allowed', change: { caller: caller('mail.acme.smtp.prod.0') }, outcome: 'not-allowed' },
    { why: 'a host process', change: { caller: NODE_CALLER }, outcome: 'here' },
    {
      why: 'a host process, not in the list',
      change: { caller: NODE_CALLER, service: 'shop.acme.secret.prod' },
      outcome: 'not-allowed',
    },
    {
      why: 'a caller nobody has heard of',
      change: { caller: caller('shop.acme.ghost.prod.0') },
      outcome: 'unasked shop.acme.ghost',
    },
    {
      why: 'an instance of a known service that does not exist',
      change: { caller: caller('shop.acme.cart.prod.9') },
      outcome: 'unasked shop.acme.cart',
    },
    {
      why: 'a service nobody has heard of',
      change: { service: 'shop.acme.ghost.prod' },
      outcome: 'unasked shop.acme.ghost',
    },
    { why: 'an instance that is elsewhere', change: { ordinal: 1 }, outcome: 'not-here' },
    { why: 'a port that is not served', change: { port: 22 }, outcome: 'bad-request' },
    { why: 'a port that is served by TCP', change: { protocol: 'udp' }, outcome: 'bad-request' },
    { why: 'an instance that stops', draining: true, outcome: 'draining' },
  ]
  for (const { why, peer = 'edge/n1', change, draining = false, outcome } of rows) {
    const check = checkRequest(peer, { ...asked, ...change }, { ...parts, isDraining: () => draining })
    const said = check.kind === 'here' ? 'here' : check.kind === 'unasked' ? `unasked ${check.key}` : check.refusal
    t.equal(said, outcome, why)
  }
})

t.test('a request is read exactly as it was written, and nothing else is read', async (t) => {
  const request: FlowRequest = {
    service: 'shop.acme.cart.prod',
    ordinal: 7,
    port: 8080,
    protocol: 'tcp',
    caller: caller('shop.acme.front.prod.12'),
    flow: '00112233445566ff',
  }
  t.test('its bytes are those of the drawing in request.ts', async (t) => {
    const bytes = encodeRequest(request)
    t.equal(
      bytes.toString('hex'),
      `01061f900000000700112233445566ff13${Buffer.from('shop.acme.cart.prod').toString('hex')}0017${Buffer.from('shop.acme.front.prod.12').toString('hex')}`,
    )
    t.same(decodeRequest(bytes), request)
    const byNode = { ...request, caller: NODE_CALLER }
    t.same(decodeRequest(encodeRequest(byNode)), byNode)
    const udp: FlowRequest = { ...request, protocol: 'udp' }
    t.equal(encodeRequest(udp).toString('hex', 0, 4), '01111f90')
    t.same(decodeRequest(encodeRequest(udp)), udp)
  })

  t.test('the longest names fit', async (t) => {
    const label = 'a'.repeat(63)
    const service = `${label}.${label}.${label}.${label}`
    const longest = { ...request, service, ordinal: 999_999, caller: caller(`${service}.999999`) }
    const bytes = encodeRequest(longest)
    t.ok(bytes.length <= REQUEST_LIMIT)
    t.same(decodeRequest(bytes), longest)
  })

  t.test('what is not one', async (t) => {
    const good = encodeRequest(request)
    const at = (offset: number, value: number) => {
      const bytes = Buffer.from(good)
      bytes[offset] = value
      return bytes
    }
    const rows: [why: string, bytes: Buffer][] = [
      ['nothing', Buffer.alloc(0)],
      ['another version', at(0, 2)],
      ['another protocol', at(1, 132)],
      ['port 0', Buffer.concat([good.subarray(0, 2), Buffer.of(0, 0), good.subarray(4)])],
      ['an ordinal beyond the last', at(4, 1)],
      ['a byte too many', Buffer.concat([good, Buffer.of(0)])],
      ['upper case', at(17, 0x53)],
      ['a name of three labels', encodeRequest({ ...request, service: 'shop.acme.cart' })],
      ['an empty name', encodeRequest({ ...request, service: '' })],
      [
        'a caller without a number',
        encodeRequest({ ...request, caller: { kind: 'instance', id: 'a.b.c.d', service: 'a.b.c.d' } }),
      ],
      ['too long', Buffer.alloc(REQUEST_LIMIT + 1, 1)],
    ]
    for (const [why, bytes] of rows) t.equal(decodeRequest(bytes), undefined, why)
    for (let end = 0; end < good.length; end++) {
      if (decodeRequest(good.subarray(0, end)) !== undefined) t.fail(`cut off at ${end}`)
    }
  })

  t.test('no bytes make it throw, and what it reads is written the same', async (t) => {
    const good = encodeRequest(request)
    const mutated = fc.tuple(fc.nat(good.length - 1), fc.nat(255)).map(([at, value]) => {
      const bytes = Buffer.from(good)
      bytes[at] = value
      return bytes
    })
    const any = fc.oneof(
      mutated,
      fc.uint8Array({ maxLength: 1100 }).map((bytes) => Buffer.from(bytes)),
    )
    fc.assert(
      fc.property(any, (bytes) => {
        const read = decodeRequest(bytes)
        if (read !== undefined) t.same(encodeRequest(read), bytes)
      }),
      { numRuns: 2000 },
    )
  })
})

t.test('a caller has the address that its own name resolves to', async (t) => {
  const vips = { 'any.rr': 0xe0101, '0.pinned': 0xe0102 } as const
  const table = new LiteralTable({ id: 'shop.acme.front.prod', on: ['edge/a', 'edge/b'], vips })
  const addressOf = callerAddress(table, vipRange('127.16.0.0/12'))
  t.equal(addressOf('shop.acme.front.prod.0'), '127.30.1.2')
  t.equal(addressOf('shop.acme.front.prod.1'), undefined, 'no VIP of its own yet')
  t.equal(addressOf('shop.acme.ghost.prod.0'), undefined)
  t.equal(addressOf('garbage'), undefined)
  t.equal(callerAddress(table, vipRange('127.32.0.0/16'))('shop.acme.front.prod.0'), undefined, 'outside a small range')
})

t.test('names in logs are canonical', async (t) => {
  const { service } = entryOf({ id: 'shop.acme.cart.prod' })
  t.equal(
    nameOf({ service, choice: { instance: 3, policy: 'closest' }, vip: 0 }),
    'shop.acme.cart.prod.3.closest.local',
  )
})

t.test('how long a candidate may be silent before the next is tried', async (t) => {
  const rows: [why: string, rtt: number | undefined, hasSession: boolean, ms: number][] = [
    ['nothing is known', undefined, true, 250],
    ['near', 0.2, true, 50],
    ['far', 40, true, 120],
    ['a session must be made', 5, false, 250],
    ['a session must be made, far away', 100, false, 600],
  ]
  for (const [why, rtt, hasSession, ms] of rows) t.equal(hedgeDelayMs(rtt, hasSession), ms, why)
})

t.test('whether first bytes go along with OPEN', async (t) => {
  const rows: [why: string, route: Parameters<typeof maySendEarly>[0], may: boolean][] = [
    ['far', { takesEarly: true, rttMs: 50, silentMs: 0 }, true],
    ['an older peer', { takesEarly: false, rttMs: 50, silentMs: 0 }, false],
    ['near: nobody would feel it', { takesEarly: true, rttMs: 9.9, silentMs: 0 }, false],
    ['just far enough', { takesEarly: true, rttMs: 10, silentMs: 65 }, true],
    ['an answer is under way', { takesEarly: true, rttMs: 50, silentMs: 125 }, true],
    ['an answer is overdue', { takesEarly: true, rttMs: 50, silentMs: 126 }, false],
    ['made a moment ago', { takesEarly: true, rttMs: undefined, silentMs: 200 }, true],
    ['made, and silent since', { takesEarly: true, rttMs: undefined, silentMs: 201 }, false],
  ]
  for (const [why, route, may] of rows) t.equal(maySendEarly(route), may, why)
})

type RaceEvent =
  | readonly [at: number, event: 'start' | 'tick']
  | readonly [at: number, event: 'opened' | 'fed' | 'lost', candidate: number]
  | readonly [at: number, event: 'failed', candidate: number, refusal?: Refusal]
const RACES: { why: string; hedgeMs: number[]; events: RaceEvent[]; actions: string[]; wakeAt?: number | undefined }[] =
  [
    {
      why: 'the first candidate answers and wins',
      hedgeMs: [50, 50],
      events: [
        [0, 'start'],
        [10, 'opened', 0],
      ],
      actions: ['try 0', 'win 0'],
    },
    {
      why: 'a refusal starts the next candidate at once',
      hedgeMs: [50, 50],
      events: [
        [0, 'start'],
        [1, 'failed', 0],
        [2, 'opened', 1],
      ],
      actions: ['try 0', 'try 1', 'win 1'],
    },
    {
      why: 'a silent candidate gets a rival after its hedge, and may still win',
      hedgeMs: [50, 50],
      events: [
        [0, 'start'],
        [49, 'tick'],
        [50, 'tick'],
        [60, 'opened', 0],
      ],
      actions: ['try 0', 'try 1', 'win 0', 'drop 1'],
    },
    {
      why: 'a candidate that opens after another has won is dropped',
      hedgeMs: [50, 50],
      events: [
        [0, 'start'],
        [50, 'tick'],
        [60, 'opened', 1],
        [61, 'opened', 0],
        [62, 'failed', 0],
        [3000, 'tick'],
      ],
      actions: ['try 0', 'try 1', 'win 1', 'drop 0', 'drop 0'],
    },
    {
      why: 'the flow is refused when all candidates refuse',
      hedgeMs: [50, 50, 50],
      events: [
        [0, 'start'],
        [1, 'failed', 0],
        [2, 'failed', 1],
        [3, 'failed', 2],
        [4, 'failed', 2],
      ],
      actions: ['try 0', 'try 1', 'try 2', 'lose refused'],
    },
    {
      why: 'the flow is refused when there is no candidate',
      hedgeMs: [],
      events: [[0, 'start']],
      actions: ['lose refused'],
    },
    {
      why: 'a refusal does not end the race while another candidate is being tried',
      hedgeMs: [50, 50],
      events: [
        [0, 'start'],
        [50, 'tick'],
        [51, 'failed', 1],
        [900, 'opened', 0],
      ],
      actions: ['try 0', 'try 1', 'win 0'],
    },
    {
      why: 'the flow times out when all candidates are silent until the deadline',
      hedgeMs: [100, 200, 50],
      events: [
        [0, 'start'],
        [100, 'tick'],
        [299, 'tick'],
        [300, 'tick'],
        [2999, 'tick'],
        [3000, 'tick'],
        [3001, 'opened', 0],
      ],
      actions: ['try 0', 'try 1', 'try 2', 'drop 0', 'drop 1', 'drop 2', 'lose timeout', 'drop 0'],
    },
    {
      why: 'a candidate that forbids the flow ends the race: no other would allow it',
      hedgeMs: [50, 50],
      events: [
        [0, 'start'],
        [1, 'failed', 0, 'not-allowed'],
      ],
      actions: ['try 0', 'lose refused'],
    },
    {
      why: 'a candidate that is being tried may still allow what another forbade',
      hedgeMs: [50, 50, 50],
      events: [
        [0, 'start'],
        [50, 'tick'],
        [51, 'failed', 0, 'not-allowed'],
        [101, 'tick'],
        [110, 'opened', 1],
      ],
      actions: ['try 0', 'try 1', 'win 1'],
    },
    {
      why: 'a candidate that got the first bytes refuses: the next gets them',
      hedgeMs: [50, 50],
      events: [
        [0, 'start'],
        [1, 'fed', 0],
        [2, 'failed', 0],
        [3, 'fed', 1],
        [4, 'opened', 1],
      ],
      actions: ['try 0', 'try 1', 'win 1'],
    },
    {
      why: 'a silent candidate with the first bytes returns them, then it and others are tried',
      hedgeMs: [50, 50, 50],
      events: [
        [0, 'start'],
        [1, 'fed', 0],
        [50, 'tick'],
        [51, 'tick'],
        [60, 'failed', 0, 'timeout'],
        [109, 'tick'],
        [110, 'tick'],
        [120, 'opened', 0],
      ],
      actions: ['try 0', 'withdraw 0', 'try 0', 'try 1', 'try 2', 'win 0', 'drop 1', 'drop 2'],
    },
    {
      why: 'a candidate had opened when asked to return the first bytes: it wins',
      hedgeMs: [50, 50],
      events: [
        [0, 'start'],
        [1, 'fed', 0],
        [50, 'tick'],
        [60, 'opened', 0],
      ],
      actions: ['try 0', 'withdraw 0', 'win 0'],
    },
    {
      why: 'a candidate refuses for another reason when asked to return the first bytes',
      hedgeMs: [50, 50],
      events: [
        [0, 'start'],
        [1, 'fed', 0],
        [50, 'tick'],
        [60, 'failed', 0, 'refused'],
        [61, 'failed', 1],
      ],
      actions: ['try 0', 'withdraw 0', 'try 1', 'lose refused'],
    },
    {
      why: 'a candidate with the first bytes stays silent: no other gets them, and the flow times out',
      hedgeMs: [50, 50],
      events: [
        [0, 'start'],
        [1, 'fed', 0],
        [50, 'tick'],
        [2999, 'tick'],
        [3000, 'tick'],
      ],
      actions: ['try 0', 'withdraw 0', 'drop 0', 'lose timeout'],
    },
    {
      why: 'a candidate is lost with the first bytes: the flow is lost',
      hedgeMs: [50, 50],
      events: [
        [0, 'start'],
        [1, 'fed', 0],
        [2, 'lost', 0],
        [3, 'lost', 0],
      ],
      actions: ['try 0', 'lose unsure'],
    },
    {
      why: 'a candidate is lost before it got a byte: the next is tried',
      hedgeMs: [50, 50],
      events: [
        [0, 'start'],
        [2, 'lost', 0],
        [3, 'opened', 1],
      ],
      actions: ['try 0', 'try 1', 'win 1'],
    },
    {
      why: 'early bytes are assigned to no candidate while two are asked',
      hedgeMs: [50, 50, 50],
      events: [
        [0, 'start'],
        [50, 'tick'],
        [51, 'fed', 0],
        [52, 'lost', 0],
        [53, 'opened', 1],
      ],
      actions: ['try 0', 'try 1', 'try 2', 'win 1', 'drop 2'],
    },
  ]
for (const { why, hedgeMs, events, actions } of RACES) {
  t.test(`the race: ${why}`, async (t) => {
    const race = new Race(hedgeMs, 3000, 0)
    const done = events.flatMap((event) => actionsOf(race, event))
    const said = done.map((action) =>
      action.kind === 'lose' ? `lose ${action.why}` : `${action.kind} ${action.candidate}`,
    )
    t.same(said, actions)
  })
}

function actionsOf(race: Race, event: RaceEvent): readonly RaceAction[] {
  const [at, kind] = event
  switch (kind) {
    case 'start':
      return race.start(at)
    case 'tick':
      return race.tick(at)
    case 'opened':
      return race.opened(event[2])
    case 'fed':
      race.fedEarly(event[2])
      return []
    case 'lost':
      return race.lost(event[2], at)
    case 'failed':
      return race.failed(event[2], event[3] ?? 'unreachable', at)
    default:
      return kind satisfies never
  }
}

t.test('the race wakes for the next try, then for the deadline, then never', async (t) => {
  const race = new Race([50, 70], 3000, 1000)
  race.start(1000)
  t.equal(race.wakeAt, 1050)
  race.tick(1050)
  t.equal(race.wakeAt, 4000)
  race.opened(1)
  t.equal(race.wakeAt, undefined)
})

t.test('how a caller is answered when no instance took its flow', async (t) => {
  const rows: [tries: Try['outcome'][], end: string, code: string][] = [
    [['unreachable', 'refused', 'timeout'], 'refused', 'FLOW_REFUSED'],
    [['unreachable', 'timeout'], 'timeout', 'FLOW_TIMEOUT'],
    [['unreachable', 'overloaded'], 'too-many', 'TOO_MANY_FLOWS'],
    [['unreachable', 'not-here'], 'unreachable', 'FLOW_UNREACHABLE'],
    [['draining', 'not-here'], 'no-instance', 'NO_INSTANCE'],
    [['refused', 'not-allowed'], 'not-allowed', 'NOT_ALLOWED'],
    [['unreachable', 'path-forbidden', 'refused'], 'path-forbidden', 'PATH_FORBIDDEN'],
    [['bad-request'], 'no-instance', 'NO_INSTANCE'],
    [['unreachable', 'dropped'], 'timeout', 'FLOW_TIMEOUT'],
  ]
  for (const [outcomes, end, code] of rows) {
    const tries = outcomes.map((outcome) => ({ outcome }))
    t.same(failureOf('refused', tries), { end, code }, outcomes.join(', '))
  }
  t.same(failureOf('timeout', [{ outcome: 'refused' }]), { end: 'timeout', code: 'FLOW_TIMEOUT' })
  t.same(failureOf('unsure', [{ outcome: 'refused' }]), { end: 'unreachable', code: 'FLOW_UNREACHABLE' })
})
