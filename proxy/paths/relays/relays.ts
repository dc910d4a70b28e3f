import { systemClock, type Clock } from '../../../src/core/kit/clock.ts'
import { background } from '../../../src/core/kit/background.ts'
import { Backoff } from '../../../src/core/kit/backoff.ts'
import { Lifetime } from '../../../src/core/kit/lifetime.ts'
import type { Log } from '../../../src/core/kit/log.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import { chooseRelays } from './relay-choice.ts'
import { RelayListener, type RelayListenerOptions } from './relay-listener.ts'
import { measureRelay, type AnnouncedLeg } from './relayed-dialer.ts'

export interface RelaysOptions extends Omit<RelayListenerOptions, 'url'> {
  /** The relays that are known at the start. */
  urls: readonly string[]
  /** The set of relays at which we listen has changed. */
  onChange?: () => void
  /** How many relays to listen at: the nearest, and the others as spares. */
  most?: number
}

/** Each costs its relay a connection and this node a ping every five seconds; with one alone, this node is down when it is. */
const MOST = 2
const TICK_MS = 500
/** Without a channel for this long, a relay is away. Smaller takes a short interruption for an end. */
const AWAY_MS = 1_500
/** How often the distance is measured, give or take a quarter: of relays at which we listen, and of the others. */
const MEASURE_MS = 30_000
const PROBE_MS = 300_000
/** The first measurement of the others is spread over this, since many nodes learn of a relay at the same time. */
const FIRST_PROBE_MS = 3_000
/** A relay we leave is kept for this long, since peers may still dial us through it. */
const LINGER_MS = 30_000
/** The share of a new measurement in the average. Larger follows jitter; smaller is late. */
const WEIGHT = 0.3

/** One relay that this node knows. */
interface RelayState {
  url: string
  rttMs: number | undefined
  isAway: boolean
  /** When it is measured next. */
  measureAt: number
  isMeasuring: boolean
  readonly retry: Backoff
  listener: RelayListener | undefined
  /** Since when it has a listener without a channel. */
  missingSince: number | undefined
  /** It is no longer chosen: when its listener is closed. */
  leaveAt: number | undefined
}

/**
 * The relays at which this node can be reached: the nearest of those it knows, and a spare.
 *
 *     known ─▶ measured ─▶ chosen (relay-choice.ts) ─▶ listened at ─▶ announced to the cluster, nearest first
 *                 ▲                                        │
 *                 └── it does not answer: another instead ─┴─ a nearer one: both for a while, then the old one is left
 */
export class Relays implements AsyncDisposable {
  readonly #options: RelaysOptions
  readonly #log: Log
  readonly #life: Lifetime
  readonly #clock: Clock
  readonly #random: () => number
  readonly #relays = new Map<string, RelayState>()
  #isOpen = false
  /** The relays at which we listen or try to, nearest first. */
  #chosen: string[] = []
  /** What `onChange` was last called for. */
  #reported = ''

  private constructor(options: RelaysOptions, log: Log, life: Lifetime) {
    this.#options = options
    this.#log = log
    this.#life = life
    this.#clock = options.clock ?? systemClock
    this.#random = options.random ?? Math.random
    this.update(options.urls)
  }

