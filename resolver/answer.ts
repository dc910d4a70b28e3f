import { addressToVip, holdsVip, RESOLVER_VIP, vipToIPv4, vipToIPv6, type VipRange } from '../src/core/model/address.ts'
import type { InterestKey } from '../src/core/model/ids.ts'
import { printName } from '../src/core/model/name.ts'
import type { Service, VipIndex } from '../src/core/model/service.ts'
import { findName } from '../src/core/table/find-name.ts'
import type { TableView, Target } from '../src/core/table/view.ts'
import { CLASS_IN, TYPE } from './numbers.ts'
import { findService, servicesBelow, portsAt, readReverse, type ServiceLabels } from './names.ts'

/*
 *                  class, type ─▶ refused
 *   question ─▶    reverse name of our range ─▶ PTR
 *                  zone itself, ns.zone ─▶ SOA, NS, A
 *                  _port._tcp.name, name ─▶ table.find ─▶ target ─▶ A AAAA TXT SRV
 *                                                      ├▶ unasked ─▶ ask
 *                                                      └▶ unknown ─▶ NXDOMAIN
 *                  anything else ─▶ forward
 *
 * Pure, and on the path of every question whose reply is not remembered. A name in our zones is never forwarded.
 */

/** `name` is as it was asked, including its case, without the final dot; unusual bytes are written as `\DDD`. */
export interface Question {
  name: string
  type: number
  class: number
}

export type DnsRecord = { name: string } & (
  | { type: 'A' | 'AAAA'; address: string }
  | { type: 'PTR' | 'NS'; target: string }
  | { type: 'SRV'; port: number; target: string }
  | { type: 'TXT'; strings: readonly string[] }
  /** `name` is the zone. */
  | { type: 'SOA' }
)

export interface Answer {
  kind: 'answer'
  code: 'NOERROR' | 'NXDOMAIN' | 'REFUSED' | 'NOTIMP'
  records: readonly DnsRecord[]
  authorities: readonly DnsRecord[]
  additionals: readonly DnsRecord[]
  /** It holds until the table changes, so its bytes may be kept. */
  isLasting: boolean
  /** Why there are no records; for the log. */
  reason?: string
  /** What the answered name stands for; the client will connect to it. */
  target?: Target
  /** Services of organisations that it tells of: to who may see none of them it is NXDOMAIN. */
  tellsOf?: readonly Service[]
}

export type Decision =
  | Answer
  /** The cluster has not been asked yet; ask, then decide again. */
  | { kind: 'ask'; key: InterestKey }
  | { kind: 'ask-vip'; vip: VipIndex }
  /** The name is outside the mesh. */
  | { kind: 'forward' }

export interface AnswerSettings {
  /** In lower case; PTR answers print the first. */
  zones: readonly string[]
  range: VipRange
  /** What the choice means now: one string for each instance, in the order to try. */
  explainChoice(target: Target): readonly string[]
}

/** Answers a question from what the node knows. */
export function answer(question: Question, table: TableView, settings: AnswerSettings): Decision {
  const { type } = question
  if (question.class !== CLASS_IN) return refused('REFUSED', 'only class IN is served')
  if (type === TYPE.AXFR || type === TYPE.IXFR) return refused('REFUSED', 'zones are not transferred')
  if (type > TYPE.AXFR && type <= TYPE.MAILA) return refused('NOTIMP', 'the type is obsolete')
  const name = question.name.toLowerCase()
  if (name.endsWith('.arpa')) return reverseAnswer(name, type, table, settings)
  const zone = zoneOf(name, settings.zones)
  if (zone === undefined) return { kind: 'forward' }
  if (name === zone) return apexAnswer(zone, type)
  if (name === `ns.${zone}`) return found(addressesOf(name, RESOLVER_VIP, settings.range), { name, type, zone })

  const labels = findService(name)
  const meant = findName(labels?.of ?? name, settings.zones, table)
  switch (meant.kind) {
    case 'outside':
      return { kind: 'forward' }
    case 'invalid': {
      const below = labels === undefined ? servicesBelow(name.slice(0, -zone.length - 1), table) : 'nothing'
      if (below === 'any') return nothingOf({ zone })
      if (below !== 'nothing') return telling(nothingOf({ zone }), below)
      return unknown(name, settings, meant.label === '' ? meant.reason : `${meant.label}: ${meant.reason}`)
    }
    case 'unasked':
      return { kind: 'ask', key: meant.key }
    case 'unknown':
      return unknown(name, settings, meant.reason)
    case 'target':
      return telling(
        labels === undefined
          ? targetAnswer({ name, type, zone }, meant.target, settings)
          : serviceAnswer({ name, type, zone, labels }, meant.target, settings),
        [meant.target.service],
      )
    default:
      return meant satisfies never
  }
}

/** NXDOMAIN, with the SOA of the zone the name would be in (RFC 2308 §3). */
export function unknown(name: string, settings: AnswerSettings, reason: string): Answer {
  const lower = name.toLowerCase()
  const zone = zoneOf(lower, settings.zones) ?? readReverse(lower, settings.range)?.zone
  return { ...nothingOf(zone === undefined ? {} : { zone }), code: 'NXDOMAIN', isLasting: false, reason }
}

