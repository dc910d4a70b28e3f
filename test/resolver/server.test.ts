import fc from 'fast-check'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import t from 'tap'
import { decode, encode } from 'dns-packet'
import { MeshError } from '../../src/core/errors.ts'
import { vipRange } from '../../src/core/model/address.ts'
import { freePort } from '../../src/lab/system-tools.ts'
import { readQuery, stamp } from '../../resolver/wire.ts'
import { writeAnswer } from '../../resolver/codec.ts'
import { Resolver, type ResolverOptions } from '../../resolver/server.ts'
import { noOtherUsers, silentUser, usersAreKnown } from '../support/other-users.ts'
import {
  CART,
  framed,
  query,
  RANGE,
  said,
  service,
  STOCK,
  stringsOf,
  tcp,
  tcpRaw,
  udp,
  udpRaw,
  withOpt,
  world,
  WorldTable,
  ZONES,
} from './world.ts'
import { closed } from '../support/closed.ts'
import { until } from '../support/until.ts'

const cart = 'shop.acme.cart.prod.any.rr.local'

const DUAL = vipRange('127.16.0.0/12', 'fd12:3456:789a::/48')

t.test('answers by UDP and by TCP, as dns-packet reads them', async (t) => {
  await using mesh = await world({ range: DUAL })
  const soa = (zone: string) => ({ code: 'NOERROR', answers: [], authorities: [`SOA ${zone}`] })
  const rows = [
    { name: cart, type: 'A', say: { code: 'NOERROR', answers: ['127.30.1.0'], authorities: [] } },
    { name: cart, type: 'AAAA', say: { code: 'NOERROR', answers: ['fd12:3456:789a::e:100'], authorities: [] } },
    { name: cart, type: 'MX', say: soa('local') },
    {
      name: `_http._tcp.${cart}`,
      type: 'SRV',
      say: { code: 'NOERROR', answers: [{ priority: 0, weight: 0, port: 8080, target: cart }], authorities: [] },
    },
    { name: '0.1.30.127.in-addr.arpa', type: 'PTR', say: { code: 'NOERROR', answers: [cart], authorities: [] } },
    {
      name: cart,
      type: 'TXT',
      say: {
        code: 'NOERROR',
        answers: [[Buffer.from('0 edge/n1 running (shop.acme.cart.prod)'), Buffer.from('1 edge/n2 running')]],
        authorities: [],
      },
    },
    { name: 'internal', type: 'NS', say: { code: 'NOERROR', answers: ['ns.internal'], authorities: [] } },
    { name: 'printer.local', type: 'A', say: { ...soa('local'), code: 'NXDOMAIN' } },
    { name: 'example.org', type: 'A', say: { code: 'REFUSED', answers: [], authorities: [] } },
  ]
  for (const { name, type, say } of rows) {
    // Twice by UDP: the second time it is remembered.
    const [first, again, byTcp] = [
      await udp(mesh.port, { name, type }),
      await udp(mesh.port, { name, type }),
      await tcp(mesh.port, { name, type }),
    ]
    t.same(said(first), say, `${name} ${type} by UDP`)
    t.same(again, first, `${name} ${type} by UDP, from memory`)
    t.same(byTcp, first, `${name} ${type} by TCP`)
  }
})

t.test('an answer has its flags, its times to live and its additional records', async (t) => {
  await using mesh = await world({ range: DUAL })
  const reply = await udp(mesh.port, { name: cart })
  const flags = { flag_qr: true, flag_aa: true, flag_rd: true, flag_ra: true, flag_tc: false }
  t.match(reply, { id: 0x1234, ...flags, opcode: 'QUERY' }, 'an answer of ours is authoritative, and repeats id and RD')
  t.match(reply.answers, [{ name: cart, ttl: 5, class: 'IN' }], 'an address may be kept for five seconds')
  const negative = await udp(mesh.port, { name: cart, type: 'MX' })
  t.match(
    negative.authorities,
    [{ ttl: 2, data: { mname: 'ns.local', rname: 'hostmaster.local', minimum: 2 } }],
    'that there is no such record may be kept for two',
  )
  const srv = await udp(mesh.port, { name: `_8080._tcp.${cart}`, type: 'SRV' })
  const addresses = [
    { type: 'A', name: cart, data: '127.30.1.0' },
    { type: 'AAAA', name: cart },
  ]
  t.match(srv.additionals, addresses, 'SRV brings both addresses of its target')
  const refused = await udp(mesh.port, { name: 'example.org', flags: 0 })
  t.match(
    refused,
    { flag_rd: false, flag_aa: false },
    'a refusal is not authoritative, and repeats that RD was not set',
  )
})

