import Type, { type Static } from 'typebox'
import { Compile } from 'typebox/compile'
import { MeshError } from '../../../src/core/errors.ts'

/**
 * Two nodes that cannot dial each other meet at a relay. Everybody comes by `wss://…/relay?…` with a mesh certificate.
 *
 *   dialler D                    relay                      listener L
 *                                  │ ◀── ?listen ─────────── │   control channel: text, JSON, kept up
 *      │ ── ?to=<cluster>/<node> ▶ │                         │   D's upgrade waits unanswered
 *      │                           │ ── incoming(D, nonce) ▶ │
 *      │                           │ ◀── ?take=<nonce> ───── │   or refuse(nonce), or silence for `takeMs`
 *      │ ◀──────── 101 ─────────── │ ──────── 101 ─────────▶ │
 *      │ ◀═══ TLS between D and L: the relay forwards bytes it cannot read ═══▶ │
 *
 * A dialler that listens at the relay itself need not bring its leg first: it says over its own control channel that it will come.
 * So both legs are on their way at the same time, and whichever is here first waits for the other:
 *
 *      │ ── knock(L, nonce) ─────▶ │ ── incoming(D, nonce) ▶ │
 *      │ ── ?to=L&knock=<nonce> ─▶ │ ◀── ?take=<nonce> ───── │   or withdraw(nonce), when D needs it no more
 *      │ ◀──────── 101 ─────────── │ ──────── 101 ─────────▶ │
 *
 * A knock that the relay does not honour is not answered: the leg that follows is treated as if there had been none.
 *
 *   anybody ── ?ping ▶             a control channel that says nothing: its pings tell how far the relay is
 *
 * Listeners that say so are greeted with `welcome`, and may send each other short `signal`s: the relay writes down from whom
 * one is, and under which address it sees that node; who does not listen here gets none, and too many are dropped.
 *
 * The legs that carry bytes switch from HTTP to plain bytes (kit/upgrade.ts), or are WebSockets where something on the way
 * knows no other upgrade; one leg of each kind may meet. A refused upgrade is answered at once with one of `REFUSALS`. A nonce is 128 random bits, works once, within `takeMs`,
 * and only for the node it was told to. The end of one leg is the end of both (WebSocket has no half-close). A relay that goes
 * away tells each listener when to come back, so that a thousand do not come in the same moment.
 */
export const LISTEN = 'listen'
export const TO = 'to'
export const TAKE = 'take'
/** `?listen=signals`: the listener knows `welcome` and `signal`; one that does not gets neither. */
export const SIGNALS = 'signals'
/** What nodes say to each other through the relay, as text of printable ASCII. */
export const MAX_SIGNAL_CHARS = 2_048
export const PING = 'ping'
export const LEG_REQUEST = 'knock'
/** A listener that sends this header understands `knocks` in `welcome`; older ones take it for a fault. */
export const LEG_REQUESTS_HEADER = 'hedgerow-knocks'

/** Why the relay refuses, as HTTP says it; the reason is what people read. */
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

/** The reason behind an HTTP status; `undefined` when the relay never says that. */
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
    /** Where the channel comes from, as the relay sees it. */
    seen,
    /** Two ports, for TCP and for UDP, that say where they see somebody (observation.ts). */
    observer: Type.Optional(Type.Object({ ports: Type.Tuple([port, port]), cookie: nonce }, closed)),
    /** It takes `knock` and `withdraw`. */
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

/** Longer is nothing that either side ever sends: a signal whose every character needs a backslash, and what is around it. */
const MAX_CHARS = 2 * MAX_SIGNAL_CHARS + 512
const checkFromRelay = Compile(fromRelay)
const checkFromListener = Compile(fromListener)

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
