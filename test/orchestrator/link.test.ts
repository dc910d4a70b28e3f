import fc from 'fast-check'
import t from 'tap'
import Type from 'typebox'
import { Check } from 'typebox/value'
import { MeshError } from '../../src/core/errors.ts'
import { keptLog } from '../proxy/world.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import type { Channel } from '../../src/core/kit/websocket.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { DialledLink } from '../../src/orchestrator/link/dialled-link.ts'
import {
  Link,
  type RequestHandlers,
  type LinkSides,
  type NotificationHandlers,
} from '../../src/orchestrator/link/link.ts'
import { type LinkProtocol } from '../../src/orchestrator/link/messages/protocol.ts'
import { clusterToNode, nodeToCluster } from '../../src/orchestrator/link/messages/node-cluster.ts'
import { clusterToRoot, rootToCluster } from '../../src/orchestrator/link/messages/cluster-root.ts'
import { InnerPath } from '../../src/orchestrator/link/schemas.ts'
import { until } from '../support/until.ts'

const protocol = {
  requests: {
    double: {
      request: Type.Object({ n: Type.Integer() }),
      response: Type.Object({ n: Type.Integer() }),
      withinMs: 5_000,
    },
    never: { request: Type.Object({}), response: Type.Object({}), withinMs: 30 },
  },
  notifications: { say: Type.Object({ word: Type.String({ maxLength: 8 }) }) },
} as const satisfies LinkProtocol
type Words = typeof protocol

interface End extends Channel {
  backlog: number
  /** What came out of the link at this end, for the other side. */
  sent: string[]
  /** As if the other side had sent it. */
  receive(text: string): void
  isClosed: boolean
}

/** One end of a channel whose other side is the test. */
function end(onSend: (text: string) => void = () => undefined): End {
  let heard: (text: string) => void = () => undefined
  const closing: Array<(reason: string) => void> = []
  const channel: End = {
    sent: [],
    isClosed: false,
    backlog: 0,
    measure: () => Promise.resolve(0),
    receive: (text) => heard(text),
    send: (text) => {
      channel.sent.push(text)
      onSend(text)
    },
    onText: (listener) => (heard = listener),
    onClose: (listener) => closing.push(listener),
    close: (reason = '') => {
      if (channel.isClosed) return
      channel.isClosed = true
      for (const listener of closing) listener(reason)
    },
  }
  return channel
}

const metrics = openMetrics('cluster')
const parts = { tier: 'node' as const, peer: 'edge/n1', clock: systemClock, log: silentLog, metrics }
const onRequest: RequestHandlers<Words> = {
  double: ({ n }) => ({ n: 2 * n }),
  never: () => new Promise(() => undefined),
}
const words: string[] = []
const onNotification: NotificationHandlers<Words> = { say: ({ word }) => words.push(word) }
const sides: LinkSides<Words, Words> = { sends: protocol, receives: protocol, onRequest, onNotification }

function link(channel: Channel, changes: Partial<LinkSides<Words, Words>> = {}) {
  return new Link(channel, { ...sides, ...changes }, parts)
}

/** Two links that hear each other, each in its own turn. */
function pair(changes: Partial<LinkSides<Words, Words>> = {}) {
  const left: End = end((text) => setImmediate(() => right.receive(text)))
  const right: End = end((text) => setImmediate(() => left.receive(text)))
  const near = link(left)
  const far = link(right, changes)
  left.onClose((reason) => right.close(reason))
  right.onClose((reason) => left.close(reason))
  return { left, right, near, far, [Symbol.dispose]: () => (near.close('done'), far.close('done')) }
}

const soon = () => new Promise((resolve) => setImmediate(() => setImmediate(resolve)))
const json = (texts: string[]) => texts.map((text) => JSON.parse(text) as Record<string, unknown>)

t.test('answers wait until what they follow from is on disk; that we live is said at once', async (t) => {
  const disk = Promise.withResolvers<void>()
  let pending: Promise<void> | undefined = disk.promise
  const channel = end()
  const answering = new Link(channel, sides, { ...parts, pending: () => pending })
  channel.receive(JSON.stringify({ ask: 1, type: 'double', body: { n: 1 } }))
  await soon()
  answering.notify('say', { word: 'two' })
  t.same(channel.sent, [])
  answering.goAway(100)
  t.same(json(channel.sent), [{ goaway: 100 }], 'whoever leaves says so')
  pending = undefined
  disk.resolve()
  await soon()
  t.equal(channel.sent.length, 1, 'and nothing after that')

  const other = end()
  const disks = Promise.withResolvers<void>()
  const failing = new Link(other, sides, { ...parts, pending: () => disks.promise })
  failing.notify('say', { word: 'one' })
  disks.reject(new Error('EIO'))
  await soon()
  t.same(other.sent, [])
  t.notOk(failing.isOpen, 'a tier that cannot save what it says ends its links')
})

