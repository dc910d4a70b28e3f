import type { NetcheckReport } from '../client/reports.ts'
import type { LocalFacts } from './local.ts'
import { tuningOf } from './tuning.ts'
import type { NetworkKind } from './expected-paths.ts'

type Finding = NetcheckReport['findings'][number]
type Facts = Omit<NetcheckReport, 'findings'>

/** What the facts mean, each with what can be done about it. Only what keeps this node from others is not ok. */
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
      ...(isAlone ? { remedy: 'This machine is in no network: look at its cables and its DHCP client.' } : {}),
    }
  }
  const way =
    route === undefined ? 'no default route' : `by ${route.device}${route.gateway ? ` to ${route.gateway}` : ''}`
  const isGlobal = addresses.some((address) => !isPrivate(address))
  return { check, ok: true, finding: `${addresses.join(', ')}; ${way}; ${isGlobal ? 'public' : 'private'} addresses` }
}

function proxyFinding(proxy: string): Finding {
  return {
    check: 'HTTP proxy',
    ok: true,
    finding: `links and relays leave through ${proxy}; paths to other nodes do not`,
    remedy: 'Flows go through a relay unless the network also lets connections out straight.',
  }
}

/** Less than this, and a sealed datagram of the usual length is cut in pieces. */
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
      ...(isSmall ? { remedy: `Below ${LEAST_MTU} bytes datagrams between nodes are cut in pieces.` } : {}),
    },
  ]
}

function agentFindings(facts: Facts): Finding[] {
  const { agent } = facts
  if (agent === undefined) {
    const finding = 'not running; what follows from other nodes and relays is not known'
    return [{ check: 'agent', ok: true, finding, remedy: 'Start it (hedgerow agent, hedgerow up) and look again.' }]
  }
  return [
    relayFinding(agent),
    publicFinding(agent),
    ...ipv6Findings(agent),
    ...hairpinFindings(agent),
    udpFinding(agent),
    mappingFinding(agent),
    { check: 'paths', ok: true, finding: agent.paths === 'any' ? 'any' : `the operator allows ${agent.paths}` },
  ]
}

type AgentFacts = NonNullable<NetcheckReport['agent']>

function relayFinding({ relays }: AgentFacts): Finding {
  const told = relays.map(({ relay, rttMs }) =>
    rttMs === undefined ? `${relay} does not answer` : `${relay} in ${rttMs.toFixed(1)} ms`,
  )
  const ok = relays.some(({ rttMs }) => rttMs !== undefined)
  return {
    check: 'relays',
    ok,
    finding: told.join(', ') || 'none',
    ...(ok
      ? {}
      : {
          remedy:
            'Let HTTPS out to the cluster, or name the proxy in HTTPS_PROXY: behind NAT nobody else can introduce this node.',
        }),
  }
}

const KINDS: Readonly<Record<NetworkKind, string>> = {
  public: 'others can dial this node',
  open: 'NAT that keeps one port for all and lets in whom was written to: punching works with nearly everybody',
  restricted: 'NAT that keeps one port for all and lets in replies only: punching works, but not with symmetric NATs',
  symmetric: 'NAT that takes another port for each peer: punching works with open networks only',
  enclosed: 'only HTTPS gets out: everything goes through relays',
}

/** The same kind, where there is no NAT. */
const FIREWALL = 'no NAT, but a firewall that lets in replies only: punching works'

function publicFinding(agent: AgentFacts): Finding {
  const { network, mapping } = agent
  const kind = network === 'restricted' && mapping === 'none' ? FIREWALL : network && KINDS[network]
  const finding = [seenFrom(agent), ...(kind === undefined ? [] : [`${kind}${sureness(agent)}`])].join('; ')
  const isHard = network === 'symmetric' || network === 'enclosed'
  return {
    check: 'public address',
    ok: true,
    finding,
    ...(isHard
      ? { remedy: 'Straight paths need a forwarded port (--advertise), --port-mapping auto, or IPv6 on both sides.' }
      : {}),
  }
}

