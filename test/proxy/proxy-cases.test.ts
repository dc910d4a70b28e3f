import { execFile, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer as createHttpServer } from 'node:http'
import { createServer as createHttp2Server } from 'node:http2'
import { type AddressInfo, connect, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { KeptFile } from '../../src/core/kit/kept-file.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { ProxyAccess } from '../../src/agent/proxy-access.ts'
import { curl, FRONT, NAME, noCurl, node, SECRETS } from './proxy-world.ts'
import { Client } from './world.ts'
import { closed } from '../support/closed.ts'
import { until } from '../support/until.ts'

/** Situations from trouble reports about proxies. */

const AUTHORIZATION = `Proxy-Authorization: Basic ${Buffer.from(`node:${SECRETS['node']}`).toString('base64')}`

async function say(port: number, bytes: string | Buffer): Promise<Client> {
  const client = await Client.connect(port)
  client.socket.write(bytes)
  return client
}

// programs with proxy variables that call a server of their own machine

const PROGRAMS: Record<string, (url: string) => [program: string, argv: string[]]> = {
  'Node fetch': (url) => [
    process.execPath,
    ['-e', `fetch('${url}').then(async (r) => console.log(r.status, await r.text()))`],
  ],
  'Node http': (url) => [
    process.execPath,
    ['-e', `require('http').get('${url}', (r) => { console.log(r.statusCode); r.pipe(process.stdout) })`],
  ],
  'Python urllib': (url) => [
    'python3',
    ['-c', `import urllib.request as u; r = u.urlopen('${url}'); print(r.status, r.read().decode())`],
  ],
  'Python requests': (url) => [
    'python3',
    ['-c', `import requests; r = requests.get('${url}'); print(r.status_code, r.text)`],
  ],
  wget: (url) => ['wget', ['-q', '-O', '-', url]],
  curl: (url) => ['curl', ['-sS', '--max-time', '10', url]],
}

function hasProgram(name: string): boolean {
  if (name === 'Python requests') return spawnSync('python3', ['-c', 'import requests']).status === 0
  const [program] = (PROGRAMS[name] as (url: string) => [string, string[]])('')
  return spawnSync('sh', ['-c', `command -v ${program}`]).status === 0
}

function run([program, argv]: [string, string[]], env: Record<string, string>): Promise<string> {
  return new Promise((resolve) => {
    const child = execFile(program, argv, { env, timeout: 20_000 }, (_, stdout, stderr) => resolve(stdout + stderr))
    child.stdin?.end()
  })
}

/** A web server on both loopback addresses. */
async function webServer(): Promise<AsyncDisposable & { port: number }> {
  const servers: Server[] = []
  let port = 0
  for (const host of ['127.0.0.1', '::1']) {
    const server = createHttpServer((_, response) => response.end('own machine'))
    server.listen({ host, port })
    await once(server, 'listening')
    port = (server.address() as AddressInfo).port
    servers.push(server)
  }
  return { port, [Symbol.asyncDispose]: async () => servers.forEach((server) => server.close()) }
}

t.test('programs with proxy variables reach servers of their own machine', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-access-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  const access = ProxyAccess.open(new KeptFile(join(dir, 'proxies.json'), silentLog))
  await using here = await node(undefined, (user) => access.secretOf(user))
  await using web = await webServer()
  const variables = access.environment('node', { socksPort: here.socksPort, httpPort: here.httpPort })
  const path = { PATH: process.env['PATH'] ?? '', HOME: dir }
  const without = Object.fromEntries(Object.entries(variables).filter(([name]) => !/^no_proxy$/i.test(name)))
  const cells = Object.entries(PROGRAMS)
    .filter(([name]) => hasProgram(name))
    .flatMap(([name, argv]) =>
      ['127.0.0.1', 'localhost', '[::1]'].flatMap((host) =>
        [variables, without].map((env) => ({
          why: `${name} → ${host}${env === without ? ', through the proxy' : ''}`,
          run: () => run(argv(`http://${host}:${web.port}/`), { ...path, ...env }),
        })),
      ),
    )
  for (const { why, run } of cells) t.match(await run(), /own machine/, why)
})

