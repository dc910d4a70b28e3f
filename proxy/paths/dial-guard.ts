import { isIP } from 'node:net'
import { BoundedMap } from '../../src/core/kit/bounded-map.ts'
import { parseHostPort, type HostPort } from '../../src/core/kit/host-port.ts'
import { TokenBucket } from '../../src/core/kit/token-bucket.ts'
import type { NodeId } from '../../src/core/model/ids.ts'
import type { NodeReach } from '../../src/core/model/node.ts'
import { isDialable, isPublic, type Exclude } from './addresses.ts'

/*
 * Where other nodes may make us dial. A node that asks is authenticated, and may still lie about its addresses: it must not be
 * able to make us connect to somebody else's service, in our own network or elsewhere, more than a few times.
 */

/** Ports below this are other people's services; NATs hand out ports above it (RFC 4787 §4.2.2). */
const LEAST_PORT = 1_024
/** Dials that one node may ask for: three tries of a punch, and a few reverse dials. */
const PER_NODE = { perSecond: 0.2, most: 8 }
/** Dials to one address, whoever asks. */
const PER_HOST = { perSecond: 0.5, most: 16 }
const ALL = { perSecond: 10, most: 100 }
const MAX_KEPT = 2_048

export interface DialGuardOptions {
  /** What the table knows about a node. */
  reach: (node: NodeId) => NodeReach | undefined
  exclude: Exclude
  now: () => number
  /** Whether an address is outside our own network. */
  isPublic?: (host: string) => boolean
}

export interface DialRequest {
  from: NodeId
  /** The address at which the relay sees the node that asks; `undefined` when it asked over its session. */
  seenAddress: string | undefined
}

/** Decides which of the addresses a node asks us to dial are dialled. */
export class DialGuard {
  readonly #options: DialGuardOptions
  readonly #all: TokenBucket
  readonly #buckets = new BoundedMap<string, TokenBucket>(MAX_KEPT, ({ isFull }) => isFull)
  refused = 0

  constructor(options: DialGuardOptions) {
    this.#options = options
    this.#all = new TokenBucket({ perSecond: ALL.perSecond, burst: ALL.most, now: options.now })
  }

  /** The addresses that may be dialled now, at most `most`; each counts towards the limits. */
  allowed({ from, seenAddress }: DialRequest, addresses: readonly string[], most: number): HostPort[] {
    const { reach, exclude, isPublic: isOutside = isPublic } = this.#options
    const claimed = reach(from)?.addresses ?? []
    const found = addresses
      .filter((address) => isFair(address, seenAddress, claimed))
      .map((address) => parseHostPort(address)!)
      .filter(({ host }) => isOutside(host) && !exclude(host))
      .slice(0, most)
      .filter(({ host }) => this.#isWithinLimits(from, host))
    this.refused += addresses.length - found.length
    return found
  }

  #isWithinLimits(node: NodeId, host: string): boolean {
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
 * An address that the table has for the node is fair: it is dialled anyway when somebody calls the node. Any other must be at a
 * port above the well-known ones and, where a relay confirms the sender, be the very address that the relay sees.
 */
export function isFair(address: string, seenAddress: string | undefined, claimed: readonly string[]): boolean {
  const parsed = parseHostPort(address)
  if (parsed === undefined || isIP(parsed.host) === 0 || !isDialable(parsed.host)) return false
  if (claimed.includes(address)) return true
  // over the other address family a relay sees another address, which says nothing about this one
  const isConfirmed =
    seenAddress === undefined || isIP(seenAddress) !== isIP(parsed.host) || seenAddress === parsed.host
  return parsed.port >= LEAST_PORT && isConfirmed
}
