import { execFile } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { createServer as createHttps } from 'node:https'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { connect as connectTls } from 'node:tls'
import { duplexPair } from 'node:stream'
import { promisify } from 'node:util'
import t from 'tap'
import { HELLO_LIMIT, readClientHello } from '../../proxy/gateway/client-hello.ts'
import { ClientLimits } from '../../proxy/gateway/client-limits.ts'
import { Certificates } from '../../proxy/gateway/certificates.ts'
import { Gateway } from '../../proxy/gateway/gateway.ts'
import { readRequestHost } from '../../proxy/gateway/request-host.ts'
import { type GatewayPort, routeTo } from '../../proxy/gateway/rules.ts'
import type { ProxyParts } from '../../proxy/intercept/proxy-listener.ts'
import { defaults } from '../../src/config/defaults.ts'
import { parseConfig } from '../../src/config/file.ts'
import { gatewayPorts } from '../../src/config/gateway.ts'
import { resolveConfig } from '../../src/config/resolve.ts'
import { encodeProxyHeader } from '../../src/core/kit/proxy-header.ts'
import { freePort, hasTool } from '../../src/lab/system-tools.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { CART, curl, NAME, noCurl, node } from './proxy-world.ts'
import { Client, keptLog } from './world.ts'
import { until } from '../support/until.ts'

const noOpenssl = !hasTool('openssl') && 'openssl is not installed'

/** A certificate of its own authority for these host names, as files. */
async function certificate(dir: string, name: string, hosts: readonly string[], days = '30') {
  const files = { certificate: join(dir, `${name}.pem`), key: join(dir, `${name}.key`) }
  const names = hosts.map((host) => `DNS:${host}`).join(',')
  const key = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']
  const rest = ['-keyout', files.key, '-out', files.certificate, '-days', days, '-subj', `/CN=${name}`]
  await promisify(execFile)('openssl', [...key, ...rest, '-addext', `subjectAltName=${names}`])
  return files
}

const TARGET = { name: NAME, port: 80 }
const PORT = { hosts: {}, certificates: [], alpn: [], proxyProtocol: false } as const

async function published(
  parts: ProxyParts,
  port: Pick<GatewayPort, 'protocol'> & Partial<GatewayPort>,
  limits: { connections?: number; connectionsPerClient?: number } = {},
) {
  const listen = { host: '127.0.0.1', port: await freePort() }
  const options = { connections: 100, connectionsPerClient: 100, ...limits, isBeside: false }
  const gateway = await Gateway.start({ ...options, ports: [{ ...PORT, listen, ...port }] }, parts)
  return Object.assign(gateway, { at: listen.port })
}

/** What Node's own TLS client sends first. */
async function helloOf(options: { servername?: string; ALPNProtocols?: string[] }): Promise<Buffer> {
  const [near, far] = duplexPair()
  const client = connectTls({ socket: near, ...options }).on('error', () => undefined)
  const [hello] = (await once(far, 'data')) as [Buffer]
  client.destroy()
  return hello
}

/** The message of a hello in records of so many bytes. */
function inRecords(hello: Buffer, size: number): Buffer {
  const message = hello.subarray(5)
  const parts = Array.from({ length: Math.ceil(message.length / size) }, (_, i) =>
    message.subarray(i * size, (i + 1) * size),
  )
  return Buffer.concat(parts.flatMap((part) => [Buffer.of(22, 3, 1, part.length >> 8, part.length & 255), part]))
}