t.test(
  'what follows from a request comes after its response, not after the end of the link, and its errors are logged',
  async (t) => {
    const log = keptLog()
    const channel = end()
    const done: string[] = []
    const answering: Link<Words, Words> = new Link(
      channel,
      {
        ...sides,
        onRequest: {
          ...onRequest,
          double: ({ n }) => {
            answering.afterResponse('double', () => {
              done.push(`${n} after ${channel.sent.length} messages`)
              if (n === 2) throw new Error('the store is closed')
            })
            return { n: 2 * n }
          },
        },
      },
      { ...parts, log },
    )
    for (const n of [1, 2]) {
      channel.receive(JSON.stringify({ ask: n, type: 'double', body: { n } }))
      await soon()
    }
    t.same(done, ['1 after 1 messages', '2 after 2 messages'], 'the response went first')
    t.match(log.lines, [{ level: 'error', sentence: 'request handler failed' }], 'an error is logged, and ends nothing')
    t.ok(answering.isOpen, 'the link stays open')
    channel.receive(JSON.stringify({ ask: 3, type: 'double', body: { n: 3 } }))
    answering.close('the cluster ends')
    await soon()
    t.equal(done.length, 2, 'what it needs may be closed as well')
  },
)

t.test('requests are answered, in any order, and notifications arrive', async (t) => {
  using both = pair({
    onRequest: {
      ...onRequest,
      double: async ({ n }) => {
        if (n === 1) await soon()
        return { n: 2 * n }
      },
    },
  })
  t.same(await Promise.all([1, 2, 3].map((n) => both.near.request('double', { n }))), [{ n: 2 }, { n: 4 }, { n: 6 }])
  both.near.notify('say', { word: 'hello' })
  await soon()
  t.same(words, ['hello'])
})

t.test('errors travel with their code, and the text of a bug does not', async (t) => {
  using mesh = pair({
    onRequest: { ...onRequest, double: () => Promise.reject(new MeshError('NODE_UNKNOWN', { node: 'edge/n9' })) },
  })
  await t.rejects(mesh.near.request('double', { n: 1 }), { code: 'NODE_UNKNOWN', details: { node: 'edge/n9' } })
  using bug = pair({
    onRequest: {
      ...onRequest,
      double: () => {
        throw new Error('secret path /etc/shadow')
      },
    },
  })
  const error = await bug.near.request('double', { n: 1 }).catch((error: MeshError) => error)
  t.match(error, { code: 'REQUEST_FAILED' })
  t.notMatch(JSON.stringify(error), /shadow/)
})

t.test('a request without a response times out', async (t) => {
  using both = pair()
  await t.rejects(both.near.request('never', {}), { code: 'REQUEST_TIMEOUT' })
  const gaveUp = both.near.request('double', { n: 1 }, AbortSignal.abort())
  await t.rejects(gaveUp, { code: 'REQUEST_TIMEOUT' })
  const cut = both.near.request('never', {})
  both.far.close('bye')
  await t.rejects(cut, { code: 'LINK_CLOSED' })
  await t.rejects(both.near.request('double', { n: 1 }), { code: 'LINK_CLOSED' })
})

t.test('a handler is aborted when its link ends', async (t) => {
  const channel = end()
  const aborted = Promise.withResolvers<void>()
  const one = link(channel, {
    onRequest: {
      ...onRequest,
      never: (_body, signal) => {
        signal.addEventListener('abort', () => aborted.resolve())
        return new Promise(() => undefined)
      },
    },
  })
  channel.receive('{"ask":1,"type":"never","body":{}}')
  one.close('bye')
  await aborted.promise
  t.pass('aborted')
})

