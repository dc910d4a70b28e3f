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
import { until } from '../support/until.ts'

const forever = new AbortController().signal
const GATEWAY = '127.0.0.1'

t.test('the XML reader accepts what routers send', async (t) => {
  const page = readXml(`<?xml version="1.0"?>
    <!-- a router -->
    <root xmlns="urn:x" a="1 > 0"><s:device xmlns:s='urn:y'><name>A &amp; B &#x41;&#66;</name><empty/><empty a="/"/></s:device>
    <name><![CDATA[<raw> &amp;]]></name></root>`)!
  t.equal(page.name, 'root', 'the outermost element is read after a declaration and a comment')
  t.same(
    [...named(page, 'name')].map(({ text }) => text),
    ['A & B AB', '<raw> &amp;'],
    'entities and character references are replaced, but not within CDATA',
  )
  t.equal([...named(page, 'empty')].length, 2, 'empty elements are read')
  t.equal(textOf(page, 'nothing'), undefined, 'an element that is not there has no text')
  t.equal(textOf(readXml('<a><b>\n 725 \t</b></a>')!, 'b'), '725', 'space around a text is left out')
  const odd = readXml('<a>&x; &#0; &#x110000; &#xD7FF;</a>')
  t.equal(odd?.text, '&x;   \uD7FF', 'an unknown entity stays, and a number that is no character becomes nothing')
})

t.test('the XML reader refuses what is no XML, and what is too long or too deep', async (t) => {
  const bad: [string, string][] = [
    ['an empty text', ''],
    ['only text', 'hello'],
    ['an element that is not closed', '<a><b></a>'],
    ['an element that is closed twice', '<a></a></a>'],
    ['two outermost elements', '<a/><b/>'],
    ['text after the outermost element', '<a/>x'],
    ['an element without a name', '<>x</>'],
    ['a name with a space before', '< a></a>'],
    ['a text cut in a tag', '<a'],
    ['a text cut in a value', '<a b="'],
    ['a text cut in a comment', '<a><!-- </a>'],
    ['a document type: entities that grow', '<!DOCTYPE a [<!ENTITY x "xx">]><a>&x;</a>'],
    ['elements that are nested too deep', '<a>'.repeat(65) + '</a>'.repeat(65)],
    ['too many elements', `<a>${'<b/>'.repeat(5_000)}</a>`],
    ['a text that is too long', `<a>${' '.repeat(256 * 1024)}</a>`],
  ]
  for (const [why, text] of bad) t.equal(readXml(text), undefined, `${why}: it is refused`)
})

t.test('the XML reader reads elements as they were written', async (t) => {
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
})

