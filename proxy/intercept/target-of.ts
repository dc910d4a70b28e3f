import { isIP } from 'node:net'
import { explain, type ErrorCode } from '../../src/core/errors.ts'
import { addressToVip, type VipRange } from '../../src/core/model/address.ts'
import { findNameOrAsk } from '../../src/core/table/find-name.ts'
import type { InterestSource, TableView, Target } from '../../src/core/table/view.ts'

/** What the proxies need to find out what a name means. */
export interface Naming {
  readonly table: TableView
  readonly interests: InterestSource
  readonly zones: readonly string[]
  /** Ranges whose VIPs may be called by address. */
  readonly ranges: readonly VipRange[]
}

export type TargetFound = { kind: 'target'; target: Target } | { kind: 'refused'; code: ErrorCode; reason: string }

/** What a client of a proxy asks for: names of the mesh and VIPs of this node, nothing else (SEC-29: no open egress). */
export async function targetOf(
  host: string,
  port: number,
  naming: Naming,
  protocol: 'tcp' | 'udp' = 'tcp',
): Promise<TargetFound> {
  const found = await (isIP(host) === 0 ? byName(host, naming) : byAddress(host, naming))
  if (found.kind === 'refused') return found
  const { service } = found.target
  if (service.ports.some((served) => served.port === port && served.protocol === protocol)) return found
  const ports = service.ports.map(({ port, protocol }) => `${port}/${protocol}`).join(', ')
  return refused(
    'PORT_UNKNOWN',
    `${service.id} does not serve port ${port}${protocol === 'tcp' ? '' : '/udp'}, but ${ports || 'none'}`,
  )
}

async function byName(host: string, naming: Naming): Promise<TargetFound> {
  try {
    const found = await findNameOrAsk(host, naming)
    if (found.kind === 'target') return found
    if (found.kind === 'unknown') return refused('SERVICE_UNKNOWN', found.reason)
    if (found.kind === 'invalid') return refused('NAME_INVALID', `${found.label}: ${found.reason}`)
    return refused('NOT_ALLOWED', `${host} is not a name of the mesh (${naming.zones.join(', ')})`)
  } catch (error) {
    return refused('LINK_CLOSED', explain(error))
  }
}

async function byAddress(address: string, { table, interests, ranges }: Naming): Promise<TargetFound> {
  const vip = ranges.map((range) => addressToVip(range, address)).find((vip) => vip !== undefined)
  if (vip === undefined) return refused('NOT_ALLOWED', `${address} is not an address of the mesh`)
  if (table.byVip(vip) === undefined) {
    const failure = await failureOf(interests.wantVip(vip))
    if (failure !== undefined) return refused('LINK_CLOSED', failure)
  }
  const target = table.byVip(vip)
  return target === undefined
    ? refused('SERVICE_UNKNOWN', `nothing has the address ${address}`)
    : { kind: 'target', target }
}

function refused(code: ErrorCode, reason: string): TargetFound {
  return { kind: 'refused', code, reason }
}

async function failureOf(asked: Promise<void>): Promise<string | undefined> {
  try {
    await asked
    return undefined
  } catch (error) {
    return explain(error)
  }
}
