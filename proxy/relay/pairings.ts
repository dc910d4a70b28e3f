import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type { NodeId } from '../../src/core/model/ids.ts'
import type { RelayRefusal } from './wire/messages.ts'

/** An HTTP upgrade that was not answered yet: one leg of a relayed connection, if it is granted. */
export interface LegRequest {
  request: IncomingMessage
  socket: Duplex
  head: Buffer
}

export type Side = 'dialled' | 'taken'

/** Two nodes that are about to be joined: `from` dials, `to` takes. */
export interface Pairing {
  readonly nonce: string
  readonly from: NodeId
  readonly to: NodeId
  readonly legs: Readonly<Partial<Record<Side, LegRequest>>>
}

interface Pending extends Pairing {
  legs: Partial<Record<Side, LegRequest>>
  releaseQuota: () => void
  timer: NodeJS.Timeout
  onLegClosed: () => void
}

export interface PairingsOptions {
  /** How long a pairing waits for its second leg. */
  takeMs: number
  /** Answers a leg that waited in vain. */
  refuse: (leg: LegRequest, refusal: RelayRefusal) => void
}

/**
 * Legs that wait for each other.
 *
 *     begun ──the dialler's leg and the listener's, in any order──▶ both are here: joined
 *       └──refused, withdrawn, a leg closed, not complete within `takeMs`──▶ ended: the leg that is here is refused
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

  begin(between: Pick<Pairing, 'nonce' | 'from' | 'to'>, releaseQuota: () => void): Pairing {
    const pending: Pending = {
      ...between,
      legs: {},
      releaseQuota,
      timer: setTimeout(() => this.end(pending, 'not taken in time'), this.#options.takeMs),
      onLegClosed: () => this.end(pending, 'nonce unknown or used'),
    }
    this.#pending.set(pending.nonce, pending)
    return pending
  }

  /** Returns both legs once they are here; the pairing is complete then, and its owner must call `releaseQuota` at the end. */
  addLeg(
    { nonce }: Pairing,
    side: Side,
    leg: LegRequest,
  ): (Record<Side, LegRequest> & { releaseQuota: () => void }) | undefined {
    const pending = this.#pending.get(nonce)
    if (pending === undefined) return undefined
    pending.legs[side] = leg
    leg.socket.once('close', pending.onLegClosed)
    const { dialled, taken } = pending.legs
    if (dialled === undefined || taken === undefined) return undefined
    this.#remove(pending)
    return { dialled, taken, releaseQuota: pending.releaseQuota }
  }

  end({ nonce }: Pairing, refusal: RelayRefusal): void {
    const pending = this.#pending.get(nonce)
    if (pending === undefined) return
    this.#remove(pending)
    pending.releaseQuota()
    for (const leg of Object.values(pending.legs)) if (!leg.socket.destroyed) this.#options.refuse(leg, refusal)
  }

  #remove({ nonce, timer, legs, onLegClosed }: Pending): void {
    clearTimeout(timer)
    this.#pending.delete(nonce)
    for (const { socket } of Object.values(legs)) socket.off('close', onLegClosed)
  }
}
