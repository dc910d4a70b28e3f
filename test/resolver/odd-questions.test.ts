import { once } from 'node:events'
import { connect } from 'node:net'
import { decode } from 'dns-packet'
import t, { type Test } from 'tap'
import { framed, query, said, tcpRaw, udpRaw, withOpt, world } from './world.ts'

/** Questions that no ordinary resolver asks, by UDP and over TCP cut in odd places: what is answered. */

const CART_NAME = 'shop.acme.cart.prod.any.rr.local'
const ID = 0x1234

const label = (bytes: Buffer | string) => {
  const whole = Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes, 'latin1')
  return Buffer.concat([Buffer.of(whole.length), whole])
}
const wire = (...labels: (Buffer | string)[]) => Buffer.concat([...labels.map(label), Buffer.of(0)])
const nameOf = (text: string) => wire(...text.split('.'))
const short = (number: number) => [number >> 8, number & 255]

interface Header {
  flags?: number
  counts?: [questions: number, answers: number, authorities: number, additionals: number]
}

/** A header, and whatever follows. */
function packet(body: Buffer, { flags = 0x0100, counts = [1, 0, 0, 0] }: Header = {}): Buffer {
  return Buffer.concat([Buffer.from([ID, flags, ...counts].flatMap(short)), body])
}

function ask(name: Buffer, type = 1, qclass = 1): Buffer {
  return Buffer.concat([name, Buffer.of(...short(type), ...short(qclass))])
}

const cart = ask(nameOf(CART_NAME))
const option = (code: number, bytes: Buffer) =>
  Buffer.concat([Buffer.of(...short(code), ...short(bytes.length)), bytes])
const plain = () => packet(cart)
const opt = (fields: Parameters<typeof withOpt>[1]) => withOpt(plain(), fields)
/** An OPT record by hand. */
const record = (name: Buffer, type: number, data = Buffer.alloc(0)) =>
  Buffer.concat([name, Buffer.of(...short(type), 4, 0xd0, 0, 0, 0, 0, ...short(data.length)), data])
const ROOT = Buffer.of(0)
/** Whole labels up to so many octets. */
function longName(octets: number, ending: string): Buffer {
  const end = nameOf(ending)
  const labels: Buffer[] = []
  for (let left = octets - end.length; left > 0; ) {
    const length = Math.min(63, left - 1 === 64 ? 62 : left - 1)
    labels.push(label('a'.repeat(length)))
    left -= length + 1
  }
  return Buffer.concat([...labels, end])
}

/** `undefined`: no answer. `BADVERS`, and how many records. */
type Outcome = string | undefined

