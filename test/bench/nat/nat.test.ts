import t from 'tap'
import { bestPossible, isAtLeast, NETWORKS, rounds, sitesOf, straight, type Network } from './kinds.ts'
import { linkShort, linkTableOf, type LinkRow } from './links.ts'
import { shortOf, summaryOf, tableOf, type PairRow } from './matrix.ts'

function network(name: string): Network {
  const found = NETWORKS.find((one) => one.name === name)
  if (found === undefined) throw new Error(`no network ${name}`)
  return found
}

t.test('the best path between two networks', async (t) => {
  const rows = [
    { of: ['public', 'port'], best: 'reverse', back: 'direct', why: 'the one behind a NAT dials' },
    { of: ['public', 'symmetric'], best: 'reverse', back: 'direct', why: 'any NAT lets it dial' },
    { of: ['public', 'six'], best: 'reverse', back: 'direct', why: 'they have IPv6 in common' },
    { of: ['public', 'web'], best: 'relayed', back: 'relayed', why: 'the port is not 443' },
    { of: ['public', 'office'], best: 'relayed', back: 'relayed', why: 'the proxy is the only way' },
    { of: ['port', 'port-near'], best: 'direct', why: 'the same network' },
    { of: ['cone', 'cone-near'], best: 'direct', why: 'the same network' },
    { of: ['port', 'port-twin'], best: 'punched', why: 'equal private addresses do not matter' },
    { of: ['rst', 'rst-twin'], best: 'punched', why: 'synchronised, both SYNs pass' },
    { of: ['customer', 'rst'], best: 'punched', why: 'two routers that keep a mapping are as good as one' },
    { of: ['cone', 'symmetric'], best: 'punched', why: 'anybody may write to a full cone' },
    { of: ['address', 'symmetric'], best: 'punched', why: 'from any port of an address that was written to' },
    { of: ['port', 'symmetric'], best: 'relayed', why: 'nobody knows the port' },
    { of: ['customer', 'symmetric'], best: 'relayed', why: 'nobody knows the port' },
    { of: ['symmetric', 'symmetric-twin'], best: 'relayed', why: 'nobody knows either port' },
    { of: ['no-udp', 'port'], best: 'punched', why: 'by TCP' },
    { of: ['six', 'firewall'], best: 'punched', why: 'two firewalls open for who is written to; IPv6 in common' },
    { of: ['public', 'firewall'], best: 'reverse', back: 'direct', why: 'the firewall lets it dial' },
    { of: ['firewall', 'port'], best: 'punched', why: 'by IPv4' },
    { of: ['firewall', 'symmetric'], best: 'relayed', why: 'only IPv4 in common' },
    { of: ['six', 'port'], best: 'relayed', why: 'no address family in common' },
    { of: ['web', 'office'], best: 'relayed', why: 'nothing else gets out' },
  ] as const
  for (const { of, best, why, ...rest } of rows) {
    const [a, b] = [network(of[0]), network(of[1])]
    t.equal(bestPossible(a, b, 'tcp'), best, `${of.join(' → ')}: ${why}`)
    t.equal(bestPossible(b, a, 'tcp'), 'back' in rest ? rest.back : best, of.toReversed().join(' → '))
    const datagrams = bestPossible(a, b, 'udp')
    t.ok(isAtLeast(datagrams, best), `datagrams are never worse off: ${datagrams}`)
  }
})

t.test('where sealed datagrams go', async (t) => {
  t.equal(straight(network('public'), network('port')), 'direct', 'whoever can, begins')
  t.equal(straight(network('port'), network('port-twin')), 'punched')
  t.equal(straight(network('no-udp'), network('port')), undefined)
  t.equal(straight(network('port'), network('symmetric')), undefined)
  t.equal(bestPossible(network('no-udp'), network('port'), 'udp'), 'punched', 'in frames then')
})

t.test('the order of paths', async (t) => {
  const rows = [
    { path: 'direct', wanted: 'punched', is: true },
    { path: 'punched', wanted: 'punched', is: true },
    { path: 'relayed', wanted: 'punched', is: false },
    { path: 'none', wanted: 'relayed', is: false },
    { path: undefined, wanted: 'relayed', is: false },
  ] as const
  for (const { path, wanted, is } of rows) t.equal(isAtLeast(path, wanted), is, `${path} for ${wanted}`)
})

