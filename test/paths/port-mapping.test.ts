import { once } from 'node:events'
import { createSocket, type Socket } from 'node:dgram'
import fc from 'fast-check'
import t from 'tap'
import { encodeAddressRequest, encodeNatPmp, encodePcp, readAnswer } from '../../proxy/paths/port-mapping/codec.ts'
import { PortMapper } from '../../proxy/paths/port-mapping/port-mapper.ts'
import { systemClock, type Clock } from '../../src/core/kit/clock.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { until } from '../support/until.ts'

const NONCE = Buffer.from('000102030405060708090a0b', 'hex')

t.test('requests are encoded as the RFCs specify', async (t) => {
  const tcp = { protocol: 'tcp', port: 7_472, wanted: 7_472, lifetimeSeconds: 3_600 } as const
  t.equal(
    encodePcp(tcp, { address: '192.168.1.10', nonce: NONCE }).toString('hex'),
    [
      '02010000',
      '00000e10',
      '00000000000000000000ffffc0a8010a',
      '000102030405060708090a0b',
      '06000000',
      '1d301d30',
      '00000000000000000000ffff00000000',
    ].join(''),
  )
  t.equal(encodeNatPmp(tcp).toString('hex'), '000200001d301d3000000e10')
  t.equal(encodeNatPmp({ ...tcp, protocol: 'udp', lifetimeSeconds: 0 }).toString('hex'), '000100001d30000000000000')
  t.equal(encodeAddressRequest().toString('hex'), '0000')
})

t.test('answers are decoded, and malformed ones are refused', async (t) => {
  const pcp = '02810000000000780000000a000000000000000000000000' + NONCE.toString('hex') + '060000001d304e20'
  const rows: Array<{ why: string; hex: string; answer: unknown }> = [
    {
      why: 'PCP, mapped',
      hex: `${pcp}00000000000000000000ffffcb007105`,
      answer: {
        kind: 'mapped',
        protocol: 'tcp',
        port: 7_472,
        external: { port: 20_000, address: '203.0.113.5' },
        lifetimeSeconds: 120,
        epoch: 10,
        nonce: NONCE,
      },
    },
    {
      why: 'NAT-PMP, mapped',
      hex: '008100000000000a1d304e2000000078',
      answer: {
        kind: 'mapped',
        protocol: 'udp',
        port: 7_472,
        external: { port: 20_000 },
        lifetimeSeconds: 120,
        epoch: 10,
      },
    },
    {
      why: 'NAT-PMP, address',
      hex: '008000000000000acb007105',
      answer: { kind: 'address', address: '203.0.113.5', epoch: 10 },
    },
    {
      why: 'NAT-PMP, no PCP',
      hex: '008100010000000a',
      answer: { kind: 'refused', reason: 'unsupported version', isForeign: true, protocol: 'udp' },
    },
    {
      why: 'PCP, refused',
      hex: `028100020000000000000000`,
      answer: { kind: 'refused', reason: 'not authorised', isForeign: false },
    },
    { why: 'a request of ours', hex: '0201000000'.repeat(56), answer: undefined },
    { why: 'cut', hex: `${pcp}00`, answer: undefined },
    { why: 'nothing', hex: '', answer: undefined },
    { why: 'another version', hex: '0381000000'.repeat(56), answer: undefined },
  ]
  for (const { why, hex, answer } of rows) t.same(readAnswer(Buffer.from(hex, 'hex')), answer, why)
})

t.test('any bytes from a router are either decoded or dropped', async (t) => {
  const head = fc.constantFrom([2, 0x81], [0, 128], [0, 129], [0, 130], [2, 0x80])
  fc.assert(
    fc.property(head, fc.uint8Array({ maxLength: 1_200 }), (head, rest) => {
      const answer = readAnswer(Buffer.from([...head, ...rest]))
      if (answer?.kind !== 'mapped') return
      t.ok(
        answer.external.port <= 65_535 && answer.lifetimeSeconds < 2 ** 32,
        'port and lifetime are within their fields',
      )
    }),
    { numRuns: 300 },
  )
})

