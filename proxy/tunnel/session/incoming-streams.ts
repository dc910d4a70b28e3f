import { OpenAdmission } from './admission.ts'
import type { Carrier } from '../carrier/carrier.ts'
import { REFUSALS, type Refusal } from '../contract.ts'
import { FRAME, frameInvalid } from '../wire/frame.ts'
import { Incoming } from './incoming.ts'
import type { MuxOptions, MuxParts } from './mux.ts'
import { MuxStream } from '../stream/mux-stream.ts'
import type { StreamUser } from '../stream/stream-user.ts'

/** How long after our DRAIN a stream may still be opened here: it was asked for before the peer had read that. */
const LATE_OPEN_MS = 1_000

/** What the peer opens, until each is accepted, refused, withdrawn, or nobody has answered in time. */
export class IncomingStreams {
  readonly #options: MuxOptions
  readonly #parts: MuxParts
  readonly #admission: OpenAdmission
  /** In the order of time. */
  readonly #pending = new Map<number, Incoming>()
  #drainedAt: number | undefined

  constructor(options: MuxOptions, parts: MuxParts) {
    this.#options = options
    this.#parts = parts
    this.#admission = new OpenAdmission(options.limits, options.now)
  }

  /** No new ones are wanted. */
  get isDraining(): boolean {
    return this.#drainedAt !== undefined
  }

  drain(): void {
    this.#drainedAt ??= this.#options.now()
  }

  /** @throws MeshError FRAME_INVALID */
  got(carrier: Carrier, id: number, payload: Buffer, isAgain: boolean): void {
    const { streams, isOurs, shares, unheard, past } = this.#parts
    if ((id & 1) === isOurs) throw frameInvalid('OPEN of a stream that is ours to open', { stream: id })
    const known = streams.get(id)
    if (known !== undefined) {
      if (!isAgain || !shares.isResumable) throw frameInvalid('OPEN of a stream that is open', { stream: id })
      if (known.carrier !== carrier) known.moveTo(carrier)
      return
    }
    if (unheard.has(id) || (isAgain && past.has(id))) return carrier.outbox.control(FRAME.RESET, id)
    this.#take(carrier, id, payload)
  }

  #take(carrier: Carrier, id: number, payload: Buffer): void {
    const { shares } = this.#parts
    const refusal = this.#whyNot()
    if (refusal !== undefined) return carrier.outbox.control(FRAME.REFUSED, id, Buffer.of(REFUSALS.indexOf(refusal)))
    const user: StreamUser = { takes: 'nothing', events: { reset: () => incoming.gone() } }
    const stream = new MuxStream(id, carrier, shares, { user })
    shares.add(stream)
    const asked = {
      peer: this.#options.peer,
      path: carrier.path,
      request: Buffer.from(payload),
      since: this.#options.now(),
    }
    const incoming = new Incoming(asked, stream, () => this.#pending.delete(id))
    this.#pending.set(id, incoming)
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
    const { shares } = this.#parts
    if (shares.isCrowded) return 'overloaded'
    return this.#admission.whyNot({ streams: shares.theirs, pending: this.#pending.size })
  }
}
