import Type, { type Static } from 'typebox'
import { checkerOf } from '../../src/core/kit/checker.ts'
import { MeshError } from '../../src/core/errors.ts'
import { BoundedMap } from '../../src/core/kit/bounded-map.ts'
import { TokenBucket } from '../../src/core/kit/token-bucket.ts'
import type { NodeId } from '../../src/core/model/ids.ts'
import type { NodeReach } from '../../src/core/model/node.ts'
import type { Filtering, Mapping, NatBehavior } from './nat/nat-behavior.ts'

/**
 * Short messages between two nodes, most of them about how to reach each other. Each is delivered at most once, and perhaps not at all:
 *
 *     over the session of the two, if there is one (frame SIGNAL): TLS has proved the sender
 *     through a relay at which both listen: the relay names the sender and the address it sees the sender at
 *
 * What a signal says is never trusted: it leads to a connection attempt or two, and the certificate decides.
 */
const closed = { additionalProperties: false }
const nonce = Type.String({ pattern: '^[0-9a-f]{32}$' })
const address = Type.String({ pattern: '^(\\[[0-9a-f:]{2,39}\\]|[0-9.]{7,15}):\\d{1,5}$' })
const attempt = Type.Integer({ minimum: 1, maximum: 9 })
/** NAT behavior on the wire, in fewer words than RFC 4787 has: see `natToWire`. */
const nat = Type.Object(
  {
    mapping: Type.Enum(['none', 'stable', 'varies', 'unknown']),
    filtering: Type.Enum(['open', 'strict', 'unknown']),
  },
  closed,
)
export type WireNat = Static<typeof nat>

/** Asks the receiver to dial one of these addresses and to present the nonce there (reverse-path.ts). */
const dialMe = Type.Object(
  { type: Type.Literal('dial-me'), nonce, addresses: Type.Array(address, { minItems: 1, maxItems: 4 }) },
  closed,
)
/** The messages of a punch (punch/hole-puncher.ts). */
const punchConnect = Type.Object({ type: Type.Literal('punch-connect'), nonce, attempt, address, nat }, closed)
const punchAccept = Type.Object(
  {
    type: Type.Literal('punch-accept'),
    nonce,
    attempt,
    address,
    nat,
    /** How long the sender took to answer, which is no part of the round trip. */
    heldMs: Type.Number({ minimum: 0, maximum: 10_000 }),
  },
  closed,
)
const punchSync = Type.Object({ type: Type.Literal('punch-sync'), nonce, attempt }, closed)
const punchRefuse = Type.Object({ type: Type.Literal('punch-refuse'), nonce, attempt, nat }, closed)

/** The relays at which the sender listens, nearest first, and how far they are from it (relays/peer-relays.ts). */
const relayList = Type.Object(
  {
    type: Type.Literal('here'),
    relays: Type.Array(
      Type.Object(
        {
          url: Type.String({ pattern: '^wss://[!-~]+$', maxLength: 500 }),
          ms: Type.Optional(Type.Number({ minimum: 0, maximum: 60_000 })),
        },
        closed,
      ),
      { minItems: 1, maxItems: 3 },
    ),
  },
  closed,
)

/** The list of revoked certificates, passed on between nodes (agent/revocation-spread.ts): its number, a request, and its parts. */
const number = Type.Integer({ minimum: 1 })
const revocations = Type.Object({ type: Type.Literal('revocations'), number }, closed)
const revocationsGet = Type.Object({ type: Type.Literal('revocations-get') }, closed)
const revocationsPart = Type.Object(
  {
    type: Type.Literal('revocations-part'),
    number,
    part: Type.Integer({ minimum: 0, maximum: 999 }),
    parts: Type.Integer({ minimum: 1, maximum: 1_000 }),
    /** Base64 of a piece of the deflated list. */
    data: Type.String({ pattern: '^[A-Za-z0-9+/=]*$', maxLength: 1_600 }),
  },
  closed,
)

const signal = Type.Union([
  relayList,
  dialMe,
  punchConnect,
  punchAccept,
  punchSync,
  punchRefuse,
  revocations,
  revocationsGet,
  revocationsPart,
])
export type Signal = Static<typeof signal>
export type SignalOf<T extends Signal['type']> = Extract<Signal, { type: T }>
const check = checkerOf(signal)

export const MAX_SIGNAL_BYTES = 2_048

/** @throws MeshError MESSAGE_INVALID */
export function readSignal(text: string): Signal {
  let found: unknown
  try {
    found = text.length > MAX_SIGNAL_BYTES ? undefined : JSON.parse(text)
  } catch (cause) {
    throw new MeshError('MESSAGE_INVALID', { from: 'node' }, { cause })
  }
  if (!check.Check(found)) throw new MeshError('MESSAGE_INVALID', { from: 'node' })
  return found
}

export function natToWire({ mapping, filtering }: NatBehavior): WireNat {
  return { mapping: MAPPING_TO_WIRE[mapping], filtering: FILTERING_TO_WIRE[filtering] }
}

