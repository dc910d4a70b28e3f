import { randomBytes } from 'node:crypto'
import { lookup } from 'node:dns/promises'
import { MeshError } from '../../src/errors.ts'
import type { Clock } from '../../src/kit/clock.ts'
import { Lifetime } from '../../src/kit/lifetime.ts'
import type { Log } from '../../src/kit/log.ts'
import type { Welcome } from '../relay/messages.ts'
import { ASK, decodeAnswer, encodeQuestion, unmapped, type ObservedAt } from '../relay/observation.ts'
import { printHostPort } from './addresses.ts'
import { mappingOf, UNKNOWN_NAT, type Filtering, type NatClass } from './nat-class.ts'
import { PunchPort, type Place } from './punch-port.ts'

/*
 * What others see of us: relays say it (relay/observer.ts), each on two ports. From two answers to one port of ours follows what
 * our NAT does; asked from two relays where there are two, as a NAT may make a difference by address only.
 */

/** The UDP socket that sealed datagrams use. */
export interface UdpAsker {
  send(bytes: Buffer, to: Place): void
}

export interface ObserverOfUsOptions {
  /** Where this node binds: `0.0.0.0`, or one of its addresses. */
  host: string
  /** Whether an address is one of this machine's own. */
  isOwn: (host: string) => boolean
  udp?: UdpAsker | undefined
  clock: Clock
  log: Log
}

/** Where a port of ours is seen, and what is known of the network. */
export interface SeenPort extends Disposable {
  readonly port: PunchPort
  readonly address: string
  readonly nat: NatClass
}

/** Networks change without a word: looked at again so often. */
const EVERY_MS = 120_000
/** UDP mappings live 30 s and more: asked so often, the one of our datagram port stays (RFC 4787 §4.3). */
const UDP_EVERY_MS = 20_000
/** Before a first look: relays come up one after the other. */
const SOON_MS = 50
const ANSWER_MS = 3_000
const PORT_MS = 1_500

interface Source {
  host: string
  ports: readonly [number, number]
  cookie: string
}

export class Observation implements AsyncDisposable {
  readonly #options: ObserverOfUsOptions
  readonly #log: Log
  readonly #life: Lifetime
  readonly #sources = new Map<string, Source>()
  readonly #waiting = new Map<string, (answer: ObservedAt) => void>()
  #tcp: NatClass = UNKNOWN_NAT
  #udp: NatClass = UNKNOWN_NAT
  #udpAddress: string | undefined
  #publicHost: string | undefined
  #tcpAddress: string | undefined
  #looking: Promise<void> | undefined
  #changed = new AbortController()
  /** Called when one of the classes or addresses is another one. */
  onChange: () => void = () => undefined

  private constructor(options: ObserverOfUsOptions, life: Lifetime) {
    this.#options = options
    this.#life = life
    this.#log = options.log.child({ part: 'observation' })
  }

