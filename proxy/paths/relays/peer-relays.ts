import { BoundedMap } from '../../../src/core/kit/bounded-map.ts'
import type { Lifetime } from '../../../src/core/kit/lifetime.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { NodeReach } from '../../../src/core/model/node.ts'
import type { Peers, Session } from '../../tunnel/contract.ts'
import type { Signals, SignalOf } from '../signals.ts'
import { nearerRelay } from './relay-choice.ts'
import type { Relays } from './relays.ts'

/** How often new sessions and changes are looked for; an announcement is one small frame. */
const ANNOUNCE_MS = 1_000
/** A distance is announced again when it has changed by this much: smaller is noise. */
const MOVED_SHARE = 0.2
const MOVED_MS = 3
/** Peers that are remembered; they matter while a session with them is open or was so recently. */
const MOST_PEERS = 8_192
/** Relays of one peer: those at which it listens, and those before. */
const MOST_KEPT = 6
/** Relays in one announcement; the schema allows no more. */
const MOST_ANNOUNCED = 3

export interface PeerRelaysOptions {
  relays: Pick<Relays, 'listening' | 'rttMs' | 'isKnown'>
  signals: Pick<Signals, 'on' | 'send'>
  peers: () => Pick<Peers, 'all'>
  /** What the table knows about a node. */
  reach: (node: NodeId) => NodeReach | undefined
}

/** What one peer has announced. */
interface PeerState {
  /** The relays at which it listens, in its order. */
  listens: readonly string[]
  readonly ms: Map<string, number>
}

type Announcement = SignalOf<'here'>['relays']

/**
 * At which relays the peers of our sessions listen, and how far from them those are: each announces it over the session.
 *
 *     session ─▶ here(relays, ms) ─▶ the peer, which keeps those that it knows as relays
 *     another relay, or a distance that changed ─▶ announced again
 *
 * A node that serves seldom knows more about its callers: the table has only nodes whose services it asked for. With the
 * announcement either end of a session at risk can make the next carrier, and both know which relay is nearest between them.
 */
export class PeerRelays {
  readonly #options: PeerRelaysOptions
  readonly #peers = new BoundedMap<NodeId, PeerState>(MOST_PEERS)
  /** The announcement that each session has been sent. */
  readonly #sent = new WeakMap<Session, Announcement>()
  #current: Announcement = []

  private constructor(options: PeerRelaysOptions) {
    this.#options = options
    options.signals.on('here', ({ from, signal, seenAddress }) => {
      if (seenAddress === undefined) this.#receive(from, signal) // over a session only: a relay could forge it
    })
  }

  static start(life: Lifetime, options: PeerRelaysOptions): PeerRelays {
    const peerRelays = new PeerRelays(options)
    life.every(ANNOUNCE_MS, () => peerRelays.announce(), 'relay announcements')
    return peerRelays
  }

  /** How to reach a node, by everything that is known about it. */
  reach(node: NodeId): NodeReach | undefined {
    const inTable = this.#options.reach(node)
    const announced = this.#peers.get(node)?.listens.filter((url) => this.#options.relays.isKnown(url)) ?? []
    if (announced.length === 0) return inTable
    const others = inTable?.relays.filter((url) => !announced.includes(url)) ?? []
    return { ...(inTable ?? { id: node, addresses: [] }), relays: [...announced, ...others] }
  }

  /** How far a node is from here through a relay. */
  throughMs(node: NodeId, url: string): number | undefined {
    const theirs = this.#peers.get(node)?.ms.get(url)
    const ours = this.#options.relays.rttMs(url)
    return theirs === undefined || ours === undefined ? undefined : theirs + ours
  }

  /** The relay that would bring us nearer to the node than the one in use. */
  nearer(node: NodeId, inUse: string): string | undefined {
    const through = (url: string) => ({ url, ms: this.throughMs(node, url) })
    return nearerRelay((this.reach(node)?.relays ?? []).map(through), through(inUse))
  }

  /** Sends our relays to the sessions that do not have the current announcement. */
  announce(): void {
    const { relays, signals, peers } = this.#options
    const now = relays.listening.slice(0, MOST_ANNOUNCED).map((url) => entry(url, relays.rttMs(url)))
    if (now.length === 0) return // the relays announced before will be listened at again
    if (isNews(this.#current, now)) this.#current = now
    for (const session of peers().all()) {
      if (this.#sent.get(session) === this.#current) continue
      const target = { id: session.peer, relays: [] }
      if (signals.send(target, { type: 'here', relays: this.#current })) this.#sent.set(session, this.#current)
    }
  }

  #receive(from: NodeId, { relays }: SignalOf<'here'>): void {
    const known = relays.filter(({ url }) => this.#options.relays.isKnown(url))
    const ms = this.#peers.get(from)?.ms ?? new BoundedMap<string, number>(MOST_KEPT)
    for (const { url, ms: distance } of known) {
      if (distance === undefined) ms.delete(url)
      else ms.set(url, distance)
    }
    this.#peers.set(from, { listens: known.map(({ url }) => url), ms })
  }
}

function entry(url: string, rttMs: number | undefined): Announcement[number] {
  return rttMs === undefined ? { url } : { url, ms: Math.min(60_000, Math.round(rttMs * 10) / 10) }
}

/** Other relays, another order, or a distance that has clearly changed. */
function isNews(before: Announcement, now: Announcement): boolean {
  if (before.length !== now.length) return true
  return now.some(({ url, ms }, place) => {
    const announced = before[place]
    if (announced?.url !== url || (announced.ms === undefined) !== (ms === undefined)) return true
    if (announced.ms === undefined || ms === undefined) return false
    return Math.abs(ms - announced.ms) > Math.max(MOVED_MS, MOVED_SHARE * announced.ms)
  })
}