t.test('the proxy carries to loopback only what the program could reach itself', { skip: noCurl }, async (t) => {
  await using here = await node()
  await using web = await webServer()
  const at = (url: string) => curl('-x', here.http(), url)
  t.match(await at(`http://127.0.0.1:${here.socksPort}/`), { out: /belongs to the agent/ })
  t.match(await at('http://192.0.2.1/'), { out: /not an address of the mesh/ })
  t.match(await at('http://169.254.169.254/'), { out: /not an address of the mesh/ })
  const nobody = await curl('-x', `http://127.0.0.1:${here.httpPort}`, `http://127.0.0.1:${web.port}/`)
  t.match(nobody, { out: /credentials are missing/ })
  t.match(await curl('-x', here.http(FRONT), `http://app.localhost:${web.port}/`), { out: 'own machine' })
})

// the start of a connection

t.test('what is no request is answered at once, with one line in the log', async (t) => {
  await using here = await node()
  const rows = [
    { why: 'bare LF', port: here.httpPort, bytes: `CONNECT ${NAME}:80 HTTP/1.1\n`, answer: /^HTTP\/1\.1 400 .*CR LF/s },
    {
      why: 'TLS at HTTP',
      port: here.httpPort,
      bytes: Buffer.from('16030100c8', 'hex'),
      answer: /^HTTP\/1\.1 400 .*TLS/s,
    },
    { why: 'SOCKS at HTTP', port: here.httpPort, bytes: Buffer.of(5, 1, 2), answer: /^HTTP\/1\.1 400 .*SOCKS/s },
    {
      why: 'HTTP/2 at HTTP',
      port: here.httpPort,
      bytes: 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
      answer: /^HTTP\/1\.1 400 /,
    },
    { why: 'SOCKS4', port: here.socksPort, bytes: Buffer.from('0401005000000001ff00', 'hex'), answer: '\0[' },
    { why: 'TLS at SOCKS', port: here.socksPort, bytes: Buffer.from('16030100c8', 'hex'), answer: '\x15\x03\x03' },
    { why: 'HTTP at SOCKS', port: here.socksPort, bytes: 'GET / HTTP/1.1\r\n', answer: /^HTTP\/1\.1 400 .*SOCKS/s },
  ]
  for (const { why, port, bytes, answer } of rows) {
    using client = await say(port, bytes)
    await client.ended
    t.match(client.text, answer, `${why} is answered for what it is, before it counts as a slow client`)
  }
  const refusals = here.log.lines.filter(({ sentence }) => sentence === 'proxy request refused')
  t.equal(refusals.length, rows.length, 'one line for each')
})

t.test('a request that stalls is answered with 408', async (t) => {
  await using here = await node()
  const { HttpInterceptor } = await import('../../proxy/intercept/http.ts')
  await using http = await HttpInterceptor.start({ port: 0, handshakeMs: 50 }, here.parts)
  using client = await say(http.port, `CONNECT ${NAME}:80 HTTP/1.1\r\n`)
  await client.ended
  t.match(client.text, /^HTTP\/1\.1 408 /)
})

t.test('two Host headers are refused with 400', async (t) => {
  await using here = await node()
  using client = await say(
    here.httpPort,
    `GET http://${NAME}/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n${AUTHORIZATION}\r\n\r\n`,
  )
  await client.ended
  t.match(client.text, /^HTTP\/1\.1 400 .*more than one Host/s)
})

t.test('a head of 60 KiB passes, one of 70 KiB gets 431', async (t) => {
  await using here = await node((server) => {
    server.maxHeadersCount = 0
    Object.assign(server, { maxHeaderSize: 128 * 1024 })
  })
  const request = (cookie: number) =>
    `GET http://${NAME}/x HTTP/1.1\r\n${AUTHORIZATION}\r\nCookie: ${'a'.repeat(cookie)}\r\n\r\n`
  using large = await say(here.httpPort, request(70 * 1024))
  await large.ended
  t.match(large.text, /^HTTP\/1\.1 431 /)
  await using raw = await rawInstance('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok')
  here.endpoint.port = raw.port
  using client = await say(here.httpPort, request(60 * 1024))
  await client.ended
  t.match(client.text, /^HTTP\/1\.1 200 OK.*ok$/s)
  t.ok(raw.received() > 60 * 1024, `the instance got the whole body, ${raw.received()} bytes`)
})

// what an instance answers

