import { MeshError } from '../../../src/core/errors.ts'
import type { Clock } from '../../../src/core/kit/clock.ts'
import type { Log } from '../../../src/core/kit/log.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { PathKind } from '../../../src/core/model/path-rule.ts'
import type { Carrier } from '../carrier/carrier.ts'
import type { IncomingStream } from '../contract.ts'
import type { TunnelLimits } from '../limits.ts'
import type { SealedEndpoint } from '../sealed/contract.ts'
import type { StreamIds } from '../session/mux-parts.ts'
import type { SessionKey } from '../session/identity.ts'
import { TunnelSession, type SessionOwner } from '../session/session.ts'
import { isLeaving, type HeldKeys } from './agreement.ts'
import type { Duplicates } from './duplicates.ts'
import type { Joining, SessionDirectory } from './handshake.ts'
import type { TunnelMeters } from './meters.ts'
import { PathHistory } from './path-history.ts'
import type { PeerState } from './peer-state.ts'

export interface PeerRegistryOptions {
  self: NodeId
  accept: (incoming: IncomingStream) => void
  signalled: ((from: NodeId, payload: Buffer) => void) | undefined
  allows: ((path: PathKind) => boolean) | undefined
  sealed: SealedEndpoint | undefined
  limits: TunnelLimits
  clock: Clock
  log: Log
  meters: TunnelMeters
  duplicates: Duplicates
}

/** Who acts on what becomes of sessions. */
export interface RegistryListener {
  /** A carrier has joined a session; `hasMoved`: new streams take another path than before. */
  carrierJoined(peer: PeerState, session: TunnelSession, hasMoved: boolean): void
  /** Streams wait for a path. */
  sessionSuspended(peer: PeerState): void
  sessionEnded(): void
}

/** Pinned carriers of a session, in addition to `limits.carriers`. */
const PINNED = 2

/**
 * The nodes that are known, and the sessions with them.
 *
 *     join: a carrier whose HELLO has come ─▶ may it? ─▶ the session agreed on, or a new one (the one before finishes its flows)
 */
export class PeerRegistry implements SessionDirectory, SessionOwner {
  readonly #options: PeerRegistryOptions
  readonly #peers = new Map<NodeId, RegisteredPeer>()
  #listener: RegistryListener | undefined
  #isDraining = false
  #isIdentityTaken = false

  constructor(options: PeerRegistryOptions) {
    this.#options = options
  }

  listen(listener: RegistryListener): void {
    this.#listener = listener
  }

  /** This node goes away. */
  get isDraining(): boolean {
    return this.#isDraining
  }

  /** A node that somebody wants to reach, or that reached us. */
  peer(node: NodeId): PeerState {
    return this.#peer(node)
  }

  /** A node that is known already. */
  get(node: NodeId): PeerState | undefined {
    return this.#peers.get(node)
  }

  forget({ node }: PeerState): void {
    this.#peers.delete(node)
  }

  all(): Iterable<PeerState> {
    return this.#peers.values()
  }

