/*
 * The host of the first request of a connection (RFC 9112 §3.2, RFC 9110 §7.2). Only that is looked at; the bytes are sent on
 * as they came, and so is everything after them:
 *
 *   GET /path HTTP/1.1
 *   Host: shop.example.com:80        ─▶ shop.example.com
 *
 * A target in absolute form decides before `Host`, as the RFC has it. What two readers could read in two ways is refused.
 */

export type HostVerdict =
  | { kind: 'more' }
  /** In lower case, without the port; absent: HTTP/1.0 without `Host`. */
  | { kind: 'request'; host?: string }
  | { kind: 'invalid'; status: 400 | 431; reason: string }

/** Of the head; most servers take 8 to 64 KiB. Larger: strangers can make us hold more. */
export const REQUEST_LIMIT = 16 * 1024

const END_OF_HEAD = Buffer.from('\r\n\r\n')

/** Reads what has come so far, from the first byte of the connection; `searched`: bytes that an earlier call has seen. */
export function readRequestHost(bytes: Buffer, searched = 0): HostVerdict {
  const fault = faultIn(bytes)
  if (fault !== undefined) return invalid(fault)
  const end = bytes.indexOf(END_OF_HEAD, Math.max(0, searched - END_OF_HEAD.length + 1))
  if (end < 0 && bytes.length <= REQUEST_LIMIT) return { kind: 'more' }
  if (end < 0 || end > REQUEST_LIMIT) return invalid(`the head is longer than ${REQUEST_LIMIT} bytes`, 431)
  return hostOf(bytes.toString('latin1', 0, end))
}

/** Told at the first bytes, so that a client of another protocol does not wait for an end of the head. */
function faultIn(bytes: Buffer): string | undefined {
  if (bytes.length === 0) return undefined
  if (bytes[0] === 0x16) return 'TLS at a port for plain HTTP'
  const start = bytes.toString('latin1', 0, Math.min(bytes.length, 16))
  if (start.startsWith('PRI * ')) return 'HTTP/2 without TLS; it names its host in compressed form'
  return /^[!#$%&'*+.^_`|~0-9A-Za-z-]+( |$)/.test(start) ? undefined : 'not HTTP'
}

function hostOf(head: string): HostVerdict {
  // oxlint-disable-next-line no-control-regex -- these very characters must not pass
  if (/[\0\r\n]/.test(head.replaceAll('\r\n', ''))) return invalid('a stray control character in the head')
  const [first = '', ...lines] = head.split('\r\n')
  const request = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+ ([\x21-\x7e\x80-\xff]+) HTTP\/1\.([01])$/.exec(first)
  if (request === null) return invalid('a malformed request line')
  const hosts: string[] = []
  for (const line of lines) {
    const header = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*$/.exec(line)
    if (header === null) return invalid('a malformed header')
    if (header[1]?.toLowerCase() === 'host') hosts.push(header[2] as string)
  }
  if (hosts.length > 1) return invalid('more than one Host')
  const [, target = '', minor] = request
  const absolute = /^https?:\/\/([^/?#]*)/i.exec(target)
  const authority = absolute?.[1] ?? hosts[0]
  if (authority === undefined) return minor === '0' ? { kind: 'request' } : invalid('no Host')
  const host = nameIn(authority)
  return host === undefined ? invalid('a malformed Host') : { kind: 'request', host }
}

/** `undefined`: neither a host name nor an address, with or without a port. */
function nameIn(authority: string): string | undefined {
  const match = /^([A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{0,5})?$/.exec(authority)
  return match?.[1]?.toLowerCase().replace(/\.$/, '')
}

function invalid(reason: string, status: 400 | 431 = 400): HostVerdict {
  return { kind: 'invalid', status, reason }
}
