import { encode } from 'dns-packet'
import { answer } from '../../../resolver/answer.ts'
import { writeAnswer } from '../../../resolver/codec.ts'
import { parseResolvConf, parseServer } from '../../../resolver/resolv-conf.ts'
import { isAnswerTo, questionOf, readQuery, stamp, TCP_SIZE, udpSize, writeFault } from '../../../resolver/wire.ts'
import { parseName } from '../../../src/core/model/name.ts'
import { vipRange } from '../../../src/core/model/address.ts'
import { CART, RANGE, STOCK, WorldTable, ZONES } from '../../resolver/world.ts'
import type { FuzzTarget } from '../target.ts'

const table = new WorldTable([CART, STOCK])
const settings = {
  zones: ZONES,
  range: vipRange(RANGE.cidr4, 'fd12:3456:789a::/48'),
  explainChoice: () => ['0 edge/a running'],
}
const TTL = { seconds: 5, negativeSeconds: 2 }
const NAME = 'shop.acme.cart.prod.any.rr.local'

function question(name: string, type: string, additionals: object[] = []): Buffer {
  return encode({
    type: 'query',
    id: 0x1234,
    flags: 0x0100,
    questions: [{ name, type: type as 'A' }],
    additionals: additionals as never,
  })
}

const OPT = { type: 'OPT', name: '.', udpPayloadSize: 1_232, flags: 0x8000, options: [] }
const QUESTIONS = [
  question(NAME, 'A'),
  question(NAME, 'AAAA', [OPT]),
  question(`_8080._tcp.${NAME}`, 'SRV'),
  question(NAME, 'TXT'),
  question('local', 'SOA'),
  question('1.0.30.127.in-addr.arpa', 'PTR'),
  question('example.org', 'ANY', [OPT]),
]

/** A packet as a client sends it, through the whole of an answer from the table. */
export const dnsQuery: FuzzTarget = {
  name: 'dns-query',
  seeds: QUESTIONS,
  run(bytes) {
    const read = readQuery(bytes)
    if (read.kind === 'drop') return 'dropped'
    if (read.kind === 'fault') {
      const reply = writeFault(bytes, read.end, read.code, read.hasEdns)
      if (reply.length > bytes.length + 11) throw new Error('a fault is longer than what it answers')
      return `fault ${read.code}`
    }
    const { query } = read
    const decision = answer(questionOf(query), table, settings)
    if (decision.kind !== 'answer') return decision.kind
    const whole = writeAnswer(query, decision, TTL)
    const limit = udpSize(query)
    if (stamp(whole, query, limit).length > Math.max(limit, query.end + 11))
      throw new Error('longer than the client takes')
    if (stamp(whole, query, TCP_SIZE).length > TCP_SIZE) throw new Error('longer than a TCP message')
    return `answer ${decision.code} ${decision.records.length}`
  },
}

const SENT = question('example.org', 'A')
const SENT_END = SENT.length
const ANSWERS = [
  encode({
    type: 'response',
    id: 0x1234,
    flags: 0x8180,
    questions: [{ name: 'example.org', type: 'A' }],
    answers: [{ name: 'example.org', type: 'A', data: '192.0.2.1', ttl: 60 }],
  }),
  encode({ type: 'response', id: 0x1234, flags: 0x8185, questions: [] }),
]

/** A packet that claims to be the answer of an upstream server. */
export const dnsAnswer: FuzzTarget = {
  name: 'dns-answer',
  seeds: ANSWERS,
  run(bytes) {
    if (!isAnswerTo(bytes, SENT, SENT_END)) return 'refused'
    if (bytes.readUInt16BE(0) !== 0x1234) throw new Error('an answer with another id')
    return 'accepted'
  },
}

export const semanticName: FuzzTarget = {
  name: 'semantic-name',
  seeds: [NAME, 'any.rr.cart.prod.shop.acme.local', 'shop.acme.cart.3.pinned.internal', 'example.org'].map((name) =>
    Buffer.from(name),
  ),
  run(bytes) {
    const parsed = parseName(bytes.toString('latin1'), ZONES)
    return parsed.kind === 'invalid' ? `invalid ${parsed.reason.replaceAll(/[^a-z ]/gi, '').slice(0, 40)}` : parsed.kind
  },
}

export const resolvConf: FuzzTarget = {
  name: 'resolv-conf',
  seeds: [Buffer.from('nameserver 10.0.0.1\nnameserver fe80::1%eth0\noptions edns0\n'), Buffer.from('# none\n')],
  run(bytes) {
    const text = bytes.toString('latin1')
    parseServer(text)
    return `${parseResolvConf(text).length} servers`
  },
}
