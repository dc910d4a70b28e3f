import { randomBytes } from 'node:crypto'
import type { Duplex } from 'node:stream'
import { type CipherNameAndProtocol, TLSSocket } from 'node:tls'
import { MeshError } from '../../../src/core/errors.ts'
import { ignore } from '../../../src/core/kit/ignore.ts'
import { onAbort } from '../../../src/core/kit/abort.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { PathKind } from '../../../src/core/model/path-rule.ts'
import { Carrier } from '../carrier/carrier.ts'
import { Pump, type CarrierOwner } from '../carrier/pump.ts'
import type { TunnelSession } from '../session/session.ts'
import { FEATURE, presumedAnswer, PROTOCOL_VERSION, type Hello } from '../wire/hello.ts'
import { answerProposal, readAnswer, type Agreement } from './agreement.ts'
import type { PeerState } from './peer-state.ts'
import type { Proposals } from './proposals.ts'

/** A connection whose other end has proven who it is. */
export interface ProvenConnection {
  readonly peer: PeerState
  readonly stream: Duplex
  readonly path: PathKind
  /** Our address of the connection; `undefined` where there is none. */
  readonly localAddress: string | undefined
  /** The relay it goes through. */
  readonly relay: string | undefined
  /** `PeerState.cuts` when it began. */
  readonly cuts: number
}

/**
 * `rescue`: streams wait for it, maybe in a session with an earlier process of the node; `instead`: it is to carry what those on
 * better paths carry, which are slow now; `pinned`: only streams whose rule asks for its path.
 */
export type CarrierRole = 'more' | 'rescue' | 'instead' | 'pinned'

/** A carrier whose HELLO has come, on its way into a session. */
export interface Joining {
  agreement: Agreement
  theirs: Hello
  carrier: Carrier
  pump: Pump
  isDialler: boolean
  /** `PeerState.cuts` when the connection began. */
  cuts: number
  role: CarrierRole
}

/** Puts carriers into sessions. */
export interface SessionDirectory {
  /** This process only finishes the flows it has. */
  readonly isDraining: boolean
  /** Runs before any further frame is looked at. @throws MeshError when the carrier may not be in any session */
  join(peer: PeerState, joining: Joining): TunnelSession
}

/** Of our HELLO: everything but what depends on the peer. The incarnation is drawn here, once for each process. */
export type OurHello = Omit<Hello, 'session' | 'carrier'>

export function ourHello(features: number, windowBytes: number): OurHello {
  return { version: PROTOCOL_VERSION, windowBytes, features, incarnation: randomBytes(8).toString('hex') }
}

export interface HandshakeOptions {
  self: NodeId
  directory: SessionDirectory
  proposals: Proposals
  hello: OurHello
  now: () => number
}

/**
 * HELLO in both directions on a proven connection; after that the carrier belongs to a session.
 *
 *     dialler                                     acceptor
 *     proposes a session ─────────HELLO─────────▶ agreement.ts ─▶ join
 *     agreement.ts ─▶ join ◀──────HELLO────────── answers
 *
 * The handshake owns the carrier until HELLO has come, the session from then on.
 */
abstract class Handshake implements CarrierOwner {
  protected readonly options: HandshakeOptions
  protected readonly connection: ProvenConnection
  protected readonly carrier: Carrier
  protected readonly pump: Pump
  readonly #joined = Promise.withResolvers<TunnelSession>()

  protected constructor(connection: ProvenConnection, options: HandshakeOptions) {
    const { stream, path, localAddress, relay } = connection
    this.options = options
    this.connection = connection
    this.carrier = new Carrier(path, options.now)
    this.carrier.localAddress = localAddress
    this.carrier.relay = relay
    if (stream instanceof TLSSocket) {
      this.carrier.secrets = stream
      // null when the connection has just ended
      this.carrier.cipher = (stream.getCipher() as CipherNameAndProtocol | null)?.standardName
    }
    this.carrier.onHello = (theirs) => this.#gotHello(theirs)
    this.pump = new Pump(this.carrier, stream, this)
    this.#joined.promise.catch(ignore) // a dial that was presumed does not wait for it
  }

