import t from 'tap'
import { vipRange, vipToIPv6 } from '../../src/core/model/address.ts'
import { answer, unknown, type AnswerSettings } from '../../resolver/answer.ts'
import { parseResolvConf, parseServer, withoutOurselves } from '../../resolver/resolv-conf.ts'
import { CART, explainChoice, RANGE, service, STOCK, WorldTable, ZONES } from './world.ts'

const TYPES = {
  A: 1,
  NS: 2,
  SOA: 6,
  PTR: 12,
  MX: 15,
  TXT: 16,
  AAAA: 28,
  SRV: 33,
  DS: 43,
  HTTPS: 65,
  IXFR: 251,
  AXFR: 252,
  MAILB: 253,
  MAILA: 254,
  ANY: 255,
}
type TypeName = keyof typeof TYPES
const settings: AnswerSettings = { zones: ZONES, range: RANGE, explainChoice }
const DUAL = vipRange('127.16.0.0/12', 'fd12:3456:789a::/48')
const HOST = vipRange('10.30.0.0/16')

/** Named and nameless ports, a service with a VIP outside block 0xe, upper case in the SLA. */
const MIXED = service('Web.Acme.Front.Prod', 0xf0001, ['80/tcp', '443/tcp', 'http:8000/tcp'], ['any.rr'])
const UDP = service('shop.acme.syslog.prod', 0xe0300, ['514/udp'], ['any.rr'])
const table = new WorldTable([CART, STOCK, MIXED, UDP])

const cart = 'shop.acme.cart.prod.any.rr.local'
/** `NOERROR`, `NODATA`, `NXDOMAIN`, … then what the records hold. */
function outcome(name: string, type: TypeName, { range = RANGE, qclass = 1, from = table } = {}): string {
  const decision = answer({ name, type: TYPES[type], class: qclass }, from, { ...settings, range })
  if (decision.kind === 'ask') return `ask ${decision.key}`
  if (decision.kind === 'ask-vip') return `ask-vip ${decision.vip.toString(16)}`
  if (decision.kind === 'forward') return 'forward'
  const show = (record: (typeof decision.records)[number]) => {
    switch (record.type) {
      case 'A':
      case 'AAAA':
        return `${record.type} ${record.address}`
      case 'SRV':
        return `SRV ${record.port} ${record.target}`
      case 'TXT':
        return `TXT ${record.strings.join('|')}`
      case 'SOA':
        return `SOA ${record.name}`
      case 'PTR':
      case 'NS':
        return `${record.type} ${record.target}`
      default:
        return record satisfies never
    }
  }
  const code = decision.code === 'NOERROR' && decision.records.length === 0 ? 'NODATA' : decision.code
  const more = decision.additionals.map((record) => `+${show(record)}`)
  const under = decision.authorities.map((record) => `[${show(record)}]`)
  return [code, ...decision.records.map(show), ...more, ...under].join(' ')
}