t.test('answers are counted, and what is not answered is logged once', async (t) => {
  await using mesh = await world()
  for (const _ of [1, 2, 3]) await udp(mesh.port, { name: 'printer.local' })
  t.match(mesh.log.lines, [{ level: 'info' }], 'the first line says where it listens')
  t.match(
    mesh.log.lines.filter(({ sentence }) => sentence === 'question not answered'),
    [{ fields: { name: 'printer.local' } }],
    'a name that does not exist is logged',
  )
  const { values } = await mesh.metrics.dnsAnswers.get()
  const unknown = values.find(({ labels }) => labels.code === 'NXDOMAIN' && labels.source === 'table')
  t.equal(unknown?.value, 3, 'three answers of NXDOMAIN from the table are counted')
})

t.test('a plain answer has the expected bytes', async (t) => {
  await using mesh = await world()
  const asked =
    'abcd 0110 0001 0000 0000 0000 04 53684f70 04 61636d65 04 63617274 04 70726f64 03 616e79 02 7272 05 6c6f63616c 00 0001 0001'
  const [plain] = await udpRaw(mesh.port, [hex(asked)])
  t.equal(
    plain?.toString('hex'),
    // id, QR AA RD / RA CD, one answer; the question as asked; a pointer to it, A IN, 5 s, 127.30.1.0
    hex(`${asked.replace('0110 0001 0000', '8590 0001 0001')} c00c 0001 0001 00000005 0004 7f1e0100`).toString('hex'),
  )
  const [edns] = await udpRaw(mesh.port, [
    withOpt(hex(asked), { size: 4096, flags: 0x8000, options: hex('000a 0008 0102030405060708') }),
  ])
  t.equal(
    edns?.toString('hex'),
    hex(`${asked.replace('0110 0001 0000 0000 0000', '8590 0001 0001 0000 0001')} c00c 0001 0001 00000005 0004 7f1e0100
      00 0029 04d0 00 00 8000 0000`).toString('hex'),
    'OPT with our size, DO copied, the cookie left out',
  )
})

t.test('an answer repeats the spelling of the question, also from the cache', async (t) => {
  await using mesh = await world()
  for (const name of [cart, 'ShOp.AcMe.cArT.pRoD.aNy.Rr.LoCaL', cart.toUpperCase()]) {
    const reply = await udp(mesh.port, { name })
    t.match(
      reply,
      { questions: [{ name }], answers: [{ name, data: '127.30.1.0' }] },
      `${name} comes back as it was spelt`,
    )
  }
  const [odd] = await udpRaw(mesh.port, [
    hex('0001 0100 0001 0000 0000 0000 0b 612e62 e9 00 5f 636f6d 2a2f 05 4c6f63616c 00 0001 0001'),
  ])
  t.equal((odd as Buffer).readUInt8(3) & 0xf, 3, 'a name of odd bytes is NXDOMAIN')
  t.equal(
    (odd as Buffer).toString('hex', 12, 35),
    '0b612e62e9005f636f6d2a2f054c6f63616c0000010001',
    'its bytes come back as they were',
  )
  t.match(
    decode(odd as Buffer).authorities,
    [{ type: 'SOA', name: 'Local' }],
    'the pointer in the authority leads to the right label',
  )
})

t.test('cached answers are dropped when the table changes', async (t) => {
  const table = new WorldTable([CART, STOCK])
  await using mesh = await world({}, table)
  await udp(mesh.port, { name: cart })
  const { finds } = table
  await udp(mesh.port, { name: cart })
  t.equal(table.finds, finds, 'the second answer needs no look into the table')
  table.remove(CART.id)
  t.match(said(await udp(mesh.port, { name: cart })), { code: 'NXDOMAIN' }, 'a service that is removed is gone at once')
  table.add(service(CART.id, 0xe0900, [], ['any.rr']))
  t.match(
    said(await udp(mesh.port, { name: cart })),
    { answers: ['127.30.9.0'] },
    'a service that comes back has its new address at once',
  )
  await mesh[Symbol.asyncDispose]()
  const { values } = await mesh.metrics.dnsAnswers.get()
  const counts = values.map(({ labels: { code, source }, value }) => `${code} ${source} ${value}`)
  t.same(counts.toSorted(), ['NOERROR table 3', 'NXDOMAIN table 1'], 'answers from memory are counted too')
})