  sessions(): TunnelSession[] {
    return [...this.#peers.values()].flatMap((peer) => peer.sessions())
  }

  /** Ends the sessions with a node; connections that are being made with it will not join any. */
  cut(node: NodeId): void {
    const peer = this.#peers.get(node)
    if (peer === undefined) return
    peer.cuts += 1
    for (const session of peer.sessions()) session.cut(new MeshError('PEER_REFUSED', { node, reason: 'cut' }))
  }

  /** No new streams and no new sessions, either way. */
  drain(): void {
    this.#isDraining = true
    for (const session of this.sessions()) session.drain()
  }

  /** Another process uses the identity of this node: no sessions until that is settled. */
  identityTaken(isIdentityTaken: boolean): void {
    if (isIdentityTaken === this.#isIdentityTaken) return
    this.#isIdentityTaken = isIdentityTaken
    if (isIdentityTaken) for (const session of this.sessions()) session.cut(identityIsTaken(session.peer))
  }

  get isIdentityTaken(): boolean {
    return this.#isIdentityTaken
  }

  // ── a carrier joins a session ──

  join({ node }: PeerState, joining: Joining): TunnelSession {
    const peer = this.#peer(node)
    const { agreement, theirs, carrier, role } = joining
    this.#admit(peer, joining)
    // our own peers find our successor: what they answer says nothing about the process that our session is with
    if (agreement.cutsCurrent && !this.#isDraining) {
      if (joining.isDialler) this.#options.duplicates.refuseAnswer(peer, theirs)
      peer.session?.cut(new MeshError('SESSION_CLOSED', { reason: 'the peer has begun a new session' }))
      peer.session = undefined
    }
    const key = { id: agreement.id, incarnation: theirs.incarnation }
    peer.session?.identity.agree(key)
    const held = peer.sessions().find((session) => session.identity.is(key))
    this.#checkDraining(joining, { node, held })
    if (held === undefined && isLeaving(theirs))
      throw new MeshError('PEER_REFUSED', {
        node,
        reason: 'the process that asks is being replaced, and has no session here',
      })
    const session = held ?? this.#begin(peer, key, joining.isDialler)
    carrier.isPinned = role === 'pinned'
    this.#makeRoom(session, carrier)
    const before = held?.path
    if (role === 'instead' && before !== undefined && before !== carrier.path)
      peer.history.shun(before, this.#options.clock.now())
    session.attach({ carrier, pump: joining.pump, hello: theirs, isInstead: role === 'instead' })
    this.#joined(peer, session, before)
    return session
  }

  /** @throws MeshError PEER_REFUSED */
  #admit({ node, cuts }: PeerState, { carrier, cuts: cutsBefore }: Joining): void {
    const { path } = carrier
    if (this.#options.allows?.(path) === false)
      throw new MeshError('PEER_REFUSED', { node, reason: `paths of kind ${path} are forbidden here` })
    if (this.#isIdentityTaken) throw identityIsTaken(node)
    if (cuts !== cutsBefore) throw new MeshError('PEER_REFUSED', { node })
  }

  /**
   * A node that goes away takes carriers for what is open; a peer that wants a new session must find the successor.
   * @throws MeshError PEER_REFUSED
   */
  #checkDraining(
    { isDialler, theirs, agreement }: Joining,
    { node, held }: { node: NodeId; held: TunnelSession | undefined },
  ): void {
    if (!this.#isDraining) return
    const isForOpenStreams = held !== undefined && (isDialler || theirs.session === agreement.id)
    if (!isForOpenStreams) throw new MeshError('PEER_REFUSED', { node, reason: 'this node is shutting down' })
  }

  /** @throws MeshError SESSION_CLOSED when the session has as many carriers as it may have, and all are well */
  #makeRoom({ carriers }: TunnelSession, carrier: Carrier): void {
    const most = this.#options.limits.carriers + (carrier.isPinned ? PINNED : 0)
    if (carriers.size >= most && !carriers.makeRoom())
      throw new MeshError('SESSION_CLOSED', { reason: 'the session has as many carriers as it may have' })
  }

  #begin(peer: RegisteredPeer, key: SessionKey, isDialler: boolean): TunnelSession {
    const { sealed, limits, clock } = this.#options
    const { node, ids } = peer
    const now = () => clock.now()
    const session = new TunnelSession({ peer: node, key, owner: this, sealed, isDialler, ids, limits, now })
    peer.begin(session)
    return session
  }

  #joined(peer: PeerState, session: TunnelSession, before: PathKind | undefined): void {
    const { path } = session
    const { log, meters } = this.#options
    if (before === undefined) log.info('session open', { peer: peer.node, path })
    else if (path !== before) log.info('session moved', { peer: peer.node, path })
    this.#listener?.carrierJoined(peer, session, path !== before)
    meters.gauge(this.sessions())
  }

  // ── what sessions report ──

  accept(incoming: IncomingStream): void {
    this.#options.accept(incoming)
  }

  signalled({ peer }: TunnelSession, payload: Buffer): void {
    this.#options.signalled?.(peer, payload)
  }

  roundTripMeasured(session: TunnelSession, { path, keepalive }: Carrier, rttMs: number): void {
    const peer = this.#peer(session.peer)
    peer.rttMs = session.rttMs
    this.#options.duplicates.answered(peer, session)
    if (session.isCalm) peer.history.measured(path, keepalive.rttMs ?? rttMs, this.#options.clock.now())
    this.#options.meters.rtt(path, rttMs)
  }

  frameIgnored(): void {
    this.#options.meters.ignored()
  }

  sessionSuspended(session: TunnelSession): void {
    this.#options.log.info('session suspended', { peer: session.peer, streams: session.streams })
    this.#listener?.sessionSuspended(this.#peer(session.peer))
  }

  sessionResumed({ peer, path, streams }: TunnelSession, pauseMs: number): void {
    this.#options.log.info('session resumed', { peer, path, streams, pauseMs })
    this.#options.meters.resumed(pauseMs)
  }

  sessionEnded(session: TunnelSession, reason: Error | undefined): void {
    const { log, meters, clock } = this.#options
    this.#peer(session.peer).ended(session, clock.now())
    log.info('session closed', { peer: session.peer, ...(reason === undefined ? {} : { error: reason }) })
    meters.count(session)
    meters.gauge(this.sessions())
    this.#listener?.sessionEnded()
  }

  #peer(node: NodeId): RegisteredPeer {
    let peer = this.#peers.get(node)
    if (peer === undefined) {
      peer = new RegisteredPeer(node, { isFirst: this.#options.self < node, now: this.#options.clock.now() })
      this.#peers.set(node, peer)
    }
    return peer
  }
}

function identityIsTaken(node: NodeId): MeshError {
  return new MeshError('PEER_REFUSED', { node, reason: 'another process uses the identity of this node' })
}

class RegisteredPeer implements PeerState {
  readonly node: NodeId
  readonly history = new PathHistory()
  /** The node with the smaller id opens odd streams, the other even ones. */
  readonly ids: StreamIds
  session: TunnelSession | undefined
  rttMs: number | undefined
  usedAt: number
  cuts = 0
  /** Sessions with earlier processes of the node. */
  readonly #earlier = new Set<TunnelSession>()

  constructor(node: NodeId, { isFirst, now }: { isFirst: boolean; now: number }) {
    this.node = node
    this.ids = { next: isFirst ? 1 : 2 }
    this.usedAt = now
  }

  sessions(): TunnelSession[] {
    const all = this.session === undefined ? [...this.#earlier] : [this.session, ...this.#earlier]
    return all.filter(({ hasEnded }) => !hasEnded)
  }

  keys(): HeldKeys {
    const { session } = this
    const leaving = this.sessions().filter((one) => one.isLeaving || this.#earlier.has(one))
    return {
      current:
        session === undefined || session.hasEnded || session.identity.isPresumed ? undefined : session.identity.key,
      leaving: leaving.map(({ identity }) => identity.key),
    }
  }

  /** The session before it, if there is one, finishes its flows beside it. */
  begin(session: TunnelSession): void {
    if (this.session !== undefined) this.#earlier.add(this.session)
    this.session = session
  }

  ended(session: TunnelSession, now: number): void {
    if (this.session === session) this.session = undefined
    this.#earlier.delete(session)
    this.usedAt = now
  }
}
