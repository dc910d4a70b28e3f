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

t.test('who may call whom is decided by the app of the caller and the allow list of the service', async (t) => {
  const cart = 'shop.acme.cart.prod.0'
  const other = 'mail.acme.smtp.prod.3'
  const rows = [
    { why: 'an instance may call a service of its own app', who: caller(cart), allow: [], allowed: true },
    {
      why: 'an instance may call a service of its own app whatever the list says',
      who: caller(cart),
      allow: ['mail.acme'],
      allowed: true,
    },
    { why: 'an instance may not call another app without a list', who: caller(other), allow: [], allowed: false },
    { why: 'an instance may call when the list has its app', who: caller(other), allow: ['mail.acme'], allowed: true },
    {
      why: 'an instance may call when the list has its service',
      who: caller(other),
      allow: ['mail.acme.smtp.prod'],
      allowed: true,
    },
    {
      why: 'an instance may not call when the list has only another service of its app',
      who: caller(other),
      allow: ['mail.acme.imap.prod'],
      allowed: false,
    },
    {
      why: 'an entry that is a prefix of the app does not allow the app',
      who: caller(other),
      allow: ['mail.ac'],
      allowed: false,
    },
    {
      why: 'an app of the same name in another namespace is another app',
      who: caller('shop.evil.cart.prod.0'),
      allow: [],
      allowed: false,
    },
    { why: 'an instance of any app may call when the list has `*`', who: caller(other), allow: ['*'], allowed: true },
    { why: '`node` in the list allows no instance', who: caller(other), allow: ['node'], allowed: false },
    { why: 'a host process may call a service without a list', who: NODE_CALLER, allow: [], allowed: true },
    {
      why: 'a host process may not call when the list lacks `node`',
      who: NODE_CALLER,
      allow: ['mail.acme'],
      allowed: false,
    },
    {
      why: 'a host process may call when the list has `node`',
      who: NODE_CALLER,
      allow: ['mail.acme', 'node'],
      allowed: true,
    },
    { why: 'a host process may call when the list has `*`', who: NODE_CALLER, allow: ['*'], allowed: true },
  ]
  for (const { why, who, allow, allowed } of rows) {
    const { service } = entryOf({ id: 'shop.acme.stock.prod', allow })
    t.equal(authorise(who, service).allowed, allowed, why)
  }
})

const TABLE = new LiteralTable(
  { id: 'shop.acme.cart.prod', on: ['edge/n1', 'edge/n2'], also: [['edge/n4']] },
  { id: 'shop.acme.stock.prod', on: ['edge/n2', 'edge/n3'], ports: [80] },
  { id: 'mail.acme.smtp.prod', on: ['edge/n1'] },
  { id: 'shop.acme.secret.prod', on: ['edge/n2'], allow: ['shop.acme'] },
)

/** What the destination, edge/n2, knows. */
const KNOWN = {
  table: TABLE,
  self: 'edge/n2',
  endpointOf: (id: string, port: number) =>
    ['shop.acme.stock.prod.0', 'shop.acme.secret.prod.0'].includes(id) && port === 80
      ? { host: '127.0.0.1', port: 1 }
      : undefined,
  isDraining: () => false,
}

const ASKED: FlowRequest = {
  service: 'shop.acme.stock.prod',
  ordinal: 0,
  port: 80,
  protocol: 'tcp',
  caller: caller('shop.acme.cart.prod.0'),
  flow: '0123456789abcdef',
}

/** Changes to a request of edge/n1 that is right, and what becomes of it. */
const REQUESTS: { why: string; peer?: string; change?: Partial<FlowRequest>; draining?: boolean; outcome: string }[] = [
  { why: 'a request that is right is served here', outcome: 'here' },
  { why: 'a node cannot speak for an instance of another node', peer: 'edge/n3', outcome: 'not-allowed' },
  { why: 'a node on which the instance has another run may speak for it', peer: 'edge/n4', outcome: 'here' },
  {
    why: 'nor can it speak for an instance of this very node',
    change: { caller: caller('shop.acme.cart.prod.1') },
    outcome: 'not-allowed',
  },
  {
    why: 'an instance of an app that is not in the allow list is refused',
    change: { caller: caller('mail.acme.smtp.prod.0') },
    outcome: 'not-allowed',
  },
  {
    why: 'a host process may call a service without an allow list',
    change: { caller: NODE_CALLER },
    outcome: 'here',
  },
  {
    why: 'a host process may not call when the allow list lacks it',
    change: { caller: NODE_CALLER, service: 'shop.acme.secret.prod' },
    outcome: 'not-allowed',
  },
  {
    why: 'a caller of an unknown service is asked for at the cluster',
    change: { caller: caller('shop.acme.ghost.prod.0') },
    outcome: 'unasked shop.acme.ghost',
  },
  {
    why: 'an unknown instance of a known service is asked for at the cluster',
    change: { caller: caller('shop.acme.cart.prod.9') },
    outcome: 'unasked shop.acme.cart',
  },
  {
    why: 'an unknown service is asked for at the cluster',
    change: { service: 'shop.acme.ghost.prod' },
    outcome: 'unasked shop.acme.ghost',
  },
  { why: 'an instance that runs on another node is not here', change: { ordinal: 1 }, outcome: 'not-here' },
  { why: 'a port that the service does not serve makes a bad request', change: { port: 22 }, outcome: 'bad-request' },
  {
    why: 'UDP to a port that is served by TCP makes a bad request',
    change: { protocol: 'udp' },
    outcome: 'bad-request',
  },
  { why: 'an instance that stops takes no new flow', draining: true, outcome: 'draining' },
]