t.test('rounds: every pair once, no node twice in a round', async (t) => {
  for (const count of [2, 5, 16]) {
    const all = Array.from({ length: count }, (_, i) => i)
    const pairs = rounds(all)
    const seen = pairs.flat().map(([a, b]) => [Math.min(a, b), Math.max(a, b)].join())
    t.equal(new Set(seen).size, (count * (count - 1)) / 2, `${count}: every pair`)
    t.equal(seen.length, new Set(seen).size, 'once')
    for (const round of pairs) t.equal(new Set(round.flat()).size, round.length * 2, 'no node twice')
  }
})

t.test('sites: nodes of one site together, the carrier above its customer', async (t) => {
  const sites = sitesOf(NETWORKS)
  t.same(sites['port-site']?.hosts, ['port', 'port-near'])
  t.equal(sites['cone-site']?.hairpin, true)
  t.equal(sites['customer-site']?.behind, 'carrier')
  t.ok(
    Object.keys(sites).indexOf('carrier') < Object.keys(sites).indexOf('customer-site'),
    'in the order they are built',
  )
  t.equal(sites['public-site'], undefined)
  const hosts = Object.values(sites).flatMap((site) => site.hosts)
  t.equal(hosts.length, NETWORKS.filter(({ mapping }) => mapping !== 'public').length, 'each is somewhere')
})

t.test('what a pair falls short of', async (t) => {
  const row: PairRow = {
    from: 'port',
    to: 'port-twin',
    protocol: 'tcp',
    connected: true,
    firstPath: 'relayed',
    settledPath: 'punched',
    bestPossible: 'punched',
    firstByteMs: 400,
    knownFirstByteMs: 103.9,
    rttMs: 100.2,
    settleMs: 4_000,
    mbps: 12,
    link: 'user-space: 25 + 25 ms',
  }
  const rows: readonly { row: PairRow; short: string[] }[] = [
    { row, short: [] },
    { row: { ...row, firstByteMs: 701 }, short: ['first byte after 701 of 700 ms'] },
    { row: { ...row, to: 'port-near', firstByteMs: 301 }, short: ['first byte after 301 of 300 ms'] },
    {
      row: { ...row, knownFirstByteMs: 105.3 },
      short: ['known: first byte after 105.3 ms, the round trip is 100.2 ms'],
    },
    { row: { ...row, settledPath: 'relayed' }, short: ['not punched'] },
    { row: { ...row, settleMs: 5_100 }, short: ['settled late'] },
    { row: { ...row, connected: false, settledPath: 'none', settleMs: 0 }, short: ['not connected'] },
  ]
  for (const { row, short } of rows) t.same(shortOf(row, 25), short, short.join() || 'nothing')
  t.match(
    tableOf([row], 25)[1],
    /^port +port-twin +tcp +relayed +punched +punched +400 ms +103.9 ms +100.2 ms +4000 ms +12.0$/,
  )
  t.same(summaryOf(rows.map((one) => one.row)), [
    'connected: 6 of 7',
    'on the best possible path: 5 of 7',
    'punchable and punched: 5 of 7',
  ])
})

t.test('what a figure over a bad link lacks', async (t) => {
  const row: LinkRow = {
    conditions: '25 ms, 1 % loss, 50 Mbit/s',
    measure: '20 flows',
    unit: '1/s',
    ours: 200,
    plain: 190,
    busy: 0.5,
    link: 'user-space',
    congestionControl: 'bbr',
  }
  const rows: readonly { row: LinkRow; short: string; why: string }[] = [
    { row, short: '', why: 'more requests' },
    { row: { ...row, ours: 180 }, short: 'NOT REACHED', why: 'fewer' },
    { row: { ...row, ours: 180, busy: 0.95 }, short: 'the processors were busy', why: 'it says nothing of the link' },
    { row: { ...row, measure: '20 flows, p95' }, short: 'NOT REACHED', why: 'later' },
    { row: { ...row, measure: '20 flows, p95', ours: 100 }, short: '', why: 'sooner' },
    { row: { ...row, measure: '8 streams, against one plain', ours: 44 }, short: 'NOT REACHED', why: 'slower' },
    { row: { ...row, conditions: '10 ms', measure: '8 streams, against one plain', ours: 44 }, short: '', why: 'told' },
  ]
  for (const { row, short, why } of rows) t.equal(linkShort(row), short, why)
  t.match(linkTableOf([row])[1], /^25 ms, 1 % loss, 50 Mbit\/s +20 flows +200.0 +190.0 +1\/s +1.05×$/)
})
