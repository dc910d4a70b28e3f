import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { MeshError } from '../../../src/core/errors.ts'
import type { Clock } from '../../../src/core/kit/clock.ts'
import { unlessAborted } from '../../../src/core/kit/abort.ts'
import { Deadline } from '../../../src/core/kit/deadline.ts'
import { ignore } from '../../../src/core/kit/ignore.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { NodeReach } from '../../../src/core/model/node.ts'
import type { PathKind } from '../../../src/core/model/path-rule.ts'
import type { Dialer, RawConnection } from '../../paths/contract.ts'
import { rankOf } from '../session/placement.ts'
import type { TunnelSession } from '../session/session.ts'
import type { Duplicates } from './duplicates.ts'
import { readGreeting, type EarlierProcesses } from './earlier-processes.ts'
import {
  AcceptorHandshake,
  DiallerHandshake,
  type CarrierRole,
  type HandshakeOptions,
  type ProvenConnection,
  type SessionDirectory,
} from './handshake.ts'
import type { TunnelMeters } from './meters.ts'
import type { PeerState } from './peer-state.ts'

/** Proves who is at the other end and encrypts: TLS 1.3 with mesh certificates on both sides, the same on every path. */
export interface Secure {
  /** @throws any error when the other end is not `node`. Honours the signal. */
  connect(raw: RawConnection, node: NodeId, signal: AbortSignal): Promise<Duplex>
  /** Whether the other end has promised in TLS what PROMISED lists (wire/hello.ts). */
  isPrompt?(stream: Duplex): boolean
  /** Nothing, when another part has waited for the connection and has taken it. */
  accept(raw: RawConnection): Promise<{ peer: NodeId; stream: Duplex } | undefined>
}

export interface ConnectorOptions extends HandshakeOptions {
  secure: Secure
  clock: Clock
  meters: TunnelMeters
  directory: SessionDirectory & { peer(node: NodeId): PeerState }
  /** Where carriers for sessions of other processes of this node go. */
  earlier: EarlierProcesses | undefined
  duplicates: Duplicates
  /** Aborts when this node shuts down. */
  closing: AbortSignal
}

/** One connection to dial. */
export interface Dial {
  reach: NodeReach
  dialer: Dialer
  role: CarrierRole
}

const SECURE_MS = 5_000
const HELLO_MS = 5_000

/**
 * From a raw connection to a carrier in a session, for both ends.
 *
 *     dial ─▶ secure (≤ 5 s) ─▶ HELLO and its answer (≤ 5 s) ─▶ join
 *     └──── aborted when another path wins ────┘ └─ from here on it stays, as one more carrier
 *
 * Where no session is held, and the peer is known to keep PROMISED (wire/hello.ts), the dialler does not wait for the answer:
 * it joins the carrier to the session it proposes, and OPEN follows HELLO in the same flight. The presumed session becomes
 * whatever is agreed on first, on this connection or on one that the peer has dialled (SessionIdentity.agree).
 */
export class Connector {
  readonly #options: ConnectorOptions

  constructor(options: ConnectorOptions) {
    this.#options = options
  }

  /** @throws any error; the caller tries another path. */
  async dial(peer: PeerState, { reach, dialer, role }: Dial, signal: AbortSignal): Promise<TunnelSession> {
    const { secure, meters } = this.#options
    const { cuts } = peer
    let raw: RawConnection | undefined
    try {
      raw = await openRaw(dialer, reach, signal)
      const { path } = raw
      const stream = await this.#prove(raw, (raw, limit) => secure.connect(raw, reach.id, limit), signal)
      signal.throwIfAborted() // another path has won: this connection must stay unseen
      const isForAll = role === 'pinned' && this.#isBest(peer, path)
      const session = await this.#propose(provenConnection(raw, { peer, stream, cuts }), isForAll ? 'more' : role)
      meters.dialled(path, 'ok')
      return session
    } catch (error) {
      raw?.stream.on('error', ignore).destroy()
      meters.dialled(dialer.path, signal.aborted ? 'outrun' : 'failed')
      throw error
    }
  }

