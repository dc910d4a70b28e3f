import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { decode, encode } from 'dns-packet'
import { KeptFile } from '../../src/core/kit/kept-file.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { rememberedServers } from '../../src/agent/remembered-servers.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { Responder } from '../../resolver/responder.ts'
import { Upstream } from '../../resolver/upstream.ts'
import type { Query } from '../../resolver/query.ts'
import { readQuery } from '../../resolver/wire.ts'
import {
  explainChoice,
  framed,
  query,
  RANGE,
  recordingLog,
  said,
  tcp,
  udp,
  udpRaw,
  withOpt,
  world,
  WorldTable,
  ZONES,
  type World,
} from './world.ts'
import { until } from '../support/until.ts'

const NAME = 'www.example.org'

/** What a fake upstream does with a question; `undefined`: nothing. */
type Behaviour = (asked: Buffer) => Buffer | readonly Buffer[] | undefined

interface Fake extends AsyncDisposable {
  address: string
  port: number
  /** By `udp` and `tcp`, in the order they came. */
  seen: Array<{ by: 'udp' | 'tcp'; packet: Buffer; from: number }>
  udpSocket: UdpSocket
}

function reply(asked: Buffer, data = '192.0.2.1', more: object = {}): Buffer {
  const { id, questions } = decode(asked)
  const answers = [{ name: NAME, type: 'A' as const, class: 'IN' as const, ttl: 60, data }]
  return encode({ type: 'response', id: id ?? 0, flags: 0x0180, questions: questions ?? [], answers, ...more })
}

/** A UDP socket on a port on which the server could listen too: another test's connection may have it for TCP. */
async function onePort(server: Server, withTcp: boolean): Promise<UdpSocket> {
  for (;;) {
    const udpSocket = createSocket('udp4')
    await new Promise<void>((bound) => {
      udpSocket.bind(0, '127.0.0.1', bound)
    })
    if (!withTcp) return udpSocket
    server.listen(udpSocket.address().port, '127.0.0.1')
    const isTaken = await once(server, 'listening').then(
      () => false,
      () => true,
    )
    if (!isTaken) return udpSocket
    udpSocket.close()
  }
}

/** `tcp` absent: nothing listens there. */
async function fake(behave: { udp: Behaviour; tcp?: Behaviour }): Promise<Fake> {
  const seen: Fake['seen'] = []
  const server: Server = createServer()
  const udpSocket = await onePort(server, behave.tcp !== undefined)
  const { port } = udpSocket.address()
  const send = (answer: ReturnType<Behaviour>, one: (packet: Buffer) => void) => {
    for (const packet of Buffer.isBuffer(answer) ? [answer] : (answer ?? [])) one(packet)
  }
  udpSocket.on('message', (packet: Buffer, from: RemoteInfo) => {
    seen.push({ by: 'udp', packet, from: from.port })
    send(behave.udp(packet), (message) => udpSocket.send(message, from.port, from.address))
  })
  if (behave.tcp !== undefined) {
    const { tcp: behaveTcp } = behave
    server.on('connection', (socket) => {
      socket.on('error', () => undefined)
      socket.on('data', (chunk: Buffer) => {
        const packet = chunk.subarray(2)
        seen.push({ by: 'tcp', packet, from: socket.remotePort ?? 0 })
        send(behaveTcp(packet), (message) => socket.write(framed(message)))
      })
    })
  }
  return {
    address: `127.0.0.1:${port}`,
    port,
    seen,
    udpSocket,
    [Symbol.asyncDispose]: async () => {
      udpSocket.close()
      if (server.listening) server.close()
    },
  }
}

function readable(packet: Buffer): Query {
  const read = readQuery(packet)
  if (read.kind !== 'query') throw new Error(read.kind)
  return read.query
}

const to = (...fakes: Fake[]): Promise<World> =>
  world({ upstreams: fakes.map(({ address }) => address), limits: { upstreamTryMs: 250, upstreamTotalMs: 1_000 } })

/** An address where nothing listens. */
async function closedPort(): Promise<Fake> {
  const gone = await fake({ udp: () => undefined })
  await gone[Symbol.asyncDispose]()
  return gone
}

