import t from 'tap'
import { NAME, node, RANGE, SECRETS, VIP } from './proxy-world.ts'
import { vipToIPv4 } from '../../src/core/model/address.ts'
import { Client } from './world.ts'
import { until } from '../support/until.ts'

/** What no ordinary program says to the SOCKS proxy: the bytes of the answer. */

const text = (length: number, value: string) => Buffer.concat([Buffer.of(length), Buffer.from(value, 'latin1')])
const short = (port: number) => [port >> 8, port & 255]
const secret = SECRETS['node'] as string
const HELLO = Buffer.of(5, 1, 2)
const LOGIN = Buffer.concat([Buffer.of(1), text(4, 'node'), text(secret.length, secret)])
const toName = (name: string, port: number, command = 1) =>
  Buffer.concat([Buffer.of(5, command, 0, 3), text(name.length, name), Buffer.of(...short(port))])
const to4 = (address: string, port: number) => Buffer.of(5, 1, 0, 1, ...address.split('.').map(Number), ...short(port))
const to6 = (hex: string, port: number) =>
  Buffer.concat([Buffer.of(5, 1, 0, 4), Buffer.from(hex, 'hex'), Buffer.of(...short(port))])
const asked = (request: Buffer) => Buffer.concat([HELLO, LOGIN, request])
const answered = (reply: number) => `0502010005${reply.toString(16).padStart(2, '0')}0001000000000000`

const vip = vipToIPv4(RANGE, VIP)
const vipHex = vip
  .split('.')
  .map((part) => Number(part).toString(16).padStart(2, '0'))
  .join('')

const OK = 0
const FAILURE = 1
const NOT_ALLOWED = 2
const UNREACHABLE = 4
const REFUSED = 5
const BAD_COMMAND = 7
const BAD_ADDRESS = 8