t.test('each question gets its expected answer', async (t) => {
  const rows: ReadonlyArray<{
    why: string
    ask: [string, TypeName]
    say: string
    with?: Parameters<typeof outcome>[2]
  }> = [
    { why: 'a VIP for a choice', ask: [cart, 'A'], say: 'NOERROR A 127.30.1.0' },
    {
      why: 'each choice has its own',
      ask: ['shop.acme.cart.prod.any.closest.local', 'A'],
      say: 'NOERROR A 127.30.1.1',
    },
    { why: 'one instance', ask: ['shop.acme.cart.prod.0.pinned.internal', 'A'], say: 'NOERROR A 127.30.1.4' },
    { why: 'the short form', ask: ['shop.acme.cart.any.rr.internal', 'A'], say: 'NOERROR A 127.30.1.0' },
    { why: 'the reversed form', ask: ['any.closest.cart.prod.shop.acme.local', 'A'], say: 'NOERROR A 127.30.1.1' },
    { why: 'case does not matter', ask: ['sHoP.Acme.CART.prod.Any.RR.LoCaL', 'A'], say: 'NOERROR A 127.30.1.0' },
    {
      why: 'another word for the policy',
      ask: ['shop.acme.cart.prod.any.round-robin.local', 'A'],
      say: 'NOERROR A 127.30.1.0',
    },
    { why: 'outside the first block', ask: ['web.acme.front.prod.any.rr.local', 'A'], say: 'NOERROR A 127.31.0.1' },
    { why: 'host mode', ask: [cart, 'A'], say: 'NOERROR A 10.30.1.0', with: { range: HOST } },
    {
      why: 'a VIP that the range leaves out exists without an address',
      ask: ['web.acme.front.prod.any.rr.local', 'A'],
      say: 'NODATA [SOA local]',
      with: { range: HOST },
    },

    {
      why: 'AAAA is NODATA, not NXDOMAIN, or resolvers that ask it first give up',
      ask: [cart, 'AAAA'],
      say: 'NODATA [SOA local]',
    },
    {
      why: 'AAAA where the range has IPv6',
      ask: [cart, 'AAAA'],
      say: `NOERROR AAAA ${vipToIPv6(DUAL, 0xe0100)}`,
      with: { range: DUAL },
    },
    { why: 'any other type', ask: ['shop.acme.cart.prod.any.rr.internal', 'MX'], say: 'NODATA [SOA internal]' },
    { why: 'no delegation', ask: [cart, 'DS'], say: 'NODATA [SOA local]' },
    { why: 'HTTPS records would only delay browsers', ask: [cart, 'HTTPS'], say: 'NODATA [SOA local]' },
    {
      why: 'ANY gets one record set (RFC 8482)',
      ask: [cart, 'ANY'],
      say: 'NOERROR A 127.30.1.0',
      with: { range: DUAL },
    },
    {
      why: 'TXT says what the choice means now',
      ask: [cart, 'TXT'],
      say: 'NOERROR TXT 0 edge/n1 running (shop.acme.cart.prod)|1 edge/n2 running',
    },

    {
      why: 'SRV by the name of a port',
      ask: [`_http._tcp.${cart}`, 'SRV'],
      say: `NOERROR SRV 8080 ${cart} +A 127.30.1.0`,
    },
    { why: 'SRV by number', ask: [`_8080._tcp.${cart}`, 'SRV'], say: `NOERROR SRV 8080 ${cart} +A 127.30.1.0` },
    {
      why: 'SRV points to the canonical name',
      ask: ['_8080._tcp.shop.acme.cart.any.rr.internal', 'SRV'],
      say: 'NOERROR SRV 8080 shop.acme.cart.prod.any.rr.internal +A 127.30.1.0',
    },
    {
      why: 'SRV with both families',
      ask: [`_9090._tcp.${cart}`, 'SRV'],
      say: `NOERROR SRV 9090 ${cart} +A 127.30.1.0 +AAAA ${vipToIPv6(DUAL, 0xe0100)}`,
      with: { range: DUAL },
    },
    { why: 'SRV over UDP', ask: [`_53._udp.${cart}`, 'SRV'], say: `NOERROR SRV 53 ${cart} +A 127.30.1.0` },
    {
      why: 'the only nameless port answers to any word',
      ask: [`_grpc._tcp.${cart}`, 'SRV'],
      say: `NOERROR SRV 9090 ${cart} +A 127.30.1.0`,
    },
    {
      why: 'of several nameless ports none does',
      ask: ['_grpc._tcp.web.acme.front.prod.any.rr.local', 'SRV'],
      say: 'NXDOMAIN [SOA local]',
    },
    {
      why: 'a port by its number has the protocol too',
      ask: [`_8080._udp.${cart}`, 'SRV'],
      say: 'NXDOMAIN [SOA local]',
    },
    { why: 'no such port', ask: [`_81._tcp.${cart}`, 'SRV'], say: 'NXDOMAIN [SOA local]' },
    { why: 'A at a service name is NODATA', ask: [`_http._tcp.${cart}`, 'A'], say: 'NODATA [SOA local]' },
    { why: 'ANY at a service name', ask: [`_http._tcp.${cart}`, 'ANY'], say: `NOERROR SRV 8080 ${cart} +A 127.30.1.0` },
    { why: 'above service names is empty', ask: [`_tcp.${cart}`, 'SRV'], say: 'NODATA [SOA local]' },
    {
      why: 'above no service names is nothing',
      ask: ['_tcp.shop.acme.syslog.prod.any.rr.local', 'SRV'],
      say: 'NXDOMAIN [SOA local]',
    },
    { why: 'SRV at the name itself', ask: [cart, 'SRV'], say: 'NODATA [SOA local]' },
    {
      why: 'SRV of an unknown service',
      ask: ['_http._tcp.shop.acme.cart.test.any.rr.local', 'SRV'],
      say: 'NXDOMAIN [SOA local]',
    },
    {
      why: 'SRV of a service nobody asked for',
      ask: ['_http._tcp.shop.acme.pay.prod.any.rr.local', 'SRV'],
      say: 'ask shop.acme.pay',
    },

    {
      why: 'PTR of a VIP',
      ask: ['1.1.30.127.in-addr.arpa', 'PTR'],
      say: 'NOERROR PTR shop.acme.cart.prod.any.closest.local',
    },
    {
      why: 'PTR of an instance',
      ask: ['4.1.30.127.in-addr.arpa', 'PTR'],
      say: 'NOERROR PTR shop.acme.cart.prod.0.pinned.local',
    },
    {
      why: 'PTR prints lower case',
      ask: ['1.0.31.127.IN-ADDR.ARPA', 'PTR'],
      say: 'NOERROR PTR web.acme.front.prod.any.rr.local',
    },
    { why: 'PTR of the resolver', ask: ['53.0.30.127.in-addr.arpa', 'PTR'], say: 'NOERROR PTR ns.local' },
    { why: 'PTR of a VIP the node does not know', ask: ['9.9.20.127.in-addr.arpa', 'PTR'], say: 'ask-vip 40909' },
    {
      why: 'PTR in host mode',
      ask: ['0.1.30.10.in-addr.arpa', 'PTR'],
      say: 'NOERROR PTR shop.acme.cart.prod.any.rr.local',
      with: { range: HOST },
    },
    { why: 'A at a reverse name', ask: ['1.1.30.127.in-addr.arpa', 'A'], say: 'NODATA [SOA 30.127.in-addr.arpa]' },
    { why: 'above reverse names', ask: ['1.30.127.in-addr.arpa', 'PTR'], say: 'NODATA [SOA 30.127.in-addr.arpa]' },
    {
      why: 'below a reverse name',
      ask: ['1.1.1.30.127.in-addr.arpa', 'PTR'],
      say: 'NXDOMAIN [SOA 30.127.in-addr.arpa]',
    },
    { why: 'no octet', ask: ['x.1.30.127.in-addr.arpa', 'PTR'], say: 'NXDOMAIN [SOA 30.127.in-addr.arpa]' },
    { why: 'SOA of a reverse zone', ask: ['30.127.in-addr.arpa', 'SOA'], say: 'NOERROR SOA 30.127.in-addr.arpa' },
    { why: 'NS of a reverse zone', ask: ['30.127.in-addr.arpa', 'NS'], say: 'NOERROR NS ns.local' },
    { why: 'reverse of the LAN is not ours', ask: ['1.1.168.192.in-addr.arpa', 'PTR'], say: 'forward' },
    { why: 'reverse of localhost is not ours', ask: ['1.0.0.127.in-addr.arpa', 'PTR'], say: 'forward' },
    {
      why: 'reverse beside a /16 is not ours',
      ask: ['1.1.31.10.in-addr.arpa', 'PTR'],
      say: 'forward',
      with: { range: HOST },
    },
    { why: 'arpa itself is not ours', ask: ['in-addr.arpa', 'PTR'], say: 'forward' },
    {
      why: 'PTR of IPv6',
      ask: [arpa6('fd123456789a'.padEnd(27, '0') + 'e0100'), 'PTR'],
      say: 'NOERROR PTR shop.acme.cart.prod.any.rr.local',
      with: { range: DUAL },
    },
    {
      why: 'IPv6 beyond the VIPs',
      ask: [arpa6('fd123456789a'.padEnd(25, '0') + '1e01000'), 'PTR'],
      say: 'NXDOMAIN [SOA a.9.8.7.6.5.4.3.2.1.d.f.ip6.arpa]',
      with: { range: DUAL },
    },
    {
      why: 'above reverse names of IPv6',
      ask: ['0.a.9.8.7.6.5.4.3.2.1.d.f.ip6.arpa', 'PTR'],
      say: 'NODATA [SOA a.9.8.7.6.5.4.3.2.1.d.f.ip6.arpa]',
      with: { range: DUAL },
    },
    { why: 'IPv6 of others', ask: [arpa6('20010db8'.padEnd(32, '0')), 'PTR'], say: 'forward', with: { range: DUAL } },
    { why: 'IPv6 where the range has none', ask: [arpa6('fd123456789a'.padEnd(32, '0')), 'PTR'], say: 'forward' },

    { why: 'SOA of a zone', ask: ['local', 'SOA'], say: 'NOERROR SOA local' },
    { why: 'NS of a zone', ask: ['Internal', 'NS'], say: 'NOERROR NS ns.internal' },
    { why: 'A of a zone', ask: ['local', 'A'], say: 'NODATA [SOA local]' },
    { why: 'ANY of a zone', ask: ['local', 'ANY'], say: 'NOERROR SOA local' },
    { why: 'the name server of a zone', ask: ['ns.internal', 'A'], say: 'NOERROR A 127.30.0.53' },
    { why: 'the name server has no IPv6 here', ask: ['ns.internal', 'AAAA'], say: 'NODATA [SOA internal]' },

    { why: 'a service nobody asked for', ask: ['shop.acme.pay.prod.any.rr.local', 'A'], say: 'ask shop.acme.pay' },
    {
      why: 'a service that does not exist',
      ask: ['shop.acme.cart.test.any.rr.local', 'A'],
      say: 'NXDOMAIN [SOA local]',
    },
    {
      why: 'an instance that does not exist',
      ask: ['shop.acme.cart.prod.7.pinned.local', 'A'],
      say: 'NXDOMAIN [SOA local]',
    },
    { why: 'a wrong policy word', ask: ['shop.acme.cart.prod.any.fastest.local', 'A'], say: 'NXDOMAIN [SOA local]' },
    {
      why: 'no name of ours, but in our zone: never forwarded',
      ask: ['printer.local', 'A'],
      say: 'NXDOMAIN [SOA local]',
    },
    { why: 'no host name at all', ask: ['a\\046b.local', 'A'], say: 'NXDOMAIN [SOA local]' },
    { why: 'below a name', ask: [`x.${cart}`, 'A'], say: 'NXDOMAIN [SOA local]' },

    { why: 'above names: policy', ask: ['rr.local', 'A'], say: 'NODATA [SOA local]' },
    { why: 'above names: choice', ask: ['any.rr.local', 'A'], say: 'NODATA [SOA local]' },
    { why: 'above names: service and choice', ask: ['cart.prod.any.rr.local', 'A'], say: 'NODATA [SOA local]' },
    { why: 'above short names', ask: ['acme.cart.any.rr.local', 'A'], say: 'NODATA [SOA local]' },
    { why: 'above reversed names', ask: ['cart.prod.shop.acme.local', 'A'], say: 'NODATA [SOA local]' },
    { why: 'above reversed names: an app', ask: ['shop.acme.local', 'A'], say: 'NODATA [SOA local]' },
    {
      why: 'above reversed names: all but the instance',
      ask: ['rr.cart.prod.shop.acme.local', 'A'],
      say: 'NODATA [SOA local]',
    },
    { why: 'above nothing', ask: ['cart.test.any.rr.local', 'A'], say: 'NXDOMAIN [SOA local]' },
    { why: 'half a label is no end', ask: ['me.local', 'A'], say: 'NXDOMAIN [SOA local]' },

    { why: 'other names go upstream', ask: ['example.org', 'A'], say: 'forward' },
    { why: 'the root too', ask: ['', 'NS'], say: 'forward' },
    { why: 'a zone must match at a dot', ask: ['notlocal', 'A'], say: 'forward' },
    { why: 'the zone in the middle is no zone', ask: ['local.example.org', 'A'], say: 'forward' },

    { why: 'zone transfer', ask: ['local', 'AXFR'], say: 'REFUSED' },
    { why: 'zone transfer of others', ask: ['example.org', 'IXFR'], say: 'REFUSED' },
    { why: 'obsolete', ask: ['local', 'MAILB'], say: 'NOTIMP' },
    { why: 'obsolete', ask: ['example.org', 'MAILA'], say: 'NOTIMP' },
    { why: 'CHAOS', ask: ['version.bind', 'TXT'], say: 'REFUSED', with: { qclass: 3 } },
    { why: 'class ANY', ask: [cart, 'A'], say: 'REFUSED', with: { qclass: 255 } },
  ]
  for (const { why, ask, say, with: world } of rows) t.equal(outcome(...ask, world), say, `${why}: ${ask.join(' ')}`)
})