const BY_UDP = { transport: 'udp', limit: 512, signal: new AbortController().signal } as const

t.test('other names get the bytes of the upstream answer with only the id changed', async (t) => {
  // With a record type that no codec of ours knows.
  const odd = (asked: Buffer) => {
    const message = Buffer.concat([asked, Buffer.from('c00cff0100010000003c0003010203', 'hex')])
    message.writeUInt16BE(0x8180, 2)
    message.writeUInt16BE(1, 6)
    return message
  }
  await using there = await fake({ udp: odd, tcp: odd })
  await using mesh = await to(there)
  t.match(mesh.resolver.upstreams, [{ address: '127.0.0.1', port: there.port }])
  const asked = query({ name: 'WwW.Example.ORG', id: 0x4242 })
  const [byUdp] = await udpRaw(mesh.port, [asked])
  t.equal(byUdp?.toString('hex'), odd(asked).toString('hex'))
  const [sent] = there.seen
  t.equal(sent?.packet.toString('hex', 2), asked.toString('hex', 2), 'the question as it was asked')
  t.same(await tcp(mesh.port, asked), decode(odd(asked)))
  t.same(
    there.seen.map(({ by }) => by),
    ['udp', 'tcp'],
    'TCP is asked by TCP',
  )
  const counted = await mesh.metrics.dnsAnswers.get()
  t.match(counted.values, [{ labels: { code: 'NOERROR', source: 'upstream' }, value: 2 }])
})

t.test('each query uses a new id and port', async (t) => {
  await using there = await fake({ udp: (asked) => reply(asked) })
  await using mesh = await to(there)
  for (let i = 0; i < 12; i++) {
    t.match(await udp(mesh.port, { name: NAME, id: 1 }), { id: 1, answers: [{ data: '192.0.2.1' }] })
  }
  t.ok(new Set(there.seen.map(({ packet }) => packet.readUInt16BE(0))).size > 9, 'ids')
  t.ok(new Set(there.seen.map(({ from }) => from)).size > 6, 'ports')
})

t.test('names in our zones never go upstream', async (t) => {
  await using there = await fake({ udp: (asked) => reply(asked), tcp: (asked) => reply(asked) })
  await using mesh = await to(there)
  const names = ['printer.local', 'x.internal', 'LOCAL', 'a.b.c.d.e.f.g.Local', '1.1.30.127.in-addr.arpa', 'wpad.local']
  for (const name of names) {
    await udp(mesh.port, { name, type: 'MX' })
    await tcp(mesh.port, { name, type: 'A' })
  }
  await udp(mesh.port, { name: NAME, type: 'AXFR' })
  await udp(mesh.port, { name: NAME, class: 'CH' })
  t.same(there.seen, [])
})

t.test('forged answers are ignored', async (t) => {
  let from = 0
  await using there = await fake({
    udp: (asked) => {
      from = there.seen.at(-1)?.from ?? 0
      const wrongId = reply(asked, '203.0.113.1')
      wrongId.writeUInt16BE(wrongId.readUInt16BE(0) ^ 1, 0)
      const wrongQuestion = encode({
        ...decode(reply(asked, '203.0.113.2')),
        questions: [{ name: 'www.example.com', type: 'A', class: 'IN' }],
      } as never)
      const noResponse = reply(asked, '203.0.113.3')
      noResponse[2] = (noResponse[2] as number) & 0x7f
      return [wrongId, wrongQuestion, noResponse, Buffer.alloc(3), Buffer.alloc(0)]
    },
  })
  await using mesh = await to(there)
  const stranger = createSocket('udp4')
  there.udpSocket.on('message', (asked) => {
    // From another port; then, once that has arrived, the real one.
    stranger.send(reply(asked, '203.0.113.4'), from, '127.0.0.1', () => {
      there.udpSocket.send(reply(asked, '192.0.2.7'), from, '127.0.0.1')
    })
  })
  t.match(said(await udp(mesh.port, { name: NAME })), { code: 'NOERROR', answers: ['192.0.2.7'] })
  t.equal(there.seen.length, 1, 'in the first try')
  stranger.close()
})

