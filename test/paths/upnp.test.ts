import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTcpServer, type AddressInfo } from 'node:net'
import fc from 'fast-check'
import t from 'tap'
import { mapByIgd, readIgd } from '../../proxy/paths/port-mapping/igd.ts'
import { PortMapper } from '../../proxy/paths/port-mapping/port-mapper.ts'
import { locationIn, search, urlAt } from '../../proxy/paths/port-mapping/ssdp.ts'
import { escaped, named, readXml, textOf } from '../../proxy/paths/port-mapping/xml.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { until } from '../proxy/world.ts'

const forever = new AbortController().signal
const GATEWAY = '127.0.0.1'

t.test('the XML reader accepts what routers send and refuses the rest', async (t) => {
  const page = readXml(`<?xml version="1.0"?>
    <!-- a router -->
    <root xmlns="urn:x" a="1 > 0"><s:device xmlns:s='urn:y'><name>A &amp; B &#x41;&#66;</name><empty/><empty a="/"/></s:device>
    <name><![CDATA[<raw> &amp;]]></name></root>`)!
  t.equal(page.name, 'root')
  t.same(
    [...named(page, 'name')].map(({ text }) => text),
    ['A & B AB', '<raw> &amp;'],
  )
  t.equal([...named(page, 'empty')].length, 2)
  t.equal(textOf(page, 'nothing'), undefined)
  t.equal(textOf(readXml('<a><b>\n 725 \t</b></a>')!, 'b'), '725')
  const bad: [string, string][] = [
    ['nothing', ''],
    ['only text', 'hello'],
    ['not closed', '<a><b></a>'],
    ['closed twice', '<a></a></a>'],
    ['two of them', '<a/><b/>'],
    ['text around', '<a/>x'],
    ['no name', '<>x</>'],
    ['a name with a space before', '< a></a>'],
    ['cut in a tag', '<a'],
    ['cut in a value', '<a b="'],
    ['cut in a comment', '<a><!-- </a>'],
    ['a document type: entities that grow', '<!DOCTYPE a [<!ENTITY x "xx">]><a>&x;</a>'],
    ['too deep', '<a>'.repeat(65) + '</a>'.repeat(65)],
    ['too many', `<a>${'<b/>'.repeat(5_000)}</a>`],
    ['too long', `<a>${' '.repeat(256 * 1024)}</a>`],
  ]
  for (const [why, text] of bad) t.equal(readXml(text), undefined, why)
  t.equal(readXml('<a>&x; &#0; &#x110000; &#xD7FF;</a>')?.text, '&x;   \uD7FF', 'what is no character is nothing')

  const name = fc.stringMatching(/^[A-Za-z_][\w.-]{0,10}$/)
  const text = fc.string({ maxLength: 10 }).map((any) => any.trim())
  const leaf = fc.record({ name, text, children: fc.constant([]) })
  const tree = fc.record({ name, text, children: fc.array(leaf, { maxLength: 4 }) })
  const print = (one: { name: string; text: string; children: unknown[] }): string =>
    `<p:${one.name} x='>'>${escaped(one.text)}${one.children.map((child) => print(child as never)).join('')}</p:${one.name}>`
  fc.assert(
    fc.property(tree, (one) => {
      t.same(readXml(print(one)), one, 'what is written is read')
    }),
    { numRuns: 30 },
  )
  const parts = fc.constantFrom(
    '<',
    '>',
    '/',
    '<a>',
    '</a>',
    '<a/>',
    '<!--',
    '-->',
    '<![CDATA[',
    ']]>',
    '<?',
    '?>',
    '&#',
    ';',
    '"',
    "'",
    'a',
    ' ',
    '<!',
  )
  fc.assert(
    fc.property(
      fc.oneof(
        fc.array(parts, { maxLength: 60 }).map((all) => all.join('')),
        fc.string(),
      ),
      (text) => {
        const found = readXml(text)
        return found === undefined || found.name.length > 0
      },
    ),
    { numRuns: 500 },
  )
})

