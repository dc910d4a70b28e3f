import type { Lifetime } from '../../../src/core/kit/lifetime.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { NodeReach } from '../../../src/core/model/node.ts'
import type { Peers, Session } from '../../tunnel/contract.ts'
import { nearerRelay } from './relay-choice.ts'
import type { Relays } from './relays.ts'
import type { Signals, SignalOf } from '../signals.ts'
import { BoundedMap } from '../../../src/core/kit/bounded-map.ts'

/** Sessions are looked at so often for news to tell; what is told goes into one small frame. */
const LOOK_MS = 1_000
/** A distance is told anew when it is another one by so much: smaller is noise. */
const MOVED_SHARE = 0.2
const MOVED_MS = 3
/** Nodes that are remembered; they are asked for while a session with them is open or was, lately. */
const MOST_PEERS = 8_192
/** Of one node: where it listens, and where it listened before. */
const MOST_KEPT = 6

export interface PeerRelaysOptions {
  relays: Pick<Relays, 'listening' | 'rttMs' | 'isKnown'>
  signals: Pick<Signals, 'on' | 'send'>
  peers: () => Pick<Peers, 'all'>
  /** What the table says. */
  reach: (node: NodeId) => NodeReach | undefined
}

/** One node's: those at which it listens first, in its order. */
interface Theirs {
  listens: readonly string[]
  readonly ms: Map<string, number>
}

/**
 * Where the nodes listen that we have sessions with, and how far from them that is: they say so themselves, over the session.
 *
 *     session ─▶ here(relays, ms) ─▶ the peer, which keeps those that it knows for relays
 *     another relay, or a distance that changed ─▶ said again
 *
 * Who serves seldom knows more of its callers: the table tells of nodes whose services one asks for. With this either end
 * of a session that is at risk can make the next carrier, and both know which relay is the nearest between them.
 */
export class PeerRelays {
  readonly #options: PeerRelaysOptions
  readonly #theirs = new BoundedMap<NodeId, Theirs>(MOST_PEERS)
  /** What each session was told. */
  readonly #told = new WeakMap<Session, Here>()
  #news: Here = []

  private constructor(options: PeerRelaysOptions) {
    this.#options = options
    options.signals.on('here', ({ from, signal, seen }) => {
      if (seen === undefined) this.#heard(from, signal) // over the session only: a relay could say anything
    })
  }

  static start(life: Lifetime, options: PeerRelaysOptions): PeerRelays {
    const here = new PeerRelays(options)
    life.every(LOOK_MS, () => here.tell(), 'peer relays')
    return here
  }

  /** How to reach a node, by all that is known of it. */
  reach(node: NodeId): NodeReach | undefined {
    const told = this.#options.reach(node)
    const heard = this.#theirs.get(node)?.listens.filter((url) => this.#options.relays.isKnown(url)) ?? []
    if (heard.length === 0) return told
    const others = told?.relays.filter((url) => !heard.includes(url)) ?? []
    return { ...(told ?? { id: node, addresses: [] }), relays: [...heard, ...others] }
  }

  /** How far a node is from here through a relay. */
  throughMs(node: NodeId, url: string): number | undefined {
    const theirs = this.#theirs.get(node)?.ms.get(url)
    const ours = this.#options.relays.rttMs(url)
    return theirs === undefined || ours === undefined ? undefined : theirs + ours
  }

  /** Which relay would bring us nearer to the node than the one in use. */
  nearer(node: NodeId, inUse: string): string | undefined {
    const through = (url: string) => ({ url, ms: this.throughMs(node, url) })
    return nearerRelay((this.reach(node)?.relays ?? []).map(through), through(inUse))
  }

  /** Says what is new to whom it is new. */
  tell(): void {
    const { relays, signals, peers } = this.#options
    const now = relays.listening.slice(0, 3).map((url) => withMs(url, relays.rttMs(url)))
    if (now.length === 0) return // it will be one of those that were told
    if (isNews(this.#news, now)) this.#news = now
    for (const session of peers().all()) {
      if (this.#told.get(session) === this.#news) continue
      const target = { id: session.peer, relays: [] }
      if (signals.send(target, { type: 'here', relays: this.#news })) this.#told.set(session, this.#news)
    }
  }

  #heard(from: NodeId, { relays }: SignalOf<'here'>): void {
    const known = relays.filter(({ url }) => this.#options.relays.isKnown(url))
    const ms = this.#theirs.get(from)?.ms ?? new BoundedMap<string, number>(MOST_KEPT)
    for (const { url, ms: far } of known) {
      if (far === undefined) ms.delete(url)
      else ms.set(url, far)
    }
    this.#theirs.set(from, { listens: known.map(({ url }) => url), ms })
  }
}

type Here = SignalOf<'here'>['relays']

function withMs(url: string, rttMs: number | undefined): Here[number] {
  return rttMs === undefined ? { url } : { url, ms: Math.min(60_000, Math.round(rttMs * 10) / 10) }
}

/** Others, or another order, or clearly farther or nearer than was said. */
function isNews(before: Here, now: Here): boolean {
  if (before.length !== now.length) return true
  return now.some(({ url, ms }, place) => {
    const said = before[place]
    if (said?.url !== url || (said.ms === undefined) !== (ms === undefined)) return true
    if (said.ms === undefined || ms === undefined) return false
    return Math.abs(ms - said.ms) > Math.max(MOVED_MS, MOVED_SHARE * said.ms)
  })
}