t.test('an unknown name is requested from the cluster once, and then answered', async (t) => {
  const table = new WorldTable([CART])
  const wanted: string[] = []
  const pay = service('shop.acme.pay.prod', 0xe0400, ['80/tcp'], ['any.rr'])
  await using mesh = await world(
    {
      interests: {
        want: async (key) => {
          wanted.push(key)
          await Promise.resolve()
          if (key === 'shop.acme.down') throw new MeshError('REQUEST_TIMEOUT', { key })
          if (key === 'shop.acme.pay') table.add(pay)
          else if (key !== 'shop.acme.odd') table.asked.add(key)
        },
        wantVip: async (vip) => {
          wanted.push(vip.toString(16))
          if (vip === 0xe0500) throw new MeshError('LINK_CLOSED')
          if (vip === 0xe0400) table.add(pay)
        },
      },
    },
    table,
  )
  const code = async (name: string, type = 'A') => said(await udp(mesh.port, { name, type })).code
  t.match(said(await udp(mesh.port, { name: 'shop.acme.pay.prod.any.rr.local' })), { answers: ['127.30.4.0'] })
  t.equal(await code('shop.acme.pay.test.any.rr.local'), 'NXDOMAIN', 'asked before')
  t.equal(await code('shop.acme.gone.prod.any.rr.local'), 'NXDOMAIN', 'the cluster knows nothing')
  t.equal(await code('shop.acme.odd.prod.any.rr.local'), 'NXDOMAIN', 'still not asked: no second round')
  t.equal(await code('shop.acme.down.prod.any.rr.local'), 'SERVFAIL', 'the cluster does not answer')
  t.equal(said(await tcp(mesh.port, { name: 'shop.acme.down.prod.any.rr.local' })).code, 'SERVFAIL')
  t.equal(await code('0.5.30.127.in-addr.arpa', 'PTR'), 'SERVFAIL')
  t.equal(await code('0.6.30.127.in-addr.arpa', 'PTR'), 'NXDOMAIN')
  t.same(wanted, [
    'shop.acme.pay',
    'shop.acme.gone',
    'shop.acme.odd',
    'shop.acme.down',
    'shop.acme.down',
    'e0500',
    'e0600',
  ])
  table.remove(pay.id)
  t.match(said(await udp(mesh.port, { name: '0.4.30.127.in-addr.arpa', type: 'PTR' })), {
    answers: ['shop.acme.pay.prod.any.rr.local'],
  })
  const counted = await mesh.metrics.dnsAnswers.get()
  t.ok(
    counted.values.some(({ labels }) => labels.code === 'SERVFAIL' && labels.source === 'asked'),
    'the failed question is counted with its source',
  )
})

t.test('the number of waiting questions is bounded: the oldest makes room, and the table still answers', async (t) => {
  const asked = Promise.withResolvers<void>()
  const waiting = new Semaphore()
  await using mesh = await world({
    limits: { underWay: 2 },
    interests: {
      want: () => {
        waiting.signal()
        return asked.promise
      },
      wantVip: () => asked.promise,
    },
  })
  const first = udp(mesh.port, { name: 'shop.acme.a.prod.any.rr.local' })
  await waiting.reached(1)
  const second = tcp(mesh.port, { name: 'shop.acme.b.prod.any.rr.local' })
  await waiting.reached(2)
  const third = udp(mesh.port, { name: 'shop.acme.c.prod.any.rr.local' })
  t.match(said(await first), { code: 'SERVFAIL' })
  t.match(said(await udp(mesh.port, { name: cart })), { answers: ['127.30.1.0'] })
  asked.resolve()
  t.match([said(await second), said(await third)], [{ code: 'NXDOMAIN' }, { code: 'NXDOMAIN' }])
})

/** Counts events, for those who wait for a number of them. */
class Semaphore {
  #count = 0
  readonly #waiting = new Map<number, () => void>()

  signal(): void {
    this.#count += 1
    this.#waiting.get(this.#count)?.()
  }