/** An instance that answers each connection with these bytes, and then echoes. */
async function rawInstance(answer: string | Buffer): Promise<AsyncDisposable & { port: number; received(): number }> {
  let received = 0
  const server = createServer((socket) => {
    socket.on('error', () => undefined)
    socket.once('data', (first) => {
      received += first.length
      socket.write(answer)
      if (!answer.toString().startsWith('HTTP/1.1 101')) socket.end()
      socket.on('data', (chunk: Buffer) => {
        received += chunk.length
        if (socket.writable) socket.write(chunk)
      })
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    received: () => received,
    [Symbol.asyncDispose]: async () => void server.close(),
  }
}

t.test('a WebSocket passes through the forward proxy', async (t) => {
  const key = 'dGhlIHNhbXBsZSBub25jZQ=='
  await using here = await node((server) => {
    server.on('upgrade', (request, socket) => {
      const given = `${request.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`
      const accept = createHash('sha1').update(given).digest('base64')
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
      )
      socket.on('data', (chunk: Buffer) => socket.write(chunk))
      socket.on('end', () => socket.end())
    })
  })
  using client = await say(
    here.httpPort,
    `GET http://${NAME}/chat HTTP/1.1\r\n${AUTHORIZATION}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n\r\n`,
  )
  await until(() => client.text.includes('s3pPLMBiTxaQ9kYGzzhZRbK+xOo='))
  t.match(client.text, /^HTTP\/1\.1 101 /)
  client.socket.write('first ')
  await until(() => client.text.includes('first '))
  client.socket.write('second'.repeat(10_000))
  await until(() => client.text.includes('second'.repeat(10_000)))
})

t.test('a request to upgrade that is refused does not let a second request follow', async (t) => {
  await using here = await node()
  using client = await say(
    here.httpPort,
    `GET http://${NAME}/one HTTP/1.1\r\n${AUTHORIZATION}\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\nGET /two HTTP/1.1\r\nHost: x\r\n\r\n`,
  )
  await client.ended
  t.same(
    here.seen.map(({ url }) => url),
    ['/one'],
  )
})

t.test('a server that speaks only HTTP/2 is a bad gateway', async (t) => {
  await using here = await node()
  const server = createHttp2Server().listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  here.endpoint.port = (server.address() as AddressInfo).port
  using client = await say(here.httpPort, `GET http://${NAME}/ HTTP/1.1\r\n${AUTHORIZATION}\r\n\r\n`)
  await client.ended
  t.match(client.text, /^HTTP\/1\.1 502 .*does not answer with HTTP\/1\.1/s)
})

t.test('an instance that closes without an answer is a bad gateway', async (t) => {
  await using here = await node()
  await using raw = await rawInstance('')
  here.endpoint.port = raw.port
  using client = await say(here.httpPort, `GET http://${NAME}/ HTTP/1.1\r\n${AUTHORIZATION}\r\n\r\n`)
  await client.ended
  t.match(client.text, /^HTTP\/1\.1 502 .*without an answer/s)
})

t.test('an answer that comes byte by byte is passed on whole', async (t) => {
  await using here = await node()
  const server = createServer((socket) => {
    socket.once('data', () => {
      const text = 'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nslowly'
      let at = 0
      const timer = setInterval(() => {
        if (at === text.length) {
          clearInterval(timer)
          socket.end()
        } else socket.write(text.charAt(at++))
      }, 1)
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  here.endpoint.port = (server.address() as AddressInfo).port
  using client = await say(here.httpPort, `GET http://${NAME}/ HTTP/1.1\r\n${AUTHORIZATION}\r\n\r\n`)
  await client.ended
  t.equal(client.text, 'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nslowly')
})

t.test('a client that leaves while loopback is carried leaves nothing behind', async (t) => {
  await using here = await node()
  const server = createServer((socket) => socket.on('error', () => undefined)).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as AddressInfo
  const accepted = once(server, 'connection') as Promise<[import('node:net').Socket]>
  const client = connect(here.httpPort, '127.0.0.1')
  client.write(`CONNECT 127.0.0.1:${port} HTTP/1.1\r\n${AUTHORIZATION}\r\n\r\n`)
  const [socket] = await accepted
  const ended = closed(socket)
  client.destroy()
  await ended
  t.pass('its connection to the server is closed')
})
