import type { OpeningEvents } from '../contract.ts'

/**
 * The life of a stream, with the data that exists in one part of it alone.
 *
 *     opener:   opening ──OPENED──▶ open            opening ──REFUSED, RESET, no carrier──▶ closed
 *     acceptor: pending ──accept──▶ open            pending ──refuse, RESET, WITHDRAW, timeout──▶ closed
 *
 *     open: the two directions end independently; END sent and END received ──▶ lingering ──both acknowledged──▶ closed
 *           RESET either way ──▶ closed
 *
 * Early data: what is written while the stream is opening is sent at once, within `MAX_EARLY_BYTES`, and buffered at the other end
 * while it is pending. Once some is sent, an opening stream waits for a carrier as an open one does: nothing else could tell how
 * it ended.
 */
export type StreamState =
  | Opening
  /** The peer sent OPEN, and it is not answered yet. */
  | { readonly kind: 'pending' }
  | Open
  | { readonly kind: 'closed' }

/** We sent OPEN. */
export interface Opening {
  readonly kind: 'opening'
  /** Gets the outcome. */
  readonly events: OpeningEvents
  /** The payload of OPEN, to be sent again when its carrier dies; absent where the session cannot resume. */
  readonly request: Buffer | undefined
  /** What may be sent once the stream is open. */
  windowBytes: number
  /** Datagrams that were sent early. */
  readonly early: { datagrams: number; bytes: number }
  /** OPEN was sent more than once: a REFUSED answers one of them, and proves nothing about the other. */
  wasRepeated: boolean
  /** The user has asked for a refusal. */
  isWithdrawn: boolean
}

export interface Open {
  /** `lingering`: both directions have ended; only acknowledgements are under way. */
  readonly kind: 'open' | 'lingering'
  /** Data came before OPENED, which was lost with its carrier, or is late and may still come. */
  mayHearOpened: boolean
}

export const PENDING: StreamState = { kind: 'pending' }
export const CLOSED: StreamState = { kind: 'closed' }

/** Bytes flow, or at least acknowledgements do. */
export function isOpen(state: StreamState): state is Open {
  return state.kind === 'open' || state.kind === 'lingering'
}