t.test('the number of unanswered requests is bounded in both directions', async (t) => {
  const channel = end()
  const one = link(channel)
  const waiting = Array.from({ length: 1_024 }, () =>
    one.request('double', { n: 1 }).catch((error: MeshError) => error.code),
  )
  await t.rejects(one.request('double', { n: 1 }), { code: 'REQUEST_FAILED', details: { reason: /unanswered/ } })
  channel.sent.length = 0
  for (let id = 1; id <= 1_025; id++) channel.receive(`{"ask":${id},"type":"never","body":{}}`)
  await soon()
  t.match(json(channel.sent), [{ answer: 1_025, error: { code: 'REQUEST_FAILED' } }], 'only the last was refused')
  one.close('done')
  t.same(new Set(await Promise.all(waiting)), new Set(['LINK_CLOSED']))
})

t.test('a peer that does not read is cut off', async (t) => {
  const channel = end()
  const one = link(channel)
  Object.defineProperty(channel, 'backlog', { value: 33 * 1024 * 1024 })
  one.notify('say', { word: 'more' })
  t.match(await one.ended, { kind: 'closed', reason: /too slowly/ })
})

t.test('a malformed message is reported to the peer, and several end the link', async (t) => {
  const rows: Array<{ why: string; text: string; answer: object }> = [
    { why: 'not JSON', text: '{{{', answer: { fault: /protocol/ } },
    { why: 'no kind', text: '{"hello":1}', answer: { fault: /protocol/ } },
    { why: 'a list', text: '[1,2,3]', answer: { fault: /protocol/ } },
    { why: 'null', text: 'null', answer: { fault: /protocol/ } },
    { why: 'negative id', text: '{"ask":-1,"type":"double","body":{"n":1}}', answer: { fault: /protocol/ } },
    {
      why: 'wrong body',
      text: '{"ask":1,"type":"double","body":{"n":"x"}}',
      answer: { answer: 1, error: { code: 'MESSAGE_INVALID' } },
    },
    {
      why: 'unknown ask',
      text: '{"ask":1,"type":"toString","body":{}}',
      answer: { answer: 1, error: { code: 'MESSAGE_INVALID' } },
    },
    { why: 'long notice', text: '{"tell":"say","body":{"word":"a very long word"}}', answer: { fault: /say/ } },
  ]
  for (const { why, text, answer } of rows) {
    const channel = end()
    const one = link(channel)
    channel.receive(text)
    t.match(json(channel.sent)[0], answer, why)
    t.ok(one.isOpen, `${why}: one is forgiven`)
    one.close('done')
  }
  const channel = end()
  const one = link(channel)
  for (let i = 0; i < 3; i++) channel.receive('nonsense')
  t.match(await one.ended, { kind: 'closed', reason: /malformed/ })
  t.ok(channel.isClosed, 'the channel beneath is closed too')
})

t.test('paths of files and volumes stay within the instance, whatever a peer sends', (t) => {
  const rows: Array<[path: string, isTaken: boolean]> = [
    ['/etc/cart/config.yaml', true],
    ['/a/.b/..c/d..', true],
    ['/a b/ü', true],
    ['', false],
    ['/', false],
    ['etc/cart', false],
    ['/etc/', false],
    ['/etc//cart', false],
    ['/..', false],
    ['/etc/../../etc/cron.d/x', false],
    ['/etc/./x', false],
    ['/etc/x/..', false],
    ['/etc/x\0.yaml', false],
    [`/${'a/'.repeat(600)}a`, false],
    [`/${'a'.repeat(1_023)}/`, false],
  ]
  for (const [path, isTaken] of rows)
    t.equal(Check(InnerPath, path), isTaken, `${JSON.stringify(path.slice(0, 40))}: ${isTaken}`)
  t.end()
})

t.test('a response of the wrong form is an error, and unknown notifications are ignored', async (t) => {
  const channel = end()
  const one = link(channel)
  const wrong = one.request('double', { n: 1 })
  channel.receive('{"answer":1,"body":{"n":"two"}}')
  await t.rejects(wrong, { code: 'MESSAGE_INVALID' })
  channel.receive('{"answer":77,"body":{}}')
  channel.receive('{"tell":"something-new","body":{}}')
  t.ok(one.isOpen, 'answers and messages that are not expected do not end the link')
  const coded = one.request('double', { n: 1 })
  channel.receive('{"answer":2,"error":{"code":"__proto__"}}')
  await t.rejects(coded, { code: 'REQUEST_FAILED' }, 'a code we do not know')
  one.close('done')
})

