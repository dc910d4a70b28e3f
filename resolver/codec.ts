import { Packet, type Resource } from 'dns2'
import { parseIPv4, parseIPv6, printIPv6 } from '../src/core/model/address.ts'
import type { Answer, DnsRecord } from './answer.ts'
import { CODE, HEADER, TYPE } from './numbers.ts'
import type { Opt, Query } from './query.ts'

/*
 * The only user of dns2. It writes bit by bit, so a whole reply is written once, kept by the responder, and stamped with id,
 * flags, question and OPT for each client (wire.ts). Its bugs are avoided: dots inside labels (questions are read and put back
 * as bytes), TXT over 255 bytes, UDP sizes and EDNS versions (wire.ts), IPv6 with a dotted tail (model/address prints none).
 */

interface SrvCodec {
  encode(
    record: { priority: number; weight: number; port: number; target: string },
    writer: { write(value: number, bits: number): void },
  ): void
}

/** RFC 2782: a target is not compressed. dns2 would compress it, and c-ares (Node, curl) then refuses the whole answer. */
const { SRV } = Packet.Resource as unknown as { SRV: SrvCodec }
SRV.encode = ({ priority, weight, port, target }, writer) => {
  for (const number of [priority, weight, port]) writer.write(number, 16)
  for (const byte of Packet.Name.encode(target)) writer.write(byte, 8)
}

/** Bytes of all strings of one TXT record, so that the reply fits a TCP message. */
const TXT_LIMIT = 16_384

/** The whole reply of an answer, to be stamped for each client. */
export function writeAnswer(query: Query, answer: Answer, ttl: { seconds: number; negativeSeconds: number }): Buffer {
  const packet = new Packet()
  const isOurs = answer.code === 'NOERROR' || answer.code === 'NXDOMAIN'
  const header = { qr: 1, aa: isOurs ? 1 : 0, ra: 1, rcode: CODE[answer.code] } as const
  packet.header = new Packet.Header(header)
  packet.questions = [new Packet.Question({ name: layoutOf(query), type: query.type, class: query.class })]
  // A type or class of 0 would be replaced by dns2's default; the stamp puts the asked bytes back in any case.
  packet.answers = answer.records.map((record) => resourceOf(record, ttl))
  packet.authorities = answer.authorities.map((record) => resourceOf(record, ttl))
  packet.additionals = answer.additionals.map((record) => resourceOf(record, ttl))
  return packet.toBuffer()
}

/** The addresses of a reply of another server, whatever their names: an alias leads to others. None where it cannot be read. */
export function addressesIn(reply: Buffer): { address: string; ttlSeconds: number }[] {
  try {
    return Packet.parse(reply).answers.flatMap(({ type, ttl, address }) => {
      if (typeof address !== 'string') return []
      if (type === TYPE.A) return parseIPv4(address) === undefined ? [] : [{ address, ttlSeconds: ttl }]
      const hextets = type === TYPE.AAAA ? parseIPv6(address) : undefined
      return hextets === undefined ? [] : [{ address: printIPv6(hextets), ttlSeconds: ttl }]
    })
  } catch {
    return []
  }
}

/** For a question with unusual records (TSIG, several additionals), which dns2 checks. */
export function readOddOpt(packet: Buffer): Opt | 'fault' | undefined {
  const parsed = Packet.parse(packet)
  if (parsed.errors.length > 0) return 'fault'
  const opts = parsed.additionals.filter(({ type }) => type === TYPE.OPT)
  const [opt] = opts
  if (opt === undefined) return undefined
  if (opts.length > 1 || opt.name !== '') return 'fault' // its name must be the root (RFC 6891 §6.1.2)
  return { size: opt.class, version: opt.version ?? 0, isDnssecOk: opt.doFlag ?? false }
}

/** A name that dns2 writes with the same label lengths, so that its compression pointers stay right. */
function layoutOf({ packet }: Query): string {
  const labels: string[] = []
  for (let at = HEADER, length = packet[at] as number; length > 0; length = packet[at] as number) {
    labels.push(packet.toString('latin1', at + 1, at + 1 + length).replace(/[^\w-]/g, '_'))
    at += length + 1
  }
  return labels.join('.')
}

function resourceOf(record: DnsRecord, ttl: { seconds: number; negativeSeconds: number }): Resource {
  const { name, type } = record
  const seconds = type === 'SOA' ? ttl.negativeSeconds : ttl.seconds
  const resource = new Packet.Resource(name, TYPE[type], Packet.CLASS.IN, seconds)
  switch (record.type) {
    case 'A':
    case 'AAAA':
      return Object.assign(resource, { address: record.address })
    case 'PTR':
      return Object.assign(resource, { domain: record.target })
    case 'NS':
      return Object.assign(resource, { ns: record.target })
    case 'SRV':
      return Object.assign(resource, { priority: 0, weight: 0, port: record.port, target: record.target })
    case 'TXT':
      return Object.assign(resource, { data: boundedStrings(record.strings) })
    case 'SOA':
      return Object.assign(resource, {
        primary: `ns.${name}`,
        admin: `hostmaster.${name}`,
        serial: 1, // the zone is not transferred
        refresh: 3600,
        retry: 600,
        expiration: 86_400,
        minimum: ttl.negativeSeconds,
      })
    default:
      return record satisfies never
  }
}

/** At most 255 bytes each, since dns2 writes longer ones with a wrong length. */
function boundedStrings(strings: readonly string[]): Buffer[] {
  const bounded: Buffer[] = []
  let bytes = 0
  for (const [i, text] of strings.entries()) {
    const string = Buffer.from(text).subarray(0, 255)
    bytes += string.length + 1
    if (bytes > TXT_LIMIT) return [...bounded, Buffer.from(`and ${strings.length - i} more`)]
    bounded.push(string)
  }
  return bounded
}
