import type { Question } from './answer.ts'
import { readOddOpt } from './codec.ts'
import type { Opt, Query } from './query.ts'
import { CODE, HEADER, TYPE, type Code } from './numbers.ts'

/*
 *   query     0 id · 2 flags · 4 qd=1 · 6 an=0 · 8 ns=0 · 10 ar=0|1 · 12 qname · qtype · qclass ┊ OPT          (RFC 1035 §4.1)
 *   flags     QR opcode(4) AA TC RD ┊ RA Z AD CD rcode(4)
 *   OPT       00 · 0029 · payload size(2) · rcode high(1) · version(1) · DO+Z(2) · length(2) · options       (RFC 6891 §6.1)
 *   reply     header · question, byte for byte as it was asked (0x20) · records · OPT
 *
 * Bytes in, bytes out: nothing here looks at what the answer is. On the path of every question (test/bench/dns-micro.ts).
 */

export type QueryRead =
  | { kind: 'query'; query: Query }
  /** `end` is 12 when the question could not be read. */
  | { kind: 'fault'; code: Code; end: number; hasEdns: boolean }
  /** It cannot be answered, or it is a response: answering those makes loops. */
  | { kind: 'drop' }

const DROP: QueryRead = { kind: 'drop' }
const NAME_LIMIT = 255
/** No query with one question needs more. Larger: a client can make us work harder. */
export const QUERY_LIMIT = 4096
/** A packet of this size is not fragmented nearly anywhere (DNS flag day 2020). */
const EDNS_SIZE = 1232
const PLAIN_SIZE = 512
export const TCP_SIZE = 65_535

const QR = 0x80
const OPCODE = 0x78
const TC = 0x02
const RD = 0x01
const CD = 0x10
const OPT_SIZE = 11

/** Reads what a client sent, as far as necessary; never throws. */
export function readQuery(packet: Buffer): QueryRead {
  if (packet.length < HEADER || ((packet[2] as number) & QR) !== 0) return DROP
  if (((packet[2] as number) & OPCODE) !== 0) return fault('NOTIMP')
  if (u16(packet, 4) !== 1 || packet.length > QUERY_LIMIT) return fault('FORMERR')
  const nameEnd = endOfName(packet)
  const end = nameEnd + 4
  if (nameEnd < 0 || end > packet.length) return fault('FORMERR')
  const query: Query = {
    packet,
    end,
    type: u16(packet, nameEnd),
    class: u16(packet, nameEnd + 2),
    key: packet.toString('latin1', HEADER, nameEnd).toLowerCase(),
  }
  if (u16(packet, 6) !== 0 || u16(packet, 8) !== 0 || u16(packet, 10) !== 0) return readEdns(query)
  return end === packet.length ? { kind: 'query', query } : fault('FORMERR', end)
}

/** How large a reply by UDP may be. */
export function udpSize({ edns }: Query): number {
  return edns === undefined ? PLAIN_SIZE : Math.min(Math.max(edns.size, PLAIN_SIZE), EDNS_SIZE)
}

export function questionOf({ packet, type, class: qclass }: Query): Question {
  let name = ''
  for (let at = HEADER, length = packet[at] as number; length > 0; length = packet[at] as number) {
    for (let i = at + 1; i <= at + length; i++) name += character(packet[i] as number)
    at += length + 1
    name += '.'
  }
  return { name: name.slice(0, -1), type, class: qclass }
}

/** A kept reply for one client: with its id, spelling, flags and EDNS; cut to `limit` bytes with TC set. */
export function stamp(whole: Buffer, query: Query, limit: number): Buffer {
  const { packet, end, edns } = query
  const optSize = edns === undefined ? 0 : OPT_SIZE
  const fits = whole.length + optSize <= limit
  const size = fits ? whole.length : end
  const reply = Buffer.allocUnsafe(size + optSize)
  whole.copy(reply, 0, 0, size)
  packet.copy(reply, HEADER, HEADER, end)
  stampHeader(reply, packet)
  if (!fits) {
    reply[2] = (reply[2] as number) | TC
    reply.fill(0, 4, HEADER)
    reply[5] = 1
  }
  if (edns !== undefined) addOpt(reply, size, edns.isDnssecOk, 0)
  return reply
}

/** A reply without records. */
export function writeFault(packet: Buffer, end: number, code: Code, hasEdns: boolean): Buffer {
  const reply = Buffer.alloc(end + (hasEdns ? OPT_SIZE : 0))
  packet.copy(reply, HEADER, HEADER, end)
  reply[2] = QR | ((packet[2] as number) & OPCODE)
  reply[3] = 0x80 | (CODE[code] & 0xf)
  stampHeader(reply, packet)
  reply[5] = end > HEADER ? 1 : 0
  if (hasEdns) addOpt(reply, end, false, CODE[code] >> 4)
  return reply
}

