import type { NetcheckReport } from '../client/reports.ts'
import type { LocalFacts } from './local.ts'
import { tuningOf } from './tuning.ts'
import { networkOf, type NetworkKind } from './expected-paths.ts'

type Finding = NetcheckReport['findings'][number]
type Facts = Omit<NetcheckReport, 'findings'>

/** What the facts mean, each with a remedy where there is one. Not ok is only what keeps this node from all others. */
export function findingsOf(facts: Facts): Finding[] {
  return [
    ...['ipv4' as const, 'ipv6' as const].map((family) => familyFinding(facts, family)),
    ...(facts.local.proxy === undefined ? [] : [proxyFinding(facts.local.proxy)]),
    ...mtuFindings(facts.local),
    ...agentFindings(facts),
    ...tuningFindings(facts.local),
  ]
}

function familyFinding({ local }: Facts, family: 'ipv4' | 'ipv6'): Finding {
  const isIt = (address: string) => address.includes(':') === (family === 'ipv6')
  const addresses = local.addresses.filter(isIt)
  const route = local.defaults.find((route) => route.family === family)
  const check = family === 'ipv4' ? 'IPv4' : 'IPv6'
  if (addresses.length === 0) {
    const isAlone = local.addresses.length === 0
    return {
      check,
      ok: !isAlone,
      finding: 'no address',
      ...(isAlone ? { remedy: 'This machine has no network: check the cable or Wi-Fi, and the DHCP client.' } : {}),
    }
  }
  const way =
    route === undefined
      ? 'no default route'
      : `default route by ${route.device}${route.gateway ? ` via ${route.gateway}` : ''}`
  const isGlobal = addresses.some((address) => !isPrivate(address))
  return { check, ok: true, finding: `${addresses.join(', ')}; ${way}; ${isGlobal ? 'public' : 'private'} addresses` }
}

function proxyFinding(proxy: string): Finding {
  return {
    check: 'HTTP proxy',
    ok: true,
    finding: `links to the cluster and relays go through ${proxy}; paths to other nodes do not`,
    remedy: 'Flows go through a relay, unless the network also lets connections out without the proxy.',
  }
}

/** With less than this, a sealed datagram of the usual length is fragmented. */
const LEAST_MTU = 1_280

function mtuFindings({ defaults }: LocalFacts): Finding[] {
  const known = defaults.filter(({ mtu }) => mtu !== undefined)
  if (known.length === 0) return []
  const isSmall = known.some(({ mtu }) => (mtu ?? LEAST_MTU) < LEAST_MTU)
  return [
    {
      check: 'MTU',
      ok: true,
      finding: known.map(({ device, family, mtu }) => `${mtu} (${device}, ${family})`).join(', '),
      ...(isSmall ? { remedy: `Below ${LEAST_MTU} bytes, datagrams between nodes are fragmented.` } : {}),
    },
  ]
}

function agentFindings(facts: Facts): Finding[] {
  const { agent } = facts
  if (agent === undefined) {
    const finding = 'not running; what relays and other nodes see of this machine is not known'
    return [
      {
        check: 'agent',
        ok: true,
        finding,
        remedy: 'Start it (hedgerow agent or hedgerow up), then run netcheck again.',
      },
    ]
  }
  return [
    relayFinding(agent),
    publicFinding(agent),
    ...ipv6Findings(agent),
    ...hairpinFindings(agent),
    udpFinding(agent),
    mappingFinding(agent),
    { check: 'paths', ok: true, finding: agent.paths === 'any' ? 'any' : `restricted by the operator: ${agent.paths}` },
  ]
}

type AgentFacts = NonNullable<NetcheckReport['agent']>

function relayFinding({ relays }: AgentFacts): Finding {
  const answers = relays.map(({ relay, rttMs }) =>
    rttMs === undefined ? `${relay} does not answer` : `${relay} in ${rttMs.toFixed(1)} ms`,
  )
  const ok = relays.some(({ rttMs }) => rttMs !== undefined)
  return {
    check: 'relays',
    ok,
    finding: answers.join(', ') || 'none',
    ...(ok
      ? {}
      : {
          remedy:
            'Allow HTTPS to the cluster, or set HTTPS_PROXY: behind a NAT, a node without a relay cannot be reached.',
        }),
  }
}

const KINDS: Readonly<Record<NetworkKind, string>> = {
  public: 'others can dial this node',
  open: 'hole punching works with every network but enclosed ones',
  restricted: 'hole punching works, except with symmetric NATs',
  symmetric: 'hole punching works only with networks whose filtering lets other ports in',
  enclosed: 'only HTTPS gets out: all traffic goes through relays',
}

/** `restricted` where there is no NAT. */
const FIREWALL = 'no NAT, but a firewall that lets only replies in: hole punching works, except with symmetric NATs'

function publicFinding(agent: AgentFacts): Finding {
  const { network, mapping } = agent
  const kind = network === 'restricted' && mapping === 'none' ? FIREWALL : network && KINDS[network]
  const finding = [seenFrom(agent), ...natWords(agent), ...(kind === undefined ? [] : [kind])].join('; ')
  const isHard = network === 'symmetric' || network === 'enclosed'
  return {
    check: 'public address',
    ok: true,
    finding,
    ...(isHard
      ? {
          remedy: 'For direct paths, forward a port (--advertise), use --port-mapping auto, or use IPv6 on both sides.',
        }
      : {}),
  }
}

