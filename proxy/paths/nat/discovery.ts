import { MeshError } from '../../../src/core/errors.ts'
import type { Clock } from '../../../src/core/kit/clock.ts'
import { parseHostPort, printHostPort } from '../../../src/core/kit/host-port.ts'
import { Lifetime } from '../../../src/core/kit/lifetime.ts'
import type { Log } from '../../../src/core/kit/log.ts'
import type { Welcome } from '../../relay/wire/messages.ts'
import { ASK } from '../../relay/wire/observation.ts'
import { FAMILIES, familyOf, isPublic, type Family } from '../addresses.ts'
import { SharedPort } from '../shared-port.ts'
import { measureHairpin, type Hairpin, type UdpHairpin } from './hairpin.ts'
import { UNKNOWN_NAT, type NatBehavior } from './nat-behavior.ts'
import { observeTcp } from './observe-tcp.ts'
import { observeUdp, UdpQueries, type Send } from './observe-udp.ts'
import { newQuestion, Observers } from './observers.ts'

/*
 * How our NAT behaves in each address family (RFC 5780, with our own messages): relays have observers (relay/observer.ts), each
 * with two ports, which answer under which address they see us. What several of them see of one port of ours shows the mapping;
 * what gets in from a port that we have not sent to shows the filtering.
 *
 *     A node that reaches no observer, since only port 443 or a proxy leads out, still learns its address from the relay itself
 *     (`welcome`), though nothing about ports.
 */

/** The UDP socket that sealed datagrams use. */
export interface PacketSender {
  send: Send
}

export interface NatDiscoveryOptions {
  /** The local addresses to bind, in the families that this node uses: `0.0.0.0`, `::`, or its own addresses. */
  hosts: Readonly<Partial<Record<Family, string>>>
  /** Whether an address is one of this machine's own. */
  isOwn: (host: string) => boolean
  /** The TCP port at which others dial us; 0 while there is none. */
  listensAt?: () => number
  udp?: PacketSender | undefined
  /** Whether an address is on the internet: a relay must not make us send into our own network. */
  isPublic?: (host: string) => boolean
  clock: Clock
  log: Log
}

/** A port of ours and the address at which it is seen. */
export interface ObservedPort extends Disposable {
  readonly port: SharedPort
  readonly address: string
}

/** What was observed of one address family. */
export interface NatObservation {
  readonly tcp: NatBehavior
  readonly udp: NatBehavior
  /** Where a port of ours was last seen; for UDP the datagram port, unless each peer sees another one. */
  readonly tcpAddress?: string
  readonly udpAddress?: string
  /** How many observer addresses answered: one alone cannot show a mapping that depends on the address. */
  readonly observers: number
  /** Without a NAT: whether strangers reach the port at which we listen. */
  readonly isPortOpen?: boolean
  readonly hairpin: Hairpin
}

const NOTHING: NatObservation = { tcp: UNKNOWN_NAT, udp: UNKNOWN_NAT, observers: 0, hairpin: {} }

/** Networks change without notice. Smaller: more connections to observers; larger: punches fail for longer after a change. */
const REFRESH_MS = 120_000
/** UDP mappings live for 30 s or more: refreshed this often, the one of our datagram port stays (RFC 4787 §4.3). */
const UDP_REFRESH_MS = 20_000
/** A router does not change how it hairpins: measured again after this long, or when the network has changed. */
const HAIRPIN_REFRESH_MS = 30 * 60_000
/** Before the first observation: relays come up one after the other. */
const SETTLE_MS = 50
const PORT_MS = 1_500

export class NatDiscovery implements AsyncDisposable {
  readonly #options: NatDiscoveryOptions
  readonly #log: Log
  readonly #life: Lifetime
  readonly #observers = new Observers()
  readonly #queries: UdpQueries | undefined
  readonly #observations = new Map<Family, NatObservation>()
  readonly #hairpinAt = { tcp: new Map<Family, number>(), udp: new Map<Family, number>() }
  readonly #measuring = new Map<Family, Promise<void>>()
  #addressAtRelay: string | undefined
  #refreshing: Promise<void> | undefined
  /** A relay was added after the running refresh had asked for the observers. */
  #isStale = false
  #changed = new AbortController()

  private constructor(options: NatDiscoveryOptions, life: Lifetime) {
    const { udp, clock, log } = options
    this.#options = options
    this.#life = life
    this.#log = log.child({ part: 'NAT discovery' })
    this.#queries = udp && new UdpQueries((bytes, to) => udp.send(bytes, to), clock)
  }

