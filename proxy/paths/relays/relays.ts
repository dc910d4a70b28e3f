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
  /** Known before anybody tells. */
  urls: readonly string[]
  /** Where we listen, or how far something is, has changed. */
  onChange?: () => void
  /** The nearest and so many spare ones less one. */
  most?: number
}

/** Each costs its relay a connection, and this node a ping every five seconds; one alone is down when its relay is. */
const MOST = 2
const LOOK_MS = 500
/** A relay that is not listened at for so long is away; smaller takes a short break for an end. */
const AWAY_MS = 1_500
/** Every so often the distance is measured anew, give or take a quarter: of where we listen, and of the others. */
const MEASURE_MS = 30_000
const PROBE_MS = 300_000
/** The first look at others that were just told of: spread, as many nodes are told at the same time. */
const FIRST_PROBE_MS = 3_000
/** What is left is left so much later: who dials us may not have heard yet. */
const LINGER_MS = 30_000
/** Share of a new measurement. Larger follows jitter, smaller is late. */
const WEIGHT = 0.3

interface Post {
  url: string
  rttMs: number | undefined
  isAway: boolean
  /** When it is measured next. */
  measureAt: number
  isMeasuring: boolean
  readonly retry: Backoff
  listener: RelayListener | undefined
  /** Since when we wish to listen there, and do not. */
  missingSince: number | undefined
  /** Not chosen any more: when we stop listening. */
  leaveAt: number | undefined
}

/**
 * The relays at which this node can be reached: the nearest of those it knows, and a spare.
 *
 *     told ─▶ measured ─▶ chosen (relay-choice.ts) ─▶ listened at ─▶ told to the cluster, nearest first
 *                ▲                                        │
 *                └── not answered: away, another instead ─┴─ a nearer one: both for a while, then the old one is left
 */
export class Relays implements AsyncDisposable {
  readonly #options: RelaysOptions
  readonly #log: Log
  readonly #life: Lifetime
  readonly #clock: Clock
  readonly #random: () => number
  readonly #posts = new Map<string, Post>()
  #isOpen = false
  /** Where we listen or try to, nearest first. */
  #chosen: string[] = []
  #shown = ''

  private constructor(options: RelaysOptions, log: Log, life: Lifetime) {
    this.#options = options
    this.#log = log
    this.#life = life
    this.#clock = options.clock ?? systemClock
    this.#random = options.random ?? Math.random
    this.know(options.urls)
  }