t.test('a link answers or ends, and never throws, whatever a peer sends', async (t) => {
  const protocols = [nodeToCluster, clusterToNode, clusterToRoot, rootToCluster] as const satisfies LinkProtocol[]
  const types = protocols.flatMap((each) => [...Object.keys(each.requests), ...Object.keys(each.notifications)])
  const message = fc.oneof(
    fc.string({ maxLength: 100 }),
    fc.json({ maxDepth: 4 }),
    fc
      .record({
        ask: fc.oneof(fc.nat(), fc.constant(null)),
        type: fc.constantFrom(...types),
        body: fc.object({ maxDepth: 3 }),
      })
      .map((each) => JSON.stringify(each)),
    fc
      .record({ tell: fc.constantFrom(...types), body: fc.object({ maxDepth: 3 }) })
      .map((each) => JSON.stringify(each)),
    fc.record({ answer: fc.nat({ max: 4 }), body: fc.jsonValue() }).map((each) => JSON.stringify(each)),
    fc.record({ answer: fc.nat({ max: 4 }), error: fc.jsonValue() }).map((each) => JSON.stringify(each)),
  )
  for (const receives of protocols) {
    const calls: string[] = []
    const all = (names: string[]): never =>
      Object.fromEntries(names.map((name) => [name, () => (calls.push(name), {})])) as never
    fc.assert(
      fc.property(fc.array(message, { maxLength: 8 }), (texts) => {
        const channel = end()
        const one = new Link(
          channel,
          {
            sends: receives,
            receives,
            onRequest: all(Object.keys(receives.requests)),
            onNotification: all(Object.keys(receives.notifications)),
          },
          parts,
        )
        for (const text of texts) channel.receive(text)
        one.close('done')
      }),
      { numRuns: 150 },
    )
  }
  t.pass('it held')
})

t.test('a silent peer is noticed', async (t) => {
  const channel = end()
  const one = link(channel)
  const awake = setInterval(() => undefined, 1_000) // the link's own timers keep no process alive
  t.same(await one.ended, { kind: 'silent' })
  clearInterval(awake)
  t.ok(
    channel.sent.some((text) => text.startsWith('{"beat":1,')),
    'and we said meanwhile that we live',
  )
})

t.test('a link that ends is dialled again, when the peer asked for it, until it is closed', async (t) => {
  const dialled: End[] = []
  const ups: string[] = []
  let refusals = 2
  const slept: number[] = []
  const next = () => new Promise<void>((resolve) => (onDial = resolve))
  let onDial = () => undefined as void
  const kept = DialledLink.start<Words, Words>(
    {
      dial: async () => {
        if (refusals-- > 0) throw new MeshError('NOT_RUNNING', {})
        const channel = end()
        dialled.push(channel)
        setImmediate(() => onDial())
        return channel
      },
      sides,
      onUp: async () => void ups.push('up'),
      onDown: () => void ups.push('down'),
      random: () => 0.5,
    },
    { ...parts, clock: { ...systemClock, sleep: async (ms) => void slept.push(ms) } },
  )
  await t.rejects(kept.request('double', { n: 1 }), { code: 'LINK_CLOSED' })
  await next()
  t.equal(slept.length, 2, 'two refusals, two rests')
  t.ok((slept[1] ?? 0) > (slept[0] ?? 0), 'the second longer')
  t.ok(kept.isUp, 'the third try succeeds')
  const again = next()
  dialled[0]?.receive('{"goaway":1234}')
  await again
  t.equal(slept[2], 1234, 'it said when')
  t.same(ups, ['up', 'down', 'up'])
  await kept[Symbol.asyncDispose]()
  t.notOk(kept.isUp, 'a link that was closed is not up')
  t.ok(dialled[1]?.isClosed, 'its last channel is closed')
})

t.test('another network ends a rest, and a dial that hangs, for another try', async (t) => {
  const dials: AbortSignal[] = []
  let answer: 'refuse' | 'hang' | 'connect' = 'refuse'
  const dial = (signal: AbortSignal): Promise<Channel> => {
    dials.push(signal)
    if (answer === 'refuse') return Promise.reject(new MeshError('NOT_RUNNING', {}))
    if (answer === 'connect') return Promise.resolve(end())
    return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)))
  }
  await using kept = DialledLink.start<Words, Words>(
    { dial, sides, onUp: () => Promise.resolve(), onDown: () => undefined, limitMs: 600_000, random: () => 1 },
    { ...parts, clock: { ...systemClock, sleep: (ms, signal) => systemClock.sleep(ms * 1_000, signal) } },
  )
  await until(() => dials.length === 1)
  await new Promise((resolve) => setImmediate(resolve)) // it rests for minutes now
  answer = 'hang'
  kept.networkChanged(() => true)
  await until(() => dials.length === 2)
  answer = 'connect'
  kept.networkChanged(() => true)
  t.ok(dials[1]?.aborted, 'a dial that hangs is given up')
})

