import t, { type Test } from 'tap'
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

/** One question and what must come of it: `why` says the situation and the right answer. */
interface Row {
  why: string
  ask: [name: string, type: TypeName]
  say: string
  with?: Parameters<typeof outcome>[2]
}

function answers(t: Test, rows: readonly Row[]): void {
  for (const { why, ask, say, with: world } of rows) t.equal(outcome(...ask, world), say, `${why}: ${ask.join(' ')}`)
}

t.test('a name of ours resolves to its VIP, however it is written', async (t) => {
  answers(t, [
    { why: 'a choice has a VIP', ask: [cart, 'A'], say: 'NOERROR A 127.30.1.0' },
    {
      why: 'another choice of the same service has another VIP',
      ask: ['shop.acme.cart.prod.any.closest.local', 'A'],
      say: 'NOERROR A 127.30.1.1',
    },
    {
      why: 'one instance has a VIP of its own',
      ask: ['shop.acme.cart.prod.0.pinned.internal', 'A'],
      say: 'NOERROR A 127.30.1.4',
    },
    {
      why: 'the short form, without the namespace, means the same VIP',
      ask: ['shop.acme.cart.any.rr.internal', 'A'],
      say: 'NOERROR A 127.30.1.0',
    },
    {
      why: 'the reversed form means the same VIP',
      ask: ['any.closest.cart.prod.shop.acme.local', 'A'],
      say: 'NOERROR A 127.30.1.1',
    },
    {
      why: 'upper and lower case mean the same name',
      ask: ['sHoP.Acme.CART.prod.Any.RR.LoCaL', 'A'],
      say: 'NOERROR A 127.30.1.0',
    },
    {
      why: 'another word for the policy means the same VIP',
      ask: ['shop.acme.cart.prod.any.round-robin.local', 'A'],
      say: 'NOERROR A 127.30.1.0',
    },
    {
      why: 'a VIP outside the first block has its address too',
      ask: ['web.acme.front.prod.any.rr.local', 'A'],
      say: 'NOERROR A 127.31.0.1',
    },
    {
      why: 'in host mode the address lies in the range of the host',
      ask: [cart, 'A'],
      say: 'NOERROR A 10.30.1.0',
      with: { range: HOST },
    },
    {
      why: 'a VIP that the range leaves out exists without an address',
      ask: ['web.acme.front.prod.any.rr.local', 'A'],
      say: 'NODATA [SOA local]',
      with: { range: HOST },
    },
  ])
})

t.test('a name of ours asked for another type has that record or no data, never NXDOMAIN', async (t) => {
  answers(t, [
    {
      why: 'AAAA is NODATA, not NXDOMAIN, or resolvers that ask it first give up',
      ask: [cart, 'AAAA'],
      say: 'NODATA [SOA local]',
    },
    {
      why: 'AAAA is an address where the range has IPv6',
      ask: [cart, 'AAAA'],
      say: `NOERROR AAAA ${vipToIPv6(DUAL, 0xe0100)}`,
      with: { range: DUAL },
    },
    {
      why: 'a type that no name of ours has is NODATA',
      ask: ['shop.acme.cart.prod.any.rr.internal', 'MX'],
      say: 'NODATA [SOA internal]',
    },
    { why: 'DS is NODATA: no name of ours is delegated', ask: [cart, 'DS'], say: 'NODATA [SOA local]' },
    {
      why: 'HTTPS is NODATA: such records would only delay browsers',
      ask: [cart, 'HTTPS'],
      say: 'NODATA [SOA local]',
    },
    {
      why: 'ANY gets one record set (RFC 8482)',
      ask: [cart, 'ANY'],
      say: 'NOERROR A 127.30.1.0',
      with: { range: DUAL },
    },
    {
      why: 'TXT says which instances the choice means now',
      ask: [cart, 'TXT'],
      say: 'NOERROR TXT 0 edge/n1 running (shop.acme.cart.prod)|1 edge/n2 running',
    },
  ])
})

