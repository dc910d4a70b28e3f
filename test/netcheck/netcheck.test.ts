import t from 'tap'
import { ANY_PATH, readPathRule } from '../../src/core/model/path-rule.ts'
import { findingsOf, isPrivate } from '../../src/netcheck/findings.ts'
import { localFacts, routeLine, routeMetrics, type LocalFacts } from '../../src/netcheck/local.ts'
import { tuningOf, tuningScript } from '../../src/netcheck/tuning.ts'
import {
  NETWORKS,
  networkOf,
  bestPath,
  expectedPaths,
  type NetworkKind,
  type NetworkFacts,
} from '../../src/netcheck/expected-paths.ts'
import type { NetcheckReport } from '../../src/client/reports.ts'

t.test('each set of observations gives the right kind of network', async (t) => {
  const seen: NetworkFacts = {
    mapping: 'endpoint-independent',
    filtering: 'address-and-port-dependent',
    isMapped: false,
    isEnclosed: false,
  }
  const rows: Array<{ why: string; seen: Partial<NetworkFacts>; kind: NetworkKind | undefined }> = [
    { why: 'the usual home router', seen: {}, kind: 'restricted' },
    { why: 'nobody has looked yet', seen: { mapping: 'unknown' }, kind: undefined },
    { why: 'lets in whom was written to', seen: { filtering: 'address-dependent' }, kind: 'open' },
    { why: 'who is let in was not found out', seen: { filtering: 'unknown' }, kind: 'restricted' },
    {
      why: 'another port for each',
      seen: { mapping: 'address-and-port-dependent', filtering: 'unknown' },
      kind: 'symmetric',
    },
    { why: 'no NAT', seen: { mapping: 'none', filtering: 'address-dependent' }, kind: 'public' },
    {
      why: 'no NAT, a firewall',
      seen: { mapping: 'none', filtering: 'address-and-port-dependent' },
      kind: 'restricted',
    },
    {
      why: 'a firewall that knows our port',
      seen: { mapping: 'none', filtering: 'address-and-port-dependent', isPortOpen: true },
      kind: 'public',
    },
    {
      why: 'a firewall before our port',
      seen: { mapping: 'none', filtering: 'address-dependent', isPortOpen: false },
      kind: 'restricted',
    },
    {
      why: 'a port of the router leads here',
      seen: { mapping: 'address-and-port-dependent', isMapped: true },
      kind: 'public',
    },
    { why: 'only a proxy', seen: { mapping: 'unknown', isEnclosed: true }, kind: 'enclosed' },
  ]
  for (const { why, seen: changes, kind } of rows) t.equal(networkOf({ ...seen, ...changes }), kind, why)
})

t.test('the best path predicted between two networks is the one that was measured', async (t) => {
  const table: Readonly<Record<NetworkKind, string>> = {
    //          public   open     restricted symmetric enclosed
    public: 'direct reverse reverse reverse relayed',
    open: 'direct punched punched punched relayed',
    restricted: 'direct punched punched relayed relayed',
    symmetric: 'direct punched relayed relayed relayed',
    enclosed: 'relayed relayed relayed relayed relayed',
  }
  for (const own of NETWORKS) t.equal(NETWORKS.map((peer) => bestPath(own, peer)).join(' '), table[own], own)
  const ways = (rule = ANY_PATH) => expectedPaths('restricted', rule).map(({ way }) => way)
  t.equal(ways().join(' '), 'direct punched punched relayed relayed')
  t.equal(
    ways(readPathRule('direct-only')).join(' '),
    'direct punched punched none none',
    'a forbidden path is not reported',
  )
  t.equal(ways(readPathRule('relay-only')).join(' '), 'relayed relayed relayed relayed relayed')
})