t.test('the host name of a ClientHello is read, however it is cut', async (t) => {
  const hello = await helloOf({ servername: 'Shop.Example.com', ALPNProtocols: ['h2'] })
  const found = { kind: 'hello', name: 'shop.example.com' }
  t.same(readClientHello(hello), found)
  for (let cut = 0; cut < hello.length; cut++) {
    const { kind } = readClientHello(hello.subarray(0, cut))
    if (kind !== 'more') t.fail(`${cut} bytes: ${kind}`)
  }
  for (const size of [1, 3, 100]) t.same(readClientHello(inRecords(hello, size)), found, `records of ${size} bytes`)
  t.same(readClientHello(Buffer.concat([hello, Buffer.from('anything')])), found, 'what follows is not looked at')
  t.same(readClientHello(await helloOf({})), { kind: 'hello' }, 'no name')

  const at = hello.indexOf('Shop.Example.com')
  const twisted = (change: (copy: Buffer) => void) => {
    const copy = Buffer.from(hello)
    change(copy)
    return readClientHello(copy).kind
  }
  t.equal(
    twisted((copy) => copy.writeUInt16BE(200, at - 2)),
    'invalid',
    'a name longer than its extension',
  )
  t.equal(
    twisted((copy) => copy.write('shop\0example.com', at)),
    'invalid',
    'a name that is none',
  )
  t.equal(
    twisted((copy) => copy.writeUInt8(3, at - 3)),
    'invalid',
    'an unknown kind of name',
  )
  t.equal(readClientHello(Buffer.from('GET / HTTP/1.1')).kind, 'invalid')
  t.equal(readClientHello(Buffer.from('160301000402000000', 'hex')).kind, 'invalid', 'a ServerHello')
  const long = Buffer.concat([Buffer.from('1603014000', 'hex'), Buffer.of(1, 0, 0xff, 0xff), Buffer.alloc(100)])
  t.match(readClientHello(long), { kind: 'invalid', reason: new RegExp(String(HELLO_LIMIT)) })
})

t.test('the host of a first request', (t) => {
  const rows: [why: string, text: string, verdict: object][] = [
    [
      'with a port',
      'GET / HTTP/1.1\r\nhOsT: Shop.example.com:8080\r\n\r\n',
      { kind: 'request', host: 'shop.example.com' },
    ],
    ['the target decides', 'GET http://a.b/ HTTP/1.1\r\nHost: c.d\r\n\r\n', { kind: 'request', host: 'a.b' }],
    ['HTTP/1.0', 'GET / HTTP/1.0\r\n\r\n', { kind: 'request' }],
    ['not yet', 'GET / HTTP/1.1\r\nHost: a', { kind: 'more' }],
    ['nothing yet', '', { kind: 'more' }],
    ['no Host', 'GET / HTTP/1.1\r\n\r\n', { kind: 'invalid', status: 400 }],
    ['two', 'GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n', { kind: 'invalid', status: 400 }],
    ['a folded line', 'GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n', { kind: 'invalid', status: 400 }],
    ['a bare line feed', 'GET / HTTP/1.1\nHost: a\r\n\r\n', { kind: 'invalid', status: 400 }],
    ['no name', 'GET / HTTP/1.1\r\nHost: a/b\r\n\r\n', { kind: 'invalid', status: 400 }],
    ['TLS', '\x16\x03\x01', { kind: 'invalid', status: 400 }],
    ['HTTP/2', 'PRI * HTTP/2.0\r\n', { kind: 'invalid', status: 400 }],
    ['too long', `GET /${'x'.repeat(17_000)}`, { kind: 'invalid', status: 431 }],
  ]
  for (const [why, text, verdict] of rows) t.match(readRequestHost(Buffer.from(text, 'latin1')), verdict, why)
  t.end()
})

t.test('the nearest entry is for a host name', (t) => {
  const [a, b, c, other] = ['a', 'b', 'c', 'other'].map((name) => ({ name, port: 1 })) as [
    typeof TARGET,
    typeof TARGET,
    typeof TARGET,
    typeof TARGET,
  ]
  const hosts = { 'shop.example.com': a, '*.example.com': b, '*.eu.example.com': c }
  const rows: [host: string | undefined, to: object | undefined][] = [
    ['shop.example.com', a],
    ['blog.example.com', b],
    ['x.eu.example.com', c],
    ['example.com', other],
    ['constructor', other],
    ['192.0.2.1', other],
    [undefined, other],
  ]
  for (const [host, to] of rows) t.equal(routeTo({ hosts, to: other }, host), to, String(host))
  t.equal(routeTo({ hosts }, 'example.org'), undefined)
  t.end()
})

