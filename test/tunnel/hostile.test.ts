import fc from 'fast-check'
import { test } from 'tap'
import type { IncomingStream } from '../../proxy/tunnel/contract.ts'
import { segmentBytesInUse } from '../../proxy/tunnel/stream/segments.ts'
import { FRAME, MAX_EARLY_BYTES } from '../../proxy/tunnel/wire/frame.ts'
import {
  acceptUnread,
  ackFrame,
  frame,
  HostilePeer,
  positionedData,
  resumeFrame,
  TAMPERINGS,
} from '../support/hostile-peer.ts'
import { accepting, listenTo } from '../support/mux-pair.ts'

/** Streams of the peer have even ids. */
const THEIRS = 2
const OURS = 1

test('tampered, replayed, reordered, lost and cut frames end the session or change nothing else', async (t) => {
  const before = segmentBytesInUse()
  const step = fc.record({
    tampering: fc.option(fc.constantFrom(...TAMPERINGS), { nil: undefined }),
    which: fc.nat(100_000),
    bytes: fc.nat(40_000),
  })
  let cut = 0
  fc.assert(
    fc.property(fc.array(step, { minLength: 3, maxLength: 25 }), (steps) => {
      const heard: Parameters<typeof accepting>[0] = []
      const peer = new HostilePeer({ accept: accepting(heard) }, { accept: accepting([]) })
      const { near, far } = peer.pair
      const streams = [listenTo(near, 'a'), listenTo(near, 'b'), listenTo(far, 'c')]
      for (const { tampering, which, bytes } of steps) {
        streams[which % streams.length]!.stream.write(Buffer.alloc(bytes))
        if (which % 7 === 0) streams[which % streams.length]!.stream.end()
        peer.relay(tampering, which)
        if (peer.cutBecause !== undefined) break
      }
      if (peer.cutBecause !== undefined) cut += 1
      near.end()
      far.end()
      return (
        near.heldBytes === 0 &&
        near.accounting.keptBytes === 0 &&
        peer.carrier.streams === 0 &&
        peer.carrier.backlog === 0
      )
    }),
    { numRuns: 300 },
  )
  t.equal(segmentBytesInUse(), before, 'no memory is left behind')
  t.ok(cut > 0, 'some of it breaks a rule')
})

test('every broken rule ends the session and names the rule', async (t) => {
  const rows: { why: string; frames: Buffer[]; because: RegExp }[] = [
    { why: 'data beyond the window', frames: dataOf(5), because: /beyond the window/ },
    { why: 'an OPEN of a stream of ours', frames: [frame(FRAME.OPEN, OURS)], because: /ours to open/ },
    { why: 'a second OPEN', frames: [frame(FRAME.OPEN, THEIRS)], because: /that is open/ },
    { why: 'OPENED without OPEN', frames: [frame(FRAME.OPENED, THEIRS)], because: /OPENED without OPEN/ },
    { why: 'REFUSED without OPEN', frames: [frame(FRAME.REFUSED, THEIRS, '\0')], because: /REFUSED without OPEN/ },
    { why: 'an ACK of bytes that were not sent', frames: [ackFrame(THEIRS, 1)], because: /not sent/ },
    {
      why: 'a RESUME of bytes that were not sent',
      frames: [resumeFrame([{ stream: THEIRS, received: 9 }])],
      because: /not sent/,
    },
    {
      why: 'an offset beyond the bytes received',
      frames: [positionedData(THEIRS, { run: 1, offset: 9 })],
      because: /leaves bytes out/,
    },
    { why: 'data after END', frames: [frame(FRAME.END, THEIRS), frame(FRAME.DATA, THEIRS, 'x')], because: /after END/ },
    { why: 'two ENDs', frames: [frame(FRAME.END, THEIRS), frame(FRAME.END, THEIRS)], because: /second END/ },
    { why: 'a second HELLO', frames: [frame(FRAME.HELLO, 0, Buffer.alloc(36))], because: /second HELLO/ },
  ]
  for (const { why, frames, because } of rows) {
    const peer = new HostilePeer({ accept: acceptUnread })
    peer.send(frame(FRAME.OPEN, THEIRS, 'request'), ...frames)
    t.match(peer.cutBecause, because, why)
    t.equal(peer.pair.near.heldBytes, 0, `${why}: nothing is held any more`)
  }
})

