/*
 * The head of one request to the HTTP proxy (RFC 9112), read once and strictly; bodies are never looked at (SEC-16).
 *
 *   CONNECT name:port HTTP/1.1             a tunnel
 *   GET http://name:port/path HTTP/1.1     forwarded as: GET /path HTTP/1.1, Host: name:port, Connection: close
 *       with Upgrade: websocket            … Connection: upgrade, Upgrade: websocket
 *
 * What decides where the bytes go, the authority of the first line, also becomes the `Host` of the forwarded head (SEC-13).
 */

export interface HttpHead {
  kind: 'connect' | 'forward'
  host: string
  port: number
  /** `Proxy-Authorization: Basic …`, decoded. */
  user: string
  secret: string
  /** The head to forward; empty for CONNECT. */
  head: Buffer
  /** Bytes of body that belong to the request; `undefined`: it is chunked, so only the instance knows. */
  bodyLength: number | undefined
}

/** `status` and a sentence for the caller. */
export interface HttpFault {
  kind: 'fault'
  status: 400 | 407 | 431
  reason: string
}

export const WRONG_CREDENTIALS =
  'credentials are missing or wrong; use the proxy URL that `hedgerow with-proxy` puts into the environment'

/** As much as most servers accept. Smaller: large cookies fail through the proxy only. */
export const HEAD_LIMIT = 65_536

/** Reads a head without its final empty line. */
export function parseHead(text: string): HttpHead | HttpFault {
  // oxlint-disable-next-line no-control-regex -- these very characters must not pass
  if (/[\0\r\n]/.test(text.replaceAll('\r\n', ''))) return fault('a stray control character in the head')
  const [first = '', ...lines] = text.split('\r\n')
  const headers = parseHeaders(lines)
  if (headers === undefined) return fault('a malformed header')
  const request = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e\x80-\xff]+) (HTTP\/1\.[01])$/.exec(first)
  if (request === null) return fault('a malformed request line')
  const [, method = '', target = '', version = ''] = request
  const where = method === 'CONNECT' ? authority(target) : absolute(target)
  if (where === undefined) return fault(method === 'CONNECT' ? 'not name:port' : 'a proxy takes http://name/path')

  const credentials = basic(values(headers, 'proxy-authorization'))
  if (credentials === undefined) return { kind: 'fault', status: 407, reason: WRONG_CREDENTIALS }
  const body = bodyOf(headers, version)
  if (body === 'bad') return fault('the length of the body is not clear')
  if (values(headers, 'host').length > 1) return fault('more than one Host')

  const { host, port } = where
  if (method === 'CONNECT') {
    if (port === undefined) return fault('CONNECT needs a port')
    return { kind: 'connect', host, port, ...credentials, head: Buffer.alloc(0), bodyLength: undefined }
  }
  const path = where.path === '' && method === 'OPTIONS' ? '*' : where.path.replace(/^(?!\/)/, '/')
  const head = forwarded(`${method} ${path} ${version}`, where.authority, headers)
  return { kind: 'forward', host, port: port ?? 80, ...credentials, head, bodyLength: body }
}

type Header = readonly [name: string, value: string]

function parseHeaders(lines: readonly string[]): Header[] | undefined {
  const headers: Header[] = []
  for (const line of lines) {
    // No folded lines, no space before the colon, no control characters (RFC 9112 §5.1, §5.2).
    // oxlint-disable-next-line no-control-regex -- these very characters must not pass
    const match = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*$/.exec(line)
    if (match === null) return undefined
    headers.push([match[1] as string, match[2] as string])
  }
  return headers
}

function values(headers: readonly Header[], name: string): string[] {
  return headers.filter(([given]) => given.toLowerCase() === name).map(([, value]) => value)
}

interface Where {
  authority: string
  host: string
  port: number | undefined
  path: string
}

function authority(text: string, path = ''): Where | undefined {
  const match = /^(?:([A-Za-z0-9_.-]{1,253})|\[([0-9A-Fa-f:.]{2,45})\])(?::(\d{0,5}))?$/.exec(text)
  if (match === null) return undefined
  const { 3: digits = '' } = match
  const port = digits === '' ? undefined : Number(digits) // none after the colon: as if it were not there (RFC 3986 §3.2.3)
  if (port !== undefined && (port < 1 || port > 65_535)) return undefined
  return { authority: text.replace(/:$/, ''), host: (match[1] ?? match[2]) as string, port, path }
}

function absolute(target: string): Where | undefined {
  const match = /^http:\/\/([^/?#]*)([^#]*)$/i.exec(target)
  return match === null ? undefined : authority(match[1] as string, match[2])
}

function basic(given: readonly string[]): { user: string; secret: string } | undefined {
  const [value = ''] = given
  const match = /^basic +([A-Za-z0-9+/]+={0,2})$/i.exec(value)
  if (given.length !== 1 || match === null) return undefined
  const text = Buffer.from(match[1] as string, 'base64').toString('latin1')
  const colon = text.indexOf(':')
  return colon < 0 ? undefined : { user: text.slice(0, colon), secret: text.slice(colon + 1) }
}

/** The length of the body (RFC 9112 §6.3); a head that two readers could read in two ways is refused. */
function bodyOf(headers: readonly Header[], version: string): number | undefined | 'bad' {
  const lengths = values(headers, 'content-length')
  const codings = values(headers, 'transfer-encoding')
  if (codings.length > 0) {
    const isChunked = codings.length === 1 && codings[0]?.toLowerCase() === 'chunked'
    return isChunked && lengths.length === 0 && version === 'HTTP/1.1' ? undefined : 'bad'
  }
  if (lengths.length === 0) return 0
  const [length = ''] = lengths
  return lengths.length === 1 && /^\d{1,15}$/.test(length) ? Number(length) : 'bad'
}

/** For this hop only (RFC 9110 §7.6.1). `Connection: close` keeps a second request from following on this connection. */
const HOP = new Set(['connection', 'host', 'keep-alive', 'te', 'trailer', 'upgrade'])

function forwarded(line: string, host: string, headers: readonly Header[]): Buffer {
  const named = values(headers, 'connection').flatMap((value) => value.split(','))
  const dropped = new Set([...HOP, ...named.map((name) => name.trim().toLowerCase())])
  for (const kept of ['content-length', 'transfer-encoding']) dropped.delete(kept)
  const kept = headers.filter(([name]) => {
    const lower = name.toLowerCase()
    return !dropped.has(lower) && !lower.startsWith('proxy-')
  })
  const protocols = named.some((name) => name.trim().toLowerCase() === 'upgrade') ? values(headers, 'upgrade') : []
  const connection =
    protocols.length === 0 ? ['Connection: close'] : ['Connection: upgrade', `Upgrade: ${protocols.join(', ')}`]
  const lines = [line, `Host: ${host}`, ...kept.map(([name, value]) => `${name}: ${value}`), ...connection]
  return Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1')
}

function fault(reason: string): HttpFault {
  return { kind: 'fault', status: 400, reason }
}