t.test(
  'plain HTTP goes where its first Host says, and no further than the node may call',
  { skip: noCurl },
  async (t) => {
    await using here = await node()
    here.table.set({ id: 'shop.acme.closed.prod', allow: ['mail.acme'], on: ['edge/a'] })
    const target = (service: string, port = 80) => ({ name: `shop.acme.${service}.prod.any.rr.local`, port })
    const hosts = {
      'cart.test': TARGET,
      'closed.test': target('closed'),
      'down.test': target('down'),
      'odd.test': target('cart', 81),
    }
    await using gateway = await published(here.parts, { protocol: 'http', hosts })
    const get = (host: string) => curl('-w', '%{http_code}', '-H', `Host: ${host}`, `http://127.0.0.1:${gateway.at}/x`)
    t.same(await get('cart.test'), { out: 'GET /x 0\n200', code: 0 })
    t.same(
      await get('closed.test'),
      { out: 'the service cannot be reached\n503', code: 0 },
      'its allow list has no node',
    )
    t.same(await get('down.test'), { out: 'the service cannot be reached\n503', code: 0 })
    t.match(await get('other.test'), { out: /421$/, code: 0 })
    t.match(
      here.log.lines.map(({ fields }) => fields?.['reason']),
      /host processes are not in the allow list/,
    )
    const body = 'b'.repeat(300_000)
    const all = [
      '-H',
      'Host: cart.test',
      '-H',
      'Expect:',
      '--data-binary',
      body.slice(0, 100_000),
      `http://127.0.0.1:${gateway.at}/1`,
    ]
    t.same(
      await curl(...all, all.at(-1) as string),
      { out: 'POST /1 100000\nPOST /1 100000\n', code: 0 },
      'one connection, two requests',
    )
    await until(() => gateway.size === 0)
    t.match(here.ledger.recent().at(-1), { mode: 'gateway', caller: '127.0.0.1 by edge/a', end: 'closed' })
    const problems = gateway.routes().map(({ host, problem = '' }) => `${host}: ${problem}`)
    t.match(problems, [/^cart.test: $/, /closed.*allow list/, /^down.test: $/, /does not serve port 81\/tcp/])
  },
)

t.test('TLS passes through to the service of its name', { skip: noCurl || noOpenssl }, async (t) => {
  const dir = t.testdir()
  const files = await certificate(dir, 'cart', ['cart.test'])
  const secure = createHttps(
    { cert: readFileSync(files.certificate), key: readFileSync(files.key) },
    (_request, response) => response.end('secret\n'),
  )
  await once(secure.listen(0, '127.0.0.1'), 'listening')
  await using here = await node()
  here.endpoint.port = (secure.address() as AddressInfo).port
  await using gateway = await published(here.parts, { protocol: 'tls', hosts: { 'cart.test': TARGET } })
  const get = (host: string) =>
    curl('--cacert', files.certificate, '--connect-to', `::127.0.0.1:${gateway.at}`, `https://${host}/`)
  t.same(await get('cart.test'), { out: 'secret\n', code: 0 }, 'the service’s own certificate')
  t.match(await get('other.test'), { out: '', code: 35 }, 'an alert')
  const client = await Client.connect(gateway.at)
  client.socket.end('hello\r\n')
  await client.closed
  t.equal(here.ledger.recent().length, 1, 'what is no TLS goes nowhere')
  secure.close()
  secure.closeAllConnections()
})

t.test('TLS ends at the gateway, with certificates that are read again', { skip: noCurl || noOpenssl }, async (t) => {
  const dir = t.testdir()
  const [cart, wild, later] = await Promise.all([
    certificate(dir, 'cart', ['cart.test']),
    certificate(dir, 'wild', ['*.wild.test']),
    certificate(dir, 'later', ['cart.test']),
  ])
  const log = keptLog()
  const certificates = new Certificates([cart, wild], log)
  t.same(certificates.problems(['cart.test', '*.wild.test', 'bare.test'], Date.now()), [
    'no certificate is for bare.test',
  ])
  t.match(certificates.problems([], Date.now() + 29 * 86_400_000), [/it ends at .* and was not renewed/, /it ends/])
  t.match(certificates.problems([], Date.now() + 31 * 86_400_000), [/it ended at/, /it ended/])
  t.match(certificates.problems([], Date.now() - 86_400_000), [/it begins at/, /it begins/])
  t.not(certificates.contextFor('a.wild.test'), certificates.contextFor('cart.test'))
  t.equal(certificates.contextFor('other.test'), certificates.contextFor('cart.test'), 'else the first')

  await using here = await node()
  const hosts = { 'cart.test': TARGET, '*.wild.test': TARGET }
  await using strict = await published(here.parts, { protocol: 'tls', hosts, certificates: [cart] })
  t.match(
    await curl('-k', '--connect-to', `::127.0.0.1:${strict.at}`, 'https://other.test/'),
    { out: '', code: 35 },
    'a name of nobody',
  )
  await until(() => strict.size === 0)
  await using gateway = await published(here.parts, {
    protocol: 'tls',
    hosts,
    to: TARGET,
    certificates: [cart, wild],
    alpn: ['http/1.1'],
  })
  const get = (host: string, { certificate: ca } = cart) =>
    curl('--cacert', ca, '--connect-to', `::127.0.0.1:${gateway.at}`, `https://${host}/x`)
  t.same(await get('cart.test'), { out: 'GET /x 0\n', code: 0 })
  t.same(await get('a.wild.test', wild), { out: 'GET /x 0\n', code: 0 })
  t.equal((await get('cart.test', wild)).code, 60, 'not that authority')
  t.same(
    await curl('-k', `https://127.0.0.1:${gateway.at}/y`),
    { out: 'GET /y 0\n', code: 0 },
    'a client that names no host',
  )
  await until(() => gateway.size === 0)

  const before = certificates.contextFor('cart.test')
  writeFileSync(cart.certificate, readFileSync(later.certificate))
  certificates.reload()
  t.equal(certificates.contextFor('cart.test'), before, 'a certificate without its key is not used')
  t.match(certificates.problems([], Date.now()), [/the key is not that of the certificate; the one before is used/])
  writeFileSync(cart.key, readFileSync(later.key))
  certificates.reload()
  t.not(certificates.contextFor('cart.test'), before)
  t.same(certificates.problems([], Date.now()), [])
  writeFileSync(cart.certificate, 'cut off')
  certificates.reload()
  t.match(certificates.problems([], Date.now()), [/cart\.pem.*the one before is used/])
  t.match(new Certificates([{ certificate: join(dir, 'none'), key: cart.key }], log).problems([], 0), [/no such file/])
})

