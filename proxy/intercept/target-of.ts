import { isIP } from 'node:net'
import { explain, type ErrorCode } from '../../src/core/errors.ts'
import { addressToVip, type VipRange } from '../../src/core/model/address.ts'
import type { Service } from '../../src/core/model/service.ts'
import { noSuchService } from '../../src/core/table/keys.ts'
import { findNameOrAsk } from '../../src/core/table/find-name.ts'
import type { InterestSource, TableView, Target } from '../../src/core/table/view.ts'
import { maySee } from '../decide/may-see.ts'
import type { Caller } from '../flow/flow.ts'

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
  caller?: Caller,
): Promise<TargetFound> {
  const isName = isIP(host) === 0
  const found = await (isName ? byName(host, naming, caller) : byAddress(host, naming))
  if (found.kind === 'refused') return found
  const { service } = found.target
  if (isHidden(service, caller, naming)) return isName ? unknownService(service) : unknownAddress(host)
  if (service.ports.some((served) => served.port === port && served.protocol === protocol)) return found
  const ports = service.ports.map(({ port, protocol }) => `${port}/${protocol}`).join(', ')
  return refused(
    'PORT_UNKNOWN',
    `${service.id} does not serve port ${port}${protocol === 'tcp' ? '' : '/udp'}, but ${ports || 'none'}`,
  )
}

async function byName(host: string, naming: Naming, caller: Caller | undefined): Promise<TargetFound> {
  try {
    const found = await findNameOrAsk(host, naming)
    if (found.kind === 'target') return found
    if (found.kind === 'unknown') {
      const { hinted = [] } = found
      const hidden = hinted.find((service) => isHidden(service, caller, naming))
      return hidden === undefined ? refused('SERVICE_UNKNOWN', found.reason) : unknownService(hidden)
    }
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
  return target === undefined ? unknownAddress(address) : { kind: 'target', target }
}

/** `caller`: absent where it is the operator who asks. */
function isHidden(service: Service, caller: Caller | undefined, { table }: Naming): boolean {
  return caller !== undefined && !maySee(caller, service, table)
}

/** In the words for one that is not there. */
function unknownService({ app, appNamespace, name }: Pick<Service, 'app' | 'appNamespace' | 'name'>): TargetFound {
  return refused('SERVICE_UNKNOWN', noSuchService({ app, appNamespace, service: name }))
}

function unknownAddress(address: string): TargetFound {
  return refused('SERVICE_UNKNOWN', `nothing has the address ${address}`)
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
