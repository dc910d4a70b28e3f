import { EventEmitter } from 'node:events'
import { Socket } from 'node:net'
import t from 'tap'
import type { WebSocket } from 'ws'
import { silentLog } from '../../src/core/kit/log.ts'
import { type Channel, channelOf } from '../../src/core/kit/websocket.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { Link } from '../../src/orchestrator/link/link.ts'
import { Pace } from '../../src/orchestrator/link/pace.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { until } from '../support/until.ts'

t.test('when the next heartbeat comes, and how long silence is believed', async (t) => {
  const rows = [
    {
      end: 'node',
      heard: undefined,
      atRest: true,
      next: 1_000,
      silence: 2_700,
      why: 'the peer is of an earlier version',
    },
    { end: 'node', heard: 1_000, atRest: false, next: 1_000, silence: 2_700, why: 'it carries flows' },
    { end: 'node', heard: 1_000, atRest: true, next: 12_000, silence: 2_700, why: 'it carries nothing' },
    { end: 'node', heard: 17_000, atRest: true, next: 12_000, silence: 20_000, why: 'both are at rest' },
    {
      end: 'node',
      heard: 20_000,
      atRest: true,
      next: 12_000,
      silence: 23_000,
      why: 'the cluster is of 0.4 or earlier',
    },
    { end: 'cluster', heard: undefined, next: 1_000, silence: 2_700, why: 'the node is of an earlier version' },
    { end: 'cluster', heard: 1_000, next: 1_000, silence: 2_700, why: 'the node carries flows' },
    { end: 'cluster', heard: 12_000, next: 17_000, silence: 15_000, why: 'the node is at rest' },
    { end: 'cluster', heard: 60_000, next: 60_000, silence: 63_000, why: 'it announces no more than a heartbeat may' },
  ]
  for (const { end, heard, atRest, next, silence, why } of rows) {
    let now = 0
    const pace = new Pace({ now: () => now, ...(atRest === undefined ? {} : { isAtRest: () => atRest }) })
    now = 60_000
    if (heard !== undefined) pace.heard(heard)
    t.equal(pace.nextMs(), next, `${end}: ${why}`)
    t.equal(pace.silenceMs, silence, `${end}, silence: ${why}`)
  }
})

t.test('a node is at rest half a minute after it carried something, and in use at once', async (t) => {
  let now = 0
  let isAtRest = false
  const pace = new Pace({ now: () => now, isAtRest: () => isAtRest })
  pace.heard(1_000)
  const at = (ms: number) => {
    now = ms
    return pace.nextMs()
  }
  t.equal(at(1_000), 1_000)
  isAtRest = true
  const newcomer = new Pace({ now: () => now, isAtRest: () => isAtRest })
  newcomer.heard(1_000)
  t.equal(newcomer.nextMs(), 12_000, 'one that has carried nothing yet is at rest')
  t.equal(at(20_000), 1_000, 'for 19 s')
  t.equal(at(31_000), 12_000, 'for 30 s')
  isAtRest = false
  t.equal(at(31_250), 1_000, 'the first flow')
})

/** A link over a channel that is not there. */
function linked(options: { isAtRest?: () => boolean } = {}) {
  const sent: unknown[] = []
  const listeners = {
    receive: (() => undefined) as (text: string) => void,
    close: (() => undefined) as (reason: string, isSilent?: boolean) => void,
  }
  const asked = { measured: 0, probes: undefined as boolean | undefined }
  const channel: Channel = {
    backlog: 0,
    send: (text) => sent.push(JSON.parse(text)),
    onText: (listener) => (listeners.receive = listener),
    onClose: (listener) => (listeners.close = listener),
    close: () => undefined,
    measure: async () => (asked.measured += 1),
    watched: ({ probes }) => (asked.probes = probes),
  }
  const clock = new ManualClock()
  const nothing = { requests: {}, notifications: {} } as const
  const sides = { sends: nothing, receives: nothing, onRequest: {}, onNotification: {} }
  const parts = { tier: 'node', peer: 'edge/n1', clock, log: silentLog, metrics: openMetrics('cluster') } as const
  const link = new Link(channel, sides, { ...parts, ...options })
  return { link, sent, listeners, asked, clock }
}

t.test('a heartbeat announces the next one, and a pong proves that a peer at rest lives', async (t) => {
  const { link, sent, listeners, asked, clock } = linked()
  await until(() => sent.length === 1)
  t.same(sent[0], { beat: 1, next: 1_000 })
  await clock.advance(250)
  listeners.receive('{"beat":1,"next":12000}')
  t.same(sent[1], { beat: 1, next: 17_000 }, 'a peer at rest is answered at once')
  listeners.receive('{"beat":1,"next":12000}')
  t.equal(sent.length, 2, 'once for many heartbeats in one moment')
  await clock.advance(12_000)
  listeners.receive('{"beat":1,"next":12000}')
  t.equal(sent.length, 3, 'and each time')
  listeners.receive('{"beat":1,"next":1000}')
  await until(() => sent.length === 4)
  t.same(sent[3], { beat: 1, next: 1_000 }, 'a new pace is told soon: the peer expects the one before')
  listeners.receive('{"beat":1}')
  listeners.receive('{"beat":1,"next":99999999}')
  t.match(sent.at(-1), { fault: /./ }, 'a time out of all bounds is none')
  t.equal(await link.provesAlive(), true)
  t.equal(asked.measured, 1)
  t.equal(asked.probes, true, 'the kernel watches it')
  link.close('done')
})

t.test('of a node and its cluster only the cluster has its kernel probe', async (t) => {
  const { link, asked } = linked({ isAtRest: () => true })
  t.equal(asked.probes, false)
  link.close('done')
})

t.test('a peer that the kernel gives up is silent, as one whose heartbeats stay away', async (t) => {
  for (const [code, kind] of [
    ['ETIMEDOUT', 'silent'],
    ['EHOSTUNREACH', 'silent'],
    ['ECONNRESET', 'closed'],
  ] as const) {
    const webSocket = new EventEmitter() as WebSocket
    const socket = new Socket()
    const channel = channelOf(webSocket, socket)
    let told: boolean | undefined
    channel.onClose((_, isSilent) => (told = isSilent))
    socket.emit('error', Object.assign(new Error(`read ${code}`), { code }))
    webSocket.emit('close', 1006, '')
    t.equal(told, kind === 'silent', code)
    const { link, listeners } = linked()
    listeners.close(code, told)
    t.match(await link.ended, { kind }, code)
  }
})
