import Type, { type Static } from 'typebox'
import { Compile } from 'typebox/compile'
import { MeshError } from '../../src/core/errors.ts'
import { TokenBucket } from '../../src/core/kit/token-bucket.ts'
import type { NodeId } from '../../src/core/model/ids.ts'
import type { NodeReach } from '../../src/core/model/node.ts'
import { FILTERINGS, MAPPINGS } from './nat/nat-behavior.ts'
import { BoundedMap } from '../../src/core/kit/bounded-map.ts'

/**
 * Short messages between two nodes, about ways to reach each other. Delivered at most once, and perhaps not at all:
 *
 *     over their session, when they have one (frame SIGNAL): "this node, says TLS, said so"
 *     through a relay at which both listen: "this node, says the relay, said so, from this address"
 *
 * Neither makes anything that is said true: what a signal leads to is a connection attempt or two, and the certificate decides.
 */
const closed = { additionalProperties: false }
const nonce = Type.String({ pattern: '^[0-9a-f]{32}$' })
const address = Type.String({ pattern: '^(\\[[0-9a-f:]{2,39}\\]|[0-9.]{7,15}):\\d{1,5}$' })
const attempt = Type.Integer({ minimum: 1, maximum: 9 })
const nat = Type.Object({ mapping: Type.Enum([...MAPPINGS]), filtering: Type.Enum([...FILTERINGS]) }, closed)

/** Dial one of these addresses, and present the nonce there. */
const dialMe = Type.Object(
  { type: Type.Literal('dial-me'), nonce, addresses: Type.Array(address, { minItems: 1, maxItems: 4 }) },
  closed,
)
/** See punched.ts. */
const punchConnect = Type.Object({ type: Type.Literal('punch-connect'), nonce, attempt, address, nat }, closed)
const punchAccept = Type.Object(
  {
    type: Type.Literal('punch-accept'),
    nonce,
    attempt,
    address,
    nat,
    /** How long the answer took to find, which is no part of the round trip. */
    heldMs: Type.Number({ minimum: 0, maximum: 10_000 }),
  },
  closed,
)
const punchSync = Type.Object({ type: Type.Literal('punch-sync'), nonce, attempt }, closed)
const punchRefuse = Type.Object({ type: Type.Literal('punch-refuse'), nonce, attempt, nat }, closed)

/** Where the sender listens, the nearest first, and how far that is for it; see peer-relays.ts. */
const here = Type.Object(
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

const signal = Type.Union([here, dialMe, punchConnect, punchAccept, punchSync, punchRefuse])
export type Signal = Static<typeof signal>
export type SignalOf<T extends Signal['type']> = Extract<Signal, { type: T }>
const check = Compile(signal)

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

/** A signal that came. */
export interface Heard<S extends Signal = Signal> {
  readonly from: NodeId
  readonly signal: S
  /** The address under which the relay sees the sender; `undefined` over a session. */
  readonly seen: string | undefined
  /** The same way back. */
  readonly reply: (signal: Signal) => boolean
}

export interface SignalsOptions {
  /** Over the session with a node; false when there is none. */
  overSession: (to: NodeId, payload: Buffer) => boolean
  hasSession: (to: NodeId) => boolean
  /** Through one of these relays; false when we listen at none of them. */
  overRelay: (to: NodeId, body: string, relays: readonly string[]) => boolean
  /** Where we listen. */
  listening: () => readonly string[]
  now: () => number
}

/** Of one node, whatever way they come. */
const PER_SECOND = 5
const AT_ONCE = 20
const MAX_SENDERS = 1_024

type Target = Pick<NodeReach, 'id' | 'relays'>

export class Signals {
  readonly #options: SignalsOptions
  readonly #listeners = new Map<Signal['type'], (heard: Heard) => void>()
  readonly #tokens = new BoundedMap<NodeId, TokenBucket>(MAX_SENDERS)
  /** That made no sense, were too many, or nobody waits for. */
  dropped = 0

  constructor(options: SignalsOptions) {
    this.#options = options
  }

  /** Whether there is a way to say something to the node now. */
  canReach(to: Target): boolean {
    return this.#options.hasSession(to.id) || this.#options.listening().some((url) => to.relays.includes(url))
  }

  /** False when there is no way; nobody knows whether it arrives. What names addresses goes through a relay first, which vouches for them. */
  send(to: Target, signal: Signal): boolean {
    const text = JSON.stringify(signal)
    const overRelay = () => this.#options.overRelay(to.id, text, to.relays)
    const overSession = () => this.#options.overSession(to.id, Buffer.from(text))
    return 'address' in signal || 'addresses' in signal ? overRelay() || overSession() : overSession() || overRelay()
  }

  /** One listener for each type. */
  on<T extends Signal['type']>(type: T, listener: (heard: Heard<SignalOf<T>>) => void): void {
    this.#listeners.set(type, listener as (heard: Heard) => void)
  }

  /** A SIGNAL frame of that node came. */
  fromSession(from: NodeId, payload: Buffer): void {
    const reply = (signal: Signal) => this.#options.overSession(from, Buffer.from(JSON.stringify(signal)))
    this.#take(payload.toString('latin1'), { from, seen: undefined, reply })
  }

  fromRelay({ from, seen, body, relay }: { from: NodeId; seen: string; body: string; relay: string }): void {
    const reply = (signal: Signal) => this.#options.overRelay(from, JSON.stringify(signal), [relay])
    this.#take(body, { from, seen, reply })
  }

  #take(text: string, heard: Omit<Heard, 'signal'>): void {
    try {
      if (!this.#tokensOf(heard.from).tryTake()) throw new MeshError('MESSAGE_INVALID', { from: 'node' })
      const signal = readSignal(text)
      const listener = this.#listeners.get(signal.type)
      if (listener === undefined) this.dropped += 1
      else listener({ ...heard, signal })
    } catch {
      this.dropped += 1
    }
  }

  #tokensOf(node: NodeId): TokenBucket {
    const { now } = this.#options
    return this.#tokens.getOrCreate(node, () => new TokenBucket({ perSecond: PER_SECOND, burst: AT_ONCE, now }))
  }
}
