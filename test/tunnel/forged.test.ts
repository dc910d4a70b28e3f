import { test } from 'tap'
import { ForgeryGuard } from '../../proxy/tunnel/sealed/forgery-guard.ts'
import { Air, join } from '../support/udp-air.ts'

const A = '10.0.0.1:1'
const B = '10.0.0.2:2'

/** Two sides with an open path, and someone on it who sees the packets of `near` and sends forged copies. */
async function attacked() {
  const air = new Air()
  const near = air.side('c/a', A)
  const far = air.side('c/b', B)
  join(near, far)
  const pass = (ms: number, each?: () => void) => air.pass(ms, each, near, far)
  const send = () => near.link.send(1, Buffer.from('honest'))
  const isSealed = () => near.link.mode === 'sealed' && far.link.mode === 'sealed'
  await pass(2_000, () => {
    send()
    far.link.send(1, Buffer.from('honest'))
  })
  const genuine = air.seen.find(({ to }) => to === B)!.bytes
  let number = 1_000_000
  const forge = (count: number) => {
    for (let i = 0; i < count; i++) {
      const packet = Buffer.from(genuine)
      packet.writeUInt32BE(number++, 12)
      air.inject(packet, A, B)
    }
  }
  return { air, near, far, pass, send, isSealed, forge }
}

test('a flood of forged packets is dropped unopened, and both sides continue in frames at once', async (t) => {
  const { near, far, pass, send, isSealed, forge } = await attacked()
  t.ok(isSealed(), 'datagrams go sealed before the flood')
  forge(100_000)
  const { forged = 0, paused = 0 } = far.room.drops
  t.ok(forged <= 251, `${forged} packets were opened in vain`)
  t.equal(forged + paused, 100_000, 'every forged packet was dropped')
  await Promise.resolve()
  t.same([near.link.mode, far.link.mode], ['frames', 'frames'])
  t.equal(send(), undefined, 'the next datagram goes in a frame')
  await pass(4_000, () => {
    send()
    forge(1_000)
  })
  t.notOk(isSealed(), 'as long as it lasts')
  t.ok((far.room.drops.forged ?? 0) <= 251, 'and costs no more')
})

test('after the flood the path is used again; while it lasts, attempts become rare', async (t) => {
  const { far, pass, send, isSealed, forge } = await attacked()
  const both = () => {
    send()
    far.link.send(1, Buffer.from('honest'))
  }
  await pass(60_000, () => {
    both()
    forge(1_000)
  })
  t.notOk(isSealed(), 'under the flood datagrams go in frames')
  t.ok((far.room.drops.forged ?? 0) <= 5 * 251, `${far.room.drops.forged} were opened in a minute of 4,000 a second`)
  await pass(62_000, both)
  t.ok(isSealed(), 'a minute after it has ended')
})

test('a few damaged packets interrupt nothing', async (t) => {
  const { pass, send, isSealed, forge } = await attacked()
  await pass(10_000, () => {
    send()
    forge(20)
    t.ok(isSealed(), 'twenty damaged packets do not end the sealed path')
  })
})

test('the guard pauses for longer each time, and forgets after two minutes', async (t) => {
  const guard = new ForgeryGuard()
  const flood = (now: number) => {
    for (;;) {
      const ms = guard.forged(now)
      if (ms !== undefined) return ms
    }
  }
  let now = 0
  const pauses = Array.from({ length: 5 }, () => {
    const ms = flood(now)
    t.ok(guard.isPaused(now + ms - 1), 'it pauses until the last millisecond')
    t.notOk(guard.isPaused((now += ms)), 'the pause ends when it is over')
    return ms
  })
  t.same(pauses, [5_000, 10_000, 20_000, 60_000, 60_000])
  t.equal(flood(now + 120_000), 5_000, 'after a quiet time the first pause is short again')
})