interface Router extends AsyncDisposable {
  readonly port: number
  /** Requests, in words. */
  readonly heard: string[]
  lifetimeSeconds: number
  external: string
}

/** Speaks what its name says, on loopback; `mute` says nothing. */
async function router(speaks: 'pcp' | 'nat-pmp' | 'refuses' | 'mute' | 'forger'): Promise<Router> {
  const socket: Socket = createSocket('udp4')
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  const it: Router = {
    port: socket.address().port,
    heard: [],
    lifetimeSeconds: 120,
    external: '203.0.113.5',
    [Symbol.asyncDispose]: () => new Promise((resolve) => socket.close(() => resolve())),
  }
  const outside = () => it.external.split('.').map(Number)
  socket.on('message', (packet, from) => {
    const isPcp = packet[0] === 2
    const seconds = packet.length === 2 ? 0 : packet.readUInt32BE(isPcp ? 4 : 8)
    const port = packet.length === 2 ? 0 : packet.readUInt16BE(isPcp ? 40 : 4)
    const kind = packet.length === 2 ? 'address' : `${seconds === 0 ? 'remove' : 'map'} ${port}`
    it.heard.push(`${isPcp ? 'pcp' : 'nat-pmp'} ${kind}`)
    const say = (bytes: Buffer) => socket.send(bytes, from.port, from.address)
    if (speaks === 'mute') return
    if (isPcp && speaks === 'nat-pmp') return say(Buffer.from('0081000100000001', 'hex'))
    if (!isPcp && packet.length === 2) return say(Buffer.from([0, 128, 0, 0, 0, 0, 0, 1, ...outside()]))
    const answer = Buffer.alloc(isPcp ? 60 : 16)
    if (isPcp) {
      packet.copy(answer)
      answer.fill(0, 2, 24)
      answer[1] = 0x81
      answer[3] = speaks === 'refuses' ? 2 : 0
      answer.writeUInt32BE(seconds === 0 ? 0 : it.lifetimeSeconds, 4)
      answer.writeUInt16BE(20_000 + (packet[36] ?? 0), 42)
      Buffer.from([...Buffer.alloc(10), 255, 255, ...outside()]).copy(answer, 44)
      if (speaks === 'forger') answer[24]! ^= 1 // another's nonce
    } else {
      if (speaks === 'forger') return
      answer[1] = 128 | packet[1]!
      answer.writeUInt16BE(port, 8)
      answer.writeUInt16BE(20_000 + packet[1]!, 10)
      answer.writeUInt32BE(seconds === 0 ? 0 : it.lifetimeSeconds, 12)
    }
    say(answer)
  })
  return it
}

/**
 * Waits of seconds are the test's; they end when it says so. `againMs`: a question without an answer is asked again after this; shorter
 * than a busy machine takes to answer only where no answer comes.
 */
function patientClock(againMs = 1_000) {
  const rests: Array<{ ms: number; end: () => void }> = []
  const clock: Clock = {
    ...systemClock,
    sleep: (ms, signal) => {
      if (ms < 5_000) return systemClock.sleep(Math.min(ms, againMs), signal)
      return new Promise((resolve) => {
        rests.push({ ms, end: resolve })
        if (signal?.aborted) resolve()
        signal?.addEventListener('abort', () => resolve(), { once: true })
      })
    },
  }
  const rested = async (count: number) => {
    await until(() => rests.length >= count)
    return rests[count - 1]!
  }
  return { clock, rested }
}

