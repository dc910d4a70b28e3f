import { isOutward } from '../../proxy/paths/addresses.ts'
import { findingsOf } from '../netcheck/findings.ts'
import { localFacts } from '../netcheck/local.ts'
import { networkOf, expectedPaths } from '../netcheck/expected-paths.ts'
import type { NatObservation } from '../../proxy/paths/nat/discovery.ts'
import type { NetcheckReport } from '../client/reports.ts'
import { printHostPort } from '../core/kit/host-port.ts'
import type { AgentParts } from './parts.ts'
import type { OutsideView } from './rendezvous.ts'

/** A relay that takes longer is reported as not answering. */
const RELAY_MS = 3_000

/** Everything the agent knows about its network, and what that means. `environment`: where `HTTPS_PROXY` is read. */
export async function netcheck(
  { context, connectivity }: Pick<AgentParts, 'context' | 'connectivity'>,
  environment: Readonly<Record<string, string | undefined>>,
): Promise<NetcheckReport> {
  const { self, config } = context
  const { endpoint, relays: connections, rendezvous, peers } = connectivity
  const [local, relays, { families, relaySees, isProxied, udpWorks, isEnclosed }] = await Promise.all([
    localFacts({ isOutward, environment }),
    connections.relays.measureAll(RELAY_MS),
    rendezvous.observed(),
  ])
  const { rule, portMapping } = endpoint
  const mapped = portMapping?.state
  const observed = preferred(families)
  const six = families.find(({ family, tcp }) => family === 'ipv6' && tcp.mapping !== 'unknown')
  const network = networkOf({
    ...observed,
    isMapped: mapped?.state === 'mapped' && mapped.tcp !== undefined,
    isEnclosed,
  })
  const isSealed = [...peers.all()].some((session) => session.report().datagrams === 'sealed')
  const isWorking = isSealed ? true : udpWorks
  const agent: NonNullable<NetcheckReport['agent']> = {
    node: self,
    paths: rule.text,
    listen: printHostPort(endpoint.host, endpoint.port),
    candidates: endpoint.candidates(),
    relays,
    ...observed,
    ...(six === undefined ? {} : { ipv6: summary(six) }),
    ...(relaySees === undefined ? {} : { relaySees }),
    isProxied,
    isUdpOn: config.udp,
    ...(isWorking === undefined ? {} : { udpWorks: isWorking }),
    ...(mapped === undefined ? {} : { portMapping: mapped }),
    ...(network === undefined ? {} : { network }),
    ways: network === undefined ? [] : expectedPaths(network, rule),
  }
  return { local, agent, findings: findingsOf({ local, agent }) }
}

type Summary = Pick<
  NonNullable<NetcheckReport['agent']>,
  'tcp' | 'udp' | 'mapping' | 'filtering' | 'observers' | 'isPortOpen'
>

/** What was observed by IPv4, which most other nodes have; by IPv6 where there is nothing else. */
function preferred(families: OutsideView['families']): Summary & Pick<NonNullable<NetcheckReport['agent']>, 'hairpin'> {
  const known = families.filter(({ tcp, udp }) => tcp.mapping !== 'unknown' || udp.mapping !== 'unknown')
  const observation = known.find(({ family }) => family === 'ipv4') ?? known[0]
  if (observation === undefined) return { mapping: 'unknown', filtering: 'unknown', observers: 0 }
  const { hairpin } = observation
  const isMeasured = hairpin.tcp !== undefined || hairpin.udp !== undefined
  return { ...summary(observation), ...(isMeasured ? { hairpin } : {}) }
}

function summary({ tcp, tcpAddress, udpAddress, observers, isPortOpen }: NatObservation): Summary {
  return {
    ...tcp,
    ...(tcpAddress === undefined ? {} : { tcp: tcpAddress }),
    ...(udpAddress === undefined ? {} : { udp: udpAddress }),
    observers,
    ...(isPortOpen === undefined ? {} : { isPortOpen }),
  }
}
