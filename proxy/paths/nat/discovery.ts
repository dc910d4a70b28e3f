import { MeshError } from '../../../src/core/errors.ts'
import { background } from '../../../src/core/kit/background.ts'
import type { Clock } from '../../../src/core/kit/clock.ts'
import { Lifetime } from '../../../src/core/kit/lifetime.ts'
import type { Log } from '../../../src/core/kit/log.ts'
import type { Welcome } from '../../relay/wire/messages.ts'
import { ASK } from '../../relay/wire/observation.ts'
import { FAMILIES, familyOf, type Family } from '../addresses.ts'
import { isPublic } from '../dial-guard.ts'
import { lookBack, type Hairpin, type UdpHairpin } from './hairpin.ts'
import { UNKNOWN_NAT, type NatClass } from './nat-behavior.ts'
import { observeTcp } from './observe-tcp.ts'
import { observeUdp, UdpQuestions, type Send } from './observe-udp.ts'
import { Observers, questionFor } from './observers.ts'
import { PunchPort } from '../shared-port.ts'
import { parseHostPort, printHostPort } from '../../../src/core/kit/host-port.ts'

/*
 * What others see of us, in each address family: relays say it (relay/observer.ts), each on two ports. From what several of them see
 * of one port of ours follows what our NAT or firewall does.
 *
 *     who gets to no observer, because nothing but 443 or a proxy leads out, still hears from the relay itself where it comes
 *     from (`welcome`): an address, and nothing about ports.
 */

/** The UDP socket that sealed datagrams use. */
export interface UdpAsker {
  send: Send
}

export interface ObserverOfUsOptions {
  /** Where this node binds, in the families it uses: `0.0.0.0`, `::`, or its addresses. */
  hosts: Readonly<Partial<Record<Family, string>>>
  /** Whether an address is one of this machine's own. */
  isOwn: (host: string) => boolean
  /** The TCP port at which others dial us; 0 while there is none. */
  listensAt?: () => number
  udp?: UdpAsker | undefined
  /** What is no address of somebody's own network: a relay must not make us knock about in ours. */
  isPublic?: (host: string) => boolean
  clock: Clock
  log: Log
}

/** Where a port of ours is seen, and what is known of the network. */
export interface SeenPort extends Disposable {
  readonly port: PunchPort
  readonly address: string
}

/** What is known of one family. */
export interface NatObservation {
  readonly tcp: NatClass
  readonly udp: NatClass
  /** Where a port of ours was seen last; by UDP the datagram port, unless every peer sees another one. */
  readonly tcpAddress?: string
  readonly udpAddress?: string
  /** Addresses from which we were looked at: from one alone a NAT that makes a difference by address only is not seen. */
  readonly observers: number
  /** Without a NAT: whether strangers get to the port at which we listen. */
  readonly isPortOpen?: boolean
  readonly hairpin: Hairpin
}

const NOTHING: NatObservation = { tcp: UNKNOWN_NAT, udp: UNKNOWN_NAT, observers: 0, hairpin: {} }

/** Networks change without a word: looked at again so often. */
const EVERY_MS = 120_000
/** UDP mappings live 30 s and more: asked so often, the one of our datagram port stays (RFC 4787 §4.3). */
const UDP_EVERY_MS = 20_000
/** A router does not change what it does: tried again so long after, or when the network is another one. */
const HAIRPIN_EVERY_MS = 30 * 60_000
/** Before a first look: relays come up one after the other. */
const SOON_MS = 50
const PORT_MS = 1_500

export class Observation implements AsyncDisposable {
  readonly #options: ObserverOfUsOptions
  readonly #log: Log
  readonly #life: Lifetime
  readonly #observers = new Observers()
  readonly #questions: UdpQuestions | undefined
  readonly #sights = new Map<Family, NatObservation>()
  readonly #hairpinAt = new Map<Family, number>()
  #relaySees: string | undefined
  #looking: Promise<void> | undefined
  #changed = new AbortController()