t.test('the destination believes its table, not the request', async (t) => {
  for (const { why, peer = 'edge/n1', change, draining = false, outcome } of REQUESTS) {
    const check = checkRequest(peer, { ...ASKED, ...change }, { ...KNOWN, isDraining: () => draining })
    const said = check.kind === 'here' ? 'here' : check.kind === 'unasked' ? `unasked ${check.key}` : check.refusal
    t.equal(said, outcome, why)
  }
})

// ── a request is read exactly as it was written, and nothing else is read ──

const REQUEST: FlowRequest = {
  service: 'shop.acme.cart.prod',
  ordinal: 7,
  port: 8080,
  protocol: 'tcp',
  caller: caller('shop.acme.front.prod.12'),
  flow: '00112233445566ff',
}
t.test('the bytes of a request are those of the drawing in request.ts', async (t) => {
  const bytes = encodeRequest(REQUEST)
  const [service, caller] = ['shop.acme.cart.prod', 'shop.acme.front.prod.12'].map((name) => Buffer.from(name))
  const drawn = `01061f900000000700112233445566ff13${service!.toString('hex')}0017${caller!.toString('hex')}`
  t.equal(bytes.toString('hex'), drawn, 'the fields come in the order of the drawing')
  t.same(decodeRequest(bytes), REQUEST, 'the bytes are read back as the request')
  const byNode = { ...REQUEST, caller: NODE_CALLER }
  t.same(decodeRequest(encodeRequest(byNode)), byNode, 'a request of a host process is read back')
  const udp: FlowRequest = { ...REQUEST, protocol: 'udp' }
  t.equal(encodeRequest(udp).toString('hex', 0, 4), '01111f90', 'UDP has its IP protocol number, 17')
  t.same(decodeRequest(encodeRequest(udp)), udp, 'a request for UDP is read back')
})

t.test('a request with the longest names fits', async (t) => {
  const label = 'a'.repeat(63)
  const service = `${label}.${label}.${label}.${label}`
  const longest = { ...REQUEST, service, ordinal: 999_999, caller: caller(`${service}.999999`) }
  const bytes = encodeRequest(longest)
  t.ok(bytes.length <= REQUEST_LIMIT, `it has at most ${REQUEST_LIMIT} bytes: ${bytes.length}`)
  t.same(decodeRequest(bytes), longest, 'it is read back')
})

t.test('what is no request is not read', async (t) => {
  const good = encodeRequest(REQUEST)
  const at = (offset: number, value: number) => {
    const bytes = Buffer.from(good)
    bytes[offset] = value
    return bytes
  }
  const rows: [why: string, bytes: Buffer][] = [
    ['no bytes', Buffer.alloc(0)],
    ['another version', at(0, 2)],
    ['another protocol', at(1, 132)],
    ['port 0', Buffer.concat([good.subarray(0, 2), Buffer.of(0, 0), good.subarray(4)])],
    ['an ordinal beyond the last', at(4, 1)],
    ['a byte too many', Buffer.concat([good, Buffer.of(0)])],
    ['a name with an upper-case letter', at(17, 0x53)],
    ['a name of three labels', encodeRequest({ ...REQUEST, service: 'shop.acme.cart' })],
    ['an empty name', encodeRequest({ ...REQUEST, service: '' })],
    [
      'a caller without a number',
      encodeRequest({ ...REQUEST, caller: { kind: 'instance', id: 'a.b.c.d', service: 'a.b.c.d' } }),
    ],
    ['more bytes than a request may have', Buffer.alloc(REQUEST_LIMIT + 1, 1)],
  ]
  for (const [why, bytes] of rows) t.equal(decodeRequest(bytes), undefined, `${why}: it is not read`)
  for (let end = 0; end < good.length; end++) {
    if (decodeRequest(good.subarray(0, end)) !== undefined) t.fail(`a request cut off after ${end} bytes is read`)
  }
})

t.test('no bytes make the reader of requests throw, and what it reads is written the same', async (t) => {
  const good = encodeRequest(REQUEST)
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
      if (read !== undefined) t.same(encodeRequest(read), bytes, 'what is read is written with the same bytes')
    }),
    { numRuns: 2000 },
  )
})