const MAPPING_TO_WIRE: Readonly<Record<Mapping, WireNat['mapping']>> = {
  none: 'none',
  'endpoint-independent': 'stable',
  'address-dependent': 'varies',
  'address-and-port-dependent': 'varies',
  unknown: 'unknown',
}
const FILTERING_TO_WIRE: Readonly<Record<Filtering, WireNat['filtering']>> = {
  'endpoint-independent': 'open',
  'address-dependent': 'open',
  'address-and-port-dependent': 'strict',
  unknown: 'unknown',
}

/** Where one word on the wire stands for two, the one that promises less is taken. */
export function natFromWire({ mapping, filtering }: WireNat): NatBehavior {
  return { mapping: MAPPING_FROM_WIRE[mapping], filtering: FILTERING_FROM_WIRE[filtering] }
}

const MAPPING_FROM_WIRE: Readonly<Record<WireNat['mapping'], Mapping>> = {
  none: 'none',
  stable: 'endpoint-independent',
  varies: 'address-and-port-dependent',
  unknown: 'unknown',
}
const FILTERING_FROM_WIRE: Readonly<Record<WireNat['filtering'], Filtering>> = {
  open: 'address-dependent',
  strict: 'address-and-port-dependent',
  unknown: 'unknown',
}

/** A signal that was received. */
export interface ReceivedSignal<S extends Signal = Signal> {
  readonly from: NodeId
  readonly signal: S
  /** The address at which the relay sees the sender; `undefined` over a session. */
  readonly seenAddress: string | undefined
  /** Answers the way the signal came; false when that is no longer possible. */
  readonly reply: (signal: Signal) => boolean
}

export interface SignalsOptions {
  /** Sends over the session with a node; false when there is none. */
  overSession: (to: NodeId, payload: Buffer) => boolean
  hasSession: (to: NodeId) => boolean
  /** Sends through one of these relays; false when we listen at none of them. */
  overRelay: (to: NodeId, body: string, relays: readonly string[]) => boolean
  /** The relays at which we listen. */
  listening: () => readonly string[]
  now: () => number
}

/** What one sender may send, over all ways together. Smaller breaks several punches at once; larger lets one node keep us busy. */
const PER_SECOND = 5
const BURST = 20
const MAX_SENDERS = 1_024

type Target = Pick<NodeReach, 'id' | 'relays'>

export class Signals {
  readonly #options: SignalsOptions
  readonly #listeners = new Map<Signal['type'], (received: ReceivedSignal) => void>()
  readonly #tokens = new BoundedMap<NodeId, TokenBucket>(MAX_SENDERS, ({ isFull }) => isFull)
  /** Signals that were malformed, too many, or of a type without a listener. */
  dropped = 0

  constructor(options: SignalsOptions) {
    this.#options = options
  }

  /** Whether a signal could be sent to the node now. */
  canReach(to: Target): boolean {
    return this.#options.hasSession(to.id) || this.#options.listening().some((url) => to.relays.includes(url))
  }

  /**
   * False when it could not be sent; true does not mean that it arrives. A signal that names addresses prefers a relay, which
   * confirms them by the address it sees.
   */
  send(to: Target, signal: Signal): boolean {
    const text = JSON.stringify(signal)
    const overRelay = () => this.#options.overRelay(to.id, text, to.relays)
    const overSession = () => this.#options.overSession(to.id, Buffer.from(text))
    return 'address' in signal || 'addresses' in signal ? overRelay() || overSession() : overSession() || overRelay()
  }

  /** Sets the one listener of a type. */
  on<T extends Signal['type']>(type: T, listener: (received: ReceivedSignal<SignalOf<T>>) => void): void {
    this.#listeners.set(type, listener as (received: ReceivedSignal) => void)
  }

  /** Takes the payload of a SIGNAL frame. */
  fromSession(from: NodeId, payload: Buffer): void {
    const reply = (signal: Signal) => this.#options.overSession(from, Buffer.from(JSON.stringify(signal)))
    this.#receive(payload.toString('latin1'), { from, seenAddress: undefined, reply })
  }

  fromRelay({ from, seenAddress, body, relay }: RelayedSignal): void {
    const reply = (signal: Signal) => this.#options.overRelay(from, JSON.stringify(signal), [relay])
    this.#receive(body, { from, seenAddress, reply })
  }

  #receive(text: string, received: Omit<ReceivedSignal, 'signal'>): void {
    try {
      if (!this.#tokensOf(received.from).tryTake()) throw new MeshError('MESSAGE_INVALID', { from: 'node' })
      const signal = readSignal(text)
      const listener = this.#listeners.get(signal.type)
      if (listener === undefined) this.dropped += 1
      else listener({ ...received, signal })
    } catch {
      this.dropped += 1
    }
  }

  #tokensOf(node: NodeId): TokenBucket {
    const { now } = this.#options
    return this.#tokens.getOrCreate(node, () => new TokenBucket({ perSecond: PER_SECOND, burst: BURST, now }))
  }
}

/** A signal as a relay passes it on. `from` has proved to the relay who it is; we have only the relay's word for it. */
export interface RelayedSignal {
  from: NodeId
  /** The address at which the relay sees the sender. */
  seenAddress: string
  body: string
  relay: string
}