t.test('MTU and congestion control are read from a route', async (t) => {
  const rows: ReadonlyArray<[text: string, metrics: object]> = [
    ['default via 192.168.1.1 proto dhcp metric 100 \n', {}],
    ['default via 192.168.1.1 mtu 1400 congctl bbr \n', { mtu: 1_400, congestion: 'bbr' }],
    ['default via 192.168.1.1 mtu lock 1400 congctl lock cubic\n', { mtu: 1_400, congestion: 'cubic' }],
    ['', {}],
  ]
  for (const [text, metrics] of rows) t.same(routeMetrics(text), metrics, text)
  const lines: ReadonlyArray<[why: string, text: string, line: string | undefined]> = [
    [
      'as it is',
      'default via 192.168.1.1 proto dhcp metric 100 \n',
      'default via 192.168.1.1 dev eth0 proto dhcp metric 100',
    ],
    [
      'the one that is meant',
      'default via 10.0.0.1 metric 50\ndefault via 10.0.0.2 metric 100\n',
      'default via 10.0.0.2 dev eth0 metric 100',
    ],
    ['without a gateway', 'default scope link metric 100\n', 'default dev eth0 scope link metric 100'],
    [
      'what passes is left out',
      'default via fe80::1 proto ra metric 100 expires 1700sec pref medium linkdown\n',
      'default via fe80::1 dev eth0 proto ra metric 100 pref medium',
    ],
    [
      'another congestion control',
      'default via 10.0.0.2 metric 100 congctl lock cubic mtu 1400\n',
      'default via 10.0.0.2 dev eth0 metric 100 mtu 1400',
    ],
    ['nothing for a shell to run', 'default via $(reboot) metric 100\n', undefined],
    ['none', '', undefined],
  ]
  for (const [why, text, line] of lines) t.equal(routeLine(text, { device: 'eth0', metric: 100 }), line, why)
})