  static start(options: ObserverOfUsOptions): Promise<Observation> {
    return Lifetime.open((life) => {
      const observation = new Observation(options, life)
      const every = (ms: number, look: () => Promise<void>) =>
        life.spawn(
          async (signal) => {
            while (!signal.aborted) {
              await options.clock.sleep(ms, AbortSignal.any([signal, observation.#changed.signal]))
              if (!signal.aborted) await look()
            }
          },
          (error) => observation.#log.error('stopped looking at the network', { error }),
        )
      every(EVERY_MS, () => observation.look())
      if (options.udp !== undefined) every(UDP_EVERY_MS, () => observation.#lookUdp())
      return observation
    })
  }

  /** What TCP meets here. */
  get tcp(): NatClass {
    return this.#tcp
  }

  get udp(): NatClass {
    return this.#udp
  }

  /** Where others see our datagram port; `undefined` while that differs for each, or is not known. */
  get udpAddress(): string | undefined {
    return this.#udpAddress
  }

  /** Where a port of ours was seen last. */
  get tcpAddress(): string | undefined {
    return this.#tcpAddress
  }

  /** There is a relay that tells. */
  get isAsked(): boolean {
    return this.#sources.size > 0
  }

  /** The address under which the internet sees us. */
  get publicHost(): string | undefined {
    return this.#publicHost
  }

  /** A relay that we listen at now, and what it tells. */
  welcome(url: string, { seen, observer }: Welcome): void {
    this.#publicHost ??= seen
    if (observer === undefined) return
    const host = new URL(url).hostname.replace(/^\[|\]$/g, '')
    this.#sources.set(url, { host, ...observer })
    void this.#options.clock.sleep(SOON_MS, this.#life.signal).then(() => this.look())
  }

  /** The network is another one: nothing that was known counts. */
  networkChanged(): void {
    this.#tcp = UNKNOWN_NAT
    this.#udp = UNKNOWN_NAT
    this.#udpAddress = undefined
    this.#publicHost = undefined
    this.#changed.abort()
    this.#changed = new AbortController()
    void this.look()
  }

  /** Looks at both now; one look at a time. */
  look(): Promise<void> {
    if (this.#life.signal.aborted || this.#sources.size === 0) return Promise.resolve()
    this.#looking ??= Promise.all([this.#lookTcp(), this.#lookUdp()])
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
  async openPort(signal: AbortSignal): Promise<SeenPort> {
    const port = new PunchPort(this.#options.host)
    try {
      const [place] = await this.#places()
      if (place === undefined) throw new MeshError('NO_PATH', { reason: 'no relay tells where it sees us' })
      const limit = AbortSignal.any([signal, this.#life.signal, AbortSignal.timeout(PORT_MS)])
      const { host, port: seen } = await port.ask(place, this.#question(place, ASK.where), limit)
      return {
        port,
        address: printHostPort(host, seen),
        nat: this.#tcp,
        [Symbol.dispose]: () => port[Symbol.dispose](),
      }
    } catch (error) {
      port[Symbol.dispose]()
      throw error
    }
  }

  /** A packet on the datagram port that may be an observer's answer; false when it is not. */
  hear(packet: Buffer): boolean {
    const answer = decodeAnswer(packet)
    if (answer === undefined) return false
    this.#waiting.get(answer.token)?.(answer)
    return true
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  // ── TCP ──

  async #lookTcp(): Promise<void> {
    const before = this.#tcp
    this.#tcp = await this.#tcpClass().catch(() => UNKNOWN_NAT)
    this.#tell('tcp', before, this.#tcp)
  }

  async #tcpClass(): Promise<NatClass> {
    const places = await this.#places()
    using port = new PunchPort(this.#options.host)
    const limit = AbortSignal.any([this.#life.signal, AbortSignal.timeout(ANSWER_MS)])
    const ask = (from: PunchPort, place: AskedPlace, what: number) =>
      from.ask(place, this.#question(place, what), limit).catch(() => undefined)
    const answers = await Promise.all(places.map((place) => ask(port, place, ASK.where)))
    const seen = answers.filter((answer) => answer !== undefined)
    const mapping = mappingOf(seen, this.#options.isOwn)
    const [first] = seen
    this.#publicHost = first?.host ?? this.#publicHost
    this.#tcpAddress = first === undefined ? undefined : printHostPort(first.host, first.port)
    const answering = places[answers.findIndex((answer) => answer !== undefined)]
    if (mapping === 'varies' || answering === undefined) return { mapping, filtering: 'unknown' }
    using open = new PunchPort(this.#options.host)
    open.listen((socket) => socket.destroy())
    return { mapping, filtering: filteringOf((await ask(open, answering, ASK.elsewhere))?.heard) }
  }

  // ── UDP ──

  async #lookUdp(): Promise<void> {
    const { udp, isOwn } = this.#options
    if (udp === undefined || this.#sources.size === 0) return
    const before = this.#udp
    const places = await this.#places()
    const answers = await Promise.all(places.map((place) => this.#askUdp(udp, place, ASK.where)))
    const seen = answers.filter((answer) => answer !== undefined)
    const mapping = mappingOf(seen, isOwn)
    const [first] = seen
    const isTold = mapping === 'stable' || (mapping === 'unknown' && first !== undefined)
    this.#udpAddress = isTold ? printHostPort(first!.host, first!.port) : undefined
    const filtering =
      before.mapping === mapping && before.filtering !== 'unknown'
        ? before.filtering
        : filteringOf(
            seen.length === 0 ? undefined : (await this.#askUdp(udp, places[0]!, ASK.elsewhere)) !== undefined,
          )
    this.#udp = seen.length === 0 ? UNKNOWN_NAT : { mapping, filtering: mapping === 'varies' ? 'unknown' : filtering }
    this.#tell('udp', before, this.#udp)
  }

  /** Asked three times at most: a datagram may be lost. */
  async #askUdp(udp: UdpAsker, place: AskedPlace, what: number): Promise<ObservedAt | undefined> {
    const { clock } = this.#options
    const question = this.#question(place, what)
    const { promise, resolve } = Promise.withResolvers<ObservedAt | undefined>()
    const answered = new AbortController()
    this.#waiting.set(question.token, (answer) => {
      resolve(answer)
      answered.abort()
    })
    const limit = AbortSignal.any([answered.signal, this.#life.signal])
    for (const ms of [400, 800, 1_200]) {
      if (limit.aborted) break
      udp.send(encodeQuestion(question), place)
      await clock.sleep(ms, limit)
    }
    this.#waiting.delete(question.token)
    resolve(undefined)
    return await promise
  }

  // ── what both need ──

  /** Two places that see us: of two relays, else two ports of one. */
  async #places(): Promise<AskedPlace[]> {
    const sources = [...this.#sources.values()].slice(0, 2)
    const found: AskedPlace[] = []
    for (const { host, ports, cookie } of sources) {
      const address = await lookup(host, { family: 4 }).catch(() => undefined)
      if (address === undefined) continue
      for (const port of sources.length === 1 ? ports : ports.slice(0, 1)) {
        found.push({ host: address.address, port, cookie })
      }
    }
    return found
  }

  #question({ cookie }: AskedPlace, ask: number) {
    return { ask, cookie, token: randomBytes(16).toString('hex') }
  }

  #tell(protocol: 'tcp' | 'udp', before: NatClass, now: NatClass): void {
    if (before.mapping === now.mapping && before.filtering === now.filtering) return
    this.#log.info('the network shows itself', { protocol, ...now, address: unmapped(this.#publicHost ?? '') })
    this.onChange()
  }
}

interface AskedPlace extends Place {
  cookie: string
}

function filteringOf(heard: boolean | undefined): Filtering {
  return heard === undefined ? 'unknown' : heard ? 'open' : 'strict'
}