t.test('a known service with nothing running still resolves, and TXT says so', async (t) => {
  const question = { name: cart, type: TYPES.TXT, class: 1 }
  const said = answer(question, table, { ...settings, explainChoice: () => [] })
  t.match(said, { records: [{ strings: ['no running instance'] }], isLasting: false })
  t.equal(outcome(cart, 'A'), 'NOERROR A 127.30.1.0', 'the table here has no instance at all')
})

t.test('refusals give the reason, and only those that hold until the table changes are cacheable', async (t) => {
  const ask = (name: string, type: TypeName = 'A') => answer({ name, type: TYPES[type], class: 1 }, table, settings)
  t.match(ask('shop.acme.cart.prod.any.closet.local'), { reason: /closet.*closest/, isLasting: false })
  t.match(ask('shop.acme.cart.test.any.rr.local'), { reason: 'no such service', isLasting: false })
  t.match(ask(cart), { isLasting: true, reason: undefined })
  t.match(ask(cart, 'AAAA'), { isLasting: true, reason: undefined })
  t.match(ask(cart, 'TXT'), { isLasting: false })
  t.match(unknown('9.9.20.127.in-addr.arpa', settings, 'x'), {
    code: 'NXDOMAIN',
    authorities: [{ name: '20.127.in-addr.arpa' }],
  })
  t.match(unknown('a.INTERNAL', settings, 'x'), { authorities: [{ name: 'internal' }] })
})

