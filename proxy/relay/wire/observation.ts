import { isIPv4 } from 'node:net'
import { unmapped } from '../../../src/core/kit/host-port.ts'

/**
 * How a node learns at which address and port others see it: a question to a relay's observer, over TCP or UDP from the port in
 * question, and an answer that is never longer than the question (SEC-22). Numbers are big-endian.
 *
 *     question   0          4     5       8              24             40
 *                ┌──────────┬─────┬───────┬──────────────┬──────────────┐     ask  0  where do you see me?
 *                │ "HGO1"   │ ask │ 0     │ cookie       │ token        │          1  and answer from a third port (UDP), or
 *                └──────────┴─────┴───────┴──────────────┴──────────────┘             try to reach me from one (TCP)
 *     answer     0          4     5       6              8              24             40
 *                ┌──────────┬─────┬───────┬──────────────┬──────────────┬──────────────┐
 *                │ "HGO1"   │ fam │ heard │ port         │ address      │ token        │
 *                └──────────┴─────┴───────┴──────────────┴──────────────┴──────────────┘
 *
 *     cookie   from the relay's `welcome`; a question without a valid one is not answered
 *     token    drawn by the asker; an answer without it does not count
 *     fam      4 or 6; an IPv4 address is the first 4 bytes
 *     heard    after ask 1 over TCP: 1 when the asker's listener accepted a connection from that port, else 2
 */
export const QUESTION_BYTES = 40
export const ANSWER_BYTES = 40
export const ASK = { where: 0, elsewhere: 1 } as const
const MAGIC = Buffer.from('HGO1')

export interface Question {
  ask: number
  cookie: string
  token: string
}

export interface ObservedAt {
  host: string
  port: number
  token: string
  /** Whether a connection from elsewhere came through; `undefined` when that was not asked. */
  heard: boolean | undefined
}

export function encodeQuestion({ ask, cookie, token }: Question): Buffer {
  const out = Buffer.alloc(QUESTION_BYTES)
  MAGIC.copy(out)
  out[4] = ask
  out.write(cookie, 8, 16, 'hex')
  out.write(token, 24, 16, 'hex')
  return out
}

/** `undefined` when it is no question. */
export function decodeQuestion(bytes: Buffer): Question | undefined {
  if (bytes.length !== QUESTION_BYTES || !bytes.subarray(0, 4).equals(MAGIC)) return undefined
  return { ask: bytes[4]!, cookie: bytes.toString('hex', 8, 24), token: bytes.toString('hex', 24, 40) }
}

/** `host` is numeric, as sockets give it. */
export function encodeAnswer({ host, port, token, heard }: ObservedAt): Buffer {
  const out = Buffer.alloc(ANSWER_BYTES)
  const plain = unmapped(host)
  MAGIC.copy(out)
  out[4] = isIPv4(plain) ? 4 : 6
  out[5] = heard === undefined ? 0 : heard ? 1 : 2
  out.writeUInt16BE(port, 6)
  groupsOf(plain).forEach((group, at) => out.writeUInt8(group, 8 + at))
  out.write(token, 24, 16, 'hex')
  return out
}

/** `undefined` when it is no answer. */
export function decodeAnswer(bytes: Buffer): ObservedAt | undefined {
  if (bytes.length !== ANSWER_BYTES || !bytes.subarray(0, 4).equals(MAGIC)) return undefined
  const family = bytes[4]
  const port = bytes.readUInt16BE(6)
  if ((family !== 4 && family !== 6) || port === 0) return undefined
  const host =
    family === 4
      ? bytes.subarray(8, 12).join('.')
      : canonical(Array.from({ length: 8 }, (_, at) => bytes.readUInt16BE(8 + 2 * at).toString(16)).join(':'))
  const heard = bytes[5] === 0 ? undefined : bytes[5] === 1
  return { host, port, token: bytes.toString('hex', 24, 40), heard }
}

/** The form that systems print (RFC 5952), so that addresses can be compared as text. */
function canonical(ipv6: string): string {
  return new URL(`http://[${ipv6}]`).hostname.slice(1, -1)
}

function groupsOf(host: string): number[] {
  if (isIPv4(host)) return host.split('.').map(Number)
  const [head = '', tail] = host.replace(/%.*$/, '').split('::')
  const front = head === '' ? [] : head.split(':')
  const back = tail === undefined || tail === '' ? [] : tail.split(':')
  const gap = tail === undefined ? 0 : 8 - front.length - back.length
  const groups = [...front, ...Array.from({ length: gap }, () => '0'), ...back].map((group) =>
    Number.parseInt(group, 16),
  )
  return groups.flatMap((group) => [group >> 8, group & 0xff])
}
