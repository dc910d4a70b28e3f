import Type, { type Static } from 'typebox'
import { checkerOf } from '../../../src/core/kit/checker.ts'
import { MeshError } from '../../../src/core/errors.ts'

/**
 * Two nodes that cannot dial each other are joined at a relay. All requests are for `wss://…/relay?…`, with a mesh certificate.
 *
 *   dialler D                    relay                      listener L
 *                                  │ ◀── ?listen ─────────── │   control channel: text, JSON, kept open
 *      │ ── ?to=<cluster>/<node> ▶ │                         │   D's upgrade waits unanswered
 *      │                           │ ── incoming(D, nonce) ▶ │
 *      │                           │ ◀── ?take=<nonce> ───── │   or refuse(nonce), or silence for `takeMs`
 *      │ ◀──────── 101 ─────────── │ ──────── 101 ─────────▶ │
 *      │ ◀═══ TLS between D and L: the relay forwards bytes it cannot read ═══▶ │
 *
 * A dialler that listens at the relay itself can announce its leg over its own control channel. Then both legs are dialled at the
 * same time, and whichever arrives first waits for the other:
 *
 *      │ ── knock(L, nonce) ─────▶ │ ── incoming(D, nonce) ▶ │
 *      │ ── ?to=L&knock=<nonce> ─▶ │ ◀── ?take=<nonce> ───── │   or withdraw(nonce), when D no longer needs it
 *      │ ◀──────── 101 ─────────── │ ──────── 101 ─────────▶ │
 *
 * An announcement that the relay does not accept is not answered: the leg that follows is treated as one without.
 *
 *   any node ── ?ping ▶            a control channel without messages: its pings measure how far the relay is
 *
 * A listener that asks for it is sent `welcome`, and may send short `signal`s to other listeners: the relay adds the sender and
 * the address at which it sees it. Signals to a node that does not listen here, and too many signals, are dropped.
 *
 * The legs that carry bytes switch from HTTP to plain bytes (kit/upgrade.ts), or are WebSockets where something on the way
 * refuses other upgrades; one leg of each kind may be joined. A refused upgrade is answered at once with one of `REFUSALS`. A
 * nonce is 128 random bits, works once, within `takeMs`, and only for the node to which it was sent. The end of one leg is the
 * end of both (WebSocket has no half-close). A relay that goes away tells each listener when to return, so that a thousand do
 * not return in the same moment.
 */
export const LISTEN = 'listen'
export const TO = 'to'
export const TAKE = 'take'
/** `?listen=signals`: the listener understands `welcome` and `signal`; one without it is sent neither. */
export const SIGNALS = 'signals'
/** The body of a signal is printable ASCII. */
export const MAX_SIGNAL_CHARS = 2_048
export const PING = 'ping'
/** `?to=…&knock=<nonce>`: a leg that was announced. */
export const LEG_REQUEST = 'knock'
/** A listener that sends this header understands `knocks` in `welcome`; older listeners refuse a message with it. */
export const LEG_REQUESTS_HEADER = 'hedgerow-knocks'

/** Why the relay refuses, with the HTTP status of each reason. */
export const REFUSALS = {
  malformed: '400 Bad Request',
  'not a node': '403 Forbidden',
  'node not connected here': '404 Not Found',
  'nonce unknown or used': '410 Gone',
  'too many connections': '429 Too Many Requests',
  'refused by the node': '502 Bad Gateway',
  'relay is closing': '503 Service Unavailable',
  'not taken in time': '504 Gateway Timeout',
} as const
export type RelayRefusal = keyof typeof REFUSALS

/** The reason behind an HTTP status; `undefined` for a status that no relay sends. */
export function refusalOf(status: unknown): RelayRefusal | undefined {
  const reasons = Object.keys(REFUSALS) as RelayRefusal[]
  return reasons.find((reason) => REFUSALS[reason].startsWith(`${String(status)} `))
}

const nonce = Type.String({ pattern: '^[0-9a-f]{32}$' })
const closed = { additionalProperties: false }
const node = Type.String({ minLength: 3, maxLength: 127 })
const port = Type.Integer({ minimum: 1, maximum: 65_535 })
const seen = Type.String({ maxLength: 45 })
const body = Type.String({ minLength: 2, maxLength: MAX_SIGNAL_CHARS, pattern: '^[ -~]+$' })
const welcome = Type.Object(
  {
    type: Type.Literal('welcome'),
    /** The address at which the relay sees the listener. */
    seen,
    /** Two ports, for TCP and UDP, that answer at which address they see a node (observation.ts). */
    observer: Type.Optional(Type.Object({ ports: Type.Tuple([port, port]), cookie: nonce }, closed)),
    /** The relay accepts `knock` and `withdraw`. */
    knocks: Type.Optional(Type.Literal(true)),
  },
  closed,
)
const fromRelay = Type.Union([
  Type.Object({ type: Type.Literal('incoming'), from: node, nonce }, closed),
  Type.Object({ type: Type.Literal('signal'), from: node, seen, body }, closed),
  welcome,
  Type.Object({ type: Type.Literal('goaway'), backInMs: Type.Integer({ minimum: 0, maximum: 60_000 }) }, closed),
])
const fromListener = Type.Union([
  Type.Object({ type: Type.Literal('refuse'), nonce }, closed),
  Type.Object({ type: Type.Literal('knock'), to: node, nonce }, closed),
  Type.Object({ type: Type.Literal('withdraw'), nonce }, closed),
  Type.Object({ type: Type.Literal('signal'), to: node, body }, closed),
])
export type FromRelay = Static<typeof fromRelay>
export type Welcome = Static<typeof welcome>
export type FromListener = Static<typeof fromListener>

/** The longest message that either side sends: a signal in which each character needs a backslash, and what is around it. */
const MAX_CHARS = 2 * MAX_SIGNAL_CHARS + 512
const checkFromRelay = checkerOf(fromRelay)
const checkFromListener = checkerOf(fromListener)

/** @throws MeshError MESSAGE_INVALID */
export function readFromRelay(text: string): FromRelay {
  const message = parse(text)
  if (!checkFromRelay.Check(message)) throw new MeshError('MESSAGE_INVALID', { from: 'relay' })
  return message
}

/** @throws MeshError MESSAGE_INVALID */
export function readFromListener(text: string): FromListener {
  const message = parse(text)
  if (!checkFromListener.Check(message)) throw new MeshError('MESSAGE_INVALID', { from: 'listener' })
  return message
}

function parse(text: string): unknown {
  if (text.length > MAX_CHARS) throw new MeshError('MESSAGE_INVALID', { chars: text.length, most: MAX_CHARS })
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new MeshError('MESSAGE_INVALID', {}, { cause })
  }
}