function answerOf(location: string, changes: { status?: string; st?: string } = {}): Buffer {
  const { status = 'HTTP/1.1 200 OK', st = 'urn:schemas-upnp-org:device:InternetGatewayDevice:1' } = changes
  return Buffer.from(
    [status, 'CACHE-CONTROL: max-age=120', `ST: ${st}`, 'EXT:', `Location: ${location}`, '', ''].join('\r\n'),
  )
}

t.test('an answer to a search is accepted only with a permitted location', async (t) => {
  const rows: { why: string; packet: Buffer; is: string | undefined }[] = [
    { why: 'a router', packet: answerOf('http://192.168.1.1:5000/a.xml'), is: 'http://192.168.1.1:5000/a.xml' },
    { why: 'another machine', packet: answerOf('http://192.168.1.66:5000/a.xml'), is: undefined },
    { why: 'the internet', packet: answerOf('http://evil.example/a.xml'), is: undefined },
    { why: 'a name that looks like it', packet: answerOf('http://192.168.1.1@evil.example/'), is: undefined },
    { why: 'a user at the router', packet: answerOf('http://me:pw@192.168.1.1/'), is: undefined },
    { why: 'this machine', packet: answerOf('http://127.0.0.1:7480/'), is: undefined },
    { why: 'another protocol', packet: answerOf('ftp://192.168.1.1/a.xml'), is: undefined },
    { why: 'a file', packet: answerOf('file:///etc/passwd'), is: undefined },
    { why: 'nowhere', packet: answerOf(''), is: undefined },
    { why: 'very far', packet: answerOf(`http://192.168.1.1/${'a'.repeat(1_100)}`), is: undefined },
    { why: 'another device', packet: answerOf('http://192.168.1.1/', { st: 'upnp:rootdevice' }), is: undefined },
    {
      why: 'no answer, an announcement',
      packet: answerOf('http://192.168.1.1/', { status: 'NOTIFY * HTTP/1.1' }),
      is: undefined,
    },
    { why: 'too long', packet: Buffer.concat([answerOf('http://192.168.1.1/'), Buffer.alloc(2_048)]), is: undefined },
  ]
  for (const { why, packet, is } of rows) t.equal(locationIn(packet, '192.168.1.1')?.href, is, why)
  fc.assert(
    fc.property(
      fc.oneof(
        fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
        fc.webUrl().map((url) => answerOf(url)),
      ),
      (packet) => {
        const found = locationIn(packet, '192.168.1.1')
        return found === undefined || found.hostname === '192.168.1.1'
      },
    ),
    { numRuns: 100 },
  )
  const base = new URL('http://192.168.1.1:5000/igd/root.xml')
  t.equal(urlAt('/ctl', '192.168.1.1', base)?.href, 'http://192.168.1.1:5000/ctl')
  t.equal(urlAt('//evil.example/ctl', '192.168.1.1', base), undefined)
  t.equal(urlAt('http://[::1]/', '192.168.1.1', base), undefined)
})

type Answer = (
  action: string,
  values: ReadonlyMap<string, string>,
) => { fault: number; words?: string } | Record<string, string>

interface FakeIgd extends AsyncDisposable {
  readonly location: string
  readonly searchPort: number
  /** Calls, in words. */
  readonly heard: string[]
  answer: Answer
  /** Instead of its page. */
  page: (request: IncomingMessage, response: ServerResponse) => boolean
  controlUrl: string
  /** What it says where it is; `undefined`: it does not answer. */
  says: (() => string) | undefined
}