const ROWS: readonly (readonly [why: string, bytes: Buffer, answer: string])[] = [
  // RFC 1928 §3
  ['no methods', Buffer.of(5, 0), '05ff'],
  [
    'all methods but a password',
    Buffer.from([5, 254, ...Array.from({ length: 256 }, (_, i) => i).filter((i) => i !== 2 && i !== 255)]),
    '05ff',
  ],
  [
    'all methods',
    Buffer.concat([Buffer.from([5, 255, ...Array.from({ length: 255 }, (_, i) => i)]), LOGIN, to4(vip, 80)]),
    answered(OK),
  ],
  ['version 6', Buffer.of(6, 1, 2), '05ff'],
  ['version 0', Buffer.of(0), '05ff'],
  ['SOCKS4', Buffer.from('040100507f000001 00'.replace(' ', ''), 'hex'), '005b000000000000'],
  [
    'SOCKS4a',
    Buffer.concat([Buffer.from('04010050000000016e6f646500', 'hex'), Buffer.from(`${NAME}\0`)]),
    '005b000000000000',
  ],
  ['SSH', Buffer.from('SSH-2.0-x\r\n'), '485454502f312e3120343030'],
  // RFC 1929
  ['a login of version 5', Buffer.concat([HELLO, Buffer.of(5), LOGIN.subarray(1)]), '05020101'],
  ['an empty user', Buffer.concat([HELLO, Buffer.of(1), text(0, ''), text(secret.length, secret)]), '05020101'],
  ['an empty password', Buffer.concat([HELLO, Buffer.of(1), text(4, 'node'), text(0, '')]), '05020101'],
  [
    'a user of 255 bytes',
    Buffer.concat([HELLO, Buffer.of(1), text(255, 'n'.repeat(255)), text(4, 'hush')]),
    '05020101',
  ],
  [
    'a user with a NUL',
    Buffer.concat([HELLO, Buffer.of(1), text(5, 'node\0'), text(secret.length, secret)]),
    '05020101',
  ],
  [
    'a user that every object has',
    Buffer.concat([HELLO, Buffer.of(1), text(11, 'constructor'), text(4, 'hush')]),
    '05020101',
  ],
  // RFC 1928 §4
  ['a request of version 4', asked(Buffer.of(4, 1, 0, 1, 127, 0, 0, 1, 0, 80)), answered(FAILURE)],
  ['a reserved byte that is set', asked(Buffer.of(5, 1, 1, 1, 127, 0, 0, 1, 0, 80)), answered(FAILURE)],
  ['BIND', asked(toName(NAME, 80, 2)), answered(BAD_COMMAND)],
  ['a command of 0', asked(toName(NAME, 80, 0)), answered(BAD_COMMAND)],
  ['a command of 255', asked(toName(NAME, 80, 255)), answered(BAD_COMMAND)],
  ['an address of type 0', asked(Buffer.of(5, 1, 0, 0)), answered(BAD_ADDRESS)],
  ['an address of type 2', asked(Buffer.of(5, 1, 0, 2)), answered(BAD_ADDRESS)],
  ['an address of type 255', asked(Buffer.of(5, 1, 0, 255)), answered(BAD_ADDRESS)],
  ['an empty name', asked(toName('', 80)), answered(UNREACHABLE)],
  ['a name and port 0', asked(toName(NAME, 0)), answered(UNREACHABLE)],
  ['a name', asked(toName(NAME, 80)), answered(OK)],
  ['a name in capitals with a final dot', asked(toName(`${NAME.toUpperCase()}.`, 80)), answered(OK)],
  ['a name with a port that the service does not have', asked(toName(NAME, 65_535)), answered(REFUSED)],
  ['a name of 255 bytes', asked(toName(`${'a.'.repeat(124)}b.local`, 80)), answered(UNREACHABLE)],
  ['a name with a NUL', asked(toName(`${NAME}\0.example`, 80)), answered(NOT_ALLOWED)],
  ['a name with a NUL before its end', asked(toName(`evil.example\0.${NAME}`, 80)), answered(UNREACHABLE)],
  ['a name with a line break', asked(toName(`shop\r\n.${NAME}`, 80)), answered(UNREACHABLE)],
  ['a name with an escape sequence', asked(toName('\x1b[31mred.local', 80)), answered(UNREACHABLE)],
  ['a name in UTF-8', asked(toName('b\u00c3\u00bccher.local', 80)), answered(UNREACHABLE)],
  ['a name outside the mesh', asked(toName('example.com', 80)), answered(NOT_ALLOWED)],
  ['a name with two dots', asked(toName('shop..acme.local', 80)), answered(UNREACHABLE)],
  ['a VIP as a name', asked(toName(vip, 80)), answered(OK)],
  ['loopback as one number', asked(toName('2130706433', 80)), answered(NOT_ALLOWED)],
  ['loopback in octal', asked(toName('0177.0.0.1', 80)), answered(NOT_ALLOWED)],
  ['a name in brackets', asked(toName('[::1]', 80)), answered(NOT_ALLOWED)],
  ['an address with a zone', asked(toName('fe80::1%lo', 80)), answered(NOT_ALLOWED)],
  ['a VIP', asked(to4(vip, 80)), answered(OK)],
  ['a VIP as IPv6 writes IPv4', asked(to6(`00000000000000000000ffff${vipHex}`, 80)), answered(OK)],
  ['no address', asked(to4('0.0.0.0', 80)), answered(NOT_ALLOWED)],
  ['everybody’s address', asked(to4('255.255.255.255', 80)), answered(NOT_ALLOWED)],
  ['a multicast address', asked(to4('224.0.0.251', 80)), answered(NOT_ALLOWED)],
  ['a metadata address', asked(to4('169.254.169.254', 80)), answered(NOT_ALLOWED)],
  ['another VIP, that nothing has', asked(to4('127.30.200.200', 80)), answered(UNREACHABLE)],
  ['no address of IPv6', asked(to6('0'.repeat(32), 80)), answered(NOT_ALLOWED)],
]

for (const [how, length] of [
  ['in one piece', 1_000],
  ['byte by byte', 1],
] as const)
  t.test(`odd requests to the SOCKS proxy, ${how}`, async (t) => {
    await using here = await node()
    for (const [why, bytes, answer] of ROWS) {
      using client = await Client.connect(here.socksPort)
      client.socket.setNoDelay(true)
      for (let at = 0; at < bytes.length && !client.socket.destroyed; at += length) {
        client.socket.write(bytes.subarray(at, at + length))
        if (length === 1) await new Promise((resolve) => setImmediate(resolve))
      }
      const isOpen = answer === answered(OK)
      if (isOpen) await until(() => client.bytes * 2 >= answer.length)
      else await client.ended
      t.equal(Buffer.concat(client.chunks).toString('hex').slice(0, answer.length), answer, why)
    }
  })

t.test('what comes with a SOCKS request goes to the instance', async (t) => {
  await using here = await node()
  const request = Buffer.concat([
    asked(to4(vip, 80)),
    Buffer.from('GET /early HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'),
  ])
  for (const length of [1, 7, 1_000]) {
    using client = await Client.connect(here.socksPort)
    client.socket.setNoDelay(true)
    for (let at = 0; at < request.length; at += length) {
      client.socket.write(request.subarray(at, at + length))
      if (length < 1_000) await new Promise((resolve) => setImmediate(resolve))
    }
    await client.ended
    t.match(client.text, /GET \/early 0\n$/, `in pieces of ${length} bytes`)
  }
})
