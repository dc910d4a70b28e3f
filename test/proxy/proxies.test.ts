import { connect } from 'node:net'
import fc from 'fast-check'
import t from 'tap'
import { vipToIPv4 } from '../../src/core/model/address.ts'
import { HttpHandshake } from '../../proxy/intercept/http.ts'
import { HTTP_ON_SOCKS } from '../../proxy/intercept/http-answers.ts'
import { parseHead } from '../../proxy/intercept/http-head.ts'
import { SocksHandshake, SocksInterceptor } from '../../proxy/intercept/socks.ts'
import { noOtherUsers, silentUser, usersAreKnown } from '../support/other-users.ts'
import { CART, curl, FRONT, NAME, noCurl, node, RANGE, SECRETS, VIP } from './proxy-world.ts'
import { Client } from './world.ts'
import { until } from '../support/until.ts'

t.test('curl reaches services through the SOCKS proxy', { skip: noCurl }, async (t) => {
  await using here = await node()
  t.same(await curl('-x', here.socks(), `http://${NAME}/x`), { out: 'GET /x 0\n', code: 0 })
  t.same(await curl('-x', here.socks(FRONT), `http://${NAME}:8080/y`), { out: 'GET /y 0\n', code: 0 })
  await until(() => here.ledger.recent().length === 2)
  t.equal(here.ledger.recent()[0]?.caller, FRONT, 'the credentials identify the caller')
  t.match(here.ledger.recent()[1], { caller: 'edge/a', mode: 'socks', end: 'closed' })
  t.same(await curl('-x', here.socks(), `http://${vipToIPv4(RANGE, VIP)}/z`), { out: 'GET /z 0\n', code: 0 }, 'a VIP')
  const body = 'b'.repeat(3_000_000)
  t.same(
    await curl('-x', here.socks(), '-H', 'Expect:', '--data-binary', body.slice(0, 100_000), `http://${NAME}/post`),
    { out: 'POST /post 100000\n', code: 0 },
  )
  const rows: [why: string, proxy: string, url: string][] = [
    ['a wrong secret', here.socks('node', 'guess'), `http://${NAME}/`],
    ['an unknown user', here.socks('nobody', 'hush'), `http://${NAME}/`],
    ['no credentials', `socks5h://127.0.0.1:${here.socksPort}`, `http://${NAME}/`],
    ['a name outside', here.socks(), 'http://example.com/'],
    ['an address outside', here.socks(), `http://127.0.0.1:${here.httpPort}/`],
    ['an instance of an app that is not allowed', here.socks('mail.acme.smtp.prod.0'), `http://${NAME}/`],
    ['a port that is not served', here.socks(), `http://${NAME}:81/`],
    ['a service that is not there', here.socks(), 'http://shop.acme.ghost.prod.any.rr.local/'],
  ]
  for (const [why, proxy, url] of rows) t.equal((await curl('-x', proxy, url)).code, 97, why) // curl: the proxy said no
  t.equal(here.seen.length, 4, 'only the calls that were permitted have arrived')
})