t.test('another network makes a link that is up show that it lives', async (t) => {
  const channels: Array<End & { rechecked: number }> = []
  const dial = () => {
    const recheck = (isHere: (address: string) => boolean) => {
      channel.rechecked += 1
      if (!isHere('192.168.1.10')) channel.close('our address is gone')
    }
    const channel = Object.assign(end(), { rechecked: 0, recheck })
    channels.push(channel)
    return Promise.resolve(channel)
  }
  await using up = DialledLink.start<Words, Words>(
    { dial, sides, onUp: () => Promise.resolve(), onDown: () => undefined, random: () => 0.5 },
    { ...parts, clock: { ...systemClock, sleep: () => Promise.resolve() } },
  )
  await until(() => up.isUp)
  const [first] = channels.slice(-1)
  up.networkChanged(() => true)
  t.equal(first?.rechecked, 1, 'the link is checked when the network changes')
  up.doubt()
  t.equal(first?.rechecked, 2, 'and when it is in doubt')
  t.ok(up.isUp, 'a link that lives stays up')
  up.networkChanged(() => false)
  await until(() => up.isUp && channels.at(-1) !== first)
  t.ok(first?.isClosed, 'a link from an address that is gone is made anew')
})

t.test('paused: a link that is up stays, an attempt is given up, and none follows until it is resumed', async (t) => {
  const turn = () => new Promise((resolve) => setImmediate(resolve))
  const rows = [
    { at: 'the dial', dials: 'hang', hello: 'hang', stays: false },
    { at: 'hello', dials: 'connect', hello: 'hang', stays: false },
    { at: 'up', dials: 'connect', hello: 'answer', stays: true },
  ]
  for (const { at, dials, hello, stays } of rows) {
    const signals: AbortSignal[] = []
    const channels: End[] = []
    const kept = DialledLink.start<Words, Words>(
      {
        dial: (signal) => {
          signals.push(signal)
          if (dials === 'hang' && signals.length === 1)
            return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)))
          const channel = end()
          channels.push(channel)
          return Promise.resolve(channel)
        },
        sides,
        onUp: async (link) => {
          if (hello === 'hang' && channels.length === 1 && dials === 'connect') await link.request('double', { n: 1 })
        },
        onDown: () => undefined,
        random: () => 0.5,
      },
      { ...parts, clock: { ...systemClock, sleep: turn as () => Promise<void> } },
    )
    await until(() => signals.length === 1 && (dials === 'hang' || (channels[0]?.sent.length ?? 0) > 0 || kept.isUp))
    kept.pause()
    for (let turns = 0; turns < 20; turns += 1) await turn()
    t.equal(kept.isUp, stays, at)
    if (channels[0] !== undefined) t.equal(channels[0].isClosed, !stays, at)
    t.equal(signals.length, 1, at)
    if (stays) channels[0]?.close('gone')
    for (let turns = 0; turns < 20; turns += 1) await turn()
    t.equal(signals.length, 1, `${at}: not dialled while paused`)
    kept.resume()
    await until(() => kept.isUp)
    t.equal(signals.length, 2, `${at}: dialled again`)
    await kept[Symbol.asyncDispose]()
  }
})

t.test('whoever sends much waits while the peer has much to read; heartbeats do not', async (t) => {
  const channel = end()
  const one = link(channel)
  t.equal(one.isCongested, false)
  channel.backlog = 300 * 1024
  t.equal(one.isCongested, true)
  let isOver = false
  const waiting = one.uncongested().then(() => (isOver = true))
  await new Promise((resolve) => setTimeout(resolve, 50))
  t.equal(isOver, false)
  await until(() => channel.sent.some((text) => text.includes('beat')))
  channel.backlog = 0
  await waiting
  channel.backlog = 300 * 1024
  const cut = one.uncongested()
  one.close('the peer is gone')
  await cut
  t.equal(one.isCongested, false, 'nothing waits for a link that has ended')
})