  reached(count: number): Promise<void> {
    if (this.#count >= count) return Promise.resolve()
    return new Promise((resolve) => this.#waiting.set(count, resolve))
  }
}

t.test('a client whose upstream questions nobody answers does not shut out other names', async (t) => {
  await using upstream = await fakeUpstream((name) => !name.endsWith('blackhole.test'))
  await using mesh = await world({ limits: { underWay: 512, upstreamTotalMs: 600_000 }, upstreams: [upstream.address] })
  const flood = createSocket('udp4')
  const address = '127.0.0.1'
  for (let i = 0; i < 1_200; i++) flood.send(query({ name: `n${i}.blackhole.test` }), mesh.port, address)
  await upstream.has(512)
  for (let i = 0; i < 20; i++) {
    const packet = await udp(mesh.port, { name: `good${i}.test` })
    t.match(
      said(packet),
      { code: 'NXDOMAIN' },
      'the answer of the upstream server, while no question of the flood times out',
    )
  }
  flood.close()
})

/** An upstream server that answers NXDOMAIN to the names it knows, and nothing to others. */
async function fakeUpstream(answers: (name: string) => boolean) {
  const socket = createSocket('udp4')
  const seen = new Semaphore()
  socket.on('message', (packet, from) => {
    seen.signal()
    const { id, questions = [] } = decode(packet)
    if (!answers(questions[0]?.name ?? '')) return
    socket.send(encode({ type: 'response', id: id ?? 0, flags: 0x8183, questions }), from.port, from.address)
  })
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  return {
    address: `127.0.0.1:${socket.address().port}`,
    has: (count: number) => seen.reached(count),
    [Symbol.asyncDispose]: async () => void socket.close(),
  }
}

t.test('an internal error costs one answer only', async (t) => {
  const table = new WorldTable([CART])
  const { find } = table
  table.find = (name) => {
    if (name.service === 'boom') throw new Error('a bug')
    return find(name)
  }
  await using mesh = await world(
    {
      interests: {
        want: async () => {
          table.find = () => {
            throw new Error('a bug, later')
          }
        },
        wantVip: () => Promise.resolve(),
      },
    },
    table,
  )
  t.match(said(await udp(mesh.port, { name: 'shop.acme.boom.prod.any.rr.local' })), { code: 'SERVFAIL' })
  t.match(said(await udp(mesh.port, { name: 'shop.acme.later.prod.any.rr.local' })), { code: 'SERVFAIL' })
  table.find = find
  t.match(said(await udp(mesh.port, { name: cart })), { code: 'NOERROR' })
  t.equal(mesh.log.lines.filter(({ level }) => level === 'error').length, 2)
})

t.test('answers respect the EDNS size and are truncated beyond it', async (t) => {
  const lines = Array.from({ length: 40 }, (_, i) => `${i} edge/node-${i} running, ${'x'.repeat(i * 10)}`)
  await using mesh = await world({ explainChoice: () => lines })
  const txt = query({ name: cart, type: 'TXT' })
  const flags = async (packet: Buffer) => {
    const [reply] = await udpRaw(mesh.port, [packet])
    const { flag_tc, answers = [], additionals = [] } = decode(reply as Buffer)
    return {
      length: (reply as Buffer).length,
      cut: flag_tc,
      answers: answers.length,
      opts: additionals.map(({ type }) => type),
    }
  }
  t.match(await flags(txt), { cut: true, answers: 0, opts: [], length: txt.length })
  for (const size of [0, 512, 1232, 4096, 65_535]) {
    t.match(
      await flags(withOpt(txt, { size })),
      { cut: true, answers: 0, opts: ['OPT'], length: txt.length + 11 },
      `a claim of ${size}`,
    )
  }
  const whole = await tcp(mesh.port, txt)
  t.match(whole, { flag_tc: false })
  t.same(
    stringsOf(whole),
    lines.map((line) => line.slice(0, 255)),
    'by TCP it is whole; a string has at most 255 bytes',
  )

  const plain = query({ name: cart })
  const [badVersion] = await udpRaw(mesh.port, [withOpt(plain, { version: 1 })])
  t.match(
    decode(badVersion as Buffer),
    { rcode: 'NOERROR', additionals: [{ type: 'OPT', extendedRcode: 1, ednsVersion: 0 }] },
    'BADVERS',
  )
  const two = withOpt(withOpt(plain))
  t.match(said(decode((await udpRaw(mesh.port, [two]))[0] as Buffer)), { code: 'FORMERR' }, 'two OPT records')
  const tsig = Buffer.concat([plain, hex('00 00fa 00ff 00000000 0003 010203')])
  tsig.writeUInt16BE(1, 10)
  t.match(
    said(decode((await udpRaw(mesh.port, [tsig]))[0] as Buffer)),
    { code: 'NOERROR' },
    'a record we do not know is none of our business',
  )
  const both = withOpt(tsig)
  t.match(decode((await udpRaw(mesh.port, [both]))[0] as Buffer), { rcode: 'NOERROR', additionals: [{ type: 'OPT' }] })
})

t.test('a TXT record larger than any message says how many are left out', async (t) => {
  await using mesh = await world({
    explainChoice: () => Array.from({ length: 5_000 }, (_, i) => `${i} edge/n running`),
  })
  const reply = await tcp(mesh.port, { name: cart, type: 'TXT' })
  t.match(stringsOf(reply).at(-1), /^and \d{4} more$/)
})

/** What must never stop the server: LIBRARIES.md §1.2, and what each is answered with. */
const MALFORMED: ReadonlyArray<{ why: string; bytes: string; code?: string }> = [
  { why: 'empty', bytes: '' },
  { why: 'short', bytes: '0001 0100 0001' },
  { why: 'a response', bytes: `0001 8100 0001 0000 0000 0000 05 6c6f63616c 00 0006 0001` },
  { why: 'a header alone', bytes: '0001 0100 0000 0000 0000 0000', code: 'FORMERR' },
  { why: 'counts of 65535', bytes: '0001 0100 ffff ffff ffff ffff', code: 'FORMERR' },
  {
    why: 'two questions',
    bytes: '0001 0100 0002 0000 0000 0000 05 6c6f63616c 00 0006 0001 05 6c6f63616c 00 0006 0001',
    code: 'FORMERR',
  },
  { why: 'a question that is not there', bytes: '0001 0100 0001 0000 0000 0000', code: 'FORMERR' },
  { why: 'a name without an end', bytes: '0001 0100 0001 0000 0000 0000 05 6c6f63616c', code: 'FORMERR' },
  {
    why: 'a question without its class',
    bytes: '0001 0100 0001 0000 0000 0000 05 6c6f63616c 00 0006',
    code: 'FORMERR',
  },
  { why: 'a pointer to itself', bytes: '0001 0100 0001 0000 0000 0000 c00c 0001 0001', code: 'FORMERR' },
  { why: 'a pointer forward', bytes: '0001 0100 0001 0000 0000 0000 c012 0001 0001 05 6c6f63616c 00', code: 'FORMERR' },
  { why: 'a label of 64', bytes: `0001 0100 0001 0000 0000 0000 40 ${'61'.repeat(64)} 00 0001 0001`, code: 'FORMERR' },
  {
    why: 'a name of 256',
    bytes: `0001 0100 0001 0000 0000 0000 ${`3f ${'61'.repeat(63)}`.repeat(3)} 3e ${'61'.repeat(62)} 00 0001 0001`,
    code: 'FORMERR',
  },
  {
    why: 'more than the question',
    bytes: '0001 0100 0001 0000 0000 0000 05 6c6f63616c 00 0006 0001 ff',
    code: 'FORMERR',
  },
  {
    why: 'a record that is not there',
    bytes: '0001 0100 0001 0000 0000 0001 05 6c6f63616c 00 0006 0001',
    code: 'FORMERR',
  },
  {
    why: 'lying RDLENGTH',
    bytes: '0001 0100 0001 0000 0000 0001 05 6c6f63616c 00 0006 0001 00 0029 04d0 00 00 0000 ffff',
    code: 'FORMERR',
  },
  {
    why: 'lying option length',
    bytes: '0001 0100 0001 0000 0000 0001 05 6c6f63616c 00 0006 0001 00 0029 04d0 00 00 0000 0004 000a ffff',
    code: 'FORMERR',
  },
  {
    why: 'half an option',
    bytes: '0001 0100 0001 0000 0000 0001 05 6c6f63616c 00 0006 0001 00 0029 04d0 00 00 0000 0002 000a',
    code: 'FORMERR',
  },
  {
    why: 'more records than a question has',
    bytes: `0001 0100 0001 0000 0000 0003 05 6c6f63616c 00 0006 0001 ${'00 0001 0001 00000000 0000'.repeat(3)}`,
    code: 'FORMERR',
  },
  {
    why: 'an answer in a question',
    bytes: '0001 0100 0001 0001 0000 0000 05 6c6f63616c 00 0006 0001 00 0001 0001 00000000 0004 7f000001',
    code: 'FORMERR',
  },
  { why: 'NOTIFY', bytes: '0001 2000 0001 0000 0000 0000 05 6c6f63616c 00 0006 0001', code: 'NOTIMP' },
  { why: 'UPDATE', bytes: '0001 2800 0001 0000 0000 0000 05 6c6f63616c 00 0006 0001', code: 'NOTIMP' },
  { why: 'CHAOS', bytes: '0001 0100 0001 0000 0000 0000 07 76657273696f6e 04 62696e64 00 0010 0003', code: 'REFUSED' },
  { why: 'type 0', bytes: '0001 0100 0001 0000 0000 0000 05 6c6f63616c 00 0000 0001', code: 'NOERROR' },
  {
    why: 'larger than any question',
    bytes: `0001 0100 0001 0000 0000 0001 05 6c6f63616c 00 0006 0001 00 0029 04d0 00 00 0000 1388 000c 1384 ${'00'.repeat(4996)}`,
    code: 'FORMERR',
  },
]

t.test('malformed packets are refused, and the next question is answered', async (t) => {
  await using mesh = await world()
  for (const { why, bytes, code } of MALFORMED) {
    const replies = await udpRaw(mesh.port, [hex(bytes), query({ name: cart, id: 7 })], code === undefined ? 1 : 2)
    const [reply] = replies.filter((packet) => packet.readUInt16BE(0) === 1)
    t.equal(reply === undefined ? undefined : said(decode(reply)).code, code, why)
    t.ok(
      replies.some((packet) => packet.readUInt16BE(0) === 7),
      `${why}: and on`,
    )
  }
  t.notOk(
    mesh.log.lines.some(({ level }) => level === 'error'),
    'nothing of it is an error of ours',
  )
})

t.test('whatever is received, every reply is a valid DNS message', async (t) => {
  await using mesh = await world()
  const seeds = [
    query({ name: cart }),
    withOpt(query({ name: `_http._tcp.${cart}`, type: 'SRV' })),
    ...MALFORMED.map(({ bytes }) => hex(bytes)),
  ].filter(({ length }) => length < 600)
  const edits = fc.array(fc.tuple(fc.nat(600), fc.nat(255)), { maxLength: 6 })
  const mutated = fc.tuple(fc.constantFrom(...seeds), edits, fc.nat(3)).map(([seed, changes, tail]) => {
    const packet: Buffer = Buffer.concat([seed, Buffer.alloc(tail, 0xff)])
    for (const [at, byte] of changes) if (packet.length > 0) packet[at % packet.length] = byte
    return packet
  })
  // The packets are independent: all at once through one socket, closed by a question that is known to be answered.
  const packets = fc.sample(mutated, { numRuns: 1_500, seed: 42 })
  const bad: string[] = []
  let answered = 0
  for (let i = 0; i < packets.length; i += 50) {
    const marker = query({ name: cart, id: 0xfffe })
    const replies = await untilMarker(mesh.port, packets.slice(i, i + 50), marker)
    answered += replies.length
    bad.push(...replies.filter((reply) => !isResponse(reply)).map((reply) => reply.toString('hex')))
  }
  t.same(bad, [])
  t.ok(answered > 300, `${answered} of ${packets.length} were answered`)
  t.notOk(
    mesh.log.lines.some(({ level }) => level === 'error'),
    'no fault of ours',
  )
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
      const read = readQuery(Buffer.from(bytes))
      return read.kind !== 'query' || read.query.end <= bytes.length
    }),
    { numRuns: 2_000 },
  )
})