  /** Knows relays; listens nowhere before `listen`. */
  static start(options: RelaysOptions, log: Log): Promise<Relays> {
    return Lifetime.open((life) => {
      const relays = new Relays(options, log, life)
      life.defer(async () => {
        const listeners = [...relays.#posts.values()].flatMap(({ listener }) => listener ?? [])
        await Promise.all(listeners.map((listener) => listener[Symbol.asyncDispose]()))
      })
      return relays
    })
  }

  /** From now on this node can be reached there. */
  listen(): void {
    if (this.#isOpen) return
    this.#isOpen = true
    this.#look()
    this.#life.every(LOOK_MS, () => this.#look(), 'relay choice')
  }

  /** All there are now. */
  know(urls: readonly string[]): void {
    const now = this.#clock.now()
    for (const url of urls) {
      if (this.#posts.has(url)) continue
      this.#posts.set(url, {
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
    for (const [url, post] of this.#posts) {
      if (urls.includes(url)) continue
      this.#posts.delete(url)
      void background.run('leaving a relay', () => this.#leave(post))
    }
    if (this.#isOpen) this.#look()
  }

  /** Where others can reach us now, the nearest first. */
  get listening(): string[] {
    return this.#chosen.filter((url) => this.#posts.get(url)?.listener?.isListening === true)
  }

  get isListening(): boolean {
    return this.listening.length > 0
  }

  /** How far a relay is, as last measured. */
  readonly rttMs = (url: string): number | undefined => this.#posts.get(url)?.rttMs

  isKnown(url: string): boolean {
    return this.#posts.has(url)
  }

  /** All that are known, as they are now; those that do not answer have no figure. */
  async measureAll(withinMs: number): Promise<{ relay: string; rttMs?: number }[]> {
    const limit = AbortSignal.any([this.#life.signal, AbortSignal.timeout(withinMs)])
    const { credentials } = this.#options
    const measuring = [...this.#posts.keys()].map(async (relay) => {
      const rttMs = await measureRelay(relay, credentials, limit).catch(() => undefined)
      return rttMs === undefined ? { relay } : { relay, rttMs }
    })
    return Promise.all(measuring)
  }

  /** Says something to a node through a relay that both listen at; `theirs` when that is known. */
  signal(to: NodeId, body: string, theirs?: readonly string[]): boolean {
    const shared = this.listening.filter((url) => theirs === undefined || theirs.includes(url))
    return shared.some((url) => this.#posts.get(url)?.listener?.signal(to, body) === true)
  }

  /** Announces a leg of ours to a node, at a relay where both listen. */
  readonly knock = (url: string, to: NodeId): AnnouncedLeg | undefined => this.#posts.get(url)?.listener?.knock(to)

  /** The machine's network is another one: channels must show that they live, and everything is measured anew. */
  networkChanged(isHere: (address: string) => boolean): void {
    const now = this.#clock.now()
    for (const post of this.#posts.values()) {
      post.listener?.networkChanged(isHere)
      post.retry.reset()
      post.measureAt = now + this.#random() * FIRST_PROBE_MS
    }
  }

  /** Streams wait for a path: channels must show that they live, and are made anew soon where they do not. */
  hurry(): void {
    for (const { listener, rttMs } of this.#posts.values()) listener?.hurry(rttMs)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  #look(): void {
    if (this.#life.signal.aborted) return
    const now = this.#clock.now()
    const posts = [...this.#posts.values()]
    for (const post of posts) this.#observe(post, now)
    const chosen = chooseRelays(posts, this.#chosen, this.#options.most ?? MOST)
    this.#chosen = chosen
    const areAllThere = chosen.every((url) => this.#posts.get(url)?.listener?.isListening === true)
    for (const post of posts) {
      if (chosen.includes(post.url)) {
        post.leaveAt = undefined
        if (post.listener === undefined) this.#begin(post, now)
      } else if (post.listener !== undefined && (areAllThere || post.isAway)) {
        post.leaveAt ??= now + (post.isAway ? 0 : LINGER_MS)
        if (now >= post.leaveAt) void background.run('leaving a relay', () => this.#leave(post))
      }
    }
    this.#tell()
  }

  #begin(post: Post, now: number): void {
    const { urls: _urls, onChange: _onChange, most: _most, ...options } = this.#options
    post.listener = RelayListener.start({ ...options, url: post.url, onListening: () => this.#tell() }, this.#log)
    post.missingSince = now
  }

  async #leave(post: Post): Promise<void> {
    const { listener } = post
    post.listener = undefined
    post.leaveAt = undefined
    post.missingSince = undefined
    if (post.isAway) post.measureAt = Math.min(post.measureAt, this.#clock.now() + post.retry.nextMs())
    await listener?.[Symbol.asyncDispose]()
  }

  #observe(post: Post, now: number): void {
    const { listener } = post
    if (listener?.isListening === true) {
      post.missingSince = undefined
      post.isAway = false
    } else if (listener !== undefined) {
      post.missingSince ??= now
      if (now - post.missingSince > AWAY_MS) post.isAway = true
    }
    const isAlone = this.#posts.size <= (this.#options.most ?? MOST) && listener === undefined
    if (now < post.measureAt || post.isMeasuring || isAlone) return
    if (listener !== undefined && !listener.isListening) return
    post.isMeasuring = true
    post.measureAt = Number.POSITIVE_INFINITY
    const { credentials } = this.#options
    const measuring = listener?.measure() ?? measureRelay(post.url, credentials, this.#life.signal)
    void measuring
      .then(
        (rttMs) => {
          post.rttMs = post.rttMs === undefined ? rttMs : post.rttMs + WEIGHT * (rttMs - post.rttMs)
          post.isAway = false
          post.retry.reset()
          return (listener === undefined ? PROBE_MS : MEASURE_MS) * (0.75 + this.#random() / 2)
        },
        (error: unknown) => {
          this.#log.debug('a relay cannot be measured', { address: post.url, error })
          if (post.listener === undefined) post.isAway = true
          return post.retry.nextMs()
        },
      )
      .then((inMs) => {
        post.isMeasuring = false
        post.measureAt = this.#clock.now() + inMs
      })
  }

  #tell(): void {
    const shown = this.listening.join()
    if (shown === this.#shown) return
    this.#shown = shown
    this.#options.onChange?.()
  }
}
