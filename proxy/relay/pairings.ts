import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type { NodeId } from '../../src/core/model/ids.ts'
import type { RelayRefusal } from './wire/messages.ts'

/** An upgrade whose answer is still open. */
export interface LegRequest {
  request: IncomingMessage
  socket: Duplex
  head: Buffer
}

export type Side = 'dialled' | 'taken'

/** Two nodes that are about to be joined. */
export interface Pairing {
  readonly nonce: string
  readonly from: NodeId
  readonly to: NodeId
  readonly legs: Readonly<Partial<Record<Side, LegRequest>>>
}

interface Pending extends Pairing {
  legs: Partial<Record<Side, LegRequest>>
  /** Its places are free again. */
  leave: () => void
  late: NodeJS.Timeout
  gone: () => void
}

export interface PairingsOptions {
  takeMs: number
  /** Answers a leg that waited in vain. */
  refuse: (knock: LegRequest, refusal: RelayRefusal) => void
}

/**
 * Legs that wait for each other.
 *
 *     begun ──the dialler's leg, the listener's leg, in any order──▶ both are here: joined
 *       └──refused, withdrawn, a leg gone, not complete within `takeMs`──▶ over: whatever leg is here is refused
 */
export class Pairings {
  readonly #options: PairingsOptions
  readonly #pending = new Map<string, Pending>()

  constructor(options: PairingsOptions) {
    this.#options = options
  }

  of(nonce: string): Pairing | undefined {
    return this.#pending.get(nonce)
  }

  all(): Iterable<Pairing> {
    return this.#pending.values()
  }

  begin(between: Pick<Pairing, 'nonce' | 'from' | 'to'>, leave: () => void): Pairing {
    const pending: Pending = {
      ...between,
      legs: {},
      leave,
      late: setTimeout(() => this.end(pending, 'not taken in time'), this.#options.takeMs),
      gone: () => this.end(pending, 'nonce unknown or used'),
    }
    this.#pending.set(pending.nonce, pending)
    return pending
  }

  /** Returns what both legs are joined under, once both are here: the meeting is over then, and keeps its places. */
  addLeg(
    { nonce }: Pairing,
    side: Side,
    knock: LegRequest,
  ): (Record<Side, LegRequest> & { leave: () => void }) | undefined {
    const pending = this.#pending.get(nonce)
    if (pending === undefined) return undefined
    pending.legs[side] = knock
    knock.socket.once('close', pending.gone)
    const { dialled, taken } = pending.legs
    if (dialled === undefined || taken === undefined) return undefined
    this.#forget(pending)
    return { dialled, taken, leave: pending.leave }
  }

  end({ nonce }: Pairing, refusal: RelayRefusal): void {
    const pending = this.#pending.get(nonce)
    if (pending === undefined) return
    this.#forget(pending)
    pending.leave()
    for (const leg of Object.values(pending.legs)) if (!leg.socket.destroyed) this.#options.refuse(leg, refusal)
  }

  #forget({ nonce, late, legs, gone }: Pending): void {
    clearTimeout(late)
    this.#pending.delete(nonce)
    for (const { socket } of Object.values(legs)) socket.off('close', gone)
  }
}