  /**
   * The session that the carrier is in once HELLO has come.
   * @throws MeshError when the connection ends, breaks the rules, or the signal aborts first; the connection is closed then.
   */
  async finish(signal: AbortSignal): Promise<TunnelSession> {
    using _ = onAbort(signal, (reason) => this.pump.cut(reason as Error))
    return await this.#joined.promise
  }

  /** The connection ended before HELLO. */
  carrierLost(_carrier: Carrier, reason: Error | undefined): void {
    this.#joined.reject(reason ?? new MeshError('SESSION_CLOSED', { reason: 'the connection ended before HELLO' }))
  }

  /** @throws MeshError when the carrier may not be in any session; the pump closes the connection then */
  protected abstract join(theirs: Hello): TunnelSession

  #gotHello(theirs: Hello): void {
    this.carrier.onHello = undefined
    const session = this.join(theirs)
    this.pump.handOver(session)
    this.#joined.resolve(session)
  }
}

/** Our end of a connection that we dialled. */
export class DiallerHandshake extends Handshake {
  readonly #proposal: Hello
  readonly #role: CarrierRole
  #presumed: TunnelSession | undefined

  private constructor(connection: ProvenConnection, role: CarrierRole, options: HandshakeOptions) {
    super(connection, options)
    this.#role = role
    this.#proposal = {
      ...helloNow(options),
      ...options.proposals.next(connection.peer, { isRescue: role === 'rescue' }),
    }
    if (role === 'instead' || role === 'pinned') this.#proposal.features |= FEATURE[role]
  }

  /** Sends our HELLO. */
  static begin(connection: ProvenConnection, role: CarrierRole, options: HandshakeOptions): DiallerHandshake {
    const handshake = new DiallerHandshake(connection, role, options)
    handshake.carrier.sendHello(handshake.#proposal)
    return handshake
  }

  /** Joins the session we propose before the peer has answered: OPEN follows HELLO in the same flight. `finish` all the same. */
  presume(): TunnelSession {
    const { session } = this.#proposal
    this.#presumed = this.#join(presumedAnswer(this.#proposal), { id: session, cutsCurrent: false })
    return this.#presumed
  }

  override carrierLost(carrier: Carrier, reason: Error | undefined): void {
    if (this.#presumed !== undefined) {
      this.options.proposals.wentUnanswered(this.connection.peer)
      this.#presumed.carrierLost(carrier, reason)
    }
    super.carrierLost(carrier, reason)
  }

  protected override join(theirs: Hello): TunnelSession {
    if (this.#presumed === undefined) return this.#join(theirs, readAnswer(this.connection.peer.keys(), theirs))
    this.#presumed.answered(this.carrier, theirs)
    return this.#presumed
  }

  #join(theirs: Hello, agreement: Agreement): TunnelSession {
    const { carrier, pump } = this
    const { peer, cuts } = this.connection
    const joining = { agreement, theirs, carrier, pump, isDialler: true, cuts, role: this.#role }
    return this.options.directory.join(peer, joining)
  }
}

/** Our end of a connection that another node dialled. */
export class AcceptorHandshake extends Handshake {
  private constructor(connection: ProvenConnection, options: HandshakeOptions) {
    super(connection, options)
  }

  static begin(connection: ProvenConnection, options: HandshakeOptions): AcceptorHandshake {
    return new AcceptorHandshake(connection, options)
  }

  protected override join(theirs: Hello): TunnelSession {
    const { self, proposals, directory } = this.options
    const { carrier, pump } = this
    const { peer, cuts } = this.connection
    const mine = { isFirst: self < peer.node, ...peer.keys(), pending: proposals.pending(peer) }
    const agreement = answerProposal(mine, theirs)
    carrier.sendHello({ ...helloNow(this.options), session: agreement.id, carrier: theirs.carrier })
    const role = roleIn(theirs)
    return directory.join(peer, { agreement, theirs, carrier, pump, isDialler: false, cuts, role })
  }
}

function helloNow({ hello, directory }: HandshakeOptions): OurHello {
  return directory.isDraining ? { ...hello, features: hello.features | FEATURE.leaving } : hello
}

function roleIn({ features }: Hello): CarrierRole {
  if ((features & FEATURE.instead) !== 0) return 'instead'
  return (features & FEATURE.pinned) === 0 ? 'more' : 'pinned'
}
