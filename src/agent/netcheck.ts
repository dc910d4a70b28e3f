import { isOutward } from '../../proxy/paths/addresses.ts'
import type { PortMapper } from '../../proxy/paths/port-mapping/port-mapper.ts'
import type { Relays } from '../../proxy/paths/relays/relays.ts'
import type { Session } from '../../proxy/tunnel/contract.ts'
import { ANY_PATH, readPathRule } from '../core/model/path-rule.ts'
import { findingsOf } from '../netcheck/findings.ts'
import { localFacts } from '../netcheck/local.ts'
import { networkOf, waysFrom } from '../netcheck/expected-paths.ts'
import type { Family } from '../../proxy/paths/addresses.ts'
import type { NatObservation } from '../../proxy/paths/nat/discovery.ts'
import type { NetcheckReport } from '../client/reports.ts'
import { hostPort, type AgentConfig } from '../config.ts'

export interface NetcheckParts {
  self: string
  config: Pick<AgentConfig, 'paths' | 'listen' | 'udp'>
  tunnelPort: number
  candidates: () => readonly string[]
  relays: Pick<Relays, 'measureAll'>
  portMapping: PortMapper | undefined
  sessions: () => Iterable<Session>
  /** What relays see of us. */
  seen: () => Promise<SeenFromOutside>
  /** `HTTPS_PROXY` and its like. */
  environment: Readonly<Record<string, string | undefined>>
}

export interface SeenFromOutside {
  families: ReadonlyArray<{ family: Family } & NatObservation>
  /** Where the relay sees us come from; the proxy, when there is one. */
  relaySees?: string
  isProxied: boolean
  udpWorks?: boolean
  isEnclosed: boolean
}

/** A relay that has not answered by then is as good as none. */
const RELAY_MS = 3_000

/** Everything the agent knows of its network, and what it means. */
export async function netcheck(parts: NetcheckParts): Promise<NetcheckReport> {
  const { self, config, tunnelPort, candidates, portMapping, sessions, environment } = parts
  const [local, relays, { families, relaySees, isProxied, udpWorks, isEnclosed }] = await Promise.all([
    localFacts({ counts: isOutward, environment }),
    parts.relays.measureAll(RELAY_MS),
    parts.seen(),
  ])
  const rule = readPathRule(config.paths) ?? ANY_PATH
  const mapped = portMapping?.state
  const seen = sightOf(families)
  const six = families.find(({ family, tcp }) => family === 'ipv6' && tcp.mapping !== 'unknown')
  const network = networkOf({
    ...seen,
    isMapped: mapped?.state === 'mapped' && mapped.tcp !== undefined,
    isEnclosed,
  })
  const isSealed = [...sessions()].some((session) => session.report().datagrams === 'sealed')
  const works = isSealed ? true : udpWorks
  const { host } = hostPort(config.listen)
  const agent: NonNullable<NetcheckReport['agent']> = {
    node: self,
    paths: rule.text,
    listen: `${host}:${tunnelPort}`,
    candidates: candidates(),
    relays,
    ...seen,
    ...(six === undefined ? {} : { ipv6: plain(six) }),
    ...(relaySees === undefined ? {} : { relaySees }),
    isProxied,
    isUdpOn: config.udp,
    ...(works === undefined ? {} : { udpWorks: works }),
    ...(mapped === undefined ? {} : { portMapping: mapped }),
    ...(network === undefined ? {} : { network }),
    ways: network === undefined ? [] : waysFrom(network, rule),
  }
  return { local, agent, findings: findingsOf({ local, agent }) }
}

type Told = Pick<
  NonNullable<NetcheckReport['agent']>,
  'tcp' | 'udp' | 'mapping' | 'filtering' | 'observers' | 'isPortOpen'
>

/** By IPv4, which most others have; by IPv6 where there is nothing else. */
function sightOf(families: SeenFromOutside['families']): Told & Pick<NonNullable<NetcheckReport['agent']>, 'hairpin'> {
  const known = families.filter(({ tcp, udp }) => tcp.mapping !== 'unknown' || udp.mapping !== 'unknown')
  const sight = known.find(({ family }) => family === 'ipv4') ?? known[0]
  if (sight === undefined) return { mapping: 'unknown', filtering: 'unknown', observers: 0 }
  const { hairpin } = sight
  const isMeasured = hairpin.tcp !== undefined || hairpin.udp !== undefined
  return { ...plain(sight), ...(isMeasured ? { hairpin } : {}) }
}

function plain({ tcp, tcpAddress, udpAddress, observers, isPortOpen }: NatObservation): Told {
  return {
    ...tcp,
    ...(tcpAddress === undefined ? {} : { tcp: tcpAddress }),
    ...(udpAddress === undefined ? {} : { udp: udpAddress }),
    observers,
    ...(isPortOpen === undefined ? {} : { isPortOpen }),
  }
}
