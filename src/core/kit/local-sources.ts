import { BlockList, isIPv6 } from 'node:net'
import type { NetworkInterfaceInfo } from 'node:os'
import { interfacesHere } from './interfaces.ts'
import { systemClock, type Clock } from './clock.ts'
import type { Log } from './log.ts'

/*
 * Linux answers for every address of the machine on every interface (the weak host model, RFC 1122 §3.3.4.2). A neighbour
 * that routes the VIPs, or 127/8, to this machine therefore reaches listeners that are meant for its own programs:
 *
 *   127/8, ::1, our own prefixes ─▶ admitted
 *   an address of an interface of this machine ─▶ admitted
 *   the subnet of an interface that the operator listed (containers) ─▶ admitted
 *   anything else ─▶ refused, and one log line every 10 s
 *
 * A source address can be forged only for a single datagram: the answers go to the machine itself. Where there are rights,
 * nftables drops such packets by the interface on which they arrive (proxy/intercept/vip-rules.ts).
 */

export interface LocalSourcesOptions {
  /** Prefixes whose every address belongs to this machine, for example the VIPs. */
  readonly ranges?: readonly string[]
  /** Interfaces whose neighbours may call too, by name; `docker*` covers every name that begins with `docker`. */
  readonly interfaces?: readonly string[]
  readonly clock?: Clock
  readonly read?: () => NodeJS.Dict<NetworkInterfaceInfo[]>
}

/** An unknown source has the addresses of the machine read again, at most this often. */
const REREAD_MS = 1_000
/** An address that the machine has lost is believed for this long. */
const STALE_MS = 5_000
/** Verdicts kept. Smaller: the list of addresses is searched for each packet of a busy client. */
const REMEMBERED = 1_024
const LOG_MS = 10_000

/** Which sources may use the listeners that are meant for programs on this machine. */
export class LocalSources {
  readonly #log: Log
  readonly #clock: Clock
  readonly #options: LocalSourcesOptions
  readonly #verdicts = new Map<string, boolean>()
  #allowed = new BlockList()
  /** Of `#allowed` those of this machine. */
  #own = new BlockList()
  #readAt = Number.NEGATIVE_INFINITY
  #loggedAt = Number.NEGATIVE_INFINITY
  #refused = 0

  constructor(log: Log, options: LocalSourcesOptions = {}) {
    this.#log = log
    this.#options = options
    this.#clock = options.clock ?? systemClock
  }

  /** Whether a packet or connection from this address may be taken; a refusal is logged. `listener` says where it came. */
  admits(address: string | undefined, listener: string): boolean {
    if (address === undefined) return false // the caller has gone
    if (isLoopback(address)) return true
    const now = this.#clock.now()
    if (now - this.#readAt > STALE_MS) this.#reread(now)
    let isAdmitted = this.#verdicts.get(address)
    if (isAdmitted === undefined) {
      isAdmitted = this.#isAllowed(address)
      if (!isAdmitted && now - this.#readAt > REREAD_MS) {
        this.#reread(now)
        isAdmitted = this.#isAllowed(address)
      }
      if (this.#verdicts.size >= REMEMBERED) this.#verdicts.clear()
      this.#verdicts.set(address, isAdmitted)
    }
    if (!isAdmitted) this.#refuse(address, listener, now)
    return isAdmitted
  }

  /** Whether an admitted address is one of this machine, so that any of its programs may send from it. */
  isHere(address: string): boolean {
    return isLoopback(address) || this.#own.check(address.replace(/%.*/, ''), isIPv6(address) ? 'ipv6' : 'ipv4')
  }

  #isAllowed(text: string): boolean {
    const [address = '', zone] = text.split('%', 2)
    if (zone !== undefined && matches(zone, this.#options.interfaces)) return true
    return this.#allowed.check(address, isIPv6(address) ? 'ipv6' : 'ipv4')
  }

  #reread(now: number): void {
    const { ranges = [], interfaces = [], read = interfacesHere } = this.#options
    const [allowed, own] = [new BlockList(), new BlockList()]
    for (const range of ranges) for (const list of [allowed, own]) addPrefix(list, range)
    for (const [name, addresses] of Object.entries(read())) {
      for (const { address, family, cidr } of addresses ?? []) {
        const isIPv4 = family === 'IPv4'
        for (const list of [allowed, own]) list.addAddress(address, isIPv4 ? 'ipv4' : 'ipv6')
        // A link-local subnet is on every interface: there, the zone of the source decides.
        if (cidr !== null && !address.startsWith('fe80:') && matches(name, interfaces)) addPrefix(allowed, cidr)
      }
    }
    this.#allowed = allowed
    this.#own = own
    this.#readAt = now
    this.#verdicts.clear()
  }

  #refuse(address: string, listener: string, now: number): void {
    this.#refused += 1
    if (now - this.#loggedAt < LOG_MS) return
    this.#log.warn('refused a caller from another machine', { address, listener, refused: this.#refused })
    this.#loggedAt = now
    this.#refused = 0
  }
}

function isLoopback(address: string): boolean {
  return address.startsWith('127.') || address === '::1' || address.startsWith('::ffff:127.')
}

function addPrefix(list: BlockList, cidr: string): void {
  const [net = '', bits] = cidr.split('/', 2)
  list.addSubnet(net, Number(bits), isIPv6(net) ? 'ipv6' : 'ipv4')
}

function matches(name: string, patterns: readonly string[] = []): boolean {
  return patterns.some((pattern) => (pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern))
}
