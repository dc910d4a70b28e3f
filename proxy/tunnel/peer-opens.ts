import { Admission } from './admission.ts'
import type { Carrier } from './carrier.ts'
import { REFUSALS, type Refusal, type StreamEvents } from './contract.ts'
import { FRAME } from './frame.ts'
import { Incoming } from './incoming.ts'
import type { MuxOptions } from './mux.ts'
import { MuxStream } from './mux-stream.ts'
import type { Shares } from './shares.ts'

/** How long after our DRAIN a stream may still be opened here: it was asked for before the peer had read that. */
const LATE_OPEN_MS = 1_000

const NO_EVENTS: StreamEvents = {
  opened: () => undefined,
  refused: () => undefined,
  data: () => undefined,
  end: () => undefined,
  reset: () => undefined,
  drain: () => undefined,
}

/** What the peer opens, until each is accepted, refused, withdrawn, or nobody has answered in time. */
export class PeerOpens {
  readonly #options: MuxOptions
  readonly #shares: Shares
  readonly #admission: Admission
  /** In the order of time. */
  readonly #pending = new Map<number, Incoming>()
  #drainedAt: number | undefined

  constructor(options: MuxOptions, shares: Shares) {
    this.#options = options
    this.#shares = shares
    this.#admission = new Admission(options.limits, options.now)
  }

  /** No new ones are wanted. */
  get isDraining(): boolean {
    return this.#drainedAt !== undefined
  }

  drain(): void {
    this.#drainedAt ??= this.#options.now()
  }

  got(carrier: Carrier, id: number, payload: Buffer): void {
    const refusal = this.#whyNot()
    if (refusal !== undefined) return carrier.outbox.control(FRAME.REFUSED, id, Buffer.of(REFUSALS.indexOf(refusal)))
    const stream = new MuxStream(id, 'pending', carrier, this.#shares, NO_EVENTS)
    this.#shares.add(stream)
    const asked = {
      peer: this.#options.peer,
      path: carrier.path,
      request: Buffer.from(payload),
      since: this.#options.now(),
    }
    const incoming = new Incoming(asked, stream, () => this.#pending.delete(id))
    this.#pending.set(id, incoming)
    stream.events = incoming.untilAccepted
    this.#options.accept(incoming)
  }

  /** The opener wants to try elsewhere: only what was not accepted is refused. */
  withdrawn(id: number): void {
    this.#pending.get(id)?.giveUp()
  }

  /** Refuses what nobody answered in time. */
  tick(now: number): void {
    for (const incoming of this.#pending.values()) {
      if (now - incoming.since < this.#options.limits.openTimeoutMs) return
      incoming.giveUp()
    }
  }

  #whyNot(): Refusal | undefined {
    // what was on its way when the peer had not read our DRAIN yet is no less welcome than what came before
    if (this.#drainedAt !== undefined && this.#options.now() - this.#drainedAt > LATE_OPEN_MS) return 'draining'
    if (this.#shares.isCrowded) return 'overloaded'
    return this.#admission.whyNot({ streams: this.#shares.theirs, pending: this.#pending.size })
  }
}