t.test('curl reaches services through the HTTP proxy, by CONNECT and by forwarding', { skip: noCurl }, async (t) => {
  await using here = await node()
  t.same(await curl('-x', here.http(), `http://${NAME}/x?y=1`), { out: 'GET /x?y=1 0\n', code: 0 })
  t.match(here.seen[0]?.headers, { host: NAME, connection: 'close' })
  t.notOk(
    Object.keys(here.seen[0]?.headers ?? {}).some((name) => name.startsWith('proxy-')),
    'secrets stop here',
  )
  t.same(await curl('-x', here.http(FRONT), `http://${NAME}:8080`), { out: 'GET / 0\n', code: 0 })
  t.equal(here.seen[1]?.headers.host, `${NAME}:8080`)
  await until(() => here.ledger.recent().length === 2)
  t.equal(here.ledger.recent()[0]?.caller, FRONT)
  t.same(await curl('-x', here.http(), '-p', `http://${NAME}/tunnel`), { out: 'GET /tunnel 0\n', code: 0 }, 'CONNECT')
  t.same(await curl('-x', here.http(), '-d', 'a=1', `http://${NAME}/form`), { out: 'POST /form 3\n', code: 0 })
  t.same(await curl('-x', here.http(), '-H', 'Transfer-Encoding: chunked', '-d', 'a=1', `http://${NAME}/chunks`), {
    out: 'POST /chunks 3\n',
    code: 0,
  })
  const two = await curl('-x', here.http(), `http://${NAME}/1`, `http://${NAME}:8080/2`)
  t.same(two, { out: 'GET /1 0\nGET /2 0\n', code: 0 }, 'two requests, two connections')

  const rows: [why: string, proxy: string, url: string, status: number, reason: RegExp][] = [
    ['a wrong secret', here.http('node', 'guess'), `http://${NAME}/`, 407, /credentials/],
    ['no credentials', `http://127.0.0.1:${here.httpPort}`, `http://${NAME}/`, 407, /credentials/],
    ['a name outside', here.http(), 'http://example.com/', 403, /example\.com is not a name of the mesh/],
    ['an address outside', here.http(), 'http://192.0.2.1/', 403, /not an address of the mesh/],
    ['cloud metadata', here.http(), 'http://169.254.169.254/', 403, /not an address of the mesh/],
    ['not allowed', here.http('mail.acme.smtp.prod.0'), `http://${NAME}/`, 403, /allow list/],
    ['unknown', here.http(), 'http://shop.acme.ghost.prod.any.rr.local/', 404, /does not know shop\.acme\.ghost/],
    ['a wrong policy', here.http(), `http://${CART}.any.fastest.local/`, 404, /fastest/],
    ['an instance that does not exist', here.http(), `http://${CART}.7.pinned.local/`, 404, /no instance 7/],
    ['a port that is not served', here.http(), `http://${NAME}:81/`, 404, /port 81, but 80\/tcp, 8080\/tcp/],
    ['nothing runs', here.http(), 'http://shop.acme.none.prod.any.rr.local/', 502, /no instance runs/],
    ['nothing listens', here.http(), 'http://shop.acme.down.prod.any.rr.local/', 502, /not-here/],
    ['the control plane is away', here.http(), 'http://shop.acme.cut.prod.any.rr.local/', 503, /link is down/],
  ]
  for (const [why, proxy, url, status, reason] of rows) {
    const { out } = await curl('-x', proxy, '-w', '%{http_code}', url)
    t.match(out, new RegExp(`${status}$`), why)
    t.match(out, reason, why)
  }
})

t.test('a second request on the same connection is not forwarded', async (t) => {
  await using here = await node()
  const authorization = `Proxy-Authorization: Basic ${Buffer.from('node:hush').toString('base64')}`
  using client = await Client.connect(here.httpPort)
  client.socket.write(
    `GET http://${NAME}/first HTTP/1.1\r\nHost: other\r\n${authorization}\r\n\r\nGET http://shop.acme.bank.prod.any.rr.local/second HTTP/1.1\r\nHost: x\r\n\r\n`,
  )
  await client.ended
  t.match(client.text, /GET \/first 0/)
  t.notMatch(client.text, /second/)
  t.equal(here.seen.length, 1, 'the second request did not arrive')
  t.equal(here.seen[0]?.headers.host, NAME, 'what decided the route is what the instance hears')
})