t.test('a patched answer has the same bytes as one encoded by dns-packet', async (t) => {
  const label = fc.stringMatching(/^[A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?$/)
  const names = fc.array(label, { minLength: 1, maxLength: 6 }).map((labels) => labels.join('.'))
  const octets = fc.tuple(fc.nat(255), fc.nat(255), fc.nat(255), fc.nat(255)).map((parts) => parts.join('.'))
  fc.assert(
    fc.property(names, octets, fc.nat(0xffff), fc.boolean(), fc.boolean(), (name, address, id, hasEdns, isDesired) => {
      const asked = query({ name, id, flags: isDesired ? 0x0100 : 0 })
      const read = readQuery(hasEdns ? withOpt(asked) : asked)
      if (read.kind !== 'query') return false
      const record = { type: 'A', name: name.toLowerCase(), address } as const
      const answer = {
        kind: 'answer',
        code: 'NOERROR',
        records: [record],
        authorities: [],
        additionals: [],
        isLasting: true,
      } as const
      const whole = writeAnswer(read.query, answer, { seconds: 5, negativeSeconds: 2 })
      const expected = encode({
        type: 'response',
        id,
        flags: (isDesired ? 0x0100 : 0) | 0x0480,
        questions: [{ name, type: 'A', class: 'IN' }],
        answers: [{ name, type: 'A', class: 'IN', ttl: 5, data: address }],
        ...(hasEdns
          ? {
              additionals: [
                {
                  type: 'OPT',
                  name: '.',
                  udpPayloadSize: 1232,
                  flags: 0,
                  options: [],
                  extendedRcode: 0,
                  ednsVersion: 0,
                  flag_do: false,
                },
              ],
            }
          : {}),
      })
      // dns-packet does not compress names: put the pointer where it wrote the name again.
      const nameLength = name.length + 2
      const at = 12 + nameLength + 4
      const compressed = Buffer.concat([expected.subarray(0, at), hex('c00c'), expected.subarray(at + nameLength)])
      return stamp(whole, read.query, 1232).equals(compressed)
    }),
    { numRuns: 300 },
  )
  t.pass('300 names, with and without EDNS')
})

t.test('TCP questions may be pipelined or fragmented, and are bounded', async (t) => {
  await using mesh = await world({ limits: { tcpConnections: 2 } })
  const names = ['any.rr', 'any.closest', 'any.least'].map((choice) => `shop.acme.cart.prod.${choice}.local`)
  const stream = Buffer.concat(names.map((name, id) => framed(query({ name, id }))))
  const together = await tcpRaw(mesh.port, [stream])
  t.same(
    together.map((reply) => [decode(reply).id, ...said(decode(reply)).answers]),
    [
      [0, '127.30.1.0'],
      [1, '127.30.1.1'],
      [2, '127.30.1.3'],
    ],
  )
  const inPieces = await tcpRaw(
    mesh.port,
    Array.from(stream, (byte) => Buffer.of(byte)),
  )
  t.same(inPieces, together, 'byte by byte')
  const isNoDns = 'a client of the name server does not speak DNS'
  for (const { what, sent, id } of [
    { what: 'no message at all', sent: hex('0000'), id: undefined },
    { what: 'one byte', sent: hex('0001ff'), id: undefined },
    { what: 'eleven bytes', sent: hex('000babcd012000010000000000'), id: 0xabcd },
    { what: 'an endless message', sent: hex('ffffabcd'), id: 0xabcd },
    { what: 'HTTP', sent: Buffer.from('GET / HTTP/1.1\r\n\r\n'), id: 0x5420 },
  ]) {
    const replies = await tcpRaw(mesh.port, [sent, framed(query({ name: cart }))])
    t.same(
      replies.map((reply) => ({ id: reply.readUInt16BE(0), code: reply.readUInt16BE(2) })),
      id === undefined ? [] : [{ id, code: 0x8001 }], // QR, FORMERR
      `${what}: FORMERR where there is an id, and the end`,
    )
  }
  t.equal(mesh.log.lines.filter(({ sentence }) => sentence === isNoDns).length, 1, 'one line for all of them')

  const open = await Promise.all([served(mesh.port), served(mesh.port)])
  const third = connect(mesh.port, '127.0.0.1')
  await closed(third)
  t.pass('one more connection is closed')
  t.match(said(await udp(mesh.port, { name: cart })), { code: 'NOERROR' }, 'UDP goes on')
  for (const socket of open) socket.destroy()
})

/** A connection that was answered. Those of before may still be counted, so that a further one is closed: then it tries again. */
async function served(port: number): Promise<Socket> {
  for (;;) {
    const socket = connect(port, '127.0.0.1').on('error', () => undefined)
    socket.write(framed(query({ name: cart })))
    const isAnswered = await new Promise<boolean>((resolve) => {
      socket.once('data', () => resolve(true)).once('close', () => resolve(false))
    })
    if (isAnswered) return socket
  }
}

t.test('a user that opens TCP connections without end costs only its own', { skip: noOtherUsers }, async (t) => {
  await using mesh = await world({ limits: { tcpConnections: 8, tcpIdleMs: 60_000 } }) // a busy machine starts programs for seconds
  const other = connect({ port: mesh.port, host: '127.0.0.1' })
  t.teardown(() => other.destroy())
  await once(other, 'connect')
  using few = silentUser('127.0.0.1', mesh.port, 5)
  await until(() => few.state.open === 5)
  await usersAreKnown()
  using flood = silentUser('127.0.0.1', mesh.port, 40)
  await until(() => flood.state.opened === 40 && few.state.open + flood.state.open === 7)
  other.write(framed(query({ name: cart })))
  await once(other, 'data')
  t.pass('it is answered')
})

t.test('a TCP connection without one complete question is closed', async (t) => {
  await using mesh = await world({ limits: { tcpIdleMs: 60 } })
  const socket = connect(mesh.port, '127.0.0.1')
  const ended = closed(socket)
  await once(socket, 'connect')
  const drip = setInterval(() => socket.write(Buffer.of(1)), 10)
  await ended
  clearInterval(drip)
  t.pass('single bytes do not keep it')
})

t.test('a TCP client that never reads holds a bounded number of replies', async (t) => {
  await using mesh = await world({ explainChoice: () => Array.from({ length: 600 }, (_, i) => `${i} edge/n1 running`) })
  const socket = connect(mesh.port, '127.0.0.1')
  const ended = closed(socket)
  socket.pause()
  await once(socket, 'connect')
  const question = framed(query({ name: cart, type: 'TXT' }))
  socket.write(Buffer.concat(Array.from({ length: 2_000 }, () => question)))
  // The server's reset is seen as soon as somebody looks.
  const look = setInterval(() => socket.write(question), 10)
  await ended
  clearInterval(look)
  t.pass('it is ended')
})

t.test('closing finishes at once, even with connected or waiting clients', async (t) => {
  const never = new Promise<void>(() => undefined)
  const arrived = Promise.withResolvers<void>()
  const mesh = await world({
    listen: { host: '127.0.0.1', port: await freePort() },
    interests: {
      want: () => {
        arrived.resolve()
        return never
      },
      wantVip: () => never,
    },
  })
  const socket = connect(mesh.port, '127.0.0.1')
  await once(socket, 'connect')
  socket.write(framed(query({ name: 'shop.acme.pay.prod.any.rr.local' })))
  const ended = closed(socket)
  await arrived.promise
  await mesh[Symbol.asyncDispose]()
  await ended
  const again = await Resolver.start(
    {
      table: mesh.table,
      interests: { want: () => never, wantVip: () => never },
      range: RANGE,
      zones: ZONES,
      listen: { host: '127.0.0.1', port: mesh.port },
      upstreams: [],
      ttlSeconds: 5,
      negativeTtlSeconds: 2,
      explainChoice: () => [],
    },
    mesh.log,
    mesh.metrics,
  )
  t.equal(again.address.port, mesh.port, 'the port is free again')
  await t.rejects(world({ listen: { host: '127.0.0.1', port: mesh.port } }), { code: 'LISTEN_FAILED' })
  await again[Symbol.asyncDispose]()
})

t.test('reasons are logged at a limited rate', async (t) => {
  await using mesh = await world()
  for (let i = 0; i < 20; i++) await udp(mesh.port, { name: `x${i}.local` })
  const told = mesh.log.lines.filter(({ sentence }) => sentence === 'question not answered')
  t.ok(told.length >= 5 && told.length <= 10, `${told.length} lines`)
  t.match(told[0], { fields: { name: 'x0.local', reason: /1 label/ } })
})

function isResponse(reply: Buffer): boolean {
  try {
    return decode(reply).flag_qr && reply.length <= 1232
  } catch {
    return false
  }
}

function hex(text: string): Buffer {
  return Buffer.from(text.replace(/\s/g, ''), 'hex')
}

/** Sends packets, then the marker, and gathers what comes back before the marker's reply. */
async function untilMarker(port: number, packets: readonly Buffer[], marker: Buffer): Promise<Buffer[]> {
  const socket = createSocket('udp4')
  const received: Buffer[] = []
  await new Promise<void>((resolve) => {
    socket.on('message', (message) => {
      if (message.length > 12 && message.readUInt16BE(0) === 0xfffe) resolve()
      else received.push(message)
    })
    socket.connect(port, '127.0.0.1', () => {
      for (const packet of packets) if (packet.length < 2 || packet.readUInt16BE(0) !== 0xfffe) socket.send(packet)
      socket.send(marker)
    })
  })
  socket.close()
  return received
}

t.test('of a service of an organisation, nobody is told who may not see it', async (t) => {
  const table = new WorldTable([{ ...CART, isOwned: true }, STOCK])
  const asked: string[] = []
  let sees: () => boolean | Promise<boolean> = () => false
  const maySee: ResolverOptions['maySee'] = ({ connection }, services) => {
    asked.push(`${connection === undefined ? 'udp' : 'tcp'} ${services.map(({ id }) => id).join()}`)
    return sees()
  }
  await using mesh = await world(
    { maySee, interests: { want: async () => undefined, wantVip: async () => undefined } },
    table,
  )
  const missing = 'shop.acme.nothing.prod.any.rr.local'
  table.asked.add('shop.acme.nothing')
  const questions = [
    { name: cart, type: 'A' },
    { name: cart, type: 'AAAA' },
    { name: cart, type: 'TXT' },
    { name: cart, type: 'MX' },
    { name: `_http._tcp.${cart}`, type: 'SRV' },
    { name: `_tcp.${cart}`, type: 'A' },
    { name: `cart.prod.any.rr.local`, type: 'A' },
    { name: 'any.rr.cart.prod.shop.acme.local', type: 'A' },
    { name: '0.1.30.127.in-addr.arpa', type: 'PTR' },
  ]
  const plain = ({ name, type }: { name: string; type: string }) => udp(mesh.port, { name, type })
  const absent = await plain({ name: missing, type: 'A' })
  for (const question of questions) {
    const hidden = await plain(question)
    t.match(said(hidden), { code: 'NXDOMAIN', answers: [] }, `${question.type} ${question.name}: hidden`)
    t.same(
      [hidden.flags, hidden.additionals, hidden.authorities?.map(({ type }) => type)],
      [absent.flags, absent.additionals, absent.authorities?.map(({ type }) => type)],
      'as what is not there',
    )
    t.equal(asked.pop(), `udp ${CART.id}`)
    sees = () => Promise.resolve(true)
    t.match(said(await plain(question)), { code: 'NOERROR' }, 'who may see it is told, later')
    sees = () => true
    t.match(said(await plain(question)), { code: 'NOERROR' }, 'or at once')
    sees = () => false
    t.match(said(await plain(question)), { code: 'NXDOMAIN' }, 'and the answer was kept for nobody else')
    asked.length = 0
  }
  t.match(said(await udp(mesh.port, { name: 'shop.acme.stock.prod.any.rr.local' })), { code: 'NOERROR' })
  t.same(asked, [], 'of other services nobody is asked about')
  sees = () => Promise.reject(new Error('a bug'))
  t.match(said(await plain({ name: cart, type: 'A' })), { code: 'SERVFAIL' })
})