  /** All streams should have it: there is no better path, and this one was not left because it is slow. */
  #isBest({ session, history }: PeerState, path: PathKind): boolean {
    if (session?.isUsable !== true) return path !== 'relayed' // a better path would push it out soon
    return rankOf(path) <= rankOf(session.path) && !history.isPenalised(path, this.#options.now())
  }

  /** The peer may put streams on this carrier as soon as it has our HELLO, so another path that wins no longer ends it. */
  async #propose(connection: ProvenConnection, role: CarrierRole): Promise<TunnelSession> {
    const { secure, proposals } = this.#options
    const mayPresume =
      role === 'more' && secure.isPrompt?.(connection.stream) === true && proposals.mayPresume(connection.peer)
    const handshake = DiallerHandshake.begin(connection, role, this.#options)
    if (!mayPresume) return await this.#finish(handshake)
    const session = handshake.presume()
    this.#finish(handshake).catch(ignore) // the session knows
    return session
  }

  /** @throws any error; the connection is closed then. */
  async accept(raw: RawConnection): Promise<void> {
    const { self, secure, closing, directory } = this.#options
    const proof = await this.#prove(raw, (raw) => secure.accept(raw), closing)
    if (proof === undefined) return
    if (proof.peer === self) throw new MeshError('PEER_REFUSED', { node: proof.peer, reason: 'it is this node itself' })
    const peer = directory.peer(proof.peer)
    const { cuts } = peer
    if (await this.#isPassedOn(peer, raw, proof.stream)) return
    const connection = provenConnection(raw, { peer, stream: proof.stream, cuts })
    await this.#finish(AcceptorHandshake.begin(connection, this.#options))
  }

  /**
   * Looks at HELLO before anything else does, where there may be something to decide: whether it is for a session of an earlier
   * process of this node, or from a second process with the identity of a peer. True: the connection is passed on.
   */
  async #isPassedOn(peer: PeerState, { path, via }: RawConnection, stream: Duplex): Promise<boolean> {
    const { earlier, duplicates, directory, clock, closing } = this.#options
    if (earlier?.knows(peer.node) !== true && (peer.session === undefined || directory.isDraining)) return false
    using limit = new Deadline(clock, HELLO_MS, closing)
    try {
      const { frame, hello } = await unlessAborted(readGreeting(stream), limit.signal)
      if (hello !== undefined) {
        const session = { peer: peer.node, id: hello.session, incarnation: hello.incarnation }
        if ((await earlier?.take({ session, path, via, stream, hello: frame })) === true) return true
        if (!directory.isDraining) await duplicates.refuse(peer, hello)
      }
      stream.unshift(frame)
      return false
    } catch (error) {
      stream.destroy()
      throw error
    }
  }

  /** Bounds the proof of identity, and closes the connection when it does not come in time. */
  async #prove<T>(
    raw: RawConnection,
    prove: (raw: RawConnection, limit: AbortSignal) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T> {
    using limit = new Deadline(this.#options.clock, SECURE_MS, signal)
    raw.stream.on('error', ignore)
    if (raw.stream instanceof Socket) raw.stream.setNoDelay(true)
    try {
      return await unlessAborted(prove(raw, limit.signal), limit.signal)
    } catch (error) {
      raw.stream.destroy()
      throw error
    }
  }

  async #finish(handshake: DiallerHandshake | AcceptorHandshake): Promise<TunnelSession> {
    const { clock, closing } = this.#options
    using limit = new Deadline(clock, HELLO_MS, closing)
    return await handshake.finish(limit.signal)
  }
}

/** @throws the signal's reason; a connection that still comes is closed. */
async function openRaw(dialer: Dialer, reach: NodeReach, signal: AbortSignal): Promise<RawConnection> {
  const dialled = dialer.dial(reach, signal)
  return await unlessAborted(dialled, signal).catch((error: unknown) => {
    dialled.then(({ stream }) => stream.on('error', ignore).destroy(), ignore)
    throw error
  })
}

function provenConnection(
  raw: RawConnection,
  proven: Pick<ProvenConnection, 'peer' | 'stream' | 'cuts'>,
): ProvenConnection {
  return {
    ...proven,
    path: raw.path,
    localAddress: raw.stream instanceof Socket ? raw.stream.localAddress : undefined,
    relay: raw.path === 'relayed' ? raw.via : undefined,
  }
}
