import { createHash } from 'node:crypto'
import { IPv4CidrRange, IPv6CidrRange } from 'ip-num'
import type { VipIndex } from './service.ts'

/*
 *   VIP index, 20 bit           e   0  1   2  3        one number for the whole mesh
 *                               │   └──┤   └──┤
 *   loopback   127.16.0.0/12   127.30. 1 .  35         each mode has its own /12; block 0xe reads x.30.a.b
 *   host        10.16.0.0/12    10.30. 1 .  35
 *   host, ULA /48   fdxx:xxxx:xxxx::e:123              the last 20 bits
 *
 * ip-num checks prefixes when they are configured; everything else is integer arithmetic, because ip-num reads only 50,000 IPv6
 * addresses a second.
 */

export interface VipRange {
  /** As configured; for routes and for people. */
  readonly cidr4: string
  /** The first address of the /12, as an unsigned 32-bit number. */
  readonly base4: number
  /** The indices that have an IPv4 address here: all, or one block of 65,536. */
  readonly first: VipIndex
  readonly last: VipIndex
  readonly cidr6?: string
  /** The first three hextets of the /48. */
  readonly prefix6?: readonly [number, number, number]
}

export const VIP_COUNT = 0x100000

/** The block that is assigned first; its addresses read 10.30.a.b or 127.30.a.b. */
export const FIRST_BLOCK = { first: 0xe0000, last: 0xeffff } as const

/** x.30.0.53, where the resolver listens. The first 256 indices of the block are the agent's own. */
export const RESOLVER_VIP: VipIndex = 0xe0035

const FIRST_ALLOCATED = 0xe0100

/**
 * A range from its prefixes: a /12, or a /16 (one block of the /12 around it), and a /48 for IPv6.
 * @throws RangeError that says what is wrong with the prefix.
 */
export function vipRange(cidr4: string, cidr6?: string): VipRange {
  const { first, length } = checked4(cidr4)
  const base4 = (first & 0xfff00000) >>> 0
  const offset = first - base4
  const indices = length === 12 ? { first: 0, last: VIP_COUNT - 1 } : { first: offset, last: offset + 0xffff }
  const range = { cidr4, base4, ...indices }
  return cidr6 === undefined ? range : { ...range, cidr6, prefix6: checked6(cidr6) }
}

/** The prefixes of a range, for routes and rules. */
export function cidrsOf({ cidr4, cidr6 }: VipRange): string[] {
  return cidr6 === undefined ? [cidr4] : [cidr4, cidr6]
}

/** False for an index that a /16 leaves out: it has no address here. */
export function holdsVip(range: VipRange, index: VipIndex): boolean {
  return index >= range.first && index <= range.last
}

export function vipToIPv4(range: VipRange, index: VipIndex): string {
  return printIPv4((range.base4 + index) >>> 0)
}

export function ipv4ToVip(range: VipRange, text: string): VipIndex | undefined {
  const address = parseIPv4(text)
  if (address === undefined) return undefined
  const index = address - range.base4
  return holdsVip(range, index) ? index : undefined
}

/** `undefined` when the range has no IPv6 prefix. */
export function vipToIPv6(range: VipRange, index: VipIndex): string | undefined {
  if (range.prefix6 === undefined) return undefined
  return printIPv6([...range.prefix6, 0, 0, 0, index >>> 16, index & 0xffff])
}

/** Accepts IPv4 written as IPv6 too (`::ffff:10.30.1.2`), as dual-stack sockets report it. */
export function ipv6ToVip(range: VipRange, text: string): VipIndex | undefined {
  const hextets = parseIPv6(text)
  if (hextets === undefined) return undefined
  const [a, b, c, d, e, f, high, low] = hextets as [number, number, number, number, number, number, number, number]
  if (a === 0 && b === 0 && c === 0 && d === 0 && e === 0 && f === 0xffff) {
    const index = high * 0x10000 + low - range.base4
    return holdsVip(range, index) ? index : undefined
  }
  const { prefix6 } = range
  if (prefix6 === undefined || prefix6[0] !== a || prefix6[1] !== b || prefix6[2] !== c) return undefined
  return d === 0 && e === 0 && f === 0 && high <= 0xf ? high * 0x10000 + low : undefined
}

