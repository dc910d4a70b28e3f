import { MeshError } from '../../../src/core/errors.ts'
import type { Clock } from '../../../src/core/kit/clock.ts'
import type { Log } from '../../../src/core/kit/log.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { SessionKey } from '../session/agreement.ts'
import type { Joining } from './connector.ts'
import { newPeerState, sessionsOf, type PeerState } from './peer-state.ts'
import type { TunnelLimits } from '../limits.ts'
import type { TunnelMeters } from './meters.ts'
import type { PeersOptions } from './peers.ts'
import { TunnelSession } from '../session/session.ts'

export interface PeerRegistryOptions {
  peers: Pick<PeersOptions, 'self' | 'accept' | 'signalled' | 'allows' | 'sealed'>
  limits: TunnelLimits
  clock: Clock
  log: Log
  random: () => number
  meters: TunnelMeters
  /** The session is on another path than before. */
  moved: (known: PeerState) => void
  /** One of its carriers is surely alive. */
  safe: (known: PeerState) => void
  /** Streams wait for a path. */
  suspended: (known: PeerState) => void
  /** A session is no more. */
  ended: () => void
}

/** Beyond the limit of a session's carriers, for rules that ask for a path it does not use. */
const ASIDES = 2

/**
 * The nodes that are known, and the sessions with them.
 *
 *     join: a carrier whose HELLO has come ─▶ may it? ─▶ the session agreed on, or a new one (the one before finishes its flows)
 */
export class PeerRegistry {
  readonly #options: PeerRegistryOptions
  readonly #known = new Map<NodeId, PeerState>()
  /** This node goes away. */
  isClosing = false

  constructor(options: PeerRegistryOptions) {
    this.#options = options
  }

  know(node: NodeId): PeerState {
    const { peers, clock, random } = this.#options
    let known = this.#known.get(node)
    if (known === undefined) {
      known = newPeerState(node, peers.self < node, clock.now(), random)
      this.#known.set(node, known)
    }
    return known
  }

  get(node: NodeId): PeerState | undefined {
    return this.#known.get(node)
  }

  forget({ node }: PeerState): void {
    this.#known.delete(node)
  }

  all(): Iterable<PeerState> {
    return this.#known.values()
  }

  sessions(): TunnelSession[] {
    return [...this.#known.values()].flatMap(sessionsOf)
  }

  /** No new streams and no new sessions, either way. */
  drain(): void {
    this.isClosing = true
    for (const session of this.sessions()) session.drain()
  }

  /** @throws MeshError when the carrier may not be in any session */
  join(known: PeerState, joining: Joining): TunnelSession {
    const { peers, limits, clock, log, meters } = this.#options
    const { agreement, theirs, carrier, pump, isDialler } = joining
    if (peers.allows?.(carrier.path) === false)
      throw new MeshError('PEER_REFUSED', {
        node: known.node,
        reason: `paths of kind ${carrier.path} are forbidden here`,
      })
    if (joining.cuts !== known.cuts) throw new MeshError('PEER_REFUSED', { node: known.node })
    if (agreement.cutsCurrent) {
      known.session?.cut(new MeshError('SESSION_CLOSED', { reason: 'the peer has begun a new session' }))
      known.session = undefined
    }
    const key = { id: agreement.id, incarnation: theirs.incarnation }
    const isSame = (one: SessionKey) => one.id === key.id && one.incarnation === key.incarnation
    if (known.session?.isPresumed === true) known.session.agreed(key)
    const held = sessionsOf(known).find((session) => isSame(session.key))
    // whoever goes away takes carriers for what is open; a peer that wants a new session must find the successor
    if (this.isClosing && (held === undefined || (!isDialler && theirs.session !== agreement.id))) {
      throw new MeshError('PEER_REFUSED', { node: known.node, reason: 'this node goes away' })
    }
    const session = held ?? this.#begin(known, key, isDialler)
    carrier.isAside = joining.role === 'aside'
    const most = limits.carriers + (carrier.isAside ? ASIDES : 0)
    if (session.carriers >= most && !session.makeRoom())
      throw new MeshError('SESSION_CLOSED', { reason: 'too many carriers' })
    const before = held === undefined ? undefined : session.path
    if (joining.role === 'instead' && before !== undefined && before !== carrier.path)
      known.pathHistory.shun(before, clock.now())
    session.attach(carrier, pump, theirs, joining.role === 'instead')
    if (before === undefined) log.info('session open', { peer: known.node, path: carrier.path })
    else if (session.path !== before) log.info('session moved', { peer: known.node, path: session.path })
    if (session.path !== before) this.#options.moved(known)
    if (!session.isAtRisk) this.#options.safe(known)
    if (session === known.session && !session.isLeaving) {
      known.arriving?.resolve(session)
      known.arriving = undefined
    }
    meters.gauge(this.sessions())
    return session
  }

  #begin(known: PeerState, key: SessionKey, isDialler: boolean): TunnelSession {
    const { peers, limits, clock, log, meters } = this.#options
    const over = (session: TunnelSession) => {
      if (known.session === session) known.session = undefined
      known.past.delete(session)
      known.usedAt = clock.now()
    }
    const session: TunnelSession = new TunnelSession({
      peer: known.node,
      key,
      sealed: peers.sealed,
      isDialler,
      ids: known.ids,
      limits,
      now: () => clock.now(),
      accept: peers.accept,
      rtt: (carrier, rttMs) => {
        known.rttMs = session.rttMs
        if (session.isCalm) known.pathHistory.measured(carrier.path, carrier.keepalive.rttMs ?? rttMs, clock.now())
        meters.rtt(carrier.path, rttMs)
      },
      signalled: (payload) => peers.signalled?.(known.node, payload),
      ignored: () => meters.ignored(),
      suspended: () => {
        log.info('session waits for a path', { peer: known.node, streams: session.streams })
        this.#options.suspended(known)
      },
      resumed: (pauseMs) => {
        log.info('session resumed', { peer: known.node, path: session.path, streams: session.streams, pauseMs })
        meters.resumed(pauseMs)
      },
      ended: (reason) => {
        over(session)
        log.info('session closed', { peer: known.node, ...(reason === undefined ? {} : { error: reason }) })
        meters.count(session)
        meters.gauge(this.sessions())
        this.#options.ended()
      },
    })
    if (known.session !== undefined) known.past.add(known.session) // it finishes its flows beside the new one
    known.session = session
    return session
  }
}