  static start(options: NatDiscoveryOptions): Promise<NatDiscovery> {
    return Lifetime.open((life) => {
      const discovery = new NatDiscovery(options, life)
      life.spawn((signal) => discovery.#repeat(REFRESH_MS, () => discovery.refresh(), signal), 'NAT discovery')
      life.spawn(
        (signal) => discovery.#repeat(UDP_REFRESH_MS, () => discovery.#refreshUdp(), signal),
        'UDP NAT discovery',
      )
      return discovery
    })
  }

  /** The families in which this node binds. */
  get families(): Family[] {
    return FAMILIES.filter((family) => this.#options.hosts[family] !== undefined)
  }

  of(family: Family): NatObservation {
    return this.#observations.get(family) ?? NOTHING
  }

  /** Where others see our datagram port through a NAT. */
  get udpAddresses(): string[] {
    return this.families.flatMap((family) => {
      const { udp, udpAddress } = this.of(family)
      return udpAddress === undefined || udp.mapping === 'none' ? [] : [udpAddress]
    })
  }

  get hasObservers(): boolean {
    return !this.#observers.isEmpty
  }

  /** The address at which the relay sees our connection to it: the proxy's, where there is one between. */
  get addressAtRelay(): string | undefined {
    return this.#addressAtRelay
  }

  /** Whether what we send to that address of our NAT leads back in; `undefined` when it is another address, or not known. */
  hairpins(host: string): boolean | undefined {
    const { tcp, tcpAddress = '', hairpin } = this.of(familyOf(host))
    const isOurs = tcp.mapping === 'endpoint-independent' && parseHostPort(tcpAddress)?.host === host
    return isOurs ? hairpin.tcp : undefined
  }

  /** We listen at a relay, which has said this in its `welcome`. */
  addRelay(url: string, { seen, observer }: Welcome): void {
    this.#addressAtRelay = seen
    if (observer === undefined) return
    this.#observers.add(url, observer)
    this.#isStale = true
    void this.#options.clock.sleep(SETTLE_MS, this.#life.signal).then(() => this.refresh())
  }

  /** Forgets everything: it was observed in another network. */
  networkChanged(): void {
    this.#observations.clear()
    this.#hairpinAt.tcp.clear()
    this.#hairpinAt.udp.clear()
    this.#isStale = true
    this.#changed.abort()
    this.#changed = new AbortController()
    void this.refresh()
  }

  /** Observes all families now; resolves when that is done. Never runs twice at once. */
  refresh(): Promise<void> {
    if (this.#life.signal.aborted || !this.hasObservers) return Promise.resolve()
    this.#refreshing ??= this.#refreshAll().finally(() => {
      this.#refreshing = undefined
    })
    return this.#refreshing
  }

  /**
   * Opens a port, and learns at which address others see it.
   * @throws MeshError NO_PATH when no observer answers
   */
  async openPort(family: Family, signal: AbortSignal): Promise<ObservedPort> {
    const host = this.#options.hosts[family]
    const observers = await this.#observers.addresses(family)
    if (host === undefined || observers.length === 0)
      throw new MeshError('NO_PATH', { reason: 'no relay observes this address family' })
    const port = new SharedPort(host)
    try {
      const limit = AbortSignal.any([signal, this.#life.signal, AbortSignal.timeout(PORT_MS)])
      const oneOfEach = new Map(observers.toReversed().map((observer) => [observer.host, observer]))
      const queries = [...oneOfEach.values()].map((one) => port.query(one, newQuestion(one, ASK.where), limit))
      const seen = await Promise.any(queries)
      const address = printHostPort(seen.host, seen.port)
      return { port, address, [Symbol.dispose]: () => port[Symbol.dispose]() }
    } catch (cause) {
      port[Symbol.dispose]()
      throw new MeshError('NO_PATH', { reason: 'no observer answered' }, { cause })
    }
  }

  /** Takes a packet that arrived at the datagram port; false when it is no observer's answer. */
  receive(packet: Buffer): boolean {
    return this.#queries?.receive(packet) === true
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  async #repeat(ms: number, act: () => Promise<void>, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#options.clock.sleep(ms, AbortSignal.any([signal, this.#changed.signal]))
      if (!signal.aborted) await act()
    }
  }

  async #refreshAll(): Promise<void> {
    do {
      this.#isStale = false
      await Promise.all(this.families.map((family) => this.#refreshFamily(family)))
    } while (this.#isStale && !this.#life.signal.aborted)
  }

  async #refreshFamily(family: Family): Promise<void> {
    await Promise.all([this.#observeTcp(family), this.#observeUdp(family)])
    await this.#observeHairpin(family)
  }

  async #refreshUdp(): Promise<void> {
    await Promise.all(
      this.families.map(async (family) => {
        await this.#observeUdp(family)
        await this.#observeHairpin(family)
      }),
    )
  }

  async #observeTcp(family: Family): Promise<void> {
    const { hosts, isOwn, listensAt = () => 0 } = this.#options
    const { signal } = this.#changed
    const observers = await this.#observers.addresses(family)
    const probe = { host: hosts[family]!, observers, isOwn, listensAt: listensAt() }
    const seen = await observeTcp(probe, AbortSignal.any([this.#life.signal, signal])).catch(() => undefined)
    if (signal.aborted) return
    const { tcp: _tcp, tcpAddress: _address, isPortOpen: _open, ...rest } = this.of(family)
    const { nat, address, observers: answered, isPortOpen } = seen ?? { nat: UNKNOWN_NAT, observers: 0 }
    this.#record(family, 'tcp', {
      ...rest,
      tcp: nat,
      observers: answered,
      ...(address === undefined ? {} : { tcpAddress: address }),
      ...(isPortOpen === undefined ? {} : { isPortOpen }),
    })
  }

  async #observeUdp(family: Family): Promise<void> {
    if (this.#queries === undefined || !this.hasObservers) return
    const { isOwn } = this.#options
    const { signal } = this.#changed
    const observers = await this.#observers.addresses(family)
    const limit = AbortSignal.any([this.#life.signal, signal])
    const { nat, address } = await observeUdp(this.#queries, { observers, isOwn, before: this.of(family).udp }, limit)
    if (signal.aborted) return
    const { udpAddress: _address, ...rest } = this.of(family)
    this.#record(family, 'udp', { ...rest, udp: nat, ...(address === undefined ? {} : { udpAddress: address }) })
  }

  /** Only behind a NAT with endpoint-independent mapping: no other can hairpin. Never runs twice at once for a family. */
  #observeHairpin(family: Family): Promise<void> {
    const measuring =
      this.#measuring.get(family) ?? this.#measureHairpin(family).finally(() => this.#measuring.delete(family))
    this.#measuring.set(family, measuring)
    return measuring
  }

  /** What was not measured, since an answer was lost or the mapping not known yet, is measured at the next refresh. */
  async #measureHairpin(family: Family): Promise<void> {
    const { clock, isPublic: isOnInternet = isPublic } = this.#options
    const { tcp, tcpAddress = '' } = this.of(family)
    if (tcp.mapping !== 'endpoint-independent' || !isOnInternet(parseHostPort(tcpAddress)?.host ?? '')) return
    const limit = AbortSignal.any([this.#life.signal, this.#changed.signal])
    const udp = this.#isHairpinDue('udp', family) ? await this.#udpPort(family) : undefined
    const openPort = this.#isHairpinDue('tcp', family) ? () => this.openPort(family, limit) : undefined
    if (udp === undefined && openPort === undefined) return
    const measured = await measureHairpin({ openPort, udp }, limit)
    if (limit.aborted) return
    for (const protocol of ['tcp', 'udp'] as const)
      if (measured[protocol] !== undefined) this.#hairpinAt[protocol].set(family, clock.now())
    const observed = this.of(family)
    const hairpin = { ...observed.hairpin, ...measured }
    this.#observations.set(family, { ...observed, hairpin })
    this.#log.info('hairpinning measured', { family, ...hairpin })
  }

  #isHairpinDue(protocol: 'tcp' | 'udp', family: Family): boolean {
    const measuredAt = this.#hairpinAt[protocol].get(family)
    return measuredAt === undefined || this.#options.clock.now() - measuredAt >= HAIRPIN_REFRESH_MS
  }

  /** Our datagram port, where its mapping is endpoint-independent. */
  async #udpPort(family: Family): Promise<UdpHairpin | undefined> {
    const { hosts, clock } = this.#options
    const { udp, udpAddress: address } = this.of(family)
    const [observer] = await this.#observers.addresses(family)
    if (udp.mapping !== 'endpoint-independent' || address === undefined || observer === undefined) return undefined
    return { queries: this.#queries!, address, bind: { host: hosts[family]!, family }, observer, clock }
  }

  #record(family: Family, protocol: 'tcp' | 'udp', now: NatObservation): void {
    const before = this.of(family)
    this.#observations.set(family, now)
    const { mapping, filtering } = now[protocol]
    if (before[protocol].mapping === mapping && before[protocol].filtering === filtering) return
    const address = protocol === 'tcp' ? now.tcpAddress : now.udpAddress
    this.#log.info('NAT behavior observed', { protocol, family, mapping, filtering, address: address ?? '' })
  }
}
