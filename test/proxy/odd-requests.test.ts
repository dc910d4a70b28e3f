import t from 'tap'
import { NAME, node, SECRETS } from './proxy-world.ts'
import { Client } from './world.ts'
import { until } from '../support/until.ts'

/** Requests to the proxies that no ordinary program sends: what comes out, and what the instance sees of it. */

const AUTH = `Proxy-Authorization: Basic ${Buffer.from(`node:${SECRETS['node']}`).toString('base64')}\r\n`
const HOST = `Host: ${NAME}\r\n`
const get = (target: string, headers = '', version = 'HTTP/1.1') => `GET ${target} ${version}\r\n${AUTH}${headers}\r\n`
const post = (headers: string, body: string) => `POST http://${NAME}/ HTTP/1.1\r\n${AUTH}${HOST}${headers}\r\n${body}`
const tunnel = (authority: string, headers = '') => `CONNECT ${authority} HTTP/1.1\r\n${AUTH}${headers}\r\n`
const CHUNKED = 'Transfer-Encoding: chunked\r\n'

/** The status that the client gets, and for each request that the instance has seen its path and the length of its body. */
type Outcome = readonly [status: number, ...seen: string[]]

const SEEN_ONCE = ['/ 0'] as const

const REQUESTS: readonly (readonly [why: string, request: string, ...Outcome])[] = [
  // the request line (RFC 9112 §3)
  ['an empty line before the request (§2.2)', `\r\n${get(`http://${NAME}/`)}`, 200, ...SEEN_ONCE],
  ['two spaces in the request line', get(`http://${NAME}/`).replace('GET ', 'GET  '), 400],
  ['a tab in the request line', get(`http://${NAME}/`).replace('GET ', 'GET\t'), 400],
  ['no version (HTTP/0.9)', `GET http://${NAME}/\r\n\r\n`, 400],
  ['a version of two digits', get(`http://${NAME}/`, '', 'HTTP/1.10'), 400],
  ['a version in lower case', get(`http://${NAME}/`, '', 'http/1.1'), 400],
  ['HTTP/2 with prior knowledge', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 400],
  ['HTTP/1.0', get(`http://${NAME}/`, '', 'HTTP/1.0'), 200, ...SEEN_ONCE],
  ['a method in lower case', tunnel(`${NAME}:80`).replace('CONNECT', 'connect'), 400],
  ['a method that is no token', get(`http://${NAME}/`).replace('GET', 'G(T'), 400],
  ['RTSP', `OPTIONS rtsp://${NAME}/ RTSP/1.0\r\n\r\n`, 400],
  // the target (RFC 9112 §3.2, RFC 3986)
  ['a path without a name (origin-form)', get('/', HOST), 400],
  ['a star', get('*', HOST), 400],
  ['https in a plain request', get(`https://${NAME}/`), 400],
  ['ftp', get(`ftp://${NAME}/`), 400],
  ['the scheme in capitals', get(`HTTP://${NAME}/`), 200, ...SEEN_ONCE],
  ['the name in capitals', get(`http://${NAME.toUpperCase()}/`), 200, ...SEEN_ONCE],
  ['the name with a final dot', get(`http://${NAME}./`), 200, ...SEEN_ONCE],
  ['a user in the target (RFC 9110 §4.2.4)', get(`http://node:${SECRETS['node']}@${NAME}/`), 400],
  ['a name before an @', get(`http://${NAME}@127.0.0.1/`), 400],
  ['a fragment', get(`http://${NAME}/#part`), 400],
  ['a query without a path', get(`http://${NAME}?a=b`), 200, '/?a=b 0'],
  ['no path', get(`http://${NAME}`), 200, ...SEEN_ONCE],
  ['a path of two slashes', get(`http://${NAME}//x`), 200, '//x 0'],
  ['dots in the path, which are the instance’s business', get(`http://${NAME}/a/../b`), 200, '/a/../b 0'],
  ['a backslash instead of a slash', get(`http://${NAME}\\@127.0.0.1/`), 400],
  ['a name with a percent sign', get('http://%73hop.acme.cart.prod.any.rr.local/'), 400],
  ['a name in UTF-8', get('http://b\u00fccher.local/'), 400],
  ['an international name as ASCII', get('http://xn--bcher-kva.example/'), 403],
  ['an empty name', get('http://:80/'), 400],
  ['no name', get('http:///'), 400],
  ['a port of nothing (RFC 3986 §3.2.3)', get(`http://${NAME}:/`), 200, ...SEEN_ONCE],
  ['port 0', get(`http://${NAME}:0/`), 400],
  ['port 65536', get(`http://${NAME}:65536/`), 400],
  ['port 080', get(`http://${NAME}:080/`), 200, ...SEEN_ONCE],
  ['a signed port', get(`http://${NAME}:+80/`), 400],
  ['a port that the service does not have', get(`http://${NAME}:81/`), 404],
  ['an IPv6 address with a zone', get('http://[fe80::1%25lo]/'), 400],
  ['an IPv6 address that embeds loopback', get('http://[::ffff:127.0.0.1]:1/'), 403],
  ['an IPv6 address of nobody', get('http://[2001:db8::1]/'), 403],
  ['brackets without an end', get('http://[::1/'), 400],
  ['loopback as one number', get('http://2130706433/'), 403],
  ['loopback as two numbers', get('http://127.1/'), 403],
  ['loopback in hexadecimal', get('http://0x7f.0.0.1/'), 403],
  ['no address at all', get('http://0.0.0.0/'), 403],
  ['a label of 64 characters', get(`http://${'a'.repeat(64)}.acme.cart.prod.any.rr.local/`), 404],
  ['a name of 254 characters', get(`http://${'a.'.repeat(127)}/`), 400],
  // CONNECT (RFC 9110 §9.3.6)
  ['CONNECT without a port', tunnel(NAME), 400],
  ['CONNECT to a port of nothing', tunnel(`${NAME}:`), 400],
  ['CONNECT to port 0', tunnel(`${NAME}:0`), 400],
  ['CONNECT to a URL', tunnel(`http://${NAME}:80`), 400],
  ['CONNECT to a user', tunnel(`node@${NAME}:80`), 400],
  ['CONNECT with another Host', tunnel(`${NAME}:80`, 'Host: bank.example:443\r\n'), 200],
  ['CONNECT that names a body', tunnel(`${NAME}:80`, 'Content-Length: 5\r\n'), 200],
  // headers (RFC 9112 §5, RFC 9110 §5)
  ['a folded header (obs-fold)', get(`http://${NAME}/`, 'X-A: b\r\n c: d\r\n'), 400],
  ['a space before the colon', get(`http://${NAME}/`, 'X-A : b\r\n'), 400],
  ['a header without a colon', get(`http://${NAME}/`, 'X-A\r\n'), 400],
  ['a header without a name', get(`http://${NAME}/`, ': b\r\n'), 400],
  ['a bare CR in a header', get(`http://${NAME}/`, 'X-A: b\rX-B: c\r\n'), 400],
  ['a bare LF after a header', get(`http://${NAME}/`, 'X-A: b\n'), 400],
  ['a NUL in a header', get(`http://${NAME}/`, 'X-A: b\0\r\n'), 400],
  ['an escape sequence in a header', get(`http://${NAME}/`, 'X-A: \x1b[31m\r\n'), 400],
  ['two Host headers', get(`http://${NAME}/`, HOST + HOST), 400],
  ['a Host that the target contradicts (SEC-13)', get(`http://${NAME}/`, 'Host: bank.example\r\n'), 200, ...SEEN_ONCE],
  ['two credentials', get(`http://${NAME}/`, AUTH), 407],
  ['a Connection header that names Host', get(`http://${NAME}/`, `${HOST}Connection: host\r\n`), 200, ...SEEN_ONCE],
  ['five hundred headers', get(`http://${NAME}/`, 'X-A: b\r\n'.repeat(500)), 200, ...SEEN_ONCE],
  // the body (RFC 9112 §6), and what follows it
  ['a length and chunks (CL.TE)', post(`Content-Length: 5\r\n${CHUNKED}`, '0\r\n\r\n'), 400],
  ['chunks and a length (TE.CL)', post(`${CHUNKED}Content-Length: 5\r\n`, '0\r\n\r\n'), 400],
  ['chunks twice (TE.TE)', post(CHUNKED + CHUNKED, '0\r\n\r\n'), 400],
  ['a coding that is not chunked', post('Transfer-Encoding: identity\r\n', ''), 400],
  ['a coding before chunked', post('Transfer-Encoding: gzip, chunked\r\n', ''), 400],
  ['a vertical tab in the coding', post('Transfer-Encoding: \vchunked\r\n', ''), 400],
  ['chunked, with another letter case', post('Transfer-Encoding: Chunked\r\n', '5\r\nhello\r\n0\r\n\r\n'), 200, '/ 5'],
  ['chunks in HTTP/1.0', post(CHUNKED, '0\r\n\r\n').replace('HTTP/1.1', 'HTTP/1.0'), 400],
  ['chunks with extensions', post(CHUNKED, '5;a=b;c="d"\r\nhello\r\n0;e\r\nX: y\r\n\r\n'), 200, '/ 5'],
  ['two lengths', post('Content-Length: 5\r\nContent-Length: 6\r\n', 'hello'), 400],
  ['the same length twice', post('Content-Length: 5\r\nContent-Length: 5\r\n', 'hello'), 400],
  ['a list of lengths', post('Content-Length: 5, 5\r\n', 'hello'), 400],
  ['a negative length', post('Content-Length: -5\r\n', 'hello'), 400],
  ['a length in hexadecimal', post('Content-Length: 0x5\r\n', 'hello'), 400],
  ['an empty length', post('Content-Length: \r\n', 'hello'), 400],
  ['a length of twenty digits', post('Content-Length: 99999999999999999999\r\n', 'hello'), 400],
  ['a length that Connection names', post('Content-Length: 5\r\nConnection: content-length\r\n', 'hello'), 200, '/ 5'],
  ['a request after the body', post('Content-Length: 5\r\n', `hello${get(`http://${NAME}/second`)}`), 200, '/ 5'],
  ['a request after a GET', get(`http://${NAME}/`) + get(`http://${NAME}/second`), 200, ...SEEN_ONCE],
  // the size of the head
  ['a head of 64 KiB', padded(65_536), 200, ...SEEN_ONCE],
  ['a head of one byte more', padded(65_537), 431],
  ['nothing but empty lines', '\r\n'.repeat(40_000), 400],
]

/** A request whose head has so many bytes, without its final empty line. */
function padded(bytes: number): string {
  const whole = (padding: number) => get(`http://${NAME}/`, `X-A: ${'a'.repeat(padding)}\r\n`)
  return whole(bytes - (whole(0).length - 4))
}

for (const [how, pieces] of [
  ['in one piece', (bytes: Buffer) => [bytes]],
  ['in pieces of 7 bytes', (bytes: Buffer) => cut(bytes, 7)],
] as const)
  t.test(`odd requests to the HTTP proxy, ${how}`, async (t) => {
    await using here = await node()
    for (const [why, request, status, ...seen] of REQUESTS) {
      here.seen.length = 0
      const bytes = Buffer.from(request, 'latin1')
      if (bytes.length > 10_000 && how !== 'in one piece') continue
      const answer = await answerOf(here.httpPort, pieces(bytes), request.startsWith('CONNECT') && status === 200)
      t.match(answer, new RegExp(`^HTTP/1\\.1 ${status} `), `${why}: ${status}`)
      if (status >= 400) t.match(answer, /^Content-Type: text\/plain/m, `${why}: it is the proxy that refuses`)
      const found = here.seen.map(({ url, headers: { host } }, i) => `${url} ${bodyLength(answer, i)} ${host}`)
      t.same(
        found,
        seen.map((each) => `${each} ${found.length === 0 ? '' : hostOf(request)}`),
        `${why}: what the instance sees`,
      )
    }
  })

function hostOf(request: string): string {
  const authority = /http:\/\/([^/?# ]*)/i.exec(request)?.[1] ?? ''
  return authority.replace(/:$/, '')
}

t.test('a body that comes in further packets keeps its order', async (t) => {
  const bodies: Buffer[] = []
  await using here = await node((server) =>
    server.prependListener('request', (request) => {
      const chunks: Buffer[] = []
      request.on('data', (chunk: Buffer) => chunks.push(chunk))
      request.on('end', () => bodies.push(Buffer.concat(chunks)))
    }),
  )
  for (const [length, piece] of [
    [300_000, 16_384],
    [300_000, 1_000],
    [70_000, 300_000],
    [40, 1],
  ] as const) {
    const body = Buffer.alloc(length, 'in this order, ')
    const head = Buffer.from(post(`Content-Length: ${length}\r\n`, ''))
    await answerOf(here.httpPort, [head, ...cut(body, piece)])
    t.ok(bodies.pop()?.equals(body), `${length} bytes in pieces of ${piece}`)
  }
})

t.test('what follows chunks goes to the instance, which is told that nothing does', async (t) => {
  await using here = await node()
  const second = get(`http://${NAME}/second`)
  const answer = await answerOf(here.httpPort, [Buffer.from(post(CHUNKED, `0\r\n\r\n${second}`))])
  t.match(answer, /^HTTP\/1\.1 400 /, 'Node answers the whole with an error')
  t.same(
    here.seen.map(({ url, headers: { connection } }) => `${url} ${connection}`),
    ['/ close'],
    'and takes the first request only',
  )
})

/** The instance answers with the length of the body. */
function bodyLength(answer: string, index: number): string {
  return [...answer.matchAll(/^(?:GET|POST) \S+ (\d+)$/gm)][index]?.[1] ?? '?'
}

function cut(bytes: Buffer, length: number): Buffer[] {
  const pieces: Buffer[] = []
  for (let at = 0; at < bytes.length; at += length) pieces.push(bytes.subarray(at, at + length))
  return pieces
}

/** What comes until the connection ends; of a tunnel, until it is open. */
async function answerOf(port: number, pieces: readonly Buffer[], isTunnel = false): Promise<string> {
  const client = await Client.connect(port)
  client.socket.setNoDelay(true)
  for (const piece of pieces) {
    if (client.socket.destroyed) break
    client.socket.write(piece)
    if (pieces.length > 1) await new Promise((resolve) => setImmediate(resolve))
  }
  if (isTunnel) await until(() => client.text.includes('\r\n\r\n'))
  else await client.ended
  client.socket.destroy()
  return client.text
}