t.test('SRV gives the port of a service and its address', async (t) => {
  answers(t, [
    {
      why: 'a port is found by its name',
      ask: [`_http._tcp.${cart}`, 'SRV'],
      say: `NOERROR SRV 8080 ${cart} +A 127.30.1.0`,
    },
    {
      why: 'a port is found by its number',
      ask: [`_8080._tcp.${cart}`, 'SRV'],
      say: `NOERROR SRV 8080 ${cart} +A 127.30.1.0`,
    },
    {
      why: 'SRV for a short name points to the canonical name',
      ask: ['_8080._tcp.shop.acme.cart.any.rr.internal', 'SRV'],
      say: 'NOERROR SRV 8080 shop.acme.cart.prod.any.rr.internal +A 127.30.1.0',
    },
    {
      why: 'where the range has IPv6 both addresses come along',
      ask: [`_9090._tcp.${cart}`, 'SRV'],
      say: `NOERROR SRV 9090 ${cart} +A 127.30.1.0 +AAAA ${vipToIPv6(DUAL, 0xe0100)}`,
      with: { range: DUAL },
    },
    {
      why: 'a UDP port is found under _udp',
      ask: [`_53._udp.${cart}`, 'SRV'],
      say: `NOERROR SRV 53 ${cart} +A 127.30.1.0`,
    },
    {
      why: 'the only nameless port answers to any word',
      ask: [`_grpc._tcp.${cart}`, 'SRV'],
      say: `NOERROR SRV 9090 ${cart} +A 127.30.1.0`,
    },
    {
      why: 'ANY at a service name gets its SRV',
      ask: [`_http._tcp.${cart}`, 'ANY'],
      say: `NOERROR SRV 8080 ${cart} +A 127.30.1.0`,
    },
  ])
})

t.test('SRV that names no port of a service has no data or does not exist', async (t) => {
  answers(t, [
    {
      why: 'of several nameless ports none answers to a word',
      ask: ['_grpc._tcp.web.acme.front.prod.any.rr.local', 'SRV'],
      say: 'NXDOMAIN [SOA local]',
    },
    {
      why: 'a TCP port does not exist under _udp',
      ask: [`_8080._udp.${cart}`, 'SRV'],
      say: 'NXDOMAIN [SOA local]',
    },
    {
      why: 'a number that is no port of the service does not exist',
      ask: [`_81._tcp.${cart}`, 'SRV'],
      say: 'NXDOMAIN [SOA local]',
    },
    { why: 'A at a service name is NODATA', ask: [`_http._tcp.${cart}`, 'A'], say: 'NODATA [SOA local]' },
    { why: 'the name above service names is NODATA', ask: [`_tcp.${cart}`, 'SRV'], say: 'NODATA [SOA local]' },
    {
      why: '_tcp above a service with UDP ports only does not exist',
      ask: ['_tcp.shop.acme.syslog.prod.any.rr.local', 'SRV'],
      say: 'NXDOMAIN [SOA local]',
    },
    { why: 'SRV at the name without a port is NODATA', ask: [cart, 'SRV'], say: 'NODATA [SOA local]' },
    {
      why: 'SRV of a namespace that the app does not have does not exist',
      ask: ['_http._tcp.shop.acme.cart.test.any.rr.local', 'SRV'],
      say: 'NXDOMAIN [SOA local]',
    },
    {
      why: 'SRV of a service that the table does not hold yet is asked for',
      ask: ['_http._tcp.shop.acme.pay.prod.any.rr.local', 'SRV'],
      say: 'ask shop.acme.pay',
    },
  ])
})

t.test('the reverse name of a VIP gives the name it belongs to', async (t) => {
  answers(t, [
    {
      why: 'the VIP of a choice gives the name of the choice',
      ask: ['1.1.30.127.in-addr.arpa', 'PTR'],
      say: 'NOERROR PTR shop.acme.cart.prod.any.closest.local',
    },
    {
      why: 'the VIP of an instance gives the name of the instance',
      ask: ['4.1.30.127.in-addr.arpa', 'PTR'],
      say: 'NOERROR PTR shop.acme.cart.prod.0.pinned.local',
    },
    {
      why: 'a name with upper case in its document is given in lower case',
      ask: ['1.0.31.127.IN-ADDR.ARPA', 'PTR'],
      say: 'NOERROR PTR web.acme.front.prod.any.rr.local',
    },
    {
      why: 'the address of the resolver gives the name server',
      ask: ['53.0.30.127.in-addr.arpa', 'PTR'],
      say: 'NOERROR PTR ns.local',
    },
    {
      why: 'a VIP that the node does not know is asked for',
      ask: ['9.9.20.127.in-addr.arpa', 'PTR'],
      say: 'ask-vip 40909',
    },
    {
      why: 'in host mode an address of the host range is a VIP',
      ask: ['0.1.30.10.in-addr.arpa', 'PTR'],
      say: 'NOERROR PTR shop.acme.cart.prod.any.rr.local',
      with: { range: HOST },
    },
    {
      why: 'an IPv6 VIP gives the same name',
      ask: [arpa6('fd123456789a'.padEnd(27, '0') + 'e0100'), 'PTR'],
      say: 'NOERROR PTR shop.acme.cart.prod.any.rr.local',
      with: { range: DUAL },
    },
  ])
})

