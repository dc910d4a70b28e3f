import { randomBytes } from 'node:crypto'
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { MeshError } from '../../../src/core/errors.ts'
import type { Clock } from '../../../src/core/kit/clock.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { NodeReach } from '../../../src/core/model/node.ts'
import type { Dialer, RawConnection } from '../../paths/contract.ts'
import { answerProposal, readAnswer, type Agreement } from '../session/agreement.ts'
import type { Carrier } from '../carrier/carrier.ts'
import type { PathKind } from '../../../src/core/model/path-rule.ts'
import { unlessAborted } from '../../../src/core/kit/abort.ts'
import { Deadline } from '../../../src/core/kit/deadline.ts'
import { handshake, type Handshake, type OnHello } from './handshake.ts'
import { FEATURE, presumedAnswer, PROTOCOL_VERSION, type Hello } from '../wire/hello.ts'
import { keysOf, pendingOf, proposalOf, sessionsOf, type PeerState } from './peer-state.ts'
import type { TunnelMeters } from './meters.ts'
import { rankOf } from '../session/placement.ts'
import type { Pump } from '../carrier/pump.ts'
import type { TunnelSession } from '../session/session.ts'
import { ignore } from '../../../src/core/kit/ignore.ts'

/** Proves who is at the other end and encrypts: TLS 1.3 with mesh certificates on both sides, the same on every path. */
export interface Secure {
  /** @throws any error when the other end is not `node`. Honours the signal. */
  connect(raw: RawConnection, node: NodeId, signal: AbortSignal): Promise<Duplex>
  /** Whether the other end has said in TLS that it keeps PROMISED (hello.ts). */
  isPrompt?(stream: Duplex): boolean
  /** Nothing, when somebody else has waited for the connection and has it now. */
  accept(raw: RawConnection): Promise<{ peer: NodeId; stream: Duplex } | undefined>
}

/** A carrier whose HELLO has come, on its way into a session. */
export interface Joining {
  agreement: Agreement
  theirs: Hello
  carrier: Carrier
  pump: Pump
  isDialler: boolean
  /** `Known.cuts` when the connection began. */
  cuts: number
  role: CarrierRole
}

/** `instead`: it shall carry what those on better paths carry, which are slow now; `aside`: only streams whose rule asks for its path. */
export type CarrierRole = 'more' | 'instead' | 'aside'

export interface ConnectOptions {
  self: NodeId
  secure: Secure
  clock: Clock
  meters: TunnelMeters
  /** What streams of ours start with. */
  windowBytes: number
  /** What this node can do (FEATURE in hello.ts). */
  features: number
  /** Aborts when this node goes away. */
  closing: AbortSignal
  know: (node: NodeId) => PeerState
  /** Puts the carrier into a session; runs before any further frame is looked at, and may throw. */
  join: (known: PeerState, joining: Joining) => TunnelSession
}

const SECURE_MS = 5_000
const HELLO_MS = 5_000
/** After a HELLO that was not answered the next ones are waited for: a flow that was opened before it is lost with it. */
const PLAIN_MS = 60_000

/**
 * From a raw connection to a carrier in a session, for both ends.
 *
 *     dial ─▶ secure (≤ 5 s) ─▶ HELLO and its answer (≤ 5 s) ─▶ join
 *     └──── aborted when another path wins ────┘ └─ from here on it stays, as one more carrier
 *
 * Where no session is held, and the peer is known to keep PROMISED (hello.ts), the dialler does not wait for the answer: it joins
 * the carrier to the session it proposes, and OPEN follows HELLO in the same flight. Whatever session is agreed on first, on
 * this connection or on one of the peer's own, is what the presumed one becomes (TunnelSession.agreed).
 */
export class Connector {
  readonly #options: ConnectOptions
  readonly #incarnation = randomBytes(8).toString('hex')

  constructor(options: ConnectOptions) {
    this.#options = options
  }