t.test('the service is told the client’s address, and a client has its limit', { skip: noCurl }, async (t) => {
  const heard: Buffer[] = []
  const service = createServer((socket) => socket.on('data', (chunk) => heard.push(chunk)))
  await once(service.listen(0, '127.0.0.1'), 'listening')
  await using here = await node()
  here.endpoint.port = (service.address() as AddressInfo).port
  await using gateway = await published(
    here.parts,
    { protocol: 'tcp', to: TARGET, proxyProtocol: true },
    { connectionsPerClient: 2 },
  )
  const client = await Client.connect(gateway.at)
  client.socket.write('hello')
  const { localPort: port = 0 } = client.socket
  const header = encodeProxyHeader({
    ends: { from: { address: '127.0.0.1', port }, to: { address: '127.0.0.1', port: gateway.at } },
  })
  await until(() => Buffer.concat(heard).length >= header.length + 5)
  t.same(Buffer.concat(heard), Buffer.concat([header, Buffer.from('hello')]))

  const second = await Client.connect(gateway.at)
  await until(() => gateway.size === 2)
  const third = await Client.connect(gateway.at).then(
    ({ closed }) => closed,
    (error: NodeJS.ErrnoException) => error.code,
  )
  t.equal(third, 'ECONNRESET')
  t.equal(gateway.refused, 1)
  second.socket.destroy()
  await until(() => gateway.size === 1)
  client.socket.destroy()
  await until(() => gateway.size === 0)
  service.close()

  const limits = new ClientLimits({ connections: 3, connectionsPerClient: 2 })
  const leave = limits.enter('2001:db8::1')
  t.ok(limits.enter('2001:db8::2:3'), 'the same /64')
  t.notOk(limits.enter('2001:db8::ffff'))
  t.ok(limits.enter('192.0.2.1'))
  t.notOk(limits.enter('192.0.2.2'), 'all together')
  leave?.()
  leave?.()
  t.equal(limits.size, 2, 'counted once')
  const v6 = encodeProxyHeader({ ends: { from: { address: '2001:db8::1', port: 1 }, to: { address: '::1', port: 2 } } })
  t.equal(v6.toString('hex', 12), `21210024${'20010db8'.padEnd(31, '0')}1${'1'.padStart(32, '0')}00010002`)
})

t.test('a port that another program has is told, and taken when it is free', async (t) => {
  const other = createServer()
  await once(other.listen(0, '127.0.0.1'), 'listening')
  const { port } = other.address() as AddressInfo
  await using here = await node()
  const clock = new ManualClock()
  const listen = { host: '127.0.0.1', port }
  await using gateway = await Gateway.start(
    {
      ports: [{ ...PORT, listen, protocol: 'tcp', to: TARGET }],
      connections: 9,
      connectionsPerClient: 9,
      isBeside: false,
    },
    { ...here.parts, clock },
  )
  t.match(gateway.routes(), [{ problem: /another program listens at/, remedy: /ss -tulpn/ }])
  other.close()
  await once(other, 'close')
  await clock.advance(5_000)
  await until(() => gateway.routes()[0]?.problem === undefined)
  const client = await Client.connect(port)
  client.socket.destroy()
})