t.test('in a reverse zone of ours a name that is no VIP has no data or does not exist', async (t) => {
  answers(t, [
    {
      why: 'A at a reverse name is NODATA',
      ask: ['1.1.30.127.in-addr.arpa', 'A'],
      say: 'NODATA [SOA 30.127.in-addr.arpa]',
    },
    {
      why: 'a name above reverse names is NODATA',
      ask: ['1.30.127.in-addr.arpa', 'PTR'],
      say: 'NODATA [SOA 30.127.in-addr.arpa]',
    },
    {
      why: 'a name below a reverse name does not exist',
      ask: ['1.1.1.30.127.in-addr.arpa', 'PTR'],
      say: 'NXDOMAIN [SOA 30.127.in-addr.arpa]',
    },
    {
      why: 'a label that is no octet does not exist',
      ask: ['x.1.30.127.in-addr.arpa', 'PTR'],
      say: 'NXDOMAIN [SOA 30.127.in-addr.arpa]',
    },
    {
      why: 'a reverse zone has its SOA',
      ask: ['30.127.in-addr.arpa', 'SOA'],
      say: 'NOERROR SOA 30.127.in-addr.arpa',
    },
    { why: 'a reverse zone has its name server', ask: ['30.127.in-addr.arpa', 'NS'], say: 'NOERROR NS ns.local' },
    {
      why: 'an IPv6 address beyond the VIPs does not exist',
      ask: [arpa6('fd123456789a'.padEnd(25, '0') + '1e01000'), 'PTR'],
      say: 'NXDOMAIN [SOA a.9.8.7.6.5.4.3.2.1.d.f.ip6.arpa]',
      with: { range: DUAL },
    },
    {
      why: 'a name above reverse names of IPv6 is NODATA',
      ask: ['0.a.9.8.7.6.5.4.3.2.1.d.f.ip6.arpa', 'PTR'],
      say: 'NODATA [SOA a.9.8.7.6.5.4.3.2.1.d.f.ip6.arpa]',
      with: { range: DUAL },
    },
  ])
})

t.test('reverse names of addresses that are not ours go upstream', async (t) => {
  answers(t, [
    { why: 'an address of the LAN is not ours', ask: ['1.1.168.192.in-addr.arpa', 'PTR'], say: 'forward' },
    { why: 'localhost is not ours', ask: ['1.0.0.127.in-addr.arpa', 'PTR'], say: 'forward' },
    {
      why: 'the /16 beside the host range is not ours',
      ask: ['1.1.31.10.in-addr.arpa', 'PTR'],
      say: 'forward',
      with: { range: HOST },
    },
    { why: 'arpa itself is not ours', ask: ['in-addr.arpa', 'PTR'], say: 'forward' },
    {
      why: 'an IPv6 address of others is not ours',
      ask: [arpa6('20010db8'.padEnd(32, '0')), 'PTR'],
      say: 'forward',
      with: { range: DUAL },
    },
    {
      why: 'no IPv6 address is ours where the range has none',
      ask: [arpa6('fd123456789a'.padEnd(32, '0')), 'PTR'],
      say: 'forward',
    },
  ])
})

t.test('a zone has its SOA and its name server', async (t) => {
  answers(t, [
    { why: 'a zone has its SOA', ask: ['local', 'SOA'], say: 'NOERROR SOA local' },
    { why: 'a zone has its name server', ask: ['Internal', 'NS'], say: 'NOERROR NS ns.internal' },
    { why: 'a zone has no address', ask: ['local', 'A'], say: 'NODATA [SOA local]' },
    { why: 'ANY of a zone gets its SOA', ask: ['local', 'ANY'], say: 'NOERROR SOA local' },
    { why: 'the name server has its address', ask: ['ns.internal', 'A'], say: 'NOERROR A 127.30.0.53' },
    {
      why: 'the name server has no IPv6 where the range has none',
      ask: ['ns.internal', 'AAAA'],
      say: 'NODATA [SOA internal]',
    },
  ])
})