t.test('a truncated answer is fetched by TCP, and truncated again if the client cannot take it', async (t) => {
  const large = (asked: Buffer, count: number) => {
    const answers = Array.from({ length: count }, (_, i) => ({
      name: NAME,
      type: 'A' as const,
      class: 'IN' as const,
      ttl: 60,
      data: `192.0.2.${i}`,
    }))
    return reply(asked, '', { answers })
  }
  const cut = (asked: Buffer) => reply(asked, '', { answers: [], flags: 0x0380 })
  await using there = await fake({ udp: cut, tcp: (asked) => large(asked, 40) })
  await using mesh = await to(there)
  const [roomy] = await udpRaw(mesh.port, [withOpt(query({ name: NAME }), { size: 4096 })])
  t.match(decode(roomy as Buffer), { flag_tc: false })
  t.equal(decode(roomy as Buffer).answers?.length, 40)
  const [narrow] = await udpRaw(mesh.port, [query({ name: NAME })])
  t.match(decode(narrow as Buffer), { flag_tc: true, answers: [] })
  t.equal((await tcp(mesh.port, { name: NAME })).answers?.length, 40, 'which then asks by TCP')

  await using onlyUdp = await fake({ udp: cut })
  await using other = await to(onlyUdp)
  t.match(await udp(other.port, { name: NAME }), { flag_tc: true, answers: [] }, 'no TCP there: what there is')
  t.match(said(await tcp(other.port, { name: NAME })), { code: 'SERVFAIL' })

  await using rude = await fake({ udp: (asked) => large(asked, 40) })
  await using third = await to(rude)
  const [kept] = await udpRaw(third.port, [query({ name: NAME })])
  t.match(decode(kept as Buffer), { flag_tc: true, answers: [] }, 'larger than the asker said')
  t.ok((kept as Buffer).length <= 512, `the answer has ${(kept as Buffer).length} bytes`)
})

t.test('when an upstream is down, silent or broken, the next is used', async (t) => {
  const good = () => fake({ udp: (asked) => reply(asked, '192.0.2.9'), tcp: (asked) => reply(asked, '192.0.2.9') })
  const failing: Behaviour = (asked) => reply(asked, '', { answers: [], flags: 0x0182 })
  const refusing: Behaviour = (asked) => {
    const bare = Buffer.from(asked.subarray(0, 12))
    bare.writeUInt16BE(0x8185, 2)
    bare.fill(0, 4)
    return withOpt(bare)
  }
  const rows: ReadonlyArray<{ why: string; first: () => Promise<Fake> }> = [
    { why: 'down', first: closedPort },
    { why: 'silent', first: () => fake({ udp: () => undefined, tcp: () => undefined }) },
    { why: 'SERVFAIL', first: () => fake({ udp: failing, tcp: failing }) },
    { why: 'REFUSED without the question', first: () => fake({ udp: refusing, tcp: refusing }) },
    { why: 'garbage', first: () => fake({ udp: () => Buffer.from('garbage'), tcp: () => Buffer.from('garbage') }) },
  ]
  for (const { why, first } of rows) {
    const bad = await first()
    await using second = await good()
    await using mesh = await to(bad, second)
    t.match(said(await tcp(mesh.port, { name: NAME })), { answers: ['192.0.2.9'] }, `${why}: by TCP`)
    t.match(mesh.resolver.upstreams, [{ port: second.port }, { port: bad.port }], `${why}: it comes first from now on`)
    const asked = bad.seen.length
    t.match(said(await udp(mesh.port, { name: NAME })), { answers: ['192.0.2.9'] }, `${why}: by UDP`)
    t.equal(bad.seen.length, asked, 'the bad one is left alone')
    if (why !== 'down') await bad[Symbol.asyncDispose]()
  }
  // By UDP first, too.
  await using silent = await fake({ udp: () => undefined })
  await using second = await good()
  await using mesh = await to(silent, second)
  t.match(said(await udp(mesh.port, { name: NAME })), { answers: ['192.0.2.9'] })
})

t.test('a lost packet is sent again', async (t) => {
  let count = 0
  await using there = await fake({ udp: (asked) => (++count === 1 ? undefined : reply(asked)) })
  await using mesh = await to(there)
  t.match(said(await udp(mesh.port, { name: NAME })), { answers: ['192.0.2.1'] })
  t.equal(count, 2)
})

