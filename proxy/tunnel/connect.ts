import { randomBytes } from 'node:crypto'
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { MeshError } from '../../src/errors.ts'
import type { Clock } from '../../src/kit/clock.ts'
import type { NodeId } from '../../src/model/ids.ts'
import type { NodeReach } from '../../src/model/node.ts'
import type { Dialer, RawConnection } from '../paths/contract.ts'
import { answerProposal, readAnswer, type Agreement } from './agree.ts'
import type { Carrier } from './carrier.ts'
import type { PathKind } from './contract.ts'
import { Deadline, unlessAborted } from './deadline.ts'
import { greet, type Meet } from './greet.ts'
import { FEATURE, PROTOCOL_VERSION, type Hello } from './hello.ts'
import { keysOf, proposalOf, type Known } from './known.ts'
import type { Meters } from './meters.ts'
import type { Pump } from './pump.ts'
import type { TunnelSession } from './session.ts'

/** Proves who is at the other end and encrypts: TLS 1.3 with mesh certificates on both sides, the same on every path. */
export interface Secure {
  /** @throws any error when the other end is not `node`. Honours the signal. */
  connect(raw: RawConnection, node: NodeId, signal: AbortSignal): Promise<Duplex>
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
  /** It shall carry what carriers on better paths carry, which are slow now. */
  isInstead: boolean
}

export interface ConnectOptions {
  self: NodeId
  secure: Secure
  clock: Clock
  meters: Meters
  /** What streams of ours start with. */
  windowBytes: number
  /** What this node can do (FEATURE in hello.ts). */
  features: number
  /** Aborts when this node goes away. */
  closing: AbortSignal
  know: (node: NodeId) => Known
  /** Puts the carrier into a session; runs before any further frame is looked at, and may throw. */
  join: (known: Known, joining: Joining) => TunnelSession
}

const SECURE_MS = 5_000
const HELLO_MS = 5_000

/**
 * From a raw connection to a carrier in a session, for both ends.
 *
 *     dial ─▶ secure (≤ 5 s) ─▶ HELLO and its answer (≤ 5 s) ─▶ join
 *     └──── aborted when another path wins ────┘ └─ from here on it stays, as one more carrier
 */
export class Connector {
  readonly #options: ConnectOptions
  readonly #incarnation = randomBytes(8).toString('hex')

  constructor(options: ConnectOptions) {
    this.#options = options
  }

  /** @throws any error; the caller tries another path. */
  async dial(
    known: Known,
    reach: NodeReach,
    dialer: Dialer,
    signal: AbortSignal,
    isInstead = false,
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
        cuts,
        isInstead,
      })
      this.#options.meters.dialled(raw.path, 'ok')
      return session
    } catch (error) {
      raw?.stream.on('error', ignore).destroy()
      this.#options.meters.dialled(dialer.path, signal.aborted ? 'outrun' : 'failed')
      throw error
    }
  }

  /** The peer may put streams on this carrier as soon as it has our HELLO, so no race may end it any more. */
  async #propose(known: Known, link: Link & { isInstead: boolean }): Promise<TunnelSession> {
    known.proposal ??= randomBytes(16).toString('hex')
    known.carrierNumber += 2
    const { isInstead } = link
    const proposal = this.#hello(proposalOf(known) ?? known.proposal, known.carrierNumber)
    if (isInstead) proposal.features |= FEATURE.instead
    let joined: TunnelSession | undefined
    const meet: Meet = (theirs, carrier, pump) => {
      carrier.localAddress = link.localAddress
      const agreement = readAnswer(keysOf(known), theirs)
      const joining = { agreement, theirs, carrier, pump, isDialler: true, cuts: link.cuts, isInstead }
      const session = this.#options.join(known, joining)
      joined = session
      return (reason) => session.lost(carrier, reason)
    }
    await this.#greet(link, meet, proposal)
    if (joined === undefined) throw new Error('greeted, and in no session')
    return joined
  }

  /** @throws any error; the connection is closed then. */
  async accept(raw: RawConnection): Promise<void> {
    const { self, secure, closing, know, join } = this.#options
    const proof = await this.#prove(raw, (raw) => secure.accept(raw), closing)
    if (proof === undefined) return
    const { peer, stream } = proof
    if (peer === self) throw new MeshError('PEER_REFUSED', { node: peer, reason: 'it is ourselves' })
    const known = know(peer)
    const link = { stream, path: raw.path, localAddress: localOf(raw), cuts: known.cuts }
    await this.#greet(link, (theirs, carrier, pump) => {
      carrier.localAddress = link.localAddress
      const pending = known.dials > 0 ? known.proposal : undefined
      const agreement = answerProposal({ isFirst: self < peer, ...keysOf(known), pending }, theirs)
      carrier.greet(this.#hello(agreement.id, theirs.carrier))
      const isInstead = (theirs.features & FEATURE.instead) !== 0
      const session = join(known, { agreement, theirs, carrier, pump, isDialler: false, cuts: link.cuts, isInstead })
      return (reason) => session.lost(carrier, reason)
    })
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

  async #greet({ stream, path }: Link, meet: Meet, proposal?: Hello): Promise<void> {
    const { clock, closing } = this.#options
    using limit = new Deadline(clock, HELLO_MS, closing)
    const now = () => clock.now()
    await greet({ stream, path, now, meet, ...(proposal === undefined ? {} : { proposal }) }, limit.signal)
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
  cuts: number
}

function localOf({ stream }: RawConnection): string | undefined {
  return stream instanceof Socket ? stream.localAddress : undefined
}

function ignore(): void {
  // an end that was asked for
}