const QUESTIONS: readonly (readonly [why: string, question: Buffer, code: Outcome, answers?: number])[] = [
  ['an ordinary question', plain(), 'NOERROR', 1],
  // the header (RFC 1035 §4.1.1)
  ['an answer', packet(cart, { flags: 0x8180 }), undefined],
  ['ones only', Buffer.alloc(40, 0xff), undefined],
  ['zeros only', Buffer.alloc(40), 'FORMERR'],
  ['no question', packet(Buffer.alloc(0), { counts: [0, 0, 0, 0] }), 'FORMERR'],
  [
    'no question, but a cookie (RFC 7873 §5.4)',
    withOpt(packet(Buffer.alloc(0), { counts: [0, 0, 0, 0] }), { options: option(10, Buffer.alloc(8)) }),
    'FORMERR',
  ],
  ['two questions', packet(Buffer.concat([cart, cart]), { counts: [2, 0, 0, 0] }), 'FORMERR'],
  ['65,535 questions', packet(cart, { counts: [65_535, 0, 0, 0] }), 'FORMERR'],
  ['one question said, two there', packet(Buffer.concat([cart, cart])), 'FORMERR'],
  ['opcode IQUERY', packet(cart, { flags: 0x0800 }), 'NOTIMP'],
  ['opcode STATUS', packet(cart, { flags: 0x1000 }), 'NOTIMP'],
  ['opcode 3, that nobody has', packet(cart, { flags: 0x1800 }), 'NOTIMP'],
  ['opcode DSO', packet(Buffer.alloc(0), { flags: 0x3000, counts: [0, 0, 0, 0] }), 'NOTIMP'],
  ['opcode 15', packet(cart, { flags: 0x7800 }), 'NOTIMP'],
  ['no recursion wanted', packet(cart, { flags: 0 }), 'NOERROR', 1],
  ['every flag but QR and the opcode', packet(cart, { flags: 0x07f0 }), 'NOERROR', 1],
  ['a code in a question', packet(cart, { flags: 0x0105 }), 'NOERROR', 1],
  // class and type
  ['class CH', packet(ask(nameOf('version.bind'), 16, 3)), 'REFUSED'],
  ['class HS', packet(ask(nameOf(CART_NAME), 1, 4)), 'REFUSED'],
  ['class NONE', packet(ask(nameOf(CART_NAME), 1, 254)), 'REFUSED'],
  ['class ANY', packet(ask(nameOf(CART_NAME), 1, 255)), 'REFUSED'],
  ['class 0', packet(ask(nameOf(CART_NAME), 1, 0)), 'REFUSED'],
  ['the unicast bit of multicast DNS', packet(ask(nameOf(CART_NAME), 1, 0x8001)), 'REFUSED'],
  ['AXFR', packet(ask(nameOf('local'), 252)), 'REFUSED'],
  ['IXFR', packet(ask(nameOf('local'), 251)), 'REFUSED'],
  ['MAILB', packet(ask(nameOf('local'), 253)), 'NOTIMP'],
  ['ANY (RFC 8482)', packet(ask(nameOf(CART_NAME), 255)), 'NOERROR', 1],
  ['type 0', packet(ask(nameOf(CART_NAME), 0)), 'NOERROR', 0],
  ['type OPT', packet(ask(nameOf(CART_NAME), 41)), 'NOERROR', 0],
  ['type TSIG', packet(ask(nameOf(CART_NAME), 250)), 'NOERROR', 0],
  ['type HTTPS', packet(ask(nameOf(CART_NAME), 65)), 'NOERROR', 0],
  ['type 65535', packet(ask(nameOf(CART_NAME), 65_535)), 'NOERROR', 0],
  // names (RFC 1035 §3.1, §4.1.4)
  ['the root', packet(ask(ROOT)), 'REFUSED'],
  ['the name in changing case (0x20)', packet(ask(nameOf('sHoP.AcMe.cArT.pRoD.aNy.rR.LoCaL'))), 'NOERROR', 1],
  ['a name of 255 octets', packet(ask(longName(255, 'local'))), 'NXDOMAIN'],
  ['a name of 256 octets', packet(ask(longName(256, 'local'))), 'FORMERR'],
  ['a name of 255 octets outside', packet(ask(longName(255, 'example'))), 'REFUSED'],
  ['126 labels', packet(ask(wire(...'a'.repeat(122).split(''), 'local'))), 'NXDOMAIN'],
  ['a label of 63', packet(ask(wire('a'.repeat(63), 'local'))), 'NXDOMAIN'],
  ['a label of type 01', packet(ask(Buffer.concat([Buffer.of(0x41), nameOf(CART_NAME)]))), 'FORMERR'],
  ['a label of type 10', packet(ask(Buffer.concat([Buffer.of(0x81), nameOf(CART_NAME)]))), 'FORMERR'],
  ['a pointer to itself', packet(ask(Buffer.of(0xc0, 12))), 'FORMERR'],
  ['a pointer to the header', packet(ask(Buffer.of(0xc0, 0))), 'FORMERR'],
  ['a label and a pointer to it', packet(ask(Buffer.concat([label('a'), Buffer.of(0xc0, 12)]))), 'FORMERR'],
  ['a name without an end', packet(label('local')), 'FORMERR'],
  ['a question without its class', packet(cart.subarray(0, -2)), 'FORMERR'],
  ['dots within a label', packet(ask(wire('shop.acme.cart.prod.any.rr', 'local'))), 'NXDOMAIN'],
  ['a NUL within a label', packet(ask(wire('shop\0', 'acme', 'cart', 'prod', 'any', 'rr', 'local'))), 'NXDOMAIN'],
  ['an escape sequence within a label', packet(ask(wire('\x1b[31m', 'local'))), 'NXDOMAIN'],
  ['UTF-8 within a label', packet(ask(wire('b\u00c3\u00bccher', 'local'))), 'NXDOMAIN'],
  ['a backslash before a dot', packet(ask(wire('shop\\', 'acme', 'cart', 'prod', 'any', 'rr', 'local'))), 'NXDOMAIN'],
  ['a star', packet(ask(wire('*', 'acme', 'cart', 'prod', 'any', 'rr', 'local'))), 'NXDOMAIN'],
  // EDNS (RFC 6891), and what follows a question
  ['version 1', opt({ version: 1 }), 'BADVERS', 0],
  ['version 255', opt({ version: 255 }), 'BADVERS', 0],
  ['a size of 0', opt({ size: 0 }), 'NOERROR', 1],
  ['a size of 65,535', opt({ size: 65_535 }), 'NOERROR', 1],
  ['every flag of OPT', opt({ flags: 0xffff }), 'NOERROR', 1],
  ['a client cookie', opt({ options: option(10, Buffer.alloc(8, 1)) }), 'NOERROR', 1],
  ['a cookie that is too short', opt({ options: option(10, Buffer.alloc(7, 1)) }), 'NOERROR', 1],
  ['padding (RFC 7830)', opt({ options: option(12, Buffer.alloc(400)) }), 'NOERROR', 1],
  ['a client subnet', opt({ options: option(8, Buffer.from('0001180000000a', 'hex')) }), 'NOERROR', 1],
  ['an unknown option', opt({ options: option(65_001, Buffer.alloc(3)) }), 'NOERROR', 1],
  [
    'a hundred options',
    opt({ options: Buffer.concat(Array.from({ length: 100 }, () => option(65_001, Buffer.alloc(1)))) }),
    'NOERROR',
    1,
  ],
  ['an option that is longer than OPT', opt({ options: Buffer.from('000a00ff00', 'hex') }), 'FORMERR'],
  ['two OPT records', withOpt(opt({})), 'FORMERR'],
  ['an OPT with a name', packet(Buffer.concat([cart, record(nameOf('a'), 41)]), { counts: [1, 0, 0, 1] }), 'FORMERR'],
  ['an OPT among the answers', packet(Buffer.concat([cart, record(ROOT, 41)]), { counts: [1, 1, 0, 0] }), 'FORMERR'],
  [
    'a record after the question that is no OPT',
    packet(Buffer.concat([cart, record(ROOT, 250)]), { counts: [1, 0, 0, 1] }),
    'NOERROR',
    1,
  ],
  [
    'a record whose name is a pointer to itself',
    packet(Buffer.concat([cart, record(Buffer.of(0xc0, 12 + cart.length), 250)]), { counts: [1, 0, 0, 1] }),
    'FORMERR',
  ],
  ['fewer records than said', packet(cart, { counts: [1, 0, 0, 1] }), 'FORMERR'],
  ['a byte after the question', packet(Buffer.concat([cart, ROOT])), 'FORMERR'],
  [
    'as long as a question may be',
    opt({ options: option(12, Buffer.alloc(4_096 - plain().length - 15)) }),
    'NOERROR',
    1,
  ],
]

