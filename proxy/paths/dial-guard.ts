import { BlockList, isIP, isIPv4, isIPv6 } from 'node:net'
import { TokenBucket } from '../../src/core/kit/token-bucket.ts'
import type { NodeId } from '../../src/core/model/ids.ts'
import type { NodeReach } from '../../src/core/model/node.ts'
import { isDialable, type Exclude } from './addresses.ts'
import { parseHostPort } from '../../src/core/kit/host-port.ts'
import { BoundedMap } from '../../src/core/kit/bounded-map.ts'

/*
 * Where other nodes may make us dial. A node that asks for it is proven, and may still lie about its addresses: we must not be
 * made to knock at somebody else's door, in our own network or anywhere, more than a few times.
 */

/** What reaches nobody outside its own network (RFC 1918, 6598, 4193). */
const INNER = new BlockList()
for (const [net, bits] of [
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.168.0.0', 16],
] as const)
  INNER.addSubnet(net, bits)
for (const [net, bits] of [
  ['::1', 128],
  ['fc00::', 7],
  ['fe80::', 10],
] as const)
  INNER.addSubnet(net, bits, 'ipv6')

/** Whether it is an address of the internet, not of somebody's own network. */
export function isPublic(host: string): boolean {
  if (!isDialable(host) || /^::ffff:/i.test(host)) return false
  return isIPv4(host) ? !INNER.check(host) : isIPv6(host) && !INNER.check(host, 'ipv6')
}

/** Below are other people's services; NATs hand out what is above (RFC 4787 §4.2.2). */
const LEAST_PORT = 1_024
/** Dials of one node's asking. Three tries of a punch, and some reverse calls. */
const PER_NODE = { perSecond: 0.2, most: 8 }
/** Dials to one address, whoever asks. */
const PER_HOST = { perSecond: 0.5, most: 16 }
const ALL = { perSecond: 10, most: 100 }
const MAX_KEPT = 2_048

export interface GuardOptions {
  /** What the table says of a node. */
  reach: (node: NodeId) => NodeReach | undefined
  exclude: Exclude
  now: () => number
  /** What reaches somebody outside our own network. */
  isPublic?: (host: string) => boolean
}

export interface Asked {
  from: NodeId
  /** Where the relay sees the node that asks. */
  seen: string | undefined
}

/** Says which of the addresses a node asks us to dial we do dial. */
export class DialGuard {
  readonly #options: GuardOptions
  readonly #all: TokenBucket
  readonly #buckets = new BoundedMap<string, TokenBucket>(MAX_KEPT, ({ isFull }) => isFull)
  refused = 0

  constructor(options: GuardOptions) {
    this.#options = options
    this.#all = new TokenBucket({ perSecond: ALL.perSecond, burst: ALL.most, now: options.now })
  }

  /** Those we may dial now, at most `most`; each counts. */
  allowed(asked: Asked, addresses: readonly string[], most: number): { host: string; port: number }[] {
    const { reach, exclude, isPublic: reaches = isPublic } = this.#options
    const claimed = reach(asked.from)?.addresses ?? []
    const found = addresses
      .filter((address) => isFair(address, asked.seen, claimed))
      .map((address) => parseHostPort(address)!)
      .filter(({ host }) => reaches(host) && !exclude(host))
      .slice(0, most)
      .filter(({ host }) => this.#has(asked.from, host))
    this.refused += addresses.length - found.length
    return found
  }

  #has(node: NodeId, host: string): boolean {
    return (
      this.#bucket(`node ${node}`, PER_NODE).tryTake() &&
      this.#bucket(`host ${host}`, PER_HOST).tryTake() &&
      this.#all.tryTake()
    )
  }

  #bucket(key: string, { perSecond, most }: typeof PER_NODE): TokenBucket {
    const { now } = this.#options
    return this.#buckets.getOrCreate(key, () => new TokenBucket({ perSecond, burst: most, now }))
  }
}

/**
 * An address that the node has in the table is dialled anyway when somebody calls it. Any other must be at no well-known port, and, where a relay vouches for the sender, be the very address the relay sees.
 */
export function isFair(address: string, seen: string | undefined, claimed: readonly string[]): boolean {
  const parsed = parseHostPort(address)
  if (parsed === undefined || isIP(parsed.host) === 0 || !isDialable(parsed.host)) return false
  if (claimed.includes(address)) return true
  // over the other family a relay sees another address, which says nothing about this one
  const isVouched = seen === undefined || isIP(seen) !== isIP(parsed.host) || seen === parsed.host
  return parsed.port >= LEAST_PORT && isVouched
}
