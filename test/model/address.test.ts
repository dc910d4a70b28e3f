import { isIPv4, isIPv6 } from 'node:net'
import fc from 'fast-check'
import t from 'tap'
import * as address from '../../src/core/model/address.ts'
import { instanceId, interestKey, interestOf, serviceId, splitInstanceId } from '../../src/core/model/ids.ts'

const ULA = 'fd12:3456:789a::/48'
const loopback = address.vipRange('127.16.0.0/12', ULA)
const host = address.vipRange('10.16.0.0/12')
const block = address.vipRange('10.30.0.0/16', ULA)

t.test('an index has the same meaning in every address mode', async (t) => {
  const rows = [
    {
      why: 'the resolver',
      index: address.RESOLVER_VIP,
      v4: '127.30.0.53',
      host: '10.30.0.53',
      v6: 'fd12:3456:789a::e:35',
    },
    { why: 'the first handed out', index: 0xe0100, v4: '127.30.1.0', host: '10.30.1.0', v6: 'fd12:3456:789a::e:100' },
    { why: 'as in the SLA', index: 0xe1e1e, v4: '127.30.30.30', host: '10.30.30.30', v6: 'fd12:3456:789a::e:1e1e' },
    { why: 'the smallest', index: 1, v4: '127.16.0.1', host: '10.16.0.1', v6: 'fd12:3456:789a::1' },
    { why: 'the largest', index: 0xfffff, v4: '127.31.255.255', host: '10.31.255.255', v6: 'fd12:3456:789a::f:ffff' },
    { why: 'low bits zero', index: 0xe0000, v4: '127.30.0.0', host: '10.30.0.0', v6: 'fd12:3456:789a::e:0' },
  ]
  for (const { why, index, v4, host: hostText, v6 } of rows) {
    t.equal(address.vipToIPv4(loopback, index), v4, why)
    t.equal(address.vipToIPv4(host, index), hostText, why)
    t.equal(address.vipToIPv6(loopback, index), v6, why)
    t.equal(address.ipv4ToVip(loopback, v4), index, why)
    t.equal(address.ipv6ToVip(loopback, v6), index, why)
    t.equal(address.addressToVip(loopback, v4), index, why)
    t.equal(address.addressToVip(loopback, v6), index, why)
    t.equal(address.addressToVip(loopback, `::ffff:${v4}`), index, `${why}, seen by a dual-stack socket`)
  }
  t.equal(address.vipToIPv6(host, 1), undefined, 'without a prefix there is no IPv6')
})

t.test('an address outside our prefixes is not a VIP', async (t) => {
  for (const text of [
    '127.32.0.1',
    '127.15.255.255',
    '10.30.1.0',
    '127.30.1',
    '127.30.1.0.0',
    '127.30.01.0',
    '127.30.1.256',
    ' 127.30.1.0',
    '127.30.1.0 ',
    '',
    '127.30..1',
    '127.30.1.',
  ]) {
    t.equal(address.ipv4ToVip(loopback, text), undefined, text)
  }
  for (const text of [
    'fd12:3456:789b::e:1',
    'fd12:3456:789a:1::e:1',
    'fd12:3456:789a::10:1',
    'fd12:3456:789a::1:e:1',
    '::ffff:10.30.1.0',
    '::1',
    '::',
    '',
    ':',
    ':::',
    '1::2::3',
    'fd12:3456:789a:0:0:0:e:1:',
    'fe80::1%eth0',
    'fd12:3456:789a::0e:00001',
    '1:2:3:4:5:6:7:8:9',
    '::ffff:1.2.3.4:5',
  ]) {
    t.equal(address.ipv6ToVip(loopback, text), undefined, text)
  }
  t.equal(address.ipv6ToVip(loopback, 'FD12:3456:789A:0:0:0:E:0001'), 0xe0001, 'other spellings of ours are ours')
})

t.test('a /16 is one block of the /12 around it', async (t) => {
  t.equal(block.base4, host.base4)
  t.same([block.first, block.last], [0xe0000, 0xeffff])
  t.equal(address.ipv4ToVip(block, '10.30.1.0'), 0xe0100)
  t.equal(address.ipv4ToVip(block, '10.29.1.0'), undefined)
  t.equal(address.addressToVip(block, '::ffff:10.29.1.0'), undefined)
  t.ok(address.holdsVip(block, 0xe0100), 'the first address of the block belongs to it')
  t.notOk(address.holdsVip(block, 0xf0000), 'the address after the block does not')
})

t.test('prefixes are checked on arrival', async (t) => {
  const rows = [
    { cidr: '10.17.0.0/12', says: '10.16.0.0/12 is' },
    { cidr: '10.30.1.0/16', says: '10.30.0.0/16 is' },
    { cidr: '10.0.0.0/8', says: 'a /12 or a /16' },
    { cidr: '10.30.0.0/24', says: 'a /12 or a /16' },
    { cidr: '10.16.0.0', says: 'not a prefix' },
    { cidr: '10.16.0/12', says: 'not a prefix' },
    { cidr: '300.16.0.0/12', says: 'not a prefix' },
    { cidr: '', says: 'not a prefix' },
  ]
  for (const { cidr, says } of rows)
    t.throws(() => address.vipRange(cidr), { name: 'RangeError', message: new RegExp(says) }, cidr)
  for (const cidr6 of [
    'fd12::/64',
    'fd12:3456:789a:1::/48',
    'fd12:3456:789a::1/48',
    'zz::/48',
    'fd12::',
    '10.0.0.0/48',
  ]) {
    t.throws(() => address.vipRange('10.16.0.0/12', cidr6), { name: 'RangeError' }, cidr6)
  }
})