  private constructor(options: ObserverOfUsOptions, life: Lifetime) {
    const { udp, clock, log } = options
    this.#options = options
    this.#life = life
    this.#log = log.child({ part: 'observation' })
    this.#questions = udp && new UdpQuestions((bytes, to) => udp.send(bytes, to), clock)
  }

  static start(options: ObserverOfUsOptions): Promise<Observation> {
    return Lifetime.open((life) => {
      const observation = new Observation(options, life)
      const every = (ms: number, look: () => Promise<void>) =>
        life.spawn(async (signal) => {
          while (!signal.aborted) {
            await options.clock.sleep(ms, AbortSignal.any([signal, observation.#changed.signal]))
            if (!signal.aborted) await look()
          }
        }, 'network observation')
      every(EVERY_MS, () => observation.look())
      every(UDP_EVERY_MS, async () => {
        await Promise.all(observation.families.map((family) => observation.#lookUdp(family)))
      })
      return observation
    })
  }

  /** In which this node binds. */
  get families(): Family[] {
    return FAMILIES.filter((family) => this.#options.hosts[family] !== undefined)
  }

  of(family: Family): NatObservation {
    return this.#sights.get(family) ?? NOTHING
  }

  /** Where others see our datagram port, behind a NAT. */
  get udpAddresses(): string[] {
    return this.families.flatMap((family) => {
      const { udp, udpAddress } = this.of(family)
      return udpAddress === undefined || udp.mapping === 'none' ? [] : [udpAddress]
    })
  }

  /** There is a relay that tells. */
  get isAsked(): boolean {
    return !this.#observers.isEmpty
  }

  /** Where the relay sees our connection to it come from; the proxy, where there is one between. */
  get relaySees(): string | undefined {
    return this.#relaySees
  }

  /** Seen at that address, two nodes are behind the same NAT: whether that leads back in; `undefined`: it is another one, or not known. */
  leadsBack(host: string): boolean | undefined {
    const { tcp, tcpAddress = '', hairpin } = this.of(familyOf(host))
    return tcp.mapping === 'stable' && parseHostPort(tcpAddress)?.host === host ? hairpin.tcp : undefined
  }

  /** A relay that we listen at now, and what it tells. */
  welcome(url: string, { seen, observer }: Welcome): void {
    this.#relaySees = seen
    if (observer === undefined) return
    this.#observers.tell(url, observer)
    void background.run('network observation', async () => {
      await this.#options.clock.sleep(SOON_MS, this.#life.signal)
      await this.look()
    })
  }

  /** The network is another one: nothing that was known counts. */
  networkChanged(): void {
    this.#sights.clear()
    this.#hairpinAt.clear()
    this.#changed.abort()
    this.#changed = new AbortController()
    void this.look()
  }

  /** Looks at everything now; one look at a time. */
  look(): Promise<void> {
    if (this.#life.signal.aborted || !this.isAsked) return Promise.resolve()
    this.#looking ??= Promise.all(this.families.map((family) => this.#lookAt(family)))
      .then(() => undefined)
      .finally(() => {
        this.#looking = undefined
      })
    return this.#looking
  }

  /**
   * A fresh port, and where others see it.
   * @throws MeshError NO_PATH when nobody tells.
   */
  async openPort(family: Family, signal: AbortSignal): Promise<SeenPort> {
    const host = this.#options.hosts[family]
    const places = await this.#observers.places(family)
    if (host === undefined || places.length === 0)
      throw new MeshError('NO_PATH', { reason: 'no relay tells where it sees us' })
    const port = new PunchPort(host)
    try {
      const limit = AbortSignal.any([signal, this.#life.signal, AbortSignal.timeout(PORT_MS)])
      const first = new Map(places.toReversed().map((place) => [place.host, place])) // one port of each is enough
      const asked = [...first.values()].map((place) => port.ask(place, questionFor(place, ASK.where), limit))
      const seen = await Promise.any(asked)
      const address = printHostPort(seen.host, seen.port)
      return { port, address, [Symbol.dispose]: () => port[Symbol.dispose]() }
    } catch (cause) {
      port[Symbol.dispose]()
      throw new MeshError('NO_PATH', { reason: 'no relay has told where it sees us' }, { cause })
    }
  }

  /** A packet on the datagram port that may be an observer's answer; false when it is not. */
  hear(packet: Buffer): boolean {
    return this.#questions?.hear(packet) === true
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  async #lookAt(family: Family): Promise<void> {
    await Promise.all([this.#lookTcp(family), this.#lookUdp(family)])
    await this.#lookBack(family)
  }

  async #lookTcp(family: Family): Promise<void> {
    const { hosts, isOwn, listensAt = () => 0 } = this.#options
    const host = hosts[family]!
    const { signal } = this.#changed
    const places = await this.#observers.places(family)
    const look = { host, places, isOwn, listensAt: listensAt() }
    const seen = await observeTcp(look, AbortSignal.any([this.#life.signal, signal])).catch(() => undefined)
    if (signal.aborted) return
    const { tcp: _tcp, tcpAddress: _address, isPortOpen: _open, ...rest } = this.of(family)
    const { nat, address, observers, isPortOpen } = seen ?? { nat: UNKNOWN_NAT, observers: 0 }
    this.#know(family, 'tcp', {
      ...rest,
      tcp: nat,
      observers,
      ...(address === undefined ? {} : { tcpAddress: address }),
      ...(isPortOpen === undefined ? {} : { isPortOpen }),
    })
  }

  async #lookUdp(family: Family): Promise<void> {
    if (this.#questions === undefined || !this.isAsked) return
    const { isOwn } = this.#options
    const { signal } = this.#changed
    const places = await this.#observers.places(family)
    const limit = AbortSignal.any([this.#life.signal, signal])
    const look = { places, isOwn, before: this.of(family).udp }
    const { nat, address } = await observeUdp(this.#questions, look, limit)
    if (signal.aborted) return
    const { udpAddress: _address, ...rest } = this.of(family)
    this.#know(family, 'udp', { ...rest, udp: nat, ...(address === undefined ? {} : { udpAddress: address }) })
  }

  /** Only where there is a NAT with one mapping for all: without, nothing can lead back. */
  async #lookBack(family: Family): Promise<void> {
    const { clock, isPublic: reaches = isPublic } = this.#options
    const known = this.#hairpinAt.get(family)
    const { tcp: seen, tcpAddress = '' } = this.of(family)
    if (seen.mapping !== 'stable' || !reaches(parseHostPort(tcpAddress)?.host ?? '')) return
    if (known !== undefined && clock.now() - known < HAIRPIN_EVERY_MS) return
    const { signal } = this.#changed
    const limit = AbortSignal.any([this.#life.signal, signal])
    const openPort = () => this.openPort(family, limit)
    const hairpin = await lookBack({ openPort, udp: await this.#udpPort(family) }, limit)
    if (limit.aborted) return
    this.#hairpinAt.set(family, clock.now())
    this.#sights.set(family, { ...this.of(family), hairpin })
    this.#log.info('whether the router leads back in what is sent to its address outside', { ...hairpin })
  }

  /** Our datagram port, where one mapping stands for all. */
  async #udpPort(family: Family): Promise<UdpHairpin | undefined> {
    const { hosts, clock } = this.#options
    const { udp, udpAddress: address } = this.of(family)
    const [place] = await this.#observers.places(family)
    if (udp.mapping !== 'stable' || address === undefined || place === undefined) return undefined
    return { questions: this.#questions!, address, bind: { host: hosts[family]!, family }, place, clock }
  }

  #know(family: Family, protocol: 'tcp' | 'udp', now: NatObservation): void {
    const before = this.of(family)
    this.#sights.set(family, now)
    if (before[protocol].mapping === now[protocol].mapping && before[protocol].filtering === now[protocol].filtering)
      return
    const address = protocol === 'tcp' ? now.tcpAddress : now.udpAddress
    this.#log.info('the network shows itself', { protocol, family, ...now[protocol], address: address ?? '' })
  }
}