t.test('no text makes the XML reader throw, or find an element without a name', async () => {
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

/** Packets from 192.168.1.1, and the location that is taken from them. */
const LOCATIONS: { why: string; packet: Buffer; is: string | undefined }[] = [
  {
    why: 'a location at the router is accepted',
    packet: answerOf('http://192.168.1.1:5000/a.xml'),
    is: 'http://192.168.1.1:5000/a.xml',
  },
  {
    why: 'a location at another machine is refused',
    packet: answerOf('http://192.168.1.66:5000/a.xml'),
    is: undefined,
  },
  { why: 'a location in the internet is refused', packet: answerOf('http://evil.example/a.xml'), is: undefined },
  {
    why: 'a location whose user name looks like the router is refused',
    packet: answerOf('http://192.168.1.1@evil.example/'),
    is: undefined,
  },
  {
    why: 'a location with a user and a password is refused',
    packet: answerOf('http://me:pw@192.168.1.1/'),
    is: undefined,
  },
  { why: 'a location at this machine is refused', packet: answerOf('http://127.0.0.1:7480/'), is: undefined },
  { why: 'a location of another protocol is refused', packet: answerOf('ftp://192.168.1.1/a.xml'), is: undefined },
  { why: 'a location that is a file is refused', packet: answerOf('file:///etc/passwd'), is: undefined },
  { why: 'an empty location is refused', packet: answerOf(''), is: undefined },
  {
    why: 'a very long location is refused',
    packet: answerOf(`http://192.168.1.1/${'a'.repeat(1_100)}`),
    is: undefined,
  },
  {
    why: 'the answer of another kind of device is refused',
    packet: answerOf('http://192.168.1.1/', { st: 'upnp:rootdevice' }),
    is: undefined,
  },
  {
    why: 'an announcement is no answer',
    packet: answerOf('http://192.168.1.1/', { status: 'NOTIFY * HTTP/1.1' }),
    is: undefined,
  },
  {
    why: 'a packet that is too long is refused',
    packet: Buffer.concat([answerOf('http://192.168.1.1/'), Buffer.alloc(2_048)]),
    is: undefined,
  },
]

t.test('an answer to a search is accepted only with a permitted location', async (t) => {
  for (const { why, packet, is } of LOCATIONS) t.equal(locationIn(packet, '192.168.1.1')?.href, is, why)
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
  const ctl = urlAt('/ctl', '192.168.1.1', base)
  t.equal(ctl?.href, 'http://192.168.1.1:5000/ctl', 'a path is completed from the base')
  t.equal(urlAt('//evil.example/ctl', '192.168.1.1', base), undefined, 'a path that names another host is refused')
  t.equal(urlAt('http://[::1]/', '192.168.1.1', base), undefined, 'an address of another host is refused')
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

/** What the router says about itself: two services, of which the second makes mappings. */
function description(controlUrl: string): string {
  const service = (type: string, url: string) =>
    `<serviceList><service><serviceType>urn:schemas-upnp-org:service:${type}:1</serviceType><controlURL>${url}</controlURL></service></serviceList>`
  const inner = `<deviceList><device>${service('WANIPConnection', controlUrl)}</device></deviceList>`
  return `<root xmlns="urn:schemas-upnp-org:device-1-0"><device>${service('Layer3Forwarding', '/l3f')}${inner}</device></root>`
}

/** Answers a call of an action, and keeps it in words. */
function respond(it: FakeIgd, request: IncomingMessage, body: string, response: ServerResponse): void {
  const action = String(request.headers['soapaction']).replace(/^.*#|"$/g, '')
  const values = new Map([...body.matchAll(/<(New\w+)>([^<]*)</g)].map(([, name, value]) => [name!, value!]))
  const words = [action, ...['NewProtocol', 'NewExternalPort', 'NewLeaseDuration'].map((name) => values.get(name))]
  it.heard.push(words.filter(Boolean).join(' '))
  const said = it.answer(action, values)
  const isFault = 'fault' in said
  response.statusCode = isFault ? 500 : 200
  const inside = isFault
    ? `<s:Fault><detail><UPnPError><errorCode>\n ${said['fault']}\n</errorCode><errorDescription>${said['words'] ?? ''}</errorDescription></UPnPError></detail></s:Fault>`
    : `<u:${action}Response xmlns:u="x">${Object.entries(said)
        .map(([name, value]) => `<${name}>${value}</${name}>`)
        .join('')}</u:${action}Response>`
  response.end(`<?xml version="1.0"?><s:Envelope xmlns:s="x"><s:Body>${inside}</s:Body></s:Envelope>`)
}

/** A router that speaks UPnP only, on loopback. */
async function igd(): Promise<FakeIgd> {
  const server = createServer((request, response) => {
    if (it.page(request, response)) return
    if (request.method === 'GET') {
      response.end(description(it.controlUrl))
      return
    }
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => respond(it, request, Buffer.concat(chunks).toString(), response))
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
  const mapped = { state: 'mapped', dialect: 'upnp', tcp: '203.0.113.5:7472', udp: '203.0.113.5:7473' }
  t.match(running.state, mapped, 'both ports are mapped')
  const calls = [
    'AddPortMapping TCP 7472 3600',
    'GetExternalIPAddress',
    'AddPortMapping UDP 7473 3600',
    'GetExternalIPAddress',
  ]
  t.same(router.heard, calls, 'the router was asked for a mapping and its address, for each port')
  t.equal(rests[0]!.ms, 1_800_000, 'the mapping is renewed at half its life')
  router.heard.length = 0
  rests[0]!.end()
  await until(() => rests.length === 2)
  t.equal(router.heard[0], 'AddPortMapping TCP 7472 3600', 'the renewal begins with the same call')
  router.heard.length = 0
  await running[Symbol.asyncDispose]()
  t.same(
    router.heard,
    ['DeletePortMapping TCP 7472', 'DeletePortMapping UDP 7473'],
    'both mappings are deleted at the end',
  )
})

const PUBLIC = { NewExternalIPAddress: ' 203.0.113.5\n' }

/** What becomes of a wish for port 7472 when the router answers so, and the mappings that it is asked for. */
const ANSWERS: { why: string; answer: Answer; gets: object; adds: string[] }[] = [
  {
    why: 'a router that says yes makes the mapping',
    answer: () => PUBLIC,
    gets: { kind: 'mapped', mapped: { external: { port: 7_472, address: '203.0.113.5' } } },
    adds: ['7472 3600'],
  },
  {
    why: 'when the port is taken, another is asked for',
    answer: (action, values) =>
      action === 'AddPortMapping' && values.get('NewExternalPort') === '7472' ? { fault: 718 } : PUBLIC,
    gets: { kind: 'mapped', mapped: { external: { port: 20_001 } } },
    adds: ['7472 3600', '20001 3600'],
  },
  {
    why: 'when all ports are taken, it is refused with the words of the router',
    answer: () => ({ fault: 718, words: 'ConflictInMappingEntry' }),
    gets: { kind: 'refused', reason: 'ConflictInMappingEntry (718)' },
    adds: ['7472 3600', '20001 3600', '20002 3600'],
  },
  {
    why: 'a router that maps only for ever is asked without a lifetime, and the mapping is renewed all the same',
    answer: (action, values) =>
      action === 'AddPortMapping' && values.get('NewLeaseDuration') !== '0' ? { fault: 725 } : PUBLIC,
    gets: { kind: 'mapped', mapped: { lifetimeSeconds: 3_600 } },
    adds: ['7472 3600', '7472 0'],
  },
  {
    why: 'when it does not map for ever either, it is refused with the number of the error',
    answer: () => ({ fault: 725 }),
    gets: { kind: 'refused', reason: 'error 725' },
    adds: ['7472 3600', '7472 0'],
  },
  {
    why: 'a router that says no is not asked again, and its words are cleaned',
    answer: () => ({ fault: 606, words: 'Action\u0007 not\n authorized' }),
    gets: { kind: 'refused', reason: 'Action not authorized (606)' },
    adds: ['7472 3600'],
  },
  {
    why: 'a mapping without a usable address counts, without the address',
    answer: () => ({ NewExternalIPAddress: 'evil.example' }),
    gets: { kind: 'mapped', mapped: { external: { port: 7_472, address: undefined } } },
    adds: ['7472 3600'],
  },
]

const MAPPING = {
  protocol: 'tcp',
  port: 7_472,
  wanted: 7_472,
  lifetimeSeconds: 3_600,
  client: '192.168.1.10',
  others: [20_001, 20_002],
} as const

t.test('each answer of a UPnP router leads to the expected mapping or error', async (t) => {
  await using router = await igd()
  const found = (await readIgd(new URL(router.location), forever))!
  t.equal(found.service, 'urn:schemas-upnp-org:service:WANIPConnection:1', 'the service that maps is found')
  for (const { why, answer, gets, adds } of ANSWERS) {
    router.heard.length = 0
    router.answer = answer
    t.match(await mapByIgd(found, MAPPING, forever), gets, why)
    const asked = router.heard.filter((line) => line.startsWith('Add'))
    const expected = adds.map((line) => `AddPortMapping TCP ${line}`)
    t.same(asked, expected, `${why}: the router is asked for these mappings`)
  }
})

t.test('a UPnP router that maps a port only to the same port outside is asked for that', async (t) => {
  await using router = await igd()
  const found = (await readIgd(new URL(router.location), forever))!
  const wanted = { ...MAPPING, wanted: 20_000, others: [] }
  t.match(await mapByIgd(found, wanted, forever), { kind: 'mapped' }, 'another port outside is mapped where it may be')
  router.answer = (action, values) =>
    action === 'AddPortMapping' && values.get('NewExternalPort') !== '7472' ? { fault: 724 } : PUBLIC
  const mapped = { mapped: { external: { port: 7_472 } } }
  t.match(await mapByIgd(found, wanted, forever), mapped, 'after error 724 the port has the same number on both sides')
})

t.test('an answer to a search from any address but the gateway’s is dropped, wherever it points', async (t) => {
  // what is sent to the gateway reaches the forger too, which answers faster than the router
  const forger = await udp('127.0.0.2')
  const gateway = await udp('127.0.0.4')
  let heard = 0
  gateway.on('message', (_, from) => {
    heard += 1
    forger.send(answerOf('http://127.0.0.4:5000/rootDesc.xml'), from.port, from.address)
    forger.send(answerOf(`http://127.0.0.2:80/`), from.port, from.address)
  })
  const { clock } = patientClock()
  const found = await search({ gateway: '127.0.0.4', own: GATEWAY, port: gateway.address().port, clock }, forever)
  t.equal(found, undefined, 'no router is found')
  t.ok(heard > 0, 'the search was heard, and answered by the forger')
  for (const socket of [forger, gateway]) await new Promise<void>((resolve) => socket.close(() => resolve()))
})

/** Routers that try to make us contact another address, `elsewhere`, or that answer without end or sense. */
const SPOILED: { why: string; spoil: (it: FakeIgd, elsewhere: string) => void }[] = [
  {
    why: 'a router that says it is elsewhere',
    spoil: (it, elsewhere) => (it.says = () => `${elsewhere}/rootDesc.xml`),
  },
  { why: 'a router whose services are elsewhere', spoil: (it, elsewhere) => (it.controlUrl = `${elsewhere}/ctl`) },
  {
    why: 'a router that redirects elsewhere',
    spoil: (it, elsewhere) =>
      (it.page = (_, response) => {
        response.writeHead(302, { Location: `${elsewhere}/rootDesc.xml` }).end()
        return true
      }),
  },
  {
    why: 'a router whose base address is elsewhere',
    spoil: (it, elsewhere) =>
      (it.page = (request, response) => {
        if (request.method !== 'GET') return false
        response.end(
          `<root><URLBase>${elsewhere}</URLBase><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>${elsewhere}/ctl</controlURL></service></root>`,
        )
        return true
      }),
  },
  {
    why: 'a router whose description never ends',
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
    why: 'a router whose description is no XML',
    spoil: (it) =>
      (it.page = (_, response) => response.end('<!DOCTYPE x [<!ENTITY a "b">]><root>&a;</root>') !== undefined),
  },
]

t.test('no address but the gateway’s is contacted, whatever the router says', async (t) => {
  const calls: string[] = []
  const victim = createTcpServer((socket) => void calls.push(socket.on('error', () => undefined).remoteAddress ?? ''))
  victim.listen(0, '127.0.0.3')
  await once(victim, 'listening')
  const elsewhere = `http://127.0.0.3:${(victim.address() as AddressInfo).port}`
  await using nobody = await deaf()
  for (const { why, spoil } of SPOILED) {
    await using bad = await igd()
    spoil(bad, elsewhere)
    const { running, rests } = mapper(bad, nobody.port)
    await until(() => rests.length === 1)
    t.same(running.state, { state: 'refused', reason: 'no answer' }, `${why} counts as one that does not answer`)
    await running[Symbol.asyncDispose]()
  }
  t.same(calls, [], 'the other address was not contacted')
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
  t.ok(forged > 0, `the questions were answered from another address: ${forged} times`)
  t.same(running.state, { state: 'refused', reason: 'no answer' }, 'the forged answers count as none')
  await running[Symbol.asyncDispose]()
  for (const socket of [gateway, forger]) await new Promise<void>((resolve) => socket.close(() => resolve()))
})
