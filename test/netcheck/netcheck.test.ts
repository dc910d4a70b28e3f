import t, { type Test } from 'tap'
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
    { why: 'the usual home router is restricted', seen: {}, kind: 'restricted' },
    { why: 'nobody has looked yet, so the kind is not known', seen: { mapping: 'unknown' }, kind: undefined },
    {
      why: 'a NAT that lets in whom was written to, from any port, is open',
      seen: { filtering: 'address-dependent' },
      kind: 'open',
    },
    {
      why: 'a NAT of which it is not known whom it lets in counts as restricted',
      seen: { filtering: 'unknown' },
      kind: 'restricted',
    },
    {
      why: 'a NAT with another port for each receiver is symmetric',
      seen: { mapping: 'address-and-port-dependent', filtering: 'unknown' },
      kind: 'symmetric',
    },
    {
      why: 'no NAT and no strict firewall is public',
      seen: { mapping: 'none', filtering: 'address-dependent' },
      kind: 'public',
    },
    {
      why: 'no NAT but a strict firewall is restricted',
      seen: { mapping: 'none', filtering: 'address-and-port-dependent' },
      kind: 'restricted',
    },
    {
      why: 'a firewall that lets our port in is public',
      seen: { mapping: 'none', filtering: 'address-and-port-dependent', isPortOpen: true },
      kind: 'public',
    },
    {
      why: 'a firewall that does not let our port in is restricted',
      seen: { mapping: 'none', filtering: 'address-dependent', isPortOpen: false },
      kind: 'restricted',
    },
    {
      why: 'a port of the router that leads here makes even a symmetric NAT public',
      seen: { mapping: 'address-and-port-dependent', isMapped: true },
      kind: 'public',
    },
    {
      why: 'a network that only a proxy leads out of is enclosed',
      seen: { mapping: 'unknown', isEnclosed: true },
      kind: 'enclosed',
    },
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
  for (const own of NETWORKS)
    t.equal(
      NETWORKS.map((peer) => bestPath(own, peer)).join(' '),
      table[own],
      `from a network that is ${own}, to each kind`,
    )
  const ways = (rule = ANY_PATH) => expectedPaths('restricted', rule).map(({ way }) => way)
  t.equal(ways().join(' '), 'direct punched punched relayed relayed', 'without a rule each path may be used')
  t.equal(
    ways(readPathRule('direct-only')).join(' '),
    'direct punched punched none none',
    'a path that the rule forbids is not predicted',
  )
  t.equal(
    ways(readPathRule('relay-only')).join(' '),
    'relayed relayed relayed relayed relayed',
    'with relay-only nothing else is predicted',
  )
})

t.test('MTU and congestion control are read from a route', async (t) => {
  const rows: ReadonlyArray<{ why: string; text: string; metrics: object }> = [
    { why: 'a route without either', text: 'default via 192.168.1.1 proto dhcp metric 100 \n', metrics: {} },
    {
      why: 'a route with both',
      text: 'default via 192.168.1.1 mtu 1400 congctl bbr \n',
      metrics: { mtu: 1_400, congestion: 'bbr' },
    },
    {
      why: 'a route with both locked',
      text: 'default via 192.168.1.1 mtu lock 1400 congctl lock cubic\n',
      metrics: { mtu: 1_400, congestion: 'cubic' },
    },
    { why: 'no route', text: '', metrics: {} },
  ]
  for (const { why, text, metrics } of rows) t.same(routeMetrics(text), metrics, why)
})