const AFTER = query({ name: CART_NAME, id: 7 })
const idOf = (reply: Buffer) => reply.readUInt16BE(0)

/** The code of a reply; a version that is not known is in OPT. */
function codeOf(reply: Buffer): string {
  const decoded = decode(reply)
  const [edns] = (decoded.additionals ?? []).filter(({ type }) => type === 'OPT')
  if ((edns as { extendedRcode?: number } | undefined)?.extendedRcode === 1) return 'BADVERS'
  return said(decoded).code
}

function check(t: Test, [why, question, code, answers]: (typeof QUESTIONS)[number], replies: readonly Buffer[]): void {
  const reply = replies.find((each) => idOf(each) !== 7)
  t.equal(reply && codeOf(reply), code, why)
  t.ok(
    replies.some((each) => idOf(each) === 7),
    `${why}: the next question is answered`,
  )
  if (reply === undefined) return
  if (answers !== undefined) t.equal(reply.readUInt16BE(6), answers, `${why}: ${answers} answers`)
  t.equal((reply[2] as number) & 0x80, 0x80, `${why}: it says that it is an answer`)
  const end = 12 + cart.length
  if (code === 'NOERROR' && reply.length >= end && question.length >= end && question.readUInt16BE(4) === 1)
    t.same(reply.subarray(12, 12 + 8), question.subarray(12, 12 + 8), `${why}: the name as it was asked`)
}