/** Makes `count` DATA frames of 64 KiB. */
function dataOf(count: number): Buffer[] {
  return Array.from({ length: count }, () => frame(FRAME.DATA, THEIRS, Buffer.alloc(65_536)))
}

test('a flood of OPENs is refused beyond the limits, and costs no more than them', async (t) => {
  const waiting: IncomingStream[] = []
  const limits = { streams: 100, pendingOpens: 50 }
  const peer = new HostilePeer({ limits, accept: (incoming) => waiting.push(incoming) })
  for (let id = 2; id <= 20_000; id += 2) peer.send(frame(FRAME.OPEN, id, Buffer.alloc(1_024)))
  t.equal(waiting.length, limits.pendingOpens)
  t.equal(peer.pair.near.streams, limits.pendingOpens)
  t.equal(peer.read().filter((sent) => (sent[0]! & 0x1f) === FRAME.REFUSED).length, 10_000 - limits.pendingOpens)
  t.equal(peer.cutBecause, undefined, 'that is no violation')
})

test('early data of a flood of OPENs stays within the budget of the session', async (t) => {
  const limits = { pendingOpens: 1_000, bufferedBytes: 256 * 1024 }
  const peer = new HostilePeer({ limits, accept: () => undefined })
  for (let id = 2; id <= 1_000; id += 2) {
    peer.send(frame(FRAME.OPEN, id), frame(FRAME.DATA, id, Buffer.alloc(MAX_EARLY_BYTES)))
    t.ok(peer.pair.near.heldBytes <= limits.bufferedBytes, `${id / 2} streams`)
  }
  peer.send(frame(FRAME.OPEN, 2_002), frame(FRAME.DATA, 2_002, Buffer.alloc(MAX_EARLY_BYTES + 1)))
  t.match(peer.cutBecause, /more bytes than a stream that is not open may get/)
  t.equal(peer.pair.near.heldBytes, 0, 'and all of it is given back')
})

test('a peer that reads nothing and causes answers is cut, and holds a bounded amount until then', async (t) => {
  const peer = new HostilePeer()
  const ping = frame(FRAME.PING, 0, Buffer.alloc(8))
  for (let i = 0; i < 400_000 && !peer.carrier.outbox.isOverfull; i++) peer.send(ping)
  t.ok(peer.carrier.outbox.isOverfull, 'the pump closes the carrier then')
  const resets = new HostilePeer()
  const unknown = Array.from({ length: 1_024 }, (_, i) => ({ stream: 1_000_000 + 2 * i, received: 0 }))
  for (let i = 0; i < 1_000 && !resets.carrier.outbox.isOverfull; i++) resets.send(resumeFrame(unknown))
  t.ok(resets.carrier.outbox.isOverfull, 'RESETs for unknown streams count too')
})

test('a peer that acknowledges nothing stops the writer, and a slow reader loses only its own stream', async (t) => {
  const limits = { retainedBytes: 1024 * 1024, bufferedBytes: 512 * 1024 }
  const peer = new HostilePeer({ limits, accept: acceptUnread })
  const ours = listenTo(peer.pair.near, 'x')
  peer.send(frame(FRAME.OPENED, OURS))
  let written = 0
  while (ours.stream.write(Buffer.alloc(64 * 1024))) written += 64 * 1024
  t.ok(written <= limits.retainedBytes + 64 * 1024, `${written} bytes were taken`)
  for (let id = 2; id <= 10; id += 2) {
    peer.send(frame(FRAME.OPEN, id))
    for (let sent = 0; sent < 4; sent++) peer.send(frame(FRAME.DATA, id, Buffer.alloc(50_000)))
    t.ok(
      peer.pair.near.heldBytes <= limits.bufferedBytes,
      `${peer.pair.near.heldBytes} bytes are held for a peer that sends before anything is read`,
    )
  }
  t.notOk(ours.log.includes('reset'), 'the stream that holds most of what is unread is reset, not ours')
  t.equal(peer.cutBecause, undefined, 'the connection of the peer is not cut')
})

test('signals beyond the rate are dropped, and unknown frames are skipped', async (t) => {
  const peer = new HostilePeer()
  for (let i = 0; i < 1_000; i++) peer.send(frame(FRAME.SIGNAL, 0, '{}'), frame(31, 5, 'unknown'))
  t.equal(peer.pair.ignored, 1_000, 'unknown frames are counted')
  t.equal(peer.cutBecause, undefined, 'the connection of the peer is not cut')
})