t.test('a name in our zone that means nothing does not exist, and is never forwarded', async (t) => {
  answers(t, [
    {
      why: 'a service that the table does not hold yet is asked for first',
      ask: ['shop.acme.pay.prod.any.rr.local', 'A'],
      say: 'ask shop.acme.pay',
    },
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
    {
      why: 'a word that is no policy',
      ask: ['shop.acme.cart.prod.any.fastest.local', 'A'],
      say: 'NXDOMAIN [SOA local]',
    },
    { why: 'a name that is not a semantic name', ask: ['printer.local', 'A'], say: 'NXDOMAIN [SOA local]' },
    { why: 'a label that no host name may have', ask: ['a\\046b.local', 'A'], say: 'NXDOMAIN [SOA local]' },
    { why: 'a label below a name', ask: [`x.${cart}`, 'A'], say: 'NXDOMAIN [SOA local]' },
  ])
})

t.test('the end of a name that exists is NODATA, so that resolvers which ask label by label go on', async (t) => {
  answers(t, [
    { why: 'the policy alone', ask: ['rr.local', 'A'], say: 'NODATA [SOA local]' },
    { why: 'the choice alone', ask: ['any.rr.local', 'A'], say: 'NODATA [SOA local]' },
    { why: 'service, namespace and choice', ask: ['cart.prod.any.rr.local', 'A'], say: 'NODATA [SOA local]' },
    { why: 'the end of a short name', ask: ['acme.cart.any.rr.local', 'A'], say: 'NODATA [SOA local]' },
    { why: 'a reversed name without its choice', ask: ['cart.prod.shop.acme.local', 'A'], say: 'NODATA [SOA local]' },
    { why: 'the app of a reversed name', ask: ['shop.acme.local', 'A'], say: 'NODATA [SOA local]' },
    {
      why: 'a reversed name without its instance',
      ask: ['rr.cart.prod.shop.acme.local', 'A'],
      say: 'NODATA [SOA local]',
    },
    {
      why: 'the end of no name that exists is NXDOMAIN',
      ask: ['cart.test.any.rr.local', 'A'],
      say: 'NXDOMAIN [SOA local]',
    },
    { why: 'half a label is no end of a name: NXDOMAIN', ask: ['me.local', 'A'], say: 'NXDOMAIN [SOA local]' },
  ])
})

t.test('names outside our zones go upstream', async (t) => {
  answers(t, [
    { why: 'a name of others', ask: ['example.org', 'A'], say: 'forward' },
    { why: 'the root', ask: ['', 'NS'], say: 'forward' },
    { why: 'a name that ends like a zone, but not at a dot', ask: ['notlocal', 'A'], say: 'forward' },
    { why: 'a name with the zone in its middle', ask: ['local.example.org', 'A'], say: 'forward' },
  ])
})

t.test('zone transfers, obsolete types and other classes are turned down, whoever owns the name', async (t) => {
  answers(t, [
    { why: 'the transfer of a zone of ours is refused', ask: ['local', 'AXFR'], say: 'REFUSED' },
    { why: 'the transfer of a zone of others is refused', ask: ['example.org', 'IXFR'], say: 'REFUSED' },
    { why: 'the obsolete MAILB is not implemented for a name of ours', ask: ['local', 'MAILB'], say: 'NOTIMP' },
    {
      why: 'the obsolete MAILA is not implemented for a name of others',
      ask: ['example.org', 'MAILA'],
      say: 'NOTIMP',
    },
    { why: 'class CHAOS is refused', ask: ['version.bind', 'TXT'], say: 'REFUSED', with: { qclass: 3 } },
    { why: 'class ANY is refused', ask: [cart, 'A'], say: 'REFUSED', with: { qclass: 255 } },
  ])
})

t.test('a known service with nothing running still resolves, and TXT says so', async (t) => {
  const question = { name: cart, type: TYPES.TXT, class: 1 }
  const said = answer(question, table, { ...settings, explainChoice: () => [] })
  const saidSo = { records: [{ strings: ['no running instance'] }], isLasting: false }
  t.match(said, saidSo, 'TXT says that nothing runs, and this is not cached until the table changes')
  t.equal(
    outcome(cart, 'A'),
    'NOERROR A 127.30.1.0',
    'the name has its VIP although the table holds no instance at all',
  )
})