t.test('a caller has the address that its own name resolves to', async (t) => {
  const vips = { 'any.rr': 0xe0101, '0.pinned': 0xe0102 } as const
  const table = new LiteralTable({ id: 'shop.acme.front.prod', on: ['edge/a', 'edge/b'], vips })
  const addressOf = callerAddress(table, vipRange('127.16.0.0/12'))
  t.equal(addressOf('shop.acme.front.prod.0'), '127.30.1.2', 'the address of its pinned name')
  t.equal(addressOf('shop.acme.front.prod.1'), undefined, 'an instance without a VIP of its own has none')
  t.equal(addressOf('shop.acme.ghost.prod.0'), undefined, 'an instance of an unknown service has none')
  t.equal(addressOf('garbage'), undefined, 'what is no instance has none')
  const ofSmallRange = callerAddress(table, vipRange('127.32.0.0/16'))
  t.equal(ofSmallRange('shop.acme.front.prod.0'), undefined, 'a VIP outside the range of the node is no address')
})

t.test('names in logs are canonical', async (t) => {
  const { service } = entryOf({ id: 'shop.acme.cart.prod' })
  const name = nameOf({ service, choice: { instance: 3, policy: 'closest' }, vip: 0 })
  t.equal(name, 'shop.acme.cart.prod.3.closest.local', 'service, instance, policy and zone, in this order')
})

t.test('a candidate may be silent for a time that fits its distance before the next is tried', async (t) => {
  const rows: [why: string, rtt: number | undefined, hasSession: boolean, ms: number][] = [
    ['250 ms when its distance is not known', undefined, true, 250],
    ['50 ms when it is near: never less', 0.2, true, 50],
    ['three round trips when it is far', 40, true, 120],
    ['250 ms when a session must be made, though it is near', 5, false, 250],
    ['six round trips when a session must be made far away', 100, false, 600],
  ]
  for (const [why, rtt, hasSession, ms] of rows) t.equal(hedgeDelayMs(rtt, hasSession), ms, why)
})

t.test('first bytes go along with OPEN when the peer is far and no answer of it is overdue', async (t) => {
  const rows: [why: string, route: Parameters<typeof maySendEarly>[0], may: boolean][] = [
    ['they go to a peer that is far and has answered', { takesEarly: true, rttMs: 50, silentMs: 0 }, true],
    ['they do not go to an older peer, which does not take them', { takesEarly: false, rttMs: 50, silentMs: 0 }, false],
    ['they do not go to a peer nearer than 10 ms', { takesEarly: true, rttMs: 9.9, silentMs: 0 }, false],
    [
      'they go to a peer at 10 ms that is silent for 65 ms: its answer is not overdue',
      { takesEarly: true, rttMs: 10, silentMs: 65 },
      true,
    ],
    [
      'they go to a peer at 50 ms that is silent for 125 ms: its answer is not overdue',
      { takesEarly: true, rttMs: 50, silentMs: 125 },
      true,
    ],
    [
      'they do not go to a peer at 50 ms that is silent for 126 ms: its answer is overdue',
      { takesEarly: true, rttMs: 50, silentMs: 126 },
      false,
    ],
    [
      'they go on a session that is not measured and silent for 200 ms',
      { takesEarly: true, rttMs: undefined, silentMs: 200 },
      true,
    ],
    [
      'they do not go on a session that is not measured and silent for 201 ms',
      { takesEarly: true, rttMs: undefined, silentMs: 201 },
      false,
    ],
  ]
  for (const [why, route, may] of rows) t.equal(maySendEarly(route), may, why)
})

type RaceEvent =
  | readonly [at: number, event: 'start' | 'tick']
  | readonly [at: number, event: 'opened' | 'fed' | 'lost', candidate: number]
  | readonly [at: number, event: 'failed', candidate: number, refusal?: Refusal]
const RACES: { why: string; hedgeMs: number[]; events: RaceEvent[]; actions: string[] }[] = [
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
    why: 'when a candidate fails, the next is tried at once',
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
    why: 'the flow is refused when all candidates have failed',
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
    why: 'a failure does not end the race while another candidate is being tried',
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
    why: 'a candidate with the first bytes fails: the next is tried at once and gets them',
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
    why: 'a candidate refuses for another reason when asked to return the first bytes: it is not tried again',
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
    why: 'a candidate is lost with the first bytes: no other gets them, and the flow is lost',
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
    t.same(said, actions, 'candidates are tried, dropped and chosen in the order of the row')
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
  t.equal(race.wakeAt, 1050, 'it wakes when the first candidate has been silent for its 50 ms')
  race.tick(1050)
  t.equal(race.wakeAt, 4000, 'with no candidate left to try it wakes at the deadline')
  race.opened(1)
  t.equal(race.wakeAt, undefined, 'it does not wake once it is over')
})

t.test('a caller whose flow no instance took is answered by the most informative of the tries', async (t) => {
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
    t.same(failureOf('refused', tries), { end, code }, `the tries ${outcomes.join(', ')} make the error ${code}`)
  }
  const late = failureOf('timeout', [{ outcome: 'refused' }])
  t.same(
    late,
    { end: 'timeout', code: 'FLOW_TIMEOUT' },
    'at the deadline of the flow it is a timeout, whatever the tries',
  )
  const unsure = failureOf('unsure', [{ outcome: 'refused' }])
  t.same(
    unsure,
    { end: 'unreachable', code: 'FLOW_UNREACHABLE' },
    'without an answer to its first bytes it is unreachable',
  )
})