t.test('a route is written again as a command needs it', async (t) => {
  const rows: ReadonlyArray<{ why: string; text: string; line: string | undefined }> = [
    {
      why: 'a route by DHCP stays as it is, with its device',
      text: 'default via 192.168.1.1 proto dhcp metric 100 \n',
      line: 'default via 192.168.1.1 dev eth0 proto dhcp metric 100',
    },
    {
      why: 'of two routes the one with the metric asked for is written',
      text: 'default via 10.0.0.1 metric 50\ndefault via 10.0.0.2 metric 100\n',
      line: 'default via 10.0.0.2 dev eth0 metric 100',
    },
    {
      why: 'a route without a gateway stays without',
      text: 'default scope link metric 100\n',
      line: 'default dev eth0 scope link metric 100',
    },
    {
      why: 'what says only how the route is at the moment is left out',
      text: 'default via fe80::1 proto ra metric 100 expires 1700sec pref medium linkdown\n',
      line: 'default via fe80::1 dev eth0 proto ra metric 100 pref medium',
    },
    {
      why: 'the congestion control is left out, for another one is to be written',
      text: 'default via 10.0.0.2 metric 100 congctl lock cubic mtu 1400\n',
      line: 'default via 10.0.0.2 dev eth0 metric 100 mtu 1400',
    },
    {
      why: 'a text that a shell would run gives no route',
      text: 'default via $(reboot) metric 100\n',
      line: undefined,
    },
    { why: 'no route gives none', text: '', line: undefined },
  ]
  for (const { why, text, line } of rows) t.equal(routeLine(text, { device: 'eth0', metric: 100 }), line, why)
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
    'a machine as it comes gets these four commands',
  )
  t.match(lines[0], /^# optional/, 'the script begins by saying that it is optional')
  const without = { ...LOCAL, settings: { 'net/ipv4/tcp_congestion_control': 'cubic' }, defaults: [] }
  t.same(
    tuningScript(tuningOf(without)).filter((line) => !line.startsWith('#')),
    ['modprobe tcp_bbr', 'sysctl -w net.ipv4.tcp_congestion_control=bbr'],
    'where no route is known, the congestion control is set for all',
  )
  const byRoute = { ...LOCAL, defaults: LOCAL.defaults.map((route) => ({ ...route, congestion: 'bbr' })) }
  t.same(
    tuningOf(byRoute).find(({ check }) => check === 'congestion control')?.commands,
    [],
    'a route that has bbr needs no command',
  )
  t.same(
    tuningScript(tuningOf({ settings: {}, defaults: [] })),
    ['# nothing to tune'],
    'a machine of which nothing is known gets no command',
  )
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
  t.equal(proxied.proxy, 'http://proxy.example:3128', 'the proxy is reported without its password')
  t.notMatch(JSON.stringify(proxied), /secret/, 'the password is nowhere in the facts')
  t.same(proxied.addresses, ['192.168.1.10'], 'the addresses are those of the network')
  t.match(proxied.settings, { 'net/ipv4/tcp_congestion_control': /^\w+$/ }, 'the kernel’s settings are there')
  t.type(proxied.defaults[0]?.mtu, 'number', 'the MTU of the default route is there')
  const odd = await localFacts({ isOutward, network, environment: { https_proxy: 'me:secret@proxy:3128' } })
  t.equal(odd.proxy, 'proxy:3128', 'a proxy without a scheme loses its password too')
  t.equal(
    (await localFacts({ isOutward, network, environment: {} })).proxy,
    undefined,
    'without a variable there is no proxy',
  )
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
    t.ok(isPrivate(address), `${address} is not public`)
  for (const address of ['203.0.113.5', '172.32.0.1', '100.63.0.1', '100.128.0.1', '2001:db8::1', '[2001:db8::1]'])
    t.notOk(isPrivate(address), `${address} is public`)
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

/** What is found under the name of a check. */
function found(check: string, agent: Partial<typeof AGENT> = {}, local: Partial<LocalFacts> = {}) {
  return findingsOf({ local: { ...LOCAL, ...local }, agent: { ...AGENT, ...agent } }).find((one) => one.check === check)
}

/** What is there, what is said of it, and what to do; without a remedy there is nothing to do. */
interface Row {
  why: string
  got: ReturnType<typeof found>
  finding: RegExp
  remedy?: RegExp
  ok?: boolean
}

function reported(t: Test, rows: readonly Row[]): void {
  for (const { why, got, finding, remedy, ok = true } of rows) {
    t.match(got?.finding, finding, `${why}: in words`)
    t.equal(got?.ok, ok, `${why}: ${ok ? 'fine' : 'not fine'}`)
    if (remedy === undefined) t.equal(got?.remedy, undefined, `${why}: nothing to be done`)
    else t.match(got?.remedy, remedy, `${why}: what to do`)
  }
}

t.test('what the machine has is reported in words, with a remedy where one helps', async (t) => {
  reported(t, [
    {
      why: 'an IPv4 address and its route',
      got: found('IPv4'),
      finding: /192\.168\.1\.10; default route by eth0 via 192\.168\.1\.1; private/,
    },
    { why: 'no IPv6 address', got: found('IPv6'), finding: /no address/ },
    {
      why: 'no IPv4 address: the network is down',
      got: found('IPv4', {}, { addresses: [] }),
      finding: /no address/,
      remedy: /DHCP/,
      ok: false,
    },
    { why: 'the MTU of the default route', got: found('MTU'), finding: /1500 \(eth0, ipv4\)/ },
    {
      why: 'a kernel that starts slowly after a pause',
      got: found('tcp_slow_start_after_idle'),
      finding: /slowly/,
      remedy: /Optional: sysctl/,
    },
    {
      why: 'a kernel that queues without limit',
      got: found('tcp_notsent_lowat'),
      finding: /unlimited/,
      remedy: /131072/,
    },
    {
      why: 'a kernel with cubic where bbr is there',
      got: found('congestion control'),
      finding: /cubic/,
      remedy: /congctl bbr/,
    },
    {
      why: 'a kernel with small receive buffers',
      got: found('rmem_max'),
      finding: /212992/,
      remedy: /rmem_max=4194304/,
    },
  ])
})

t.test('what gets out of the network is reported in words, with a remedy where one helps', async (t) => {
  reported(t, [
    {
      why: 'an HTTP proxy in the environment',
      got: found('HTTP proxy', {}, { proxy: 'http://p:1' }),
      finding: /http:\/\/p:1/,
      remedy: /relay/,
    },
    { why: 'a relay that answers', got: found('relays'), finding: /in 12\.3 ms/ },
    {
      why: 'a relay that does not answer',
      got: found('relays', { relays: [{ relay: 'wss://x/relay' }] }),
      finding: /does not answer/,
      remedy: /HTTPS/,
      ok: false,
    },
    { why: 'UDP that works', got: found('UDP'), finding: /works in both directions/ },
    { why: 'UDP that is blocked', got: found('UDP', { udpWorks: false }), finding: /blocked/, remedy: /Allow UDP out/ },
    { why: 'UDP that is switched off', got: found('UDP', { isUdpOn: false }), finding: /^off/ },
    { why: 'a rule for paths', got: found('paths', { paths: 'relay-only' }), finding: /relay-only/ },
  ])
})

t.test('what stands between the node and others is reported in words, with a remedy where one helps', async (t) => {
  reported(t, [
    {
      why: 'a NAT that can be punched',
      got: found('public address'),
      finding:
        /203\.0\.113\.101 by TCP; NAT with endpoint-independent mapping and address-and-port-dependent filtering; hole punching works/,
    },
    {
      why: 'a symmetric NAT',
      got: found('public address', { network: 'symmetric', mapping: 'address-dependent', filtering: 'unknown' }),
      finding: /NAT with address-dependent mapping; hole punching works only/,
      remedy: /--port-mapping/,
    },
    {
      why: 'a NAT seen from one address only',
      got: found('public address', { observers: 1 }),
      finding: /endpoint-independent mapping \(by one observer address only\)/,
    },
    {
      why: 'no NAT, but a firewall',
      got: found('public address', { mapping: 'none' }),
      finding: /203\.0\.113\.101.*; no NAT and address-and-port-dependent filtering; no NAT, but a firewall/,
    },
    {
      why: 'a network out of which only port 443 leads',
      got: found('public address', ENCLOSED),
      finding: /^203\.0\.113\.101, as the relay sees it \(over its own port\); mapping.*cannot be observed.*only HTTPS/,
      remedy: /--advertise/,
    },
    {
      why: 'a network out of which only a proxy leads',
      got: found('public address', { ...ENCLOSED, isProxied: true }),
      finding: /perhaps the address of the proxy/,
      remedy: /--advertise/,
    },
    {
      why: 'a NAT that hairpins',
      got: found('hairpin', { hairpin: { tcp: true, udp: true } }),
      finding: /^the NAT hairpins TCP and UDP$/,
    },
    {
      why: 'a NAT that hairpins UDP only',
      got: found('hairpin', { hairpin: { tcp: false, udp: true } }),
      finding: /^the NAT hairpins UDP; the NAT does not hairpin TCP$/,
      remedy: /through a relay/,
    },
    {
      why: 'a firewall before IPv6',
      got: found('public address by IPv6', { ipv6: SIX }),
      finding: /^\[2001:db8::5\]:4000; no NAT and .*; no NAT, but a firewall/,
    },
    {
      why: 'a firewall before IPv6 that lets the port of the tunnel in',
      got: found('public address by IPv6', { ipv6: { ...SIX, isPortOpen: true } }),
      finding: /others can dial this node/,
    },
  ])
})

t.test('port mapping is reported in words, with a remedy where one helps', async (t) => {
  reported(t, [
    {
      why: 'a port mapped by UPnP',
      got: found('port mapping', { portMapping: { state: 'mapped', dialect: 'upnp', tcp: '203.0.113.101:7472' } }),
      finding: /by UPnP/,
    },
    { why: 'no port mapping asked for', got: found('port mapping'), finding: /off/, remedy: /--port-mapping auto/ },
    {
      why: 'a port mapped by PCP',
      got: found('port mapping', { portMapping: { state: 'mapped', dialect: 'pcp', tcp: '203.0.113.101:20000' } }),
      finding: /203\.0\.113\.101:20000 \(TCP\) forwarded to this node by PCP/,
    },
    {
      why: 'a port mapped on a router that is behind another NAT',
      got: found('port mapping', { portMapping: { state: 'mapped', dialect: 'nat-pmp', tcp: '100.64.0.7:20000' } }),
      finding: /NAT-PMP/,
      remedy: /another NAT/,
    },
    {
      why: 'a router that maps no port',
      got: found('port mapping', { portMapping: { state: 'refused', reason: 'no answer' } }),
      finding: /none: no answer/,
      remedy: /--advertise/,
    },
  ])
})

t.test('a tuned kernel gets no hints', async (t) => {
  const tuned = {
    settings: {
      'net/ipv4/tcp_congestion_control': 'bbr',
      'net/ipv4/tcp_slow_start_after_idle': '0',
      'net/ipv4/tcp_notsent_lowat': '131072',
      'net/core/rmem_max': '8388608',
    },
  }
  const hints = findingsOf({ local: { ...LOCAL, ...tuned } }).filter(({ remedy }) => remedy?.startsWith('Optional'))
  t.same(hints, [], 'nothing optional is left to do')
})

t.test('without an agent the facts of the machine are still reported', async (t) => {
  const findings = findingsOf({ local: LOCAL })
  t.match(
    findings.find(({ check }) => check === 'agent'),
    { ok: true, finding: /not running/, remedy: /Start it/ },
    'that no agent runs is reported, with what to do',
  )
  t.notOk(
    findings.some(({ check }) => check === 'relays'),
    'nothing is said of relays, which only an agent knows',
  )
  t.ok(
    findings.every(({ ok }) => ok),
    'nothing is called wrong',
  )
})