  /** @throws any error; the caller tries another path. */
  async dial(
    known: PeerState,
    reach: NodeReach,
    dialer: Dialer,
    signal: AbortSignal,
    role: CarrierRole = 'more',
  ): Promise<TunnelSession> {
    let raw: RawConnection | undefined
    try {
      const { cuts } = known
      const dialled = dialer.dial(reach, signal)
      raw = await unlessAborted(dialled, signal).catch((error: unknown) => {
        dialled.then(({ stream }) => stream.on('error', ignore).destroy(), ignore) // it may still come
        throw error
      })
      const { secure } = this.#options
      const stream = await this.#prove(raw, (raw, limit) => secure.connect(raw, reach.id, limit), signal)
      signal.throwIfAborted() // the race is over: nobody may hear of this connection
      const session = await this.#propose(known, {
        stream,
        path: raw.path,
        localAddress: localOf(raw),
        relay: relayOf(raw),
        cuts,
        role: role === 'aside' && this.#isBest(known, raw.path) ? 'more' : role,
      })
      this.#options.meters.dialled(raw.path, 'ok')
      return session
    } catch (error) {
      raw?.stream.on('error', ignore).destroy()
      this.#options.meters.dialled(dialer.path, signal.aborted ? 'outrun' : 'failed')
      throw error
    }
  }

  /** All streams should have it: no better path is there, and this one was not left because it is slow. */
  #isBest({ session, pathHistory }: PeerState, path: PathKind): boolean {
    if (session?.isUsable !== true) return path !== 'relayed' // which a better one would push out, soon
    return rankOf(path) <= rankOf(session.path) && !pathHistory.isShunned(path, this.#options.clock.now())
  }

  /** The peer may put streams on this carrier as soon as it has our HELLO, so no race may end it any more. */
  async #propose(known: PeerState, link: Link & { role: CarrierRole }): Promise<TunnelSession> {
    known.proposal ??= randomBytes(16).toString('hex')
    known.carrierNumber += 2
    const { role } = link
    const proposal = this.#hello(proposalOf(known) ?? known.proposal, known.carrierNumber)
    if (role !== 'more') proposal.features |= FEATURE[role]
    let joined: TunnelSession | undefined
    const join = (theirs: Hello, agreement: Agreement, { carrier, pump }: Pick<Joining, 'carrier' | 'pump'>) => {
      carrier.localAddress = link.localAddress
      carrier.relay = link.relay
      const joining = { agreement, theirs, carrier, pump, isDialler: true, cuts: link.cuts, role }
      const session = this.#options.join(known, joining)
      joined = session
      return (reason: Error | undefined) => session.lost(carrier, reason)
    }
    if (role === 'more' && this.#mayPresume(known, link.stream)) {
      const presume: Handshake['presume'] = (carrier, pump) => {
        const agreement = { id: proposal.session, cutsCurrent: false }
        const lost = join(presumedAnswer(proposal), agreement, { carrier, pump })
        return (reason) => {
          known.awaitHelloUntil = this.#options.clock.now() + PLAIN_MS
          lost(reason)
        }
      }
      const meet: OnHello = (theirs, carrier) => {
        joined?.answered(carrier, theirs)
        return (reason) => joined?.lost(carrier, reason)
      }
      const greeted = this.#greet(link, { proposal, presume, meet })
      if (joined === undefined) await greeted
      else greeted.catch(ignore) // the session has been told
    } else {
      const meet: OnHello = (theirs, carrier, pump) =>
        join(theirs, readAnswer(keysOf(known), theirs), { carrier, pump })
      await this.#greet(link, { proposal, meet })
    }
    if (joined === undefined) throw new Error('greeted, and in no session')
    return joined
  }

  /** The other end is the node, and keeps its promises; nothing else can be meant then than the session we propose. */
  #mayPresume(known: PeerState, stream: Duplex): boolean {
    const { secure, clock } = this.#options
    return secure.isPrompt?.(stream) === true && sessionsOf(known).length === 0 && clock.now() >= known.awaitHelloUntil
  }

  /** @throws any error; the connection is closed then. */
  async accept(raw: RawConnection): Promise<void> {
    const { self, secure, closing, know, join } = this.#options
    const proof = await this.#prove(raw, (raw) => secure.accept(raw), closing)
    if (proof === undefined) return
    const { peer, stream } = proof
    if (peer === self) throw new MeshError('PEER_REFUSED', { node: peer, reason: 'it is ourselves' })
    const known = know(peer)
    const link = { stream, path: raw.path, localAddress: localOf(raw), relay: relayOf(raw), cuts: known.cuts }
    const meet: OnHello = (theirs, carrier, pump) => {
      carrier.localAddress = link.localAddress
      carrier.relay = link.relay
      const pending = pendingOf(known)
      const agreement = answerProposal({ isFirst: self < peer, ...keysOf(known), pending }, theirs)
      carrier.sendHello(this.#hello(agreement.id, theirs.carrier))
      const role = roleIn(theirs)
      const session = join(known, { agreement, theirs, carrier, pump, isDialler: false, cuts: link.cuts, role })
      return (reason) => session.lost(carrier, reason)
    }
    await this.#greet(link, { meet })
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

  async #greet({ stream, path }: Link, how: Pick<Handshake, 'proposal' | 'presume' | 'meet'>): Promise<void> {
    const { clock, closing } = this.#options
    using limit = new Deadline(clock, HELLO_MS, closing)
    await handshake({ stream, path, now: () => clock.now(), ...how }, limit.signal)
  }

  #hello(session: string, carrier: number): Hello {
    const { windowBytes } = this.#options
    return {
      version: PROTOCOL_VERSION,
      carrier,
      windowBytes,
      features: this.#options.features,
      incarnation: this.#incarnation,
      session,
    }
  }
}

interface Link {
  stream: Duplex
  path: PathKind
  localAddress: string | undefined
  relay: string | undefined
  cuts: number
}

function roleIn({ features }: Hello): CarrierRole {
  if ((features & FEATURE.instead) !== 0) return 'instead'
  return (features & FEATURE.aside) === 0 ? 'more' : 'aside'
}

function localOf({ stream }: RawConnection): string | undefined {
  return stream instanceof Socket ? stream.localAddress : undefined
}

function relayOf({ path, via }: RawConnection): string | undefined {
  return path === 'relayed' ? via : undefined
}
