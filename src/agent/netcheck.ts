import { isOutward } from '../../proxy/paths/addresses.ts'
import type { PortMapper } from '../../proxy/paths/port-mapping/port-mapper.ts'
import type { Relays } from '../../proxy/paths/relays.ts'
import type { Session } from '../../proxy/tunnel/contract.ts'
import { ANY_PATH, readPathRule } from '../model/path-rule.ts'
import { findingsOf } from '../netcheck/findings.ts'
import { localFacts } from '../netcheck/local.ts'
import { networkOf, waysFrom } from '../netcheck/ways.ts'
import type { NatClass } from '../../proxy/paths/nat-class.ts'
import type { NetcheckReport } from '../reports.ts'
import type { AgentConfig } from '../config.ts'

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

export interface SeenFromOutside extends NatClass {
  /** `host:port` */
  tcp?: string
  udp?: string
  udpWorks?: boolean
  isEnclosed: boolean
}

/** A relay that has not answered by then is as good as none. */
const RELAY_MS = 3_000

/** Everything the agent knows of its network, and what it means. */
export async function netcheck(parts: NetcheckParts): Promise<NetcheckReport> {
  const { self, config, tunnelPort, candidates, portMapping, sessions, environment } = parts
  const [local, relays, { udpWorks, isEnclosed, ...seen }] = await Promise.all([
    localFacts({ counts: isOutward, environment }),
    parts.relays.measureAll(RELAY_MS),
    parts.seen(),
  ])
  const rule = readPathRule(config.paths) ?? ANY_PATH
  const mapped = portMapping?.state
  const network = networkOf({
    ...seen,
    isMapped: mapped?.state === 'mapped' && mapped.tcp !== undefined,
    isEnclosed,
  })
  const isSealed = [...sessions()].some(({ datagrams }) => datagrams === 'sealed')
  const works = isSealed ? true : udpWorks
  const host = config.listen.slice(0, config.listen.lastIndexOf(':'))
  const agent: NonNullable<NetcheckReport['agent']> = {
    node: self,
    paths: rule.text,
    listen: `${host}:${tunnelPort}`,
    candidates: candidates(),
    relays,
    ...seen,
    isUdpOn: config.udp,
    ...(works === undefined ? {} : { udpWorks: works }),
    ...(mapped === undefined ? {} : { portMapping: mapped }),
    ...(network === undefined ? {} : { network }),
    ways: network === undefined ? [] : waysFrom(network, rule),
  }
  return { local, agent, findings: findingsOf({ local, agent }) }
}