t.test('refusals give the reason, and only those that hold until the table changes are cacheable', async (t) => {
  const ask = (name: string, type: TypeName = 'A') => answer({ name, type: TYPES[type], class: 1 }, table, settings)
  t.match(
    ask('shop.acme.cart.prod.any.closet.local'),
    { reason: /closet.*closest/, isLasting: false },
    'a misspelt policy is named with the right word, and not kept',
  )
  t.match(
    ask('shop.acme.cart.test.any.rr.local'),
    { reason: 'no such service', isLasting: false },
    'a service that does not exist is named as such, and not kept',
  )
  t.match(ask(cart), { isLasting: true, reason: undefined }, 'an address holds until the table changes')
  t.match(ask(cart, 'AAAA'), { isLasting: true, reason: undefined }, 'no IPv6 address holds until the table changes')
  t.match(ask(cart, 'TXT'), { isLasting: false }, 'what runs now may change without the table')
  t.match(
    unknown('9.9.20.127.in-addr.arpa', settings, 'x'),
    { code: 'NXDOMAIN', authorities: [{ name: '20.127.in-addr.arpa' }] },
    'an unknown VIP does not exist, by the word of its reverse zone',
  )
  t.match(
    unknown('a.INTERNAL', settings, 'x'),
    { authorities: [{ name: 'internal' }] },
    'an unknown name does not exist, by the word of its zone, in whatever case it is written',
  )
})

t.test('zones are those configured, the longest first', async (t) => {
  const ours = { ...settings, zones: ['mesh', 'edge.mesh'] }
  const ask = (name: string) => answer({ name, type: TYPES.A, class: 1 }, table, ours)
  t.match(
    ask('shop.acme.cart.prod.any.rr.edge.mesh'),
    { records: [{ address: '127.30.1.0' }] },
    'a name in a configured zone resolves',
  )
  t.match(
    ask('edge.mesh'),
    { code: 'NOERROR', authorities: [{ name: 'edge.mesh' }] },
    'edge.mesh is a zone of its own, not a name in mesh',
  )
  t.match(ask(cart), { kind: 'forward' }, '.local belongs to others where it is not configured')
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
    'the first three name servers are read; comments, other lines and what is no address are left out',
  )
  t.same(parseResolvConf(''), [], 'an empty file names no server')
})

t.test('a name server is written as an address, with or without a port', async (t) => {
  const rows: ReadonlyArray<{ why: string; text: string; server: string | undefined }> = [
    { why: 'IPv4 alone has port 53', text: '10.0.0.1', server: '10.0.0.1 53' },
    { why: 'IPv4 with a port', text: '10.0.0.1:5353', server: '10.0.0.1 5353' },
    { why: 'IPv6 alone has port 53', text: 'fd00::1', server: 'fd00::1 53' },
    { why: 'IPv6 in brackets has port 53', text: '[fd00::1]', server: 'fd00::1 53' },
    { why: 'IPv6 in brackets with a port', text: '[fd00::1]:54', server: 'fd00::1 54' },
    { why: 'IPv4 in brackets is no server', text: '[10.0.0.1]:54', server: undefined },
    { why: 'port 0 is no port', text: '10.0.0.1:0', server: undefined },
    { why: 'port 65536 is no port', text: '10.0.0.1:65536', server: undefined },
    { why: 'a host name is no server: nobody could resolve it', text: 'dns.example', server: undefined },
    { why: 'nothing is no server', text: '', server: undefined },
  ]
  for (const { why, text, server } of rows) {
    const parsed = parseServer(text)
    t.equal(parsed && `${parsed.address} ${parsed.port}`, server, `${why}: "${text}"`)
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
  t.same(
    left('127.30.0.53', '127.30.0.53', '10.0.0.1'),
    ['10.0.0.1:53'],
    'the address we listen on is left out, another server stays',
  )
  t.same(
    left('10.30.0.53', '10.30.0.53', '127.46.0.53', '127.0.0.53'),
    ['127.0.0.53:53'],
    'another agent is left out as well, systemd-resolved stays',
  )
  t.same(left('127.0.0.1:5353', '127.0.0.1'), ['127.0.0.1:53'], 'a server on our address, but on another port, stays')
  t.same(
    left('0.0.0.0:53', '192.168.1.5', '127.0.0.1', '192.168.1.6'),
    ['192.168.1.6:53'],
    'who listens on every address leaves out each address of this machine',
  )
})

function arpa6(nibbles: string): string {
  return `${Array.from(nibbles).toReversed().join('.')}.ip6.arpa`
}