/** Where only port 443 or a proxy leads out no observer is reached, and only the relay itself has seen an address. */
function seenFrom({ tcp, udp, relaySees, isProxied }: AgentFacts): string {
  const seen = [tcp && `${tcp} by TCP`, udp && `${udp} by UDP`].filter(Boolean).join(', ')
  if (seen !== '') return seen
  if (relaySees === undefined) return 'not observed from outside'
  const whose = isProxied ? 'perhaps the address of the proxy' : 'over its own port'
  return `${relaySees}, as the relay sees it (${whose}); mapping and filtering cannot be observed from there`
}

/** In the terms of RFC 4787. One observer address cannot show a mapping that depends on the address only. */
function natWords({
  mapping,
  filtering,
  observers,
}: Pick<AgentFacts, 'mapping' | 'filtering' | 'observers'>): string[] {
  if (mapping === 'unknown') return []
  const doubt = mapping === 'endpoint-independent' && observers === 1 ? ' (by one observer address only)' : ''
  const filter = filtering === 'unknown' ? [] : [`${filtering} filtering`]
  return [[mapping === 'none' ? 'no NAT' : `NAT with ${mapping} mapping${doubt}`, ...filter].join(' and ')]
}

function ipv6Findings({ ipv6, mapping, tcp }: AgentFacts): Finding[] {
  if (ipv6 === undefined) return []
  if (tcp === ipv6.tcp && mapping === ipv6.mapping) return [] // `public address` has it already
  const network = networkOf({ ...ipv6, isMapped: false, isEnclosed: false })
  const isFirewalled = network === 'restricted' && ipv6.mapping === 'none'
  const kind = isFirewalled ? FIREWALL : network === undefined ? 'not observed from outside' : KINDS[network]
  const finding = [ipv6.tcp, ...natWords(ipv6), kind].filter(Boolean).join('; ')
  return [{ check: 'public address by IPv6', ok: true, finding }]
}

function hairpinFindings({ hairpin }: AgentFacts): Finding[] {
  if (hairpin === undefined) return []
  const by = (is: boolean) =>
    (['tcp', 'udp'] as const).filter((protocol) => hairpin[protocol] === is).map((protocol) => protocol.toUpperCase())
  const [working, failing] = [by(true), by(false)]
  const finding = [
    ...(working.length > 0 ? [`the NAT hairpins ${working.join(' and ')}`] : []),
    ...(failing.length > 0 ? [`the NAT does not hairpin ${failing.join(' and ')}`] : []),
  ]
  const remedy = 'Two nodes behind it connect inside their network, or through a relay.'
  return [{ check: 'hairpin', ok: true, finding: finding.join('; '), ...(failing.includes('TCP') ? { remedy } : {}) }]
}

function udpFinding({ udpWorks, isUdpOn }: AgentFacts): Finding {
  if (!isUdpOn) return { check: 'UDP', ok: true, finding: 'off; datagrams travel inside TCP carriers' }
  if (udpWorks === undefined) return { check: 'UDP', ok: true, finding: 'not observed yet' }
  return {
    check: 'UDP',
    ok: true,
    finding: udpWorks ? 'works in both directions' : 'blocked; datagrams travel inside TCP carriers',
    ...(udpWorks ? {} : { remedy: 'Allow UDP out: on a lossy path, datagrams inside TCP arrive late.' }),
  }
}

const PROTOCOLS = { pcp: 'PCP', 'nat-pmp': 'NAT-PMP', upnp: 'UPnP' } as const

function mappingFinding({ portMapping, network }: AgentFacts): Finding {
  const check = 'port mapping'
  if (portMapping === undefined) {
    const isUseful = network !== undefined && network !== 'public'
    return {
      check,
      ok: true,
      finding: 'off',
      ...(isUseful
        ? { remedy: 'With --port-mapping auto the agent asks the router for a port (PCP, NAT-PMP, UPnP).' }
        : {}),
    }
  }
  const { state } = portMapping
  if (state === 'mapped') {
    const { dialect, tcp, udp } = portMapping
    const ports = [tcp && `${tcp} (TCP)`, udp && `${udp} (UDP)`].filter(Boolean).join(', ')
    const isInner = [tcp, udp].some((address) => address !== undefined && isPrivate(address.replace(/:\d+$/, '')))
    return {
      check,
      ok: true,
      finding: `${ports} forwarded to this node by ${PROTOCOLS[dialect]}`,
      ...(isInner
        ? { remedy: 'The router is itself behind another NAT: the mapping helps only nodes behind that NAT.' }
        : {}),
    }
  }
  if (state === 'asking') return { check, ok: true, finding: 'waiting for the router' }
  return {
    check,
    ok: true,
    finding: `none: ${portMapping.reason}`,
    remedy: 'Enable PCP, NAT-PMP or UPnP in the router, or forward a port by hand and pass it with --advertise.',
  }
}

/** All of it is optional. */
function tuningFindings(local: LocalFacts): Finding[] {
  return tuningOf(local).map(({ check, finding, when, commands }) => ({
    check,
    ok: true,
    finding,
    ...(commands.length === 0 ? {} : { remedy: `Optional${when ?? ''}: ${commands.join('; ')}` }),
  }))
}

/** RFC 1918, RFC 6598 (carrier-grade NAT), RFC 4193. */
export function isPrivate(address: string): boolean {
  if (address.includes(':')) return !/^\[?[23]/.test(address)
  const [first = 0, second = 0] = address.split('.').map(Number)
  return (
    first === 10 ||
    first === 127 ||
    (first === 172 && second >= 16 && second < 32) ||
    (first === 192 && second === 168) ||
    (first === 100 && second >= 64 && second < 128)
  )
}