t.test('datagrams of a client keep to one flow', async (t) => {
  await using here = await node()
  const sent: string[] = []
  const port = await freePort()
  const ended: (() => void)[] = []
  const parts: ProxyParts = {
    ...here.parts,
    onDatagramClient: (client) => {
      ended.push(() => client.ended())
      void Promise.resolve(client.intent).then((intent) =>
        sent.push(JSON.stringify({ kind: intent.kind, from: client.from.remoteAddress, port: client.port })),
      )
      return {
        datagram: (payload) => void client.answer(Buffer.concat([payload, Buffer.from('!')])),
        end: () => client.ended(),
      }
    },
  }
  here.table.set({ id: CART, ports: [80], udp: [53], on: ['edge/a'], vips: { 'any.rr': 0xe1234 } })
  const limits = { connections: 9, connectionsPerClient: 1, isBeside: false }
  const at = { host: '127.0.0.1', port }
  await using gateway = await Gateway.start(
    { ...limits, ports: [{ ...PORT, listen: at, protocol: 'udp', to: { name: NAME, port: 53 } }] },
    parts,
  )
  const [one, two] = [createSocket('udp4'), createSocket('udp4')]
  one.send('a', port, '127.0.0.1')
  t.equal(String((await once(one, 'message'))[0]), 'a!')
  one.send('b', port, '127.0.0.1')
  t.equal(String((await once(one, 'message'))[0]), 'b!')
  t.same(sent, ['{"kind":"target","from":"strangers at the gateway","port":53}'], 'one flow')
  t.match(gateway.routes(), [{ protocol: 'udp', connections: 1 }])
  two.send('c', port, '127.0.0.1')
  await until(() => gateway.refused === 1)
  ended[0]?.()
  t.equal(gateway.size, 0)
  for (const socket of [one, two]) socket.close()
})

t.test('the ports of the configuration and of flags, and what is wrong with them', (t) => {
  const web = 'shop.acme.web.prod.any.rr.local:80'
  const ports = gatewayPorts([
    `tls://0.0.0.0:443/a.test=${web}`,
    `tls://0.0.0.0:443/b.test=${web}`,
    `tcp://[::]:22=${web}`,
  ])
  t.same(ports, [
    { listen: '0.0.0.0:443', protocol: 'tls', hosts: { 'a.test': web, 'b.test': web } },
    { listen: '[::]:22', protocol: 'tcp', hosts: {}, to: web },
  ])
  t.throws(() => gatewayPorts(['0.0.0.0:80']), { code: 'USAGE' })
  const faults = (...listed: object[]) => {
    try {
      resolveConfig(defaults('x'), parseConfig(JSON.stringify({ agent: { gateway: { ports: listed } } }), 'x'))
      return ''
    } catch (error) {
      return JSON.stringify((error as { details: object }).details)
    }
  }
  t.equal(faults(...ports), '')
  const listen = '0.0.0.0:80'
  const rows: [fault: RegExp, ...ports: object[]][] = [
    [/needs `hosts`, or `to` for every host name/, { listen, protocol: 'http' }],
    [/needs `to`, a semantic name and a port/, { listen }],
    [/`hosts` needs the protocol/, { listen, to: web, hosts: { 'a.test': web } }],
    [/ports\.1\.listen: agent\.gateway\.ports\.0 has 0\.0\.0\.0:80 as well/, { listen, to: web }, { listen, to: web }],
    [/closet: no such policy; did you mean closest\?/, { listen, to: web.replace('rr', 'closet') }],
    [/not a name of the mesh; those end in \.local/, { listen, to: 'www.example.com:80' }],
    [/must be an address and a port, for example/, { listen: 'localhost:80', to: web }],
    [/up to 65535/, { listen: '0.0.0.0:99999', to: web }],
    [/`certificates` needs the protocol `tls`/, { listen, to: web, certificates: [{ certificate: '/c', key: '/k' }] }],
    [/`proxyProtocol` is for TCP/, { listen, protocol: 'udp', to: web, proxyProtocol: true }],
    [/unknown key/, { listen, to: web, hots: {} }],
  ]
  for (const [fault, ...listed] of rows) t.match(faults(...listed), fault, String(fault))
  t.end()
})