t.test('odd questions by UDP', async (t) => {
  await using mesh = await world()
  for (const row of QUESTIONS) check(t, row, await udpRaw(mesh.port, [row[1], AFTER], row[2] === undefined ? 1 : 2))
})

t.test('odd questions over TCP, the stream cut in odd places', async (t) => {
  await using mesh = await world()
  for (const length of [65_536, 1, 2, 3]) {
    for (const row of QUESTIONS) {
      if (row[1].length > 600 && length < 4) continue
      const stream = Buffer.concat([framed(row[1]), framed(AFTER)])
      const pieces = Array.from({ length: Math.ceil(stream.length / length) }, (_, i) =>
        stream.subarray(i * length, (i + 1) * length),
      )
      check(t, row, await tcpRaw(mesh.port, pieces))
    }
  }
})

/** What is written before the client ends its side, and the ids that are answered. */
const STREAMS: readonly (readonly [why: string, bytes: Buffer, answered: readonly number[]])[] = [
  ['nothing', Buffer.alloc(0), []],
  ['half a length', Buffer.of(0), []],
  ['a length alone', Buffer.of(0, 40), []],
  ['a question without its last byte', framed(AFTER).subarray(0, -1), []],
  ['a question', framed(AFTER), [7]],
  ['a question and half a length', Buffer.concat([framed(AFTER), Buffer.of(0)]), [7]],
  ['a length of 0, then a question', Buffer.concat([Buffer.of(0, 0), framed(AFTER)]), []],
  ['a question, then a length of 0', Buffer.concat([framed(AFTER), Buffer.of(0, 0)]), [7]],
  ['a length of 1', Buffer.of(0, 1, 9), []],
  ['a length of 2, an id', Buffer.of(0, 2, 0, 9), [9]],
  ['a length of 11', Buffer.concat([Buffer.of(0, 11, 0, 9), Buffer.alloc(9)]), [9]],
  ['a length of 4,097', Buffer.concat([Buffer.of(...short(4_097), 0, 9), Buffer.alloc(4_095)]), [9]],
  ['a length of 65,535', Buffer.of(0xff, 0xff, 0, 9), [9]],
  ['HTTP', Buffer.from('GET / HTTP/1.1\r\n\r\n'), [0x5420]],
  ['a TLS hello', Buffer.from('16030100c8010000c40303', 'hex'), [0x0100]],
]

t.test('streams that end early, or are none of questions', async (t) => {
  await using mesh = await world()
  for (const [why, bytes, answered] of STREAMS) {
    const replies = await tcpRaw(mesh.port, bytes.length === 0 ? [] : [bytes])
    t.same(replies.map(idOf), answered, why)
  }
})

t.test(
  'thousands of questions on one connection are all answered, and others have their turn in between',
  async (t) => {
    const turns = { asked: 0, count: 0 }
    await using mesh = await world({ explainChoice: () => [`${(turns.asked += 1)}`] })
    const count = 5_000
    const stream = Buffer.concat(
      Array.from({ length: count }, (_, id) => framed(query({ name: CART_NAME, type: 'TXT', id }))),
    )
    const socket = connect({ port: mesh.port, host: '127.0.0.1' })
    await once(socket, 'connect')
    let bytes = 0
    socket.on('data', (chunk: Buffer) => (bytes += chunk.length))
    socket.end(stream)
    for (; turns.asked < count; turns.count += turns.asked > 0 ? 1 : 0)
      await new Promise((resolve) => setImmediate(resolve))
    t.ok(turns.count > count / 128, `${turns.count} turns of the event loop for ${count} questions`)
    await once(socket, 'end')
    t.ok(bytes > count * 12, 'and every answer has come')
  },
)