/** The VIP index behind an address of either family, as sockets report it. */
export function addressToVip(range: VipRange, text: string): VipIndex | undefined {
  return text.includes(':') ? ipv6ToVip(range, text) : ipv4ToVip(range, text)
}

/** Whether the root may assign the index: neither one of the agent's own nor the first or last address of a prefix. */
export function isAllocatable(index: VipIndex): boolean {
  if (!Number.isInteger(index) || index <= 0 || index >= VIP_COUNT - 1) return false
  return index !== FIRST_BLOCK.last && (index < FIRST_BLOCK.first || index >= FIRST_ALLOCATED)
}

/**
 * The order in which the root assigns VIPs by itself: the upper half of the first block (x.30.128.0 on), its lower half, then
 * upwards and around the /12 (0xf0000 …, 0x00001 …). People ask for addresses in the lower half, so the two rarely meet.
 * `undefined` after the last.
 */
export function nextVip(after?: VipIndex): VipIndex | undefined {
  let index = after === undefined ? FIRST_AUTOMATIC : following(after)
  while (index !== undefined && !isAllocatable(index)) index = following(index)
  return index
}

const FIRST_AUTOMATIC = 0xe8000

function following(index: VipIndex): VipIndex | undefined {
  if (index === FIRST_BLOCK.last) return FIRST_ALLOCATED
  if (index === FIRST_AUTOMATIC - 1) return FIRST_BLOCK.last + 1
  const next = (index + 1) % VIP_COUNT
  return next === FIRST_BLOCK.first ? undefined : next
}

/** Dotted decimal, four octets without leading zeros, as an unsigned 32-bit number. */
export function parseIPv4(text: string): number | undefined {
  if (text.length < 7 || text.length > 15) return undefined
  let address = 0
  let octet = -1 // no digit yet
  let dots = 0
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code === DOT) {
      if (octet < 0 || ++dots > 3) return undefined
      address = address * 256 + octet
      octet = -1
    } else {
      if (code < 48 || code > 57 || octet === 0) return undefined
      octet = (octet < 0 ? 0 : octet * 10) + code - 48
      if (octet > 255) return undefined
    }
  }
  return dots === 3 && octet >= 0 ? address * 256 + octet : undefined
}

export function printIPv4(address: number): string {
  return `${address >>> 24}.${(address >>> 16) & 255}.${(address >>> 8) & 255}.${address & 255}`
}

/** Eight hextets. An address with a zone id (`%eth0`) is refused. */
export function parseIPv6(text: string): number[] | undefined {
  if (text.length < 2 || text.length > 45) return undefined
  const gap = text.indexOf('::')
  const head = gap < 0 ? text : text.slice(0, gap)
  const before = head === '' ? [] : hextets(head, gap < 0)
  if (gap < 0) return before?.length === 8 ? before : undefined
  const tail = text.slice(gap + 2)
  const after = tail === '' ? [] : hextets(tail, true)
  if (before === undefined || after === undefined) return undefined
  const missing = 8 - before.length - after.length
  return missing < 1 ? undefined : [...before, ...Array<number>(missing).fill(0), ...after]
}

/** As RFC 5952 recommends: lower case, with the longest run of two or more zeros as `::`. */
export function printIPv6(address: readonly number[]): string {
  let best = { start: -1, length: 1 }
  for (let start = 0; start < 8; start++) {
    let length = 0
    while (start + length < 8 && address[start + length] === 0) length++
    if (length > best.length) best = { start, length }
  }
  const words = address.map((hextet) => hextet.toString(16))
  if (best.start < 0) return words.join(':')
  return `${words.slice(0, best.start).join(':')}::${words.slice(best.start + best.length).join(':')}`
}

/** `53.0.30.127.in-addr.arpa` → `127.30.0.53` (RFC 1035 §3.5). */
export function ipv4FromArpa(name: string): string | undefined {
  const text = withoutSuffix(name, '.in-addr.arpa')
  const address = text?.split('.').toReversed().join('.')
  return address === undefined || parseIPv4(address) === undefined ? undefined : address
}