t.test('tuning advice is reported and printed as a script, never run', async (t) => {
  const lines = tuningScript(tuningOf(LOCAL))
  t.same(
    lines.filter((line) => !line.startsWith('#')),
    [
      'sysctl -w net.ipv4.tcp_slow_start_after_idle=0',
      'sysctl -w net.ipv4.tcp_notsent_lowat=131072',
      'ip -4 route change default via 192.168.1.1 dev eth0 metric 100 congctl bbr',
      'sysctl -w net.core.rmem_max=4194304',
    ],
  )
  t.match(lines[0], /^# optional/)
  const without = { ...LOCAL, settings: { 'net/ipv4/tcp_congestion_control': 'cubic' }, defaults: [] }
  t.same(
    tuningScript(tuningOf(without)).filter((line) => !line.startsWith('#')),
    ['modprobe tcp_bbr', 'sysctl -w net.ipv4.tcp_congestion_control=bbr'],
    'where no route is known, for all',
  )
  const byRoute = { ...LOCAL, defaults: LOCAL.defaults.map((route) => ({ ...route, congestion: 'bbr' })) }
  t.same(tuningOf(byRoute).find(({ check }) => check === 'congestion control')?.commands, [], 'the route has it')
  t.same(tuningScript(tuningOf({ settings: {}, defaults: [] })), ['# nothing to tune'])
})

t.test('the facts of this machine are read', async (t) => {
  const network = {
    addresses: new Set(['192.168.1.10']),
    outward: ['192.168.1.10'],
    defaults: [{ family: 'ipv4', device: 'lo', gateway: '192.168.1.1', metric: 100 } as const],
  }
  const isOutward = () => true
  const proxied = await localFacts({
    isOutward,
    network,
    environment: { HTTPS_PROXY: 'http://me:secret@proxy.example:3128/' },
  })
  t.equal(proxied.proxy, 'http://proxy.example:3128', 'without the password')
  t.notMatch(JSON.stringify(proxied), /secret/)
  t.same(proxied.addresses, ['192.168.1.10'])
  t.match(proxied.settings, { 'net/ipv4/tcp_congestion_control': /^\w+$/ }, 'the kernel’s settings are there')
  t.type(proxied.defaults[0]?.mtu, 'number')
  const odd = await localFacts({ isOutward, network, environment: { https_proxy: 'me:secret@proxy:3128' } })
  t.equal(odd.proxy, 'proxy:3128')
  t.equal((await localFacts({ isOutward, network, environment: {} })).proxy, undefined)
})

t.test('an address is classified as public or not', async (t) => {
  for (const address of [
    '10.0.0.1',
    '172.16.0.1',
    '172.31.9.9',
    '192.168.1.1',
    '100.64.0.1',
    '100.127.0.1',
    'fd00::1',
    '[fd00::1]',
  ])
    t.ok(isPrivate(address), address)
  for (const address of ['203.0.113.5', '172.32.0.1', '100.63.0.1', '100.128.0.1', '2001:db8::1', '[2001:db8::1]'])
    t.notOk(isPrivate(address), address)
})

const LOCAL: LocalFacts = {
  addresses: ['192.168.1.10'],
  defaults: [
    {
      family: 'ipv4',
      device: 'eth0',
      gateway: '192.168.1.1',
      metric: 100,
      mtu: 1_500,
      route: 'default via 192.168.1.1 dev eth0 metric 100',
    },
  ],
  settings: {
    'net/ipv4/tcp_congestion_control': 'cubic',
    'net/ipv4/tcp_available_congestion_control': 'reno cubic bbr',
    'net/ipv4/tcp_slow_start_after_idle': '1',
    'net/ipv4/tcp_notsent_lowat': '4294967295',
    'net/core/rmem_max': '212992',
  },
}
const AGENT: NonNullable<NetcheckReport['agent']> = {
  node: 'edge/one',
  paths: 'any',
  listen: '0.0.0.0:7472',
  candidates: ['192.168.1.10:7472'],
  relays: [{ relay: 'wss://cluster:443/relay', rttMs: 12.34 }],
  tcp: '203.0.113.101',
  mapping: 'endpoint-independent',
  filtering: 'address-and-port-dependent',
  observers: 2,
  isProxied: false,
  isUdpOn: true,
  udpWorks: true,
  network: 'restricted',
  ways: [],
}

const SIX = {
  tcp: '[2001:db8::5]:4000',
  mapping: 'none',
  filtering: 'address-and-port-dependent',
  observers: 1,
  isPortOpen: false,
} as const
const ENCLOSED = { tcp: '', mapping: 'unknown', network: 'enclosed', relaySees: '203.0.113.101' } as const

t.test('each finding is reported in words with a remedy', async (t) => {
  const of = (check: string, agent: Partial<typeof AGENT> = {}, local: Partial<LocalFacts> = {}) =>
    findingsOf({ local: { ...LOCAL, ...local }, agent: { ...AGENT, ...agent } }).find((one) => one.check === check)
  const rows: Array<{ why: string; got: ReturnType<typeof of>; finding: RegExp; remedy?: RegExp; ok?: boolean }> = [
    { why: 'IPv4', got: of('IPv4'), finding: /192\.168\.1\.10; default route by eth0 via 192\.168\.1\.1; private/ },
    { why: 'IPv6', got: of('IPv6'), finding: /no address/ },
    { why: 'no network', got: of('IPv4', {}, { addresses: [] }), finding: /no address/, remedy: /DHCP/, ok: false },
    { why: 'proxy', got: of('HTTP proxy', {}, { proxy: 'http://p:1' }), finding: /http:\/\/p:1/, remedy: /relay/ },
    { why: 'relay', got: of('relays'), finding: /in 12\.3 ms/ },
    {
      why: 'no relay',
      got: of('relays', { relays: [{ relay: 'wss://x/relay' }] }),
      finding: /does not answer/,
      remedy: /HTTPS/,
      ok: false,
    },
    {
      why: 'NAT',
      got: of('public address'),
      finding:
        /203\.0\.113\.101 by TCP; NAT with endpoint-independent mapping and address-and-port-dependent filtering; hole punching works/,
    },
    {
      why: 'symmetric',
      got: of('public address', { network: 'symmetric', mapping: 'address-dependent', filtering: 'unknown' }),
      finding: /NAT with address-dependent mapping; hole punching works only/,
      remedy: /--port-mapping/,
    },
    {
      why: 'one observer address',
      got: of('public address', { observers: 1 }),
      finding: /endpoint-independent mapping \(by one observer address only\)/,
    },
    {
      why: 'a firewall, no NAT',
      got: of('public address', { mapping: 'none' }),
      finding: /203\.0\.113\.101.*; no NAT and address-and-port-dependent filtering; no NAT, but a firewall/,
    },
    {
      why: 'only 443 out',
      got: of('public address', ENCLOSED),
      finding: /^203\.0\.113\.101, as the relay sees it \(over its own port\); mapping.*cannot be observed.*only HTTPS/,
      remedy: /--advertise/,
    },
    {
      why: 'only a proxy out',
      got: of('public address', { ...ENCLOSED, isProxied: true }),
      finding: /perhaps the address of the proxy/,
      remedy: /--advertise/,
    },
    {
      why: 'hairpin',
      got: of('hairpin', { hairpin: { tcp: true, udp: true } }),
      finding: /^the NAT hairpins TCP and UDP$/,
    },
    {
      why: 'no hairpin',
      got: of('hairpin', { hairpin: { tcp: false, udp: true } }),
      finding: /^the NAT hairpins UDP; the NAT does not hairpin TCP$/,
      remedy: /through a relay/,
    },
    {
      why: 'IPv6 outside',
      got: of('public address by IPv6', { ipv6: SIX }),
      finding: /^\[2001:db8::5\]:4000; no NAT and .*; no NAT, but a firewall/,
    },
    {
      why: 'IPv6, and the port of the tunnel is let in',
      got: of('public address by IPv6', { ipv6: { ...SIX, isPortOpen: true } }),
      finding: /others can dial this node/,
    },
    {
      why: 'UPnP',
      got: of('port mapping', { portMapping: { state: 'mapped', dialect: 'upnp', tcp: '203.0.113.101:7472' } }),
      finding: /by UPnP/,
    },
    { why: 'UDP', got: of('UDP'), finding: /works in both directions/ },
    { why: 'UDP blocked', got: of('UDP', { udpWorks: false }), finding: /blocked/, remedy: /Allow UDP out/ },
    { why: 'UDP off', got: of('UDP', { isUdpOn: false }), finding: /^off/ },
    { why: 'no mapping asked for', got: of('port mapping'), finding: /off/, remedy: /--port-mapping auto/ },
    {
      why: 'mapped',
      got: of('port mapping', { portMapping: { state: 'mapped', dialect: 'pcp', tcp: '203.0.113.101:20000' } }),
      finding: /203\.0\.113\.101:20000 \(TCP\) forwarded to this node by PCP/,
    },
    {
      why: 'mapped behind a carrier’s NAT',
      got: of('port mapping', { portMapping: { state: 'mapped', dialect: 'nat-pmp', tcp: '100.64.0.7:20000' } }),
      finding: /NAT-PMP/,
      remedy: /another NAT/,
    },
    {
      why: 'refused',
      got: of('port mapping', { portMapping: { state: 'refused', reason: 'no answer' } }),
      finding: /none: no answer/,
      remedy: /--advertise/,
    },
    { why: 'rule', got: of('paths', { paths: 'relay-only' }), finding: /relay-only/ },
    { why: 'MTU', got: of('MTU'), finding: /1500 \(eth0, ipv4\)/ },
    { why: 'idle', got: of('tcp_slow_start_after_idle'), finding: /slowly/, remedy: /Optional: sysctl/ },
    { why: 'unsent', got: of('tcp_notsent_lowat'), finding: /unlimited/, remedy: /131072/ },
    { why: 'bbr', got: of('congestion control'), finding: /cubic/, remedy: /congctl bbr/ },
    { why: 'receive buffer', got: of('rmem_max'), finding: /212992/, remedy: /rmem_max=4194304/ },
  ]
  for (const { why, got, finding, remedy, ok = true } of rows) {
    t.match(got?.finding, finding, why)
    t.equal(got?.ok, ok, `${why}: ${ok ? 'fine' : 'not fine'}`)
    if (remedy === undefined) t.equal(got?.remedy, undefined, `${why}: nothing to be done`)
    else t.match(got?.remedy, remedy, `${why}: what to do`)
  }
  const tuned = {
    settings: {
      'net/ipv4/tcp_congestion_control': 'bbr',
      'net/ipv4/tcp_slow_start_after_idle': '0',
      'net/ipv4/tcp_notsent_lowat': '131072',
      'net/core/rmem_max': '8388608',
    },
  }
  const hints = findingsOf({ local: { ...LOCAL, ...tuned } }).filter(({ remedy }) => remedy?.startsWith('Optional'))
  t.same(hints, [], 'a tuned kernel gets no hints')
})

t.test('without an agent the facts of the machine are still reported', async (t) => {
  const findings = findingsOf({ local: LOCAL })
  t.match(
    findings.find(({ check }) => check === 'agent'),
    { ok: true, finding: /not running/, remedy: /Start it/ },
  )
  t.notOk(findings.some(({ check }) => check === 'relays'))
  t.ok(findings.every(({ ok }) => ok))
})