t.test('CONNECT carries early client data and data that the instance sends first', async (t) => {
  await using here = await node()
  const authorization = `Proxy-Authorization: Basic ${Buffer.from('node:hush').toString('base64')}`
  using client = await Client.connect(here.httpPort)
  client.socket.write(
    `CONNECT ${NAME}:80 HTTP/1.1\r\n${authorization}\r\n\r\nGET /early HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
  )
  await client.ended
  t.match(client.text, /^HTTP\/1\.1 200 Connection established\r\n\r\nHTTP\/1\.1 200 OK[\s\S]*GET \/early 0/)
})

t.test('request heads are parsed, and malformed ones are refused', async (t) => {
  const secret = `Proxy-Authorization: Basic ${Buffer.from('u:p:q').toString('base64')}`
  const forward = parseHead(
    [
      'GET http://a.local:81?q HTTP/1.1',
      'HOST: b',
      secret,
      'Connection: keep-alive, X-Hop',
      'X-Hop: 1',
      'Accept: */*',
      'Content-Length: 5',
    ].join('\r\n'),
  )
  t.match(forward, { kind: 'forward', host: 'a.local', port: 81, user: 'u', secret: 'p:q', bodyLength: 5 })
  t.equal(
    forward.kind === 'forward' ? forward.head.toString() : '',
    'GET /?q HTTP/1.1\r\nHost: a.local:81\r\nAccept: */*\r\nContent-Length: 5\r\nConnection: close\r\n\r\n',
  )
  const smuggled = parseHead(
    ['POST http://a.local/ HTTP/1.1', secret, 'Connection: content-length', 'Content-Length: 5'].join('\r\n'),
  )
  t.match(smuggled.kind === 'forward' ? smuggled.head.toString() : '', /Content-Length: 5/, 'a length is never dropped')

  const rows: [why: string, ...lines: string[]][] = [
    ['no method', '/ HTTP/1.1', secret],
    ['HTTP/2', 'GET http://a.local/ HTTP/2', secret],
    ['two spaces', 'GET  http://a.local/ HTTP/1.1', secret],
    ['the form for servers', 'GET / HTTP/1.1', 'Host: a.local', secret],
    ['https in the clear', 'GET https://a.local/ HTTP/1.1', secret],
    ['a user in the name', 'GET http://a.local@b.local/ HTTP/1.1', secret],
    ['a fragment', 'GET http://a.local/#x HTTP/1.1', secret],
    ['port 0', 'GET http://a.local:0/ HTTP/1.1', secret],
    ['port 65536', 'CONNECT a.local:65536 HTTP/1.1', secret],
    ['CONNECT without a port', 'CONNECT a.local HTTP/1.1', secret],
    ['a folded header', 'GET http://a.local/ HTTP/1.1', secret, 'X: 1', ' 2'],
    ['a space before the colon', 'GET http://a.local/ HTTP/1.1', secret, 'Content-Length : 5'],
    ['a header without a name', 'GET http://a.local/ HTTP/1.1', secret, ': 5'],
    ['a line feed alone', 'GET http://a.local/ HTTP/1.1\nX: 1', secret],
    ['a carriage return alone', 'GET http://a.local/ HTTP/1.1', secret, 'X: 1\rY: 2'],
    ['a zero byte', 'GET http://a.local/ HTTP/1.1', secret, 'X: \0'],
    ['two lengths', 'POST http://a.local/ HTTP/1.1', secret, 'Content-Length: 5', 'Content-Length: 6'],
    ['a length in words', 'POST http://a.local/ HTTP/1.1', secret, 'Content-Length: +5'],
    ['a list of lengths', 'POST http://a.local/ HTTP/1.1', secret, 'Content-Length: 5, 5'],
    ['length and chunks', 'POST http://a.local/ HTTP/1.1', secret, 'Content-Length: 5', 'Transfer-Encoding: chunked'],
    ['a coding that is not chunked', 'POST http://a.local/ HTTP/1.1', secret, 'Transfer-Encoding: xchunked'],
    ['chunks in HTTP/1.0', 'POST http://a.local/ HTTP/1.0', secret, 'Transfer-Encoding: chunked'],
    ['two hosts', 'GET http://a.local/ HTTP/1.1', secret, 'Host: a', 'Host: b'],
  ]
  for (const [why, ...lines] of rows) t.match(parseHead(lines.join('\r\n')), { kind: 'fault', status: 400 }, why)
  for (const given of [[], [secret, secret], ['Proxy-Authorization: Bearer x'], ['Authorization: Basic dTpw']]) {
    t.match(parseHead(['GET http://a.local/ HTTP/1.1', ...given].join('\r\n')), { kind: 'fault', status: 407 })
  }
})

t.test('the SOCKS handshake works byte by byte and all at once', async (t) => {
  const said = [
    Buffer.of(5, 2, 0, 2),
    Buffer.concat([Buffer.of(1, 4), Buffer.from('node'), Buffer.of(4), Buffer.from('hush')]),
    Buffer.concat([Buffer.of(5, 1, 0, 3, NAME.length), Buffer.from(NAME), Buffer.of(0x1f, 0x90)]),
    Buffer.from('early'),
  ]
  const all = Buffer.concat(said)
  const credentials = (user: string) => SECRETS[user]
  t.match(new SocksHandshake(credentials).push(all), {
    kind: 'connect',
    host: NAME,
    port: 8080,
    first: Buffer.from('early'),
    caller: { kind: 'node' },
  })
  const slow = new SocksHandshake(credentials)
  const answers: string[] = []
  for (const byte of all.subarray(0, all.length - 6)) {
    const next = slow.push(Buffer.of(byte))
    t.equal(next.kind, 'more')
    if (next.kind === 'more' && next.answer !== undefined) answers.push(next.answer.toString('hex'))
  }
  t.same(answers, ['0502', '0100'])
  t.match(slow.push(all.subarray(all.length - 6)), { kind: 'connect', first: Buffer.from('early') })

  const greeted = said.slice(0, 2)
  const rows: [why: string, bytes: Buffer[], answer: string][] = [
    ['SOCKS4', [Buffer.from('04010050', 'hex')], '005b000000000000'],
    ['HTTP', [Buffer.from('GET / HTTP/1.1\r\n')], HTTP_ON_SOCKS.toString('hex')],
    ['TLS', [Buffer.from('160301', 'hex')], '15030300020246'],
    ['no password offered', [Buffer.of(5, 1, 0)], '05ff'],
    ['no methods', [Buffer.of(5, 0)], '05ff'],
    ['another version of passwords', [said[0] as Buffer, Buffer.of(5)], '05020101'],
  ]
  for (const [why, bytes, answer] of rows) {
    const next = new SocksHandshake(credentials).push(Buffer.concat(bytes))
    t.equal(next.kind, 'refuse', why)
    t.equal(next.kind === 'refuse' ? next.answer.toString('hex') : '?', answer, why)
  }
  const requests: [why: string, request: string, rep: number][] = [
    ['BIND', '050200017f0000010050', 7],
    ['an unknown kind of address', '050100027f0000010050', 8],
    ['port 0', '050100017f0000010000', 4],
    ['an empty name', '0501000300005000', 4],
    ['another version', '040100017f0000010050', 1],
  ]
  for (const [why, request, rep] of requests) {
    const next = new SocksHandshake(credentials).push(Buffer.concat([...greeted, Buffer.from(request, 'hex')]))
    t.equal(next.kind === 'refuse' ? next.answer.toString('hex') : '', `05020100050${rep}0001000000000000`, why)
  }
})

t.test('no bytes make a handshake throw or pass without credentials', async (t) => {
  const credentials = () => undefined
  const bytes = fc.uint8Array({ maxLength: 300 }).map((array) => Buffer.from(array))
  const socks = fc.array(fc.oneof(bytes, fc.constant(Buffer.of(5, 1, 2)), fc.constant(Buffer.of(1, 1, 65, 1, 66))), {
    maxLength: 6,
  })
  const line = fc.oneof(
    fc.string(),
    fc.constantFrom(
      'GET http://a.local/ HTTP/1.1',
      'CONNECT a.local:1 HTTP/1.1',
      'Host: x',
      'Proxy-Authorization: Basic dTpw',
      '\r\n',
      '',
    ),
  )
  const http = fc.array(
    fc.oneof(
      bytes,
      line.map((text) => Buffer.from(`${text}\r\n`, 'latin1')),
    ),
    { maxLength: 8 },
  )
  for (const [chunks, make] of [
    [socks, () => new SocksHandshake(credentials)],
    [http, () => new HttpHandshake(credentials)],
  ] as const) {
    fc.assert(
      fc.property(chunks, (chunks) => {
        const handshake = make()
        for (const chunk of chunks) {
          const next = handshake.push(chunk)
          if (next.kind === 'connect') throw new Error('asked without credentials')
          if (next.kind === 'refuse') return
        }
      }),
      { numRuns: 1000 },
    )
  }
  t.pass('1000 runs each')
  const endless = new HttpHandshake(credentials)
  let answer = ''
  for (let i = 0; i < 80 && answer === ''; i++) {
    const next = endless.push(Buffer.alloc(1000, 'a'))
    if (next.kind === 'refuse') answer = next.answer.toString()
  }
  t.match(answer, /^HTTP\/1\.1 431 /, 'an endless head')
})

t.test('a user that opens connections without end costs only its own', { skip: noOtherUsers }, async (t) => {
  await using here = await node()
  await using socks = await SocksInterceptor.start({ port: 0, handshakes: 8 }, here.parts)
  using other = await Client.connect(socks.port)
  other.socket.write(Buffer.of(5)) // half of a greeting
  using few = silentUser('127.0.0.1', socks.port, 5)
  await until(() => few.state.open === 5)
  await usersAreKnown()
  using flood = silentUser('127.0.0.1', socks.port, 40)
  await until(() => flood.state.opened === 40 && few.state.open + flood.state.open === 7)
  other.socket.write(Buffer.of(1, 2)) // one method: a password
  await until(() => other.bytes === 2)
  t.same(Buffer.from(other.text, 'latin1'), Buffer.of(5, 2), 'its greeting is answered')
})

t.test('a client that is too slow is answered and closed, and the oldest makes room for new ones', async (t) => {
  await using here = await node()
  const socks = await SocksInterceptor.start({ port: 0, handshakes: 2, handshakeMs: 1_000 }, here.parts)
  using first = await Client.connect(socks.port)
  using second = await Client.connect(socks.port)
  using third = new Client(connect({ port: socks.port, host: '127.0.0.1' }))
  await first.ended
  t.same(Buffer.from(first.text, 'latin1'), Buffer.of(5, 0xff), 'the oldest, as soon as there is a third')
  t.match((await here.log.line('proxy request refused')).fields, { mode: 'socks', reason: /too many requests/ })
  await Promise.all([second.ended, third.ended])
  t.same(Buffer.from(third.text, 'latin1'), Buffer.of(5, 0xff), 'after the time limit')
  await socks.close()
  const taken = await SocksInterceptor.start({ port: here.socksPort }, here.parts).catch((error: unknown) => error)
  t.match(taken, { code: 'LISTEN_FAILED', details: { port: here.socksPort } })
})