/** 32 nibbles under `ip6.arpa`, last first (RFC 3596 §2.5) → the address. */
export function ipv6FromArpa(name: string): string | undefined {
  const nibbles = withoutSuffix(name, '.ip6.arpa')
  if (nibbles === undefined || nibbles.length !== 63) return undefined
  const address = Array<number>(8).fill(0)
  for (let i = 0; i < 63; i++) {
    const code = nibbles.charCodeAt(i)
    if (i % 2 === 1) {
      if (code !== DOT) return undefined
      continue
    }
    const nibble = hexDigit(code)
    if (nibble < 0) return undefined
    const place = 31 - i / 2 // 0 is the most significant
    address[place >> 2] = (address[place >> 2] as number) | (nibble << (4 * (3 - (place & 3))))
  }
  return printIPv6(address)
}

/** The ULA /48 (RFC 4193 §3.2.2) of a mesh: always the same, and very likely different from that of any other mesh. */
export function ulaPrefix(meshId: string): string {
  const digest = createHash('sha256').update('hedgerow ula ').update(meshId).digest()
  const words = [0xfd00 | digest.readUInt8(0), digest.readUInt16BE(1), digest.readUInt16BE(3)]
  return `${printIPv6([...words, 0, 0, 0, 0, 0])}/48`
}

const DOT = 46

function checked4(cidr: string): { first: number; length: number } {
  const range = parsed(cidr, () => IPv4CidrRange.fromCidr(cidr))
  const length = Number(range.cidrPrefix.value)
  if (length !== 12 && length !== 16) throw new RangeError(`${cidr}: a range of VIPs is a /12 or a /16`)
  const first = Number(range.getFirst().value)
  // ip-num accepts prefixes with host bits set; a typing error should not move the mesh.
  if (parseIPv4(cidr.slice(0, cidr.indexOf('/'))) !== first) {
    throw new RangeError(`${cidr}: not on a boundary; ${printIPv4(first)}/${length} is`)
  }
  return { first, length }
}

function checked6(cidr: string): readonly [number, number, number] {
  const range = parsed(cidr, () => IPv6CidrRange.fromCidr(cidr))
  if (Number(range.cidrPrefix.value) !== 48) throw new RangeError(`${cidr}: a range of VIPs is a /48`)
  const given = parseIPv6(cidr.slice(0, cidr.indexOf('/')))
  const [a, b, c, ...rest] = given ?? []
  if (a === undefined || b === undefined || c === undefined || rest.some((hextet) => hextet !== 0)) {
    throw new RangeError(`${cidr}: not on the boundary of a /48`)
  }
  return [a, b, c]
}

function parsed<T>(cidr: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw new RangeError(`${cidr}: not a prefix`, { cause: error })
  }
}

function hextets(text: string, mayEndInIPv4: boolean): number[] | undefined {
  const words = text.split(':')
  const found: number[] = []
  for (const [i, word] of words.entries()) {
    if (mayEndInIPv4 && i === words.length - 1 && word.includes('.')) {
      const address = parseIPv4(word)
      if (address === undefined) return undefined
      found.push(address >>> 16, address & 0xffff)
      continue
    }
    if (word.length < 1 || word.length > 4) return undefined
    let value = 0
    for (let j = 0; j < word.length; j++) {
      const digit = hexDigit(word.charCodeAt(j))
      if (digit < 0) return undefined
      value = value * 16 + digit
    }
    found.push(value)
  }
  return found
}

function hexDigit(code: number): number {
  if (code >= 48 && code <= 57) return code - 48
  if (code >= 97 && code <= 102) return code - 87
  return code >= 65 && code <= 70 ? code - 55 : -1
}

function withoutSuffix(name: string, suffix: string): string | undefined {
  const end = name.endsWith('.') ? name.length - 1 : name.length
  const start = end - suffix.length
  return start > 0 && name.slice(start, end).toLowerCase() === suffix ? name.slice(0, start) : undefined
}
