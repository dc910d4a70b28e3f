import t from 'tap'
import { silentLog } from '../../src/core/kit/log.ts'
import type { Channel } from '../../src/core/kit/websocket.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { Link } from '../../src/orchestrator/link/link.ts'
import { Pace } from '../../src/orchestrator/link/pace.ts'

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
    { end: 'node', heard: 1_000, atRest: true, next: 10_000, silence: 2_700, why: 'it carries nothing' },
    { end: 'node', heard: 20_000, atRest: true, next: 10_000, silence: 25_000, why: 'both are at rest' },
    { end: 'cluster', heard: undefined, next: 1_000, silence: 2_700, why: 'the node is of an earlier version' },
    { end: 'cluster', heard: 1_000, next: 1_000, silence: 2_700, why: 'the node carries flows' },
    { end: 'cluster', heard: 10_000, next: 20_000, silence: 15_000, why: 'the node is at rest' },
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
  t.equal(newcomer.nextMs(), 10_000, 'one that has carried nothing yet is at rest')
  t.equal(at(20_000), 1_000, 'for 19 s')
  t.equal(at(31_000), 10_000, 'for 30 s')
  isAtRest = false
  t.equal(at(31_250), 1_000, 'the first flow')
})

t.test('a heartbeat announces the next one, and a pong proves that a peer at rest lives', async (t) => {
  const sent: string[] = []
  let receive: (text: string) => void = () => undefined
  let measured = 0
  const channel: Channel = {
    backlog: 0,
    send: (text) => sent.push(text),
    onText: (listener) => (receive = listener),
    onClose: () => undefined,
    close: () => undefined,
    measure: async () => (measured += 1),
  }
  const nothing = { requests: {}, notifications: {} } as const
  const sides = { sends: nothing, receives: nothing, onRequest: {}, onNotification: {} }
  const parts = {
    tier: 'node',
    peer: 'edge/n1',
    clock: systemClock,
    log: silentLog,
    metrics: openMetrics('cluster'),
  } as const
  const link = new Link(channel, sides, parts)
  while (sent.length === 0) await new Promise((resolve) => setTimeout(resolve, 20))
  t.same(JSON.parse(sent[0] ?? ''), { beat: 1, next: 1_000 })
  receive('{"beat":1,"next":10000}')
  while (sent.length === 1) await new Promise((resolve) => setTimeout(resolve, 20))
  t.same(
    JSON.parse(sent[1] ?? ''),
    { beat: 1, next: 20_000 },
    'a new pace is told at once: the peer expects the one before',
  )
  receive('{"beat":1}')
  receive('{"beat":1,"next":99999999}')
  t.match(sent.at(-1), /fault/, 'a time out of all bounds is none')
  t.equal(await link.provesAlive(), true)
  t.equal(measured, 1)
  link.close('done')
})