/** With the services that it tells of, where any of them is an organisation’s: then it is not for everybody, and is not kept. */
function telling(answered: Answer, services: readonly Service[]): Answer {
  return services.some(({ isOwned }) => isOwned) ? { ...answered, tellsOf: services, isLasting: false } : answered
}

/** The question that is being answered, in lower case. */
interface Asked {
  name: string
  type: number
  zone: string
}

function targetAnswer(asked: Asked, target: Target, settings: AnswerSettings): Answer {
  if (asked.type === TYPE.TXT) {
    const strings = settings.explainChoice(target)
    const record = {
      type: 'TXT',
      name: asked.name,
      strings: strings.length > 0 ? strings : ['no running instance'],
    } as const
    return { ...nothingOf(asked), records: [record], authorities: [], isLasting: false }
  }
  const addresses = addressesOf(asked.name, target.vip, settings.range)
  const answered = { ...found(addresses, asked), target }
  // A VIP outside the range exists, but has no address on this node.
  return addresses.some(({ type }) => type === 'A')
    ? answered
    : { ...answered, reason: 'its VIP is outside the address range of this node' }
}

function serviceAnswer(asked: Asked & { labels: ServiceLabels }, target: Target, settings: AnswerSettings): Answer {
  const { name, labels, zone } = asked
  const ports = portsAt(labels, target.service)
  if (ports.length === 0) return unknown(name, settings, 'the service has no such port')
  if (labels.port === undefined) return nothingOf(asked) // `_tcp.<name>`: there are names below it
  const canonical = canonicalOf(target, zone)
  const records = ports.map(({ port }) => ({ type: 'SRV', name, port, target: canonical }) as const)
  const answered = found(records, asked)
  return answered.records.length === 0
    ? answered
    : { ...answered, target, additionals: addressesOf(canonical, target.vip, settings.range) }
}

function apexAnswer(zone: string, type: number): Answer {
  return found(
    [
      { type: 'SOA', name: zone },
      { type: 'NS', name: zone, target: `ns.${zone}` },
    ],
    { name: zone, type, zone },
  )
}

function reverseAnswer(name: string, type: number, table: TableView, settings: AnswerSettings): Decision {
  const reverse = readReverse(name, settings.range)
  if (reverse === undefined) return { kind: 'forward' }
  const { zone, address } = reverse
  const mainZone = settings.zones[0] ?? 'local'
  if (name === zone)
    return found(
      [
        { type: 'SOA', name: zone },
        { type: 'NS', name: zone, target: `ns.${mainZone}` },
      ],
      { name, type, zone },
    )
  if (reverse.isAbove) return nothingOf(reverse)
  const vip = address === undefined ? undefined : addressToVip(settings.range, address)
  if (vip === undefined) return unknown(name, settings, 'not the reverse name of a VIP')
  if (vip === RESOLVER_VIP) return found([{ type: 'PTR', name, target: `ns.${mainZone}` }], { name, type, zone })
  const target = table.byVip(vip)
  if (target === undefined) return { kind: 'ask-vip', vip }
  const answered = found([{ type: 'PTR', name, target: canonicalOf(target, mainZone) }], { name, type, zone })
  return telling(answered, [target.service])
}

/** The records at a name that were asked for; ANY gets the first (RFC 8482 §4.1). Without any, the answer is NODATA. */
function found(records: readonly DnsRecord[], { type, zone }: Asked): Answer {
  const chosen = type === TYPE.ANY ? records.slice(0, 1) : records.filter((record) => TYPE[record.type] === type)
  return chosen.length === 0 ? nothingOf({ zone }) : { ...nothingOf({}), records: chosen }
}

function nothingOf({ zone }: { zone?: string }): Answer {
  const authorities = zone === undefined ? [] : [{ type: 'SOA', name: zone } as const]
  return { kind: 'answer', code: 'NOERROR', records: [], authorities, additionals: [], isLasting: true }
}

function refused(code: 'REFUSED' | 'NOTIMP', reason: string): Answer {
  return { ...nothingOf({}), code, isLasting: false, reason }
}

function addressesOf(name: string, vip: VipIndex, range: VipRange): DnsRecord[] {
  const records: DnsRecord[] = []
  if (holdsVip(range, vip)) records.push({ type: 'A', name, address: vipToIPv4(range, vip) })
  const address6 = vipToIPv6(range, vip)
  if (address6 !== undefined) records.push({ type: 'AAAA', name, address: address6 })
  return records
}

function canonicalOf({ service, choice }: Target, zone: string): string {
  const { app, appNamespace, name, namespace } = service
  return printName({ app, appNamespace, service: name, serviceNamespace: namespace, choice }, zone).toLowerCase()
}

/** The longest zone that contains the name. */
function zoneOf(name: string, zones: readonly string[]): string | undefined {
  let best: string | undefined
  for (const zone of zones) {
    const isIn = name === zone || name.endsWith(`.${zone}`)
    if (isIn && (best === undefined || zone.length > best.length)) best = zone
  }
  return best
}