/** A router that speaks UPnP only, on loopback. */
async function igd(): Promise<FakeIgd> {
  const server = createServer((request, response) => {
    if (it.page(request, response)) return
    if (request.method === 'GET') {
      response.end(
        `<root xmlns="urn:schemas-upnp-org:device-1-0"><device><serviceList><service><serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType><controlURL>/l3f</controlURL></service></serviceList><deviceList><device><serviceList><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>${it.controlUrl}</controlURL></service></serviceList></device></deviceList></device></root>`,
      )
      return
    }
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const action = String(request.headers['soapaction']).replace(/^.*#|"$/g, '')
      const values = new Map(
        [
          ...Buffer.concat(chunks)
            .toString()
            .matchAll(/<(New\w+)>([^<]*)</g),
        ].map(([, name, value]) => [name!, value!]),
      )
      it.heard.push(
        [action, values.get('NewProtocol'), values.get('NewExternalPort'), values.get('NewLeaseDuration')]
          .filter(Boolean)
          .join(' '),
      )
      const said = it.answer(action, values)
      const isFault = 'fault' in said
      response.statusCode = isFault ? 500 : 200
      const inside = isFault
        ? `<s:Fault><detail><UPnPError><errorCode>\n ${said['fault']}\n</errorCode><errorDescription>${said['words'] ?? ''}</errorDescription></UPnPError></detail></s:Fault>`
        : `<u:${action}Response xmlns:u="x">${Object.entries(said)
            .map(([name, value]) => `<${name}>${value}</${name}>`)
            .join('')}</u:${action}Response>`
      response.end(`<?xml version="1.0"?><s:Envelope xmlns:s="x"><s:Body>${inside}</s:Body></s:Envelope>`)
    })
  })
  server.listen(0, GATEWAY)
  await once(server, 'listening')
  const socket = await udp(GATEWAY)
  socket.on('message', (packet, from) => {
    const st = /^ST: (.*)$/m.exec(packet.toString())?.[1]?.trim() ?? ''
    if (it.says !== undefined) socket.send(answerOf(it.says(), { st }), from.port, from.address)
  })
  const location = `http://${GATEWAY}:${(server.address() as AddressInfo).port}/rootDesc.xml`
  const it: FakeIgd = {
    location,
    searchPort: socket.address().port,
    heard: [],
    answer: (action) => (action === 'GetExternalIPAddress' ? { NewExternalIPAddress: '203.0.113.5' } : {}),
    page: () => false,
    controlUrl: '/ctl/IPConn',
    says: () => location,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections()
      await Promise.all([
        new Promise((resolve) => server.close(resolve)),
        new Promise<void>((resolve) => socket.close(() => resolve())),
      ])
    },
  }
  return it
}

async function udp(host: string): Promise<Socket> {
  const socket = createSocket('udp4')
  socket.bind(0, host)
  await once(socket, 'listening')
  return socket
}

/** Hears the question, and says nothing: a router that knows neither PCP nor NAT-PMP. */
async function deaf() {
  const socket = await udp(GATEWAY)
  return {
    port: socket.address().port,
    [Symbol.asyncDispose]: () => new Promise<void>((resolve) => socket.close(() => resolve())),
  }
}

/** Waits of seconds are the test's. */
function patientClock() {
  const rests: Array<{ ms: number; end: () => void }> = []
  const sleep: typeof systemClock.sleep = (ms, signal) => {
    if (ms < 5_000) return systemClock.sleep(Math.min(ms, 40), signal)
    return new Promise((resolve) => {
      rests.push({ ms, end: resolve })
      signal?.addEventListener('abort', () => resolve(), { once: true })
    })
  }
  return { clock: { ...systemClock, sleep }, rests }
}

function mapper(router: FakeIgd, serverPort: number, rest = patientClock()) {
  const ports = () => [{ protocol: 'tcp', port: 7_472 } as const, { protocol: 'udp', port: 7_473 } as const]
  const options = {
    gateway: () => GATEWAY,
    ports,
    onChange: () => undefined,
    clock: rest.clock,
    serverPort,
    searchPort: router.searchPort,
    secret: 'of this node',
  }
  return { running: PortMapper.start(options, silentLog), rests: rest.rests }
}

t.test('with a UPnP-only router a mapping is made, renewed, found again and deleted', async (t) => {
  await using router = await igd()
  await using nobody = await deaf()
  const { running, rests } = mapper(router, nobody.port)
  await until(() => rests.length === 1)
  t.match(running.state, { state: 'mapped', dialect: 'upnp', tcp: '203.0.113.5:7472', udp: '203.0.113.5:7473' })
  t.same(router.heard, [
    'AddPortMapping TCP 7472 3600',
    'GetExternalIPAddress',
    'AddPortMapping UDP 7473 3600',
    'GetExternalIPAddress',
  ])
  t.equal(rests[0]!.ms, 1_800_000, 'again at half its life')
  router.heard.length = 0
  rests[0]!.end()
  await until(() => rests.length === 2)
  t.equal(router.heard[0], 'AddPortMapping TCP 7472 3600', 'renewed, without asking in other words before')
  router.heard.length = 0
  await running[Symbol.asyncDispose]()
  t.same(router.heard, ['DeletePortMapping TCP 7472', 'DeletePortMapping UDP 7473'])
})