t.test(
  'VIPs are assigned from the upper half of the first block, its lower half, then the rest, each once',
  async (t) => {
    const seen = new Set<number>()
    let first: number | undefined
    let last: number | undefined
    let allAllocatable = true
    for (let vip = address.nextVip(); vip !== undefined; vip = address.nextVip(vip)) {
      first ??= vip
      last = vip
      allAllocatable &&= address.isAllocatable(vip)
      seen.add(vip)
    }
    t.equal(first, 0xe8000)
    t.equal(last, 0xdffff)
    t.ok(allAllocatable, 'every address that is handed out may be allocated')
    // all but the agent's own 256, the ends of the /12, and the last address of the first block
    t.equal(seen.size, address.VIP_COUNT - 256 - 2 - 1)
    t.equal(address.nextVip(0xefffe), 0xe0100, 'after the upper half the lower one')
    t.equal(address.nextVip(0xe7fff), 0xf0000, 'after the first block the next')
    t.equal(address.nextVip(0xffffe), 1, 'around the end')
    for (const index of [0, 0xfffff, 0xe0000, 0xe0035, 0xe00ff, 0xeffff, -1, 0x100000, 1.5, Number.NaN]) {
      t.notOk(address.isAllocatable(index), String(index))
    }
  },
)

t.test('reverse names are formatted and parsed', async (t) => {
  t.equal(address.ipv4FromArpa('53.0.30.127.in-addr.arpa'), '127.30.0.53')
  t.equal(address.ipv4FromArpa('53.0.30.127.IN-ADDR.arpa.'), '127.30.0.53')
  const v6 = 'fd12:3456:789a::e:123'
  const nibbles = 'fd123456789a000000000000000e0123'.split('').toReversed().join('.')
  t.equal(address.ipv6FromArpa(`${nibbles}.ip6.arpa`), v6)
  t.equal(address.ipv6FromArpa(`${nibbles.toUpperCase()}.IP6.ARPA.`), v6)
  for (const name of [
    '',
    'in-addr.arpa',
    '.in-addr.arpa',
    '1.2.3.in-addr.arpa',
    '256.0.30.127.in-addr.arpa',
    'a.b.c.d.in-addr.arpa',
    '1.2.3.4.5.in-addr.arpa',
    '1.2.3.4.ip6.arpa',
  ]) {
    t.equal(address.ipv4FromArpa(name), undefined, name)
  }
  for (const name of [
    '',
    'ip6.arpa',
    `${nibbles}.in-addr.arpa`,
    `0.${nibbles}.ip6.arpa`,
    `${nibbles.slice(2)}.ip6.arpa`,
    `${nibbles.replace('a', 'g')}.ip6.arpa`,
    `${nibbles.replaceAll('.', '-')}.ip6.arpa`,
  ]) {
    t.equal(address.ipv6FromArpa(name), undefined, name)
  }
})

t.test('a mesh always has the same ULA /48 of its own', async (t) => {
  t.equal(address.ulaPrefix('shop'), address.ulaPrefix('shop'))
  t.not(address.ulaPrefix('shop'), address.ulaPrefix('shop2'))
  t.match(address.ulaPrefix('shop'), /^fd[0-9a-f]{2}:/)
  fc.assert(
    fc.property(fc.string(), (mesh) => address.vipRange('10.16.0.0/12', address.ulaPrefix(mesh)).prefix6 !== undefined),
  )
})

t.test('every index survives a round trip through its address', async () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 0xfffff }), fc.constantFrom(loopback, block), (index, range) => {
      const v6 = address.vipToIPv6(range, index) as string
      const v4 = address.vipToIPv4(range, index)
      return (
        address.ipv6ToVip(range, v6) === index &&
        address.ipv4ToVip(range, v4) === (address.holdsVip(range, index) ? index : undefined) &&
        address.ipv4FromArpa(`${v4.split('.').toReversed().join('.')}.in-addr.arpa`) === v4
      )
    }),
  )
})

t.test('addresses are parsed as Node parses them', async () => {
  fc.assert(
    fc.property(
      fc.oneof(fc.ipV4(), fc.string({ unit: fc.constantFrom('0', '1', '2', '5', '.') }), fc.string()),
      (text) => {
        return (address.parseIPv4(text) !== undefined) === isIPv4(text)
      },
    ),
  )
  const pieces = fc.array(fc.constantFrom('0', 'a', 'ffff', '12345', ':', '::', '.', '1.2.3.4'), { maxLength: 12 })
  fc.assert(
    fc.property(
      fc.oneof(
        fc.ipV6(),
        pieces.map((words) => words.join('')),
        fc.string(),
      ),
      (text) => {
        const hextets = address.parseIPv6(text)
        if ((hextets !== undefined) !== (isIPv6(text) && !text.includes('%'))) return false
        if (hextets === undefined) return true
        const printed = address.printIPv6(hextets)
        // WHATWG URLs print as RFC 5952 does
        return printed === new URL(`http://[${text}]/`).hostname.slice(1, -1)
      },
    ),
    { numRuns: 1_000 },
  )
})

t.test('service and instance ids are built and split, and malformed ones are refused', async (t) => {
  const parts = { app: 'Shop', appNamespace: 'acme', service: 'cart', serviceNamespace: 'prod' }
  const id = serviceId(parts)
  t.equal(id, 'shop.acme.cart.prod')
  t.equal(interestOf(id), interestKey(parts))
  t.same(splitInstanceId(instanceId(id, 3)), { service: id, ordinal: 3 })
  for (const bad of ['', id, `${id}.x`, `${id}.1234567`, `${id}.1.2`]) t.equal(splitInstanceId(bad), undefined, bad)
})
