import { ipv4FromArpa, ipv4ToVip, ipv6FromArpa, type VipRange } from '../src/core/model/address.ts'

export interface ReverseName {
  /** The part of our range that is one zone: `30.127.in-addr.arpa`, or the /48 under `ip6.arpa`. */
  zone: string
  /** Absent when the name does not spell one. */
  address?: string
  /** Too few labels for an address: addresses are below it. */
  isAbove: boolean
}

const IPV4_LABELS = 6
const IPV6_LABELS = 34
/** A /48 is 12 nibbles. */
const PREFIX_NIBBLES = 12

/** Reads a lower-case reverse name; `undefined` when it is not in our range (others may own it). */
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
  // A range is made of whole /16: two octets tell.
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