t.test('each answer of a UPnP router leads to the expected mapping or error', async (t) => {
  await using router = await igd()
  const found = (await readIgd(new URL(router.location), forever))!
  t.equal(found.service, 'urn:schemas-upnp-org:service:WANIPConnection:1')
  const wanted = {
    protocol: 'tcp',
    port: 7_472,
    wanted: 7_472,
    lifetimeSeconds: 3_600,
    client: '192.168.1.10',
    others: [20_001, 20_002],
  } as const
  const address = { NewExternalIPAddress: ' 203.0.113.5\n' }
  const rows: { why: string; answer: Answer; gets: object; adds: string[] }[] = [
    {
      why: 'it says yes',
      answer: () => address,
      gets: { kind: 'mapped', mapped: { external: { port: 7_472, address: '203.0.113.5' } } },
      adds: ['7472 3600'],
    },
    {
      why: 'the port is somebody else’s: another',
      answer: (action, values) =>
        action === 'AddPortMapping' && values.get('NewExternalPort') === '7472' ? { fault: 718 } : address,
      gets: { kind: 'mapped', mapped: { external: { port: 20_001 } } },
      adds: ['7472 3600', '20001 3600'],
    },
    {
      why: 'all are',
      answer: () => ({ fault: 718, words: 'ConflictInMappingEntry' }),
      gets: { kind: 'refused', reason: 'ConflictInMappingEntry (718)' },
      adds: ['7472 3600', '20001 3600', '20002 3600'],
    },
    {
      why: 'only for ever; renewed as if it were not',
      answer: (action, values) =>
        action === 'AddPortMapping' && values.get('NewLeaseDuration') !== '0' ? { fault: 725 } : address,
      gets: { kind: 'mapped', mapped: { lifetimeSeconds: 3_600 } },
      adds: ['7472 3600', '7472 0'],
    },
    {
      why: 'never',
      answer: () => ({ fault: 725 }),
      gets: { kind: 'refused', reason: 'error 725' },
      adds: ['7472 3600', '7472 0'],
    },
    {
      why: 'no',
      answer: () => ({ fault: 606, words: 'Action\u0007 not\n authorized' }),
      gets: { kind: 'refused', reason: 'Action not authorized (606)' },
      adds: ['7472 3600'],
    },
    {
      why: 'an address that is none',
      answer: () => ({ NewExternalIPAddress: 'evil.example' }),
      gets: { kind: 'mapped', mapped: { external: { port: 7_472, address: undefined } } },
      adds: ['7472 3600'],
    },
  ]
  for (const { why, answer, gets, adds } of rows) {
    router.heard.length = 0
    router.answer = answer
    t.match(await mapByIgd(found, wanted, forever), gets, why)
    t.same(
      router.heard.filter((line) => line.startsWith('Add')),
      adds.map((line) => `AddPortMapping TCP ${line}`),
      why,
    )
  }
  t.match(await mapByIgd(found, { ...wanted, wanted: 20_000, others: [] }, forever), { kind: 'mapped' })
  router.answer = (action, values) =>
    action === 'AddPortMapping' && values.get('NewExternalPort') !== '7472' ? { fault: 724 } : address
  t.match(
    await mapByIgd(found, { ...wanted, wanted: 20_000, others: [] }, forever),
    { mapped: { external: { port: 7_472 } } },
    'the same port on both sides',
  )
})

