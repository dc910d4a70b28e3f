import { isIPv6 } from 'node:net'

/*
 * The header of the PROXY protocol, version 2 (haproxy, doc/proxy-protocol.txt §2.2), as a sender writes it:
 *
 *   0            12              13       14       16
 *   ┌────────────┬───────────────┬────────┬────────┬─────────────────────────┬───────────────────────┐
 *   │ signature  │ version 2,    │ family │ length │ addresses, with 0x11:   │ TLVs: type, u16, value│
 *   │            │ command 0, 1  │        │ of the │ from, to (4 bytes each),│                       │
 *   │            │               │        │ rest   │ from, to port (u16)     │                       │
 *   └────────────┴───────────────┴────────┴────────┴─────────────────────────┴───────────────────────┘
 *   command 0 LOCAL: the receiver uses the addresses of the connection; 1 PROXY: it uses these
 *   family  0x11 TCP over IPv4, 0x21 TCP over IPv6 (16 bytes each), 0x00 none
 */

const SIGNATURE = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1')
const VERSION = 0x20
const LOCAL = 0
const PROXY = 1
const TCP4 = 0x11
const TCP6 = 0x21

/** One end of the connection that the header describes; both are of one family. */
export interface ProxyEndpoint {
  address: string
  port: number
}

export interface ProxyHeader {
  /** Absent when the client has no address; sent as LOCAL, since HAProxy refuses PROXY with an unspecified family. */
  ends?: { from: ProxyEndpoint; to: ProxyEndpoint }
  /** TLVs: a type (0 … 255) and a text (at most 65,535 bytes). */
  values?: readonly (readonly [type: number, text: string])[]
}

/** The header for a connection made on behalf of a client. */
export function encodeProxyHeader({ ends, values = [] }: ProxyHeader): Buffer {
  const tail = values.map(([type, text]) => value(type, text))
  if (ends === undefined) {
    const rest = Buffer.concat(tail)
    return Buffer.concat([SIGNATURE, head(LOCAL, 0, rest.length), rest])
  }
  const family = isIPv6(ends.from.address) ? TCP6 : TCP4
  const rest = Buffer.concat([family === TCP6 ? tcp6(ends.from, ends.to) : tcp4(ends.from, ends.to), ...tail])
  return Buffer.concat([SIGNATURE, head(PROXY, family, rest.length), rest])
}

/** The header for a connection of our own, such as a health check. */
export const OWN_PROXY_HEADER = encodeProxyHeader({})

function head(command: number, family: number, length: number): Buffer {
  const bytes = Buffer.of(VERSION | command, family, 0, 0)
  bytes.writeUInt16BE(length, 2)
  return bytes
}

function tcp4(from: ProxyEndpoint, to: ProxyEndpoint): Buffer {
  const bytes = Buffer.alloc(12)
  for (const [i, { address }] of [from, to].entries()) {
    for (const [j, octet] of address.split('.').entries()) bytes[i * 4 + j] = Number(octet)
  }
  bytes.writeUInt16BE(from.port, 8)
  bytes.writeUInt16BE(to.port, 10)
  return bytes
}

function tcp6(from: ProxyEndpoint, to: ProxyEndpoint): Buffer {
  const bytes = Buffer.alloc(36)
  for (const [i, { address }] of [from, to].entries()) {
    for (const [j, hextet] of hextetsOf(address).entries()) bytes.writeUInt16BE(hextet, i * 16 + j * 2)
  }
  bytes.writeUInt16BE(from.port, 32)
  bytes.writeUInt16BE(to.port, 34)
  return bytes
}

/** Of an address as sockets report it: no IPv4 part, perhaps a zone. */
function hextetsOf(address: string): number[] {
  const [before = '', after] = address.replace(/%.*$/, '').split('::')
  const words = (part: string) => (part === '' ? [] : part.split(':').map((word) => Number.parseInt(word, 16)))
  const [head, tail] = [words(before), words(after ?? '')]
  return [...head, ...Array<number>(8 - head.length - tail.length).fill(0), ...tail]
}

function value(type: number, text: string): Buffer {
  const bytes = Buffer.from(`\0\0\0${text}`, 'utf8')
  bytes[0] = type
  bytes.writeUInt16BE(bytes.length - 3, 1)
  return bytes
}