t.test('zones are those configured, the longest first', async (t) => {
  const ours = { ...settings, zones: ['mesh', 'edge.mesh'] }
  const ask = (name: string) => answer({ name, type: TYPES.A, class: 1 }, table, ours)
  t.match(ask('shop.acme.cart.prod.any.rr.edge.mesh'), { records: [{ address: '127.30.1.0' }] })
  t.match(ask('edge.mesh'), { code: 'NOERROR', authorities: [{ name: 'edge.mesh' }] })
  t.match(ask(cart), { kind: 'forward' }, '.local is then of others')
})

t.test('name servers are read from resolv.conf', async (t) => {
  const text = `# made by hand
nameserver 10.0.0.1
; nameserver 10.0.0.9
search corp.example
  nameserver\tfe80::1%eth0  # the router
nameserver not-an-address
nameserver 10.0.0.2
nameserver 10.0.0.3
options edns0`
  t.same(
    parseResolvConf(text).map(({ address }) => address),
    ['10.0.0.1', 'fe80::1%eth0', '10.0.0.2'],
  )
  t.same(parseResolvConf(''), [])
  const rows: ReadonlyArray<[string, string | undefined]> = [
    ['10.0.0.1', '10.0.0.1 53'],
    ['10.0.0.1:5353', '10.0.0.1 5353'],
    ['fd00::1', 'fd00::1 53'],
    ['[fd00::1]', 'fd00::1 53'],
    ['[fd00::1]:54', 'fd00::1 54'],
    ['[10.0.0.1]:54', undefined],
    ['10.0.0.1:0', undefined],
    ['10.0.0.1:65536', undefined],
    ['dns.example', undefined],
    ['', undefined],
  ]
  for (const [text, server] of rows) {
    const parsed = parseServer(text)
    t.equal(parsed && `${parsed.address} ${parsed.port}`, server, text)
  }
})

t.test('our own addresses are never used as upstream servers', async (t) => {
  const local = new Set(['192.168.1.5'])
  const left = (own: string, ...servers: string[]) =>
    withoutOurselves(
      servers.map((text) => parseServer(text) ?? { address: '', port: 0 }),
      parseServer(own) ?? { address: '', port: 0 },
      local,
    ).map(({ address, port }) => `${address}:${port}`)
  t.same(left('127.30.0.53', '127.30.0.53', '10.0.0.1'), ['10.0.0.1:53'])
  t.same(
    left('10.30.0.53', '10.30.0.53', '127.46.0.53', '127.0.0.53'),
    ['127.0.0.53:53'],
    'another agent; systemd-resolved',
  )
  t.same(left('127.0.0.1:5353', '127.0.0.1'), ['127.0.0.1:53'], 'another port')
  t.same(left('0.0.0.0:53', '192.168.1.5', '127.0.0.1', '192.168.1.6'), ['192.168.1.6:53'], 'listens everywhere')
})

function arpa6(nibbles: string): string {
  return `${Array.from(nibbles).toReversed().join('.')}.ip6.arpa`
}
