import type { NetcheckReport } from '../reports.ts'
import type { LocalFacts } from './local.ts'
import type { NetworkKind } from './ways.ts'

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

function publicFinding({ network, tcp, udp }: AgentFacts): Finding {
  const seen = [tcp && `${tcp} by TCP`, udp && `${udp} by UDP`].filter(Boolean).join(', ')
  const finding = [seen || 'not known from outside', ...(network === undefined ? [] : [KINDS[network]])].join('; ')
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

function mappingFinding({ portMapping, network }: AgentFacts): Finding {
  const check = 'port mapping'
  if (portMapping === undefined) {
    const isUseful = network !== undefined && network !== 'public'
    return {
      check,
      ok: true,
      finding: 'off',
      ...(isUseful ? { remedy: 'With --port-mapping auto the router is asked for a port (PCP, NAT-PMP).' } : {}),
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
      finding: `${ports} lead here, by ${dialect === 'pcp' ? 'PCP' : 'NAT-PMP'}`,
      ...(isInner ? { remedy: 'The router itself is behind another NAT: its port helps nodes near it only.' } : {}),
    }
  }
  if (state === 'asking') return { check, ok: true, finding: 'the router is being asked' }
  return {
    check,
    ok: true,
    finding: `none: ${portMapping.reason}`,
    remedy: 'Switch PCP or NAT-PMP on in the router, or forward a port by hand and name it with --advertise.',
  }
}

/** Below, a burst of sealed datagrams is lost while the agent is busy elsewhere. */
const RECEIVE_BYTES = 4 * 1024 * 1024
/** What the kernel holds unsent per connection when nothing is said. */
const UNLIMITED = 0xffff_ffff

function tuningFindings({ settings, defaults }: LocalFacts): Finding[] {
  const hints: Finding[] = []
  const hint = (name: string, finding: string, remedy: string) =>
    hints.push({ check: name.replaceAll('/', '.').replace(/^net\.(ipv4|core)\./, ''), ok: true, finding, remedy })
  const value = (name: string) => (settings[name] === undefined ? undefined : Number(settings[name]))
  if (value('net/ipv4/tcp_slow_start_after_idle') === 1)
    hint(
      'net/ipv4/tcp_slow_start_after_idle',
      '1: a carrier that rested begins slowly again',
      'Optional: sysctl -w net.ipv4.tcp_slow_start_after_idle=0',
    )
  if (value('net/ipv4/tcp_notsent_lowat') === UNLIMITED)
    hint(
      'net/ipv4/tcp_notsent_lowat',
      'unlimited: small requests may wait in the kernel behind bulk',
      'Optional: sysctl -w net.ipv4.tcp_notsent_lowat=131072',
    )
  const congestion = settings['net/ipv4/tcp_congestion_control']
  const available = settings['net/ipv4/tcp_available_congestion_control'] ?? ''
  const routes = defaults.filter((route) => route.congestion !== undefined)
  const told = [congestion, ...routes.map((route) => `${route.congestion} for the default route by ${route.device}`)]
  if (congestion !== undefined) {
    const isBbr = [congestion, ...routes.map((route) => route.congestion)].includes('bbr')
    hints.push({
      check: 'congestion control',
      ok: true,
      finding: told.join('; '),
      ...(isBbr
        ? {}
        : {
            remedy: available.split(' ').includes('bbr')
              ? 'Optional, for lossy paths: ip route change default … congctl bbr, or sysctl -w net.ipv4.tcp_congestion_control=bbr'
              : 'Optional, for lossy paths: modprobe tcp_bbr, then choose bbr.',
          }),
    })
  }
  if ((value('net/core/rmem_max') ?? RECEIVE_BYTES) < RECEIVE_BYTES)
    hint(
      'net/core/rmem_max',
      `${settings['net/core/rmem_max']} bytes: bursts of datagrams may be lost`,
      `Optional: sysctl -w net.core.rmem_max=${RECEIVE_BYTES}`,
    )
  return hints
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