  /** Measures nothing and listens nowhere before `listen`. */
  static start(options: RelaysOptions, log: Log): Promise<Relays> {
    return Lifetime.open((life) => {
      const relays = new Relays(options, log, life)
      life.defer(async () => {
        const listeners = [...relays.#relays.values()].flatMap(({ listener }) => listener ?? [])
        await Promise.all(listeners.map((listener) => listener[Symbol.asyncDispose]()))
      })
      return relays
    })
  }

  /** From now on others can reach this node through relays. */
  listen(): void {
    if (this.#isOpen) return
    this.#isOpen = true
    this.#tick()
    this.#life.every(TICK_MS, () => this.#tick(), 'relay choice')
  }

  /** Replaces the list of known relays. */
  update(urls: readonly string[]): void {
    const now = this.#clock.now()
    for (const url of urls) {
      if (this.#relays.has(url)) continue
      this.#relays.set(url, {
        url,
        rttMs: undefined,
        isAway: false,
        measureAt: now + this.#random() * FIRST_PROBE_MS,
        isMeasuring: false,
        retry: new Backoff({ firstMs: 5_000, limitMs: 60_000, random: this.#random }),
        listener: undefined,
        missingSince: undefined,
        leaveAt: undefined,
      })
    }
    for (const [url, relay] of this.#relays) {
      if (urls.includes(url)) continue
      this.#relays.delete(url)
      void background.run('leaving a relay', () => this.#stopListening(relay))
    }
    if (this.#isOpen) this.#tick()
  }

  /** The relays through which others can reach us now, nearest first. */
  get listening(): string[] {
    return this.#chosen.filter((url) => this.#relays.get(url)?.listener?.isListening === true)
  }

  get isListening(): boolean {
    return this.listening.length > 0
  }

  /** The round trip to a relay, as measured. */
  readonly rttMs = (url: string): number | undefined => this.#relays.get(url)?.rttMs

  isKnown(url: string): boolean {
    return this.#relays.has(url)
  }

  /** Measures all known relays now; those that do not answer have no figure. */
  async measureAll(withinMs: number): Promise<{ relay: string; rttMs?: number }[]> {
    const limit = AbortSignal.any([this.#life.signal, AbortSignal.timeout(withinMs)])
    const { credentials } = this.#options
    const measuring = [...this.#relays.keys()].map(async (relay) => {
      const rttMs = await measureRelay(relay, credentials, limit).catch(() => undefined)
      return rttMs === undefined ? { relay } : { relay, rttMs }
    })
    return Promise.all(measuring)
  }

  /** Sends a signal to a node through a relay at which both listen; `theirs` are that node's, where they are known. */
  signal(to: NodeId, body: string, theirs?: readonly string[]): boolean {
    const shared = this.listening.filter((url) => theirs === undefined || theirs.includes(url))
    return shared.some((url) => this.#relays.get(url)?.listener?.signal(to, body) === true)
  }

  /** Announces a leg of ours to a node, at a relay where both listen. */
  readonly requestLeg = (url: string, to: NodeId): AnnouncedLeg | undefined =>
    this.#relays.get(url)?.listener?.requestLeg(to)

  /** Channels must show that they are alive, and everything is measured again. */
  networkChanged(isHere: (address: string) => boolean): void {
    const now = this.#clock.now()
    for (const relay of this.#relays.values()) {
      relay.listener?.networkChanged(isHere)
      relay.retry.reset()
      relay.measureAt = now + this.#random() * FIRST_PROBE_MS
    }
  }

  /** Streams are waiting for a path: channels must show that they are alive, and are dialled again soon where they are not. */
  expedite(): void {
    for (const { listener, rttMs } of this.#relays.values()) listener?.expedite(rttMs)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  #tick(): void {
    if (this.#life.signal.aborted) return
    const now = this.#clock.now()
    const all = [...this.#relays.values()]
    for (const relay of all) this.#update(relay, now)
    const chosen = chooseRelays(all, this.#chosen, this.#options.most ?? MOST)
    this.#chosen = chosen
    const areAllThere = chosen.every((url) => this.#relays.get(url)?.listener?.isListening === true)
    for (const relay of all) {
      if (chosen.includes(relay.url)) {
        relay.leaveAt = undefined
        if (relay.listener === undefined) this.#startListening(relay, now)
      } else if (relay.listener !== undefined && (areAllThere || relay.isAway)) {
        relay.leaveAt ??= now + (relay.isAway ? 0 : LINGER_MS)
        if (now >= relay.leaveAt) void background.run('leaving a relay', () => this.#stopListening(relay))
      }
    }
    this.#notifyIfChanged()
  }

  #startListening(relay: RelayState, now: number): void {
    const { urls: _urls, onChange: _onChange, most: _most, ...options } = this.#options
    relay.listener = RelayListener.start(
      { ...options, url: relay.url, onListening: () => this.#notifyIfChanged() },
      this.#log,
    )
    relay.missingSince = now
  }

  async #stopListening(relay: RelayState): Promise<void> {
    const { listener } = relay
    relay.listener = undefined
    relay.leaveAt = undefined
    relay.missingSince = undefined
    if (relay.isAway) relay.measureAt = Math.min(relay.measureAt, this.#clock.now() + relay.retry.nextMs())
    await listener?.[Symbol.asyncDispose]()
  }

  #update(relay: RelayState, now: number): void {
    const { listener } = relay
    if (listener?.isListening === true) {
      relay.missingSince = undefined
      relay.isAway = false
    } else if (listener !== undefined) {
      relay.missingSince ??= now
      if (now - relay.missingSince > AWAY_MS) relay.isAway = true
    }
    const isOnlyChoice = this.#relays.size <= (this.#options.most ?? MOST) && listener === undefined
    if (now < relay.measureAt || relay.isMeasuring || isOnlyChoice) return
    if (listener !== undefined && !listener.isListening) return
    relay.isMeasuring = true
    relay.measureAt = Number.POSITIVE_INFINITY
    void background.run('relay measurement', () => this.#measure(relay))
  }

  async #measure(relay: RelayState): Promise<void> {
    const { listener, url } = relay
    let waitMs: number
    try {
      const measuring = listener?.measure() ?? measureRelay(url, this.#options.credentials, this.#life.signal)
      const rttMs = await measuring
      relay.rttMs = relay.rttMs === undefined ? rttMs : relay.rttMs + WEIGHT * (rttMs - relay.rttMs)
      relay.isAway = false
      relay.retry.reset()
      waitMs = (listener === undefined ? PROBE_MS : MEASURE_MS) * (0.75 + this.#random() / 2)
    } catch (error) {
      this.#log.debug('cannot measure a relay', { address: url, error })
      if (relay.listener === undefined) relay.isAway = true
      waitMs = relay.retry.nextMs()
    }
    relay.isMeasuring = false
    relay.measureAt = this.#clock.now() + waitMs
  }

  #notifyIfChanged(): void {
    const listening = this.listening.join()
    if (listening === this.#reported) return
    this.#reported = listening
    this.#options.onChange?.()
  }
}