t.test('when no upstream answers, SERVFAIL comes in bounded time and is logged once', async (t) => {
  await using silent = await fake({ udp: () => undefined, tcp: () => undefined })
  await using mesh = await to(silent, await closedPort(), silent)
  const [byUdp, byTcp] = await Promise.all([udp(mesh.port, { name: NAME }), tcp(mesh.port, { name: NAME })])
  t.match([said(byUdp), said(byTcp)], [{ code: 'SERVFAIL' }, { code: 'SERVFAIL' }])
  await udp(mesh.port, { name: 'www2.example.org' })
  t.equal(mesh.log.lines.filter(({ sentence }) => sentence === 'no upstream server answers').length, 1)

  // What all say, they say: SERVFAIL of the upstream itself passes through.
  await using failing = await fake({ udp: (asked) => reply(asked, '', { answers: [], flags: 0x0182 }) })
  await using other = await to(failing)
  t.match(said(await udp(other.port, { name: NAME })), { code: 'SERVFAIL' })
})

t.test('the total time of all attempts is bounded', async (t) => {
  await using silent = await fake({ udp: () => undefined })
  const log = recordingLog()
  const own = { address: '127.0.0.1', port: 1 }
  const servers = [silent.address, silent.address, silent.address]
  await using upstream = await Upstream.start({ servers, own, tryMs: 10_000, totalMs: 50 }, log)
  t.equal(await upstream.forward(readable(query({ name: NAME })), BY_UDP), 'SERVFAIL')
  t.equal(silent.seen.length, 1, 'there was no time for more')
})

t.test('identical concurrent questions are sent once', async (t) => {
  const held: Array<() => void> = []
  await using there = await fake({
    udp: (asked) => {
      held.push(() => {
        const from = there.seen[0]?.from ?? 0
        there.udpSocket.send(reply(asked), from, '127.0.0.1')
      })
      return undefined
    },
  })
  await using mesh = await world({ upstreams: [there.address] })
  const answers = [1, 2, 3].map((id) => udp(mesh.port, { name: NAME, id }))
  await once(there.udpSocket, 'message')
  // The table answers after them, so they have all arrived.
  await udp(mesh.port, {})
  held[0]?.()
  t.same(
    (await Promise.all(answers)).map(({ id }) => id),
    [1, 2, 3],
  )
  t.equal(there.seen.length, 1)
})

t.test('a forwarding loop ends, through another resolver or straight back', async (t) => {
  // Another resolver of this machine, which asks us: a new id, the same question.
  let mesh: World | undefined
  const back = createSocket('udp4')
  let rounds = 0
  await using mirror = await fake({
    udp: (asked) => {
      rounds++
      const again = Buffer.from(asked)
      again.writeUInt16BE((asked.readUInt16BE(0) + 1) & 0xffff, 0)
      back.send(again, mesh?.port ?? 0, '127.0.0.1')
      return undefined
    },
  })
  mesh = await to(mirror)
  const came = once(back, 'message')
  t.match(said(await udp(mesh.port, { name: NAME })), { code: 'SERVFAIL' })
  t.match(said(decode((await came)[0] as Buffer)), { code: 'SERVFAIL' }, 'the question that came back shares its end')
  t.equal(rounds, 2, 'no more questions than tries')
  back.close()
  await mesh[Symbol.asyncDispose]()

  // Something in between (a redirect of port 53) hands our own packet back to us: its source is ours.
  await using sink = await fake({ udp: () => undefined })
  const own = { address: '127.0.0.1', port: 1 }
  await using upstream = await Upstream.start(
    { servers: [sink.address], own, tryMs: 300, totalMs: 300 },
    recordingLog(),
  )
  const asking = upstream.forward(readable(query({ name: NAME })), BY_UDP)
  const [, from] = (await once(sink.udpSocket, 'message')) as [Buffer, RemoteInfo]
  t.ok(
    upstream.isOurs({ address: from.address, port: from.port }),
    'a query that comes from our own socket is recognised',
  )
  t.notOk(upstream.isOurs({ address: from.address, port: sink.port }), 'another port of the same address is not ours')
  const settings = { zones: ZONES, range: RANGE, explainChoice, ttlSeconds: 5, negativeTtlSeconds: 2, underWay: 10 }
  const interests = { want: () => Promise.resolve(), wantVip: () => Promise.resolve() }
  const parts = { table: new WorldTable([]), interests, upstream, settings }
  await using responder = await Responder.start(parts, recordingLog(), openMetrics('agent'))
  const refused = await responder.respond(query({ name: NAME }), 'udp', { address: from.address, port: from.port })
  t.match(said(decode(refused as Buffer)), { code: 'REFUSED' })
  t.equal(sink.seen.length, 1, 'not asked again')
  await asking
  t.notOk(upstream.isOurs({ address: from.address, port: from.port }), 'not once it is over')
})