/** The observers' two ports are not reached where only 443 or a proxy leads out; then the relay's own word is all there is. */
function seenFrom({ tcp, udp, relaySees, isProxied }: AgentFacts): string {
  const seen = [tcp && `${tcp} by TCP`, udp && `${udp} by UDP`].filter(Boolean).join(', ')
  if (seen !== '') return seen
  if (relaySees === undefined) return 'not known from outside'
  const whose = isProxied ? 'the proxy’s, perhaps not ours' : 'by its own port'
  return `${relaySees}, as the relay sees it (${whose}); which ports others would see, and who would be let in, cannot be known from there`
}

/** Ports at one address show a NAT that makes a difference by port; most that make one at all do. */
function sureness({ mapping, observers }: AgentFacts): string {
  return mapping === 'stable' && observers === 1 ? ' (endpoint-independent as one observer address shows it)' : ''
}

function ipv6Findings({ ipv6, mapping, tcp }: AgentFacts): Finding[] {
  if (ipv6 === undefined) return []
  const open = ipv6.isPortOpen ?? ipv6.filtering === 'open'
  const words = {
    none: open ? KINDS.public : FIREWALL,
    stable: ipv6.filtering === 'open' ? KINDS.open : KINDS.restricted,
    varies: KINDS.symmetric,
    unknown: 'not known from outside',
  }[ipv6.mapping]
  // told already where it is all there is
  if (tcp === ipv6.tcp && mapping === ipv6.mapping) return []
  return [{ check: 'public address by IPv6', ok: true, finding: [ipv6.tcp, words].filter(Boolean).join('; ') }]
}

function hairpinFindings({ hairpin }: AgentFacts): Finding[] {
  if (hairpin === undefined) return []
  const by = (is: boolean) =>
    (['tcp', 'udp'] as const).filter((protocol) => hairpin[protocol] === is).map((protocol) => protocol.toUpperCase())
  const [leads, leadsNot] = [by(true), by(false)]
  const finding = [
    ...(leads.length > 0 ? [`the router leads back in what goes to its own address (${leads.join(', ')})`] : []),
    ...(leadsNot.length > 0
      ? [`the router does not lead back in what goes to its own address (${leadsNot.join(', ')})`]
      : []),
  ]
  const remedy = 'Two nodes behind it meet inside, or through a relay; a hole to each other cannot be punched.'
  return [{ check: 'hairpin', ok: true, finding: finding.join('; '), ...(leadsNot.includes('TCP') ? { remedy } : {}) }]
}

function udpFinding({ udpWorks, isUdpOn }: AgentFacts): Finding {
  if (!isUdpOn) return { check: 'UDP', ok: true, finding: 'off; datagrams go in frames on carriers' }
  if (udpWorks === undefined) return { check: 'UDP', ok: true, finding: 'not tried yet' }
  return {
    check: 'UDP',
    ok: true,
    finding: udpWorks ? 'gets out, and answers come back' : 'does not get out; datagrams go in frames on carriers',
    ...(udpWorks ? {} : { remedy: 'Let UDP out: over a lossy path datagrams in frames come late.' }),
  }
}

const DIALECTS = { pcp: 'PCP', 'nat-pmp': 'NAT-PMP', upnp: 'UPnP' } as const

function mappingFinding({ portMapping, network }: AgentFacts): Finding {
  const check = 'port mapping'
  if (portMapping === undefined) {
    const isUseful = network !== undefined && network !== 'public'
    return {
      check,
      ok: true,
      finding: 'off',
      ...(isUseful ? { remedy: 'With --port-mapping auto the router is asked for a port (PCP, NAT-PMP, UPnP).' } : {}),
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
      finding: `${ports} lead here, by ${DIALECTS[dialect]}`,
      ...(isInner ? { remedy: 'The router itself is behind another NAT: its port helps nodes near it only.' } : {}),
    }
  }
  if (state === 'asking') return { check, ok: true, finding: 'the router is being asked' }
  return {
    check,
    ok: true,
    finding: `none: ${portMapping.reason}`,
    remedy: 'Switch PCP, NAT-PMP or UPnP on in the router, or forward a port by hand and name it with --advertise.',
  }
}

/** Optional, all of it: what is well, and what would be better. */
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
