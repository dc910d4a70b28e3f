import { ipv4FromArpa, ipv4ToVip, ipv6FromArpa, type VipRange } from '../src/core/model/address.ts'
import { instanceOf, policyOf } from '../src/core/model/choice.ts'
import type { Service, ServicePort } from '../src/core/model/service.ts'
import type { TableView } from '../src/core/table/view.ts'

/* The names that DNS adds to semantic names: service labels (SRV), reverse names (PTR), and the names above existing ones. */

/*
 *   _http . _tcp . shop.acme.cart.prod.any.rr.local     RFC 2782: port, protocol, name
 *   _8080 . _tcp . …                                    a port by its number
 *           _tcp . …                                    no records of its own, but names below it
 */
export interface ServiceLabels {
  /** Without the underscore; absent in `_tcp.<name>`. */
  port?: string
  protocol: string
  /** The name after them. */
  of: string
}

/** The leading labels with an underscore; `undefined` when the name has none. */
export function findService(name: string): ServiceLabels | undefined {
  if (!name.startsWith('_')) return undefined
  const [first = '', second = ''] = name.split('.', 2)
  if (!second.startsWith('_')) return { protocol: first.slice(1), of: name.slice(first.length + 1) }
  return { port: first.slice(1), protocol: second.slice(1), of: name.slice(first.length + second.length + 2) }
}

/** The ports that the label means: by name, else by number, else the only nameless port of this protocol. */
export function portsAt(labels: ServiceLabels, service: Service): readonly ServicePort[] {
  const ports = service.ports.filter(({ protocol }) => protocol === labels.protocol)
  if (labels.port === undefined) return ports
  const named = ports.filter(({ name }) => name?.toLowerCase() === labels.port)
  if (named.length > 0) return named
  if (/^\d+$/.test(labels.port)) return ports.filter(({ port }) => String(port) === labels.port)
  const nameless = ports.filter(({ name }) => name === undefined)
  return nameless.length === 1 ? nameless : []
}

export interface ReverseName {
  /** The part of our range that is a zone of its own: `30.127.in-addr.arpa`, or the /48 under `ip6.arpa`. */
  zone: string
  /** Absent when the name does not spell an address. */
  address?: string
  /** It has too few labels for an address: addresses are below it. */
  isAbove: boolean
}

const IPV4_LABELS = 6
const IPV6_LABELS = 34
/** A /48 is 12 nibbles. */
const PREFIX_NIBBLES = 12

/** Reads a lower-case reverse name; `undefined` when it is outside our range, where somebody else may answer. */
export function readReverse(name: string, range: VipRange): ReverseName | undefined {
  if (name.endsWith('.in-addr.arpa')) return readIPv4(name, range)
  const zone = zone6Of(range)
  if (zone === undefined || (name !== zone && !name.endsWith(`.${zone}`))) return undefined
  const address = ipv6FromArpa(name)
  return { zone, isAbove: name.split('.').length < IPV6_LABELS, ...(address === undefined ? {} : { address }) }
}

function readIPv4(name: string, range: VipRange): ReverseName | undefined {
  const labels = name.split('.')
  const [second, first] = labels.slice(-4, -2)
  // A range consists of whole /16 blocks, so two octets decide.
  if (second === undefined || ipv4ToVip(range, `${first}.${second}.0.0`) === undefined) return undefined
  const address = ipv4FromArpa(name)
  return {
    zone: `${second}.${first}.in-addr.arpa`,
    isAbove: labels.length < IPV4_LABELS,
    ...(address === undefined ? {} : { address }),
  }
}

function zone6Of({ prefix6 }: VipRange): string | undefined {
  if (prefix6 === undefined) return undefined
  const nibbles = prefix6.map((hextet) => hextet.toString(16).padStart(4, '0')).join('')
  return `${Array.from(nibbles.slice(0, PREFIX_NIBBLES)).toReversed().join('.')}.ip6.arpa`
}

/**
 * Whether existing names are below this one (`name` comes without its zone), and if they are those of organisations alone, of which services:
 * not everybody may see them. The name is then empty, not absent: NXDOMAIN would let a caching resolver deny all names below it (RFC 8020).
 *
 *     shop.acme.cart.prod.any.rr      above it:  acme.cart.prod.any.rr … any.rr, rr
 *     shop.acme.cart.any.rr                      acme.cart.any.rr …
 *     any.rr.cart.prod.shop.acme                 rr.cart.prod.shop.acme, cart.prod.shop.acme … acme
 */
export function servicesBelow(name: string, table: TableView): 'any' | 'nothing' | Service[] {
  const labels = name.split('.')
  if (labels.length > 5) return 'nothing'
  const policy = policyOf(labels.at(-1) as string)
  const instance = labels.at(-2)
  const endsInChoice = policy !== undefined && (instance === undefined || instanceOf(instance) !== undefined)
  if (endsInChoice && labels.length <= 2) return 'any'
  const forward = endsInChoice ? labels.slice(0, -2).join('.') : undefined
  const startsWithPolicy = policyOf(labels[0] as string) !== undefined
  const backward = startsWithPolicy ? labels.slice(1).join('.') : name
  const isBelow = ({ id, app, appNamespace, name: word, namespace }: Service): boolean => {
    if (forward !== undefined) {
      if (isEndOf(forward, id) || isEndOf(forward, `${app}.${appNamespace}.${word}`.toLowerCase())) return true
    }
    const reversed = `${word}.${namespace}.${app}.${appNamespace}`.toLowerCase()
    return startsWithPolicy ? backward === reversed : isEndOf(backward, reversed)
  }
  const owned: Service[] = []
  for (const { service } of table.services()) {
    if (!isBelow(service)) continue
    if (service.isOwned !== true) return 'any'
    owned.push(service)
  }
  return owned.length > 0 ? owned : 'nothing'
}

function isEndOf(end: string, whole: string): boolean {
  return whole === end || whole.endsWith(`.${end}`)
}