/** The reply of an upstream server, when it is larger than the client takes. */
export function cut(whole: Buffer, query: Query): Buffer {
  return stamp(whole, query, 0)
}

/** Whether a message from an upstream server answers what was sent to it (RFC 5452 §9.1; the socket checks the addresses). */
export function isAnswerTo(message: Buffer, sent: Buffer, end: number): boolean {
  if (message.length < HEADER || u16(message, 0) !== u16(sent, 0)) return false
  if (((message[2] as number) & (QR | OPCODE)) !== (QR | ((sent[2] as number) & OPCODE))) return false
  const questions = u16(message, 4)
  // Some servers refuse without repeating the question.
  if (questions === 0) return codeOf(message) !== 0 && u16(message, 6) === 0
  if (questions !== 1 || message.length < end) return false
  for (let i = HEADER; i < end; i++) {
    if (lower(message[i] as number) !== lower(sent[i] as number)) return false
  }
  return true
}

export function isTruncated(message: Buffer): boolean {
  return ((message[2] as number) & TC) !== 0
}

export function codeOf(message: Buffer): number {
  return (message[3] as number) & 0xf
}

function fault(code: Code, end = HEADER, hasEdns = false): QueryRead {
  return { kind: 'fault', code, end, hasEdns }
}

/** Where the first name ends; -1 when it is malformed, or compressed, since there is nothing before it to point to. */
function endOfName(packet: Buffer): number {
  for (let at = HEADER; at < packet.length && at < HEADER + NAME_LIMIT; ) {
    const length = packet[at] as number
    if (length === 0) return at + 1
    if (length > 63) return -1
    at += length + 1
  }
  return -1
}

function readEdns(query: Query): QueryRead {
  const { packet, end } = query
  // A SOA for IXFR, an OPT and a signature are all that a question needs.
  if (u16(packet, 6) > 0 || u16(packet, 8) > 1 || u16(packet, 10) > 2) return fault('FORMERR', end)
  const isPlain = u16(packet, 6) === 0 && u16(packet, 8) === 0 && u16(packet, 10) === 1 && packet[end] === 0
  const opt = isPlain ? readOpt(packet, end) : readOddOpt(packet)
  if (opt === 'fault') return fault('FORMERR', end)
  if (opt === undefined) return { kind: 'query', query }
  if (opt.version !== 0) return fault('BADVERS', end, true)
  return { kind: 'query', query: { ...query, edns: { size: opt.size, isDnssecOk: opt.isDnssecOk } } }
}

/** The only record after the question: an OPT at the root that ends with the packet, as every stub resolver writes it. */
function readOpt(packet: Buffer, at: number): Opt | 'fault' | undefined {
  if (at + OPT_SIZE > packet.length || u16(packet, at + 1) !== TYPE.OPT) return readOddOpt(packet)
  const stop = at + OPT_SIZE + u16(packet, at + 9)
  if (stop !== packet.length) return 'fault'
  let option = at + OPT_SIZE
  while (option + 4 <= stop) option += 4 + u16(packet, option + 2)
  if (option !== stop) return 'fault'
  return {
    size: u16(packet, at + 3),
    version: packet[at + 6] as number,
    isDnssecOk: ((packet[at + 7] as number) & 0x80) !== 0,
  }
}

/** As in master files (RFC 1035 §5.1), so that a dot inside a label does not look like two labels. */
function character(byte: number): string {
  if (byte > 0x20 && byte < 0x7f && byte !== 0x2e && byte !== 0x5c) return String.fromCharCode(byte)
  return `\\${String(byte).padStart(3, '0')}`
}

function stampHeader(reply: Buffer, asked: Buffer): void {
  reply[0] = asked[0] as number
  reply[1] = asked[1] as number
  reply[2] = (reply[2] as number) | ((asked[2] as number) & RD)
  reply[3] = (reply[3] as number) | ((asked[3] as number) & CD)
}

function addOpt(reply: Buffer, at: number, isDnssecOk: boolean, codeHigh: number): void {
  reply.fill(0, at, at + OPT_SIZE)
  reply[at + 2] = TYPE.OPT
  reply[at + 3] = EDNS_SIZE >> 8
  reply[at + 4] = EDNS_SIZE & 0xff
  reply[at + 5] = codeHigh
  reply[at + 7] = isDnssecOk ? 0x80 : 0
  reply[11] = (reply[11] as number) + 1 // never more than a few records there
}

function u16(bytes: Buffer, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number)
}

function lower(byte: number): number {
  return byte >= 0x41 && byte <= 0x5a ? byte | 0x20 : byte
}