function mapper(port: number, clock: Clock, gateway: () => string | undefined = () => '127.0.0.1') {
  const told = { changes: 0 }
  const ports = () => [{ protocol: 'tcp', port: 7_472 } as const, { protocol: 'udp', port: 7_473 } as const]
  const onChange = () => (told.changes += 1)
  const options = { gateway, ports, onChange, clock, serverPort: port, secret: 'of this node' }
  return Object.assign(told, { running: PortMapper.start(options, silentLog) })
}

for (const speaks of ['pcp', 'nat-pmp'] as const) {
  t.test(`with a ${speaks} router a mapping is made, renewed at half its lifetime and deleted`, async (t) => {
    await using it = await router(speaks)
    const { clock, rested } = patientClock()
    const told = mapper(it.port, clock)
    const rest = await rested(1)
    t.equal(rest.ms, 60_000, 'half of what the router gave')
    const [tcp, udp] = speaks === 'pcp' ? [20_006, 20_017] : [20_002, 20_001]
    t.same(told.running.addresses('tcp'), [`203.0.113.5:${tcp}`])
    t.same(told.running.addresses('udp'), [`203.0.113.5:${udp}`])
    t.match(told.running.state, { state: 'mapped', dialect: speaks, tcp: `203.0.113.5:${tcp}` })
    t.equal(told.changes, 1)

    it.external = '203.0.113.99'
    it.heard.length = 0
    rest.end()
    await rested(2)
    t.ok(it.heard.includes(`${speaks} map 7472`), 'asked again')
    t.notOk(
      it.heard.some((question) => !question.startsWith(speaks)),
      'in its own words at once',
    )
    t.same(told.running.addresses('tcp'), [`203.0.113.99:${tcp}`], 'the external address of the router has changed')
    t.equal(told.changes, 2)

    it.heard.length = 0
    await told.running[Symbol.asyncDispose]()
    t.same(
      [...new Set(it.heard.filter((question) => question.includes('remove')))],
      [`${speaks} remove 7472`, `${speaks} remove 7473`],
    )
  })
}

t.test('after a handover the mapping is not deleted', async (t) => {
  await using it = await router('pcp')
  const { clock, rested } = patientClock()
  const { running } = mapper(it.port, clock)
  await rested(1)
  it.heard.length = 0
  await running.handOver()
  await running[Symbol.asyncDispose]()
  t.same(it.heard, [])
})

t.test('without a usable answer from a router the state gives the reason', async (t) => {
  for (const { speaks, reason } of [
    { speaks: 'refuses', reason: 'not authorised' },
    { speaks: 'mute', reason: 'no answer' },
    { speaks: 'forger', reason: 'no answer' },
  ] as const) {
    await using it = await router(speaks)
    const { clock, rested } = patientClock(reason === 'no answer' ? 20 : undefined)
    const told = mapper(it.port, clock)
    const rest = await rested(1)
    t.same(told.running.state, { state: 'refused', reason }, speaks)
    t.equal(rest.ms, 600_000, 'left alone for a while')
    t.same(told.running.addresses('tcp'), [])
    t.equal(told.changes, 0)
    await told.running[Symbol.asyncDispose]()
  }
  const { clock, rested } = patientClock()
  const told = mapper(1, clock, () => undefined)
  await rested(1)
  t.match(told.running.state, { state: 'refused', reason: 'there is no router' })
  await told.running[Symbol.asyncDispose]()
})

t.test('after a network change the new router is asked at once and the old addresses are forgotten', async (t) => {
  await using it = await router('pcp')
  const { clock, rested } = patientClock()
  const where: { gateway: string | undefined } = { gateway: '127.0.0.1' }
  const told = mapper(it.port, clock, () => where.gateway)
  await rested(1)
  where.gateway = undefined
  told.running.networkChanged()
  await rested(2)
  t.same(told.running.addresses('tcp'), [])
  t.equal(told.changes, 2)
  where.gateway = '127.0.0.1'
  told.running.networkChanged()
  await rested(3)
  t.equal(told.running.addresses('tcp').length, 1)
  await told.running[Symbol.asyncDispose]()
})