t.test('without an upstream questions are refused, and that is logged once', async (t) => {
  await using mesh = await world({ upstreams: ['127.30.0.53', '127.46.0.53', 'not an address'] })
  t.same(mesh.resolver.upstreams, [])
  t.match(said(await udp(mesh.port, { name: NAME })), { code: 'REFUSED' })
  t.match(said(await tcp(mesh.port, { name: NAME })), { code: 'REFUSED' })
  t.equal(mesh.log.lines.filter(({ sentence }) => sentence === 'no upstream server is known').length, 1)
})

t.test('closing ends questions that wait for an upstream', async (t) => {
  await using silent = await fake({ udp: () => undefined, tcp: () => undefined })
  const mesh = await world({ upstreams: [silent.address] })
  const asked = once(silent.udpSocket, 'message')
  const socket = createSocket('udp4')
  socket.send(query({ name: NAME }), mesh.port, '127.0.0.1')
  await asked
  await mesh[Symbol.asyncDispose]()
  socket.close()
  t.notOk(
    mesh.log.lines.some(({ level }) => level === 'error' || level === 'warn'),
    'closing while a query is open is no fault',
  )
})

t.test('the servers of the host come from resolv.conf, without our own addresses', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'hedgerow-resolver-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const [first, second] = [join(folder, 'resolv.conf'), join(folder, 'uplink.conf')]
  writeFileSync(first, 'nameserver 127.30.0.53\n')
  writeFileSync(second, 'nameserver 192.0.2.53\n')
  const own = { address: '127.30.0.53', port: 53 }
  const servers = async (resolvConf: string[]) => {
    await using upstream = await Upstream.start({ own, resolvConf }, recordingLog())
    return upstream.servers.map(({ address }) => address)
  }
  t.same(await servers([first, second]), ['192.0.2.53'], 'only ourselves in the first: the next file')
  writeFileSync(first, 'nameserver 127.30.0.53\nnameserver 127.0.0.53\n')
  t.same(await servers([first, second]), ['127.0.0.53'])
  t.same(await servers([join(folder, 'absent')]), [])
})

t.test('the servers of the machine are remembered for when resolv.conf names only this resolver', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-upstream-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  const path = join(dir, 'resolv.conf')
  const own = { address: '127.30.0.53', port: 53 }
  const log = recordingLog()
  const start = () =>
    Upstream.start(
      { own, resolvConf: [path], remembered: rememberedServers(new KeptFile(join(dir, 'upstreams.json'), silentLog)) },
      log,
    )

  writeFileSync(path, 'nameserver 127.30.0.53\n')
  await using first = await start()
  t.same(first.servers, [], 'nothing is known yet')
  t.notOk(first.isRemembered, 'nothing was remembered')

  writeFileSync(path, 'nameserver 192.0.2.53\nnameserver 192.0.2.54\n')
  await using second = await start()
  t.match(second.servers, [{ address: '192.0.2.53', port: 53 }, { address: '192.0.2.54' }])
  await until(() => existsSync(join(dir, 'upstreams.json')))

  writeFileSync(path, 'nameserver 127.30.0.53\n')
  await using third = await start()
  t.match(third.servers, [{ address: '192.0.2.53', port: 53 }, { address: '192.0.2.54' }], 'after a restart')
  t.ok(third.isRemembered, 'the servers are remembered ones')
  t.match(log.lines.at(-1), {
    level: 'warn',
    sentence: 'resolv.conf names only this resolver; earlier servers are used',
  })
})