t.test('only the gateway is contacted, and only its answers are accepted', async (t) => {
  const calls: string[] = []
  const victim = createTcpServer((socket) => void calls.push(socket.on('error', () => undefined).remoteAddress ?? ''))
  victim.listen(0, '127.0.0.3')
  await once(victim, 'listening')
  const elsewhere = `http://127.0.0.3:${(victim.address() as AddressInfo).port}`
  await using router = await igd()
  await using nobody = await deaf()

  // somebody in the network answers the search faster than the router
  const forger = await udp('127.0.0.2')
  const clock = patientClock().clock
  router.says = undefined
  const ears = await udp('127.0.0.4')
  let heard = 0
  ears.on('message', (_, from) => {
    heard += 1
    forger.send(answerOf('http://127.0.0.4:5000/rootDesc.xml'), from.port, from.address)
    forger.send(answerOf(`http://127.0.0.2:80/`), from.port, from.address)
  })
  // what is sent to the gateway reaches the forger too
  const asked = search({ gateway: '127.0.0.4', own: GATEWAY, port: ears.address().port, clock }, forever)
  t.equal(await asked, undefined, 'an answer from another address is dropped, wherever it points')
  t.ok(heard > 0)

  const rows: { why: string; spoil: (it: FakeIgd) => void }[] = [
    { why: 'it points elsewhere', spoil: (it) => (it.says = () => `${elsewhere}/rootDesc.xml`) },
    { why: 'its services are elsewhere', spoil: (it) => (it.controlUrl = `${elsewhere}/ctl`) },
    {
      why: 'it sends us elsewhere',
      spoil: (it) =>
        (it.page = (_, response) => {
          response.writeHead(302, { Location: `${elsewhere}/rootDesc.xml` }).end()
          return true
        }),
    },
    {
      why: 'its base is elsewhere',
      spoil: (it) =>
        (it.page = (request, response) => {
          if (request.method !== 'GET') return false
          response.end(
            `<root><URLBase>${elsewhere}</URLBase><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>${elsewhere}/ctl</controlURL></service></root>`,
          )
          return true
        }),
    },
    {
      why: 'it never ends',
      spoil: (it) =>
        (it.page = (_, response) => {
          const more = () => {
            while (!response.destroyed && response.write(' '.repeat(65_536)));
            response.once('drain', more)
          }
          more()
          return true
        }),
    },
    {
      why: 'it is no XML',
      spoil: (it) =>
        (it.page = (_, response) => response.end('<!DOCTYPE x [<!ENTITY a "b">]><root>&a;</root>') !== undefined),
    },
  ]
  for (const { why, spoil } of rows) {
    await using bad = await igd()
    spoil(bad)
    const { running, rests } = mapper(bad, nobody.port)
    await until(() => rests.length === 1)
    t.same(running.state, { state: 'refused', reason: 'no answer' }, why)
    await running[Symbol.asyncDispose]()
  }
  t.same(calls, [], 'no other address was contacted')
  for (const socket of [forger, ears]) await new Promise<void>((resolve) => socket.close(() => resolve()))
  await new Promise((resolve) => victim.close(resolve))
})

t.test('PCP and NAT-PMP answers from any address but the gateway’s are dropped', async (t) => {
  const gateway = await udp(GATEWAY)
  const forger = await udp('127.0.0.2')
  let forged = 0
  gateway.on('message', (packet, from) => {
    const answer = Buffer.from(packet)
    if (packet[0] === 2) {
      answer.fill(0, 2, 24)
      answer[1] = 0x81
      answer.writeUInt32BE(120, 4)
      answer.writeUInt16BE(6_666, 42)
      Buffer.from([...Buffer.alloc(10), 255, 255, 203, 0, 113, 66]).copy(answer, 44)
    }
    forged += 1
    forger.send(answer, from.port, from.address)
  })
  const { clock, rests } = patientClock()
  const ports = () => [{ protocol: 'tcp', port: 7_472 } as const]
  const serverPort = gateway.address().port
  const options = {
    gateway: () => GATEWAY,
    ports,
    onChange: () => undefined,
    clock,
    serverPort,
    searchPort: serverPort,
    secret: 's',
  }
  const running = PortMapper.start(options, silentLog)
  await until(() => rests.length === 1)
  t.ok(forged > 0)
  t.same(running.state, { state: 'refused', reason: 'no answer' })
  await running[Symbol.asyncDispose]()
  for (const socket of [gateway, forger]) await new Promise<void>((resolve) => socket.close(() => resolve()))
})
