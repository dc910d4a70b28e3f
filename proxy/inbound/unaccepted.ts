import type { NodeId } from '../../src/core/model/ids.ts'

/** Smaller: a flood fills the accept queue of a slow program; larger: fewer flows that no program answers are opened in a second. */
const ACCEPTED_MS = 250
/** Of one instance. Larger: more may wait to be accepted without a look at what the kernel says, which takes up to some milliseconds. */
const FEW = 32
/** A connection that is open. */
export interface OpenDial {
  readonly peer: NodeId
  readonly endpoint: Endpoint
  /** Whether the program has sent something. */
  readonly hasAnswered: () => boolean
}

export interface Endpoint {
  readonly host: string
  readonly port: number
}

/** How many connections the kernel holds for the program that listens there; `undefined`: it does not know. */
export type QueueAt = (endpoint: Endpoint) => number | undefined

/** Connections to one instance that are open, and that its program may not have accepted yet. It accepts them in order. */
export class Unaccepted {
  /** In the order in which they were opened. */
  #open: (OpenDial & { readonly openedAt: number })[] = []

  get size(): number {
    return this.#open.length
  }

  add(dial: OpenDial): void {
    this.#open.push({ ...dial, openedAt: performance.now() })
  }

  /** Out of the list: those that were accepted, as far as answers tell. */
  takeAnswered(): readonly OpenDial[] {
    return this.#take(1 + this.#open.findLastIndex(({ hasAnswered }) => hasAnswered()))
  }

  /** The same, and if no answer tells, as far as the kernel and the time do. */
  takeAccepted(queueAt: QueueAt): readonly OpenDial[] {
    const answered = this.takeAnswered()
    const last = this.#open.at(-1)
    if (last === undefined || answered.length > 0) return answered
    const held = this.#open.length > FEW ? queueAt(last.endpoint) : undefined
    if (held !== undefined) return this.#take(Math.max(0, this.#open.length - held))
    const longAgo = performance.now() - ACCEPTED_MS
    const recent = this.#open.findIndex(({ openedAt }) => openedAt > longAgo)
    return this.#take(recent < 0 ? this.#open.length : recent)
  }

  takeAll(): readonly OpenDial[] {
    return this.#take(this.#open.length)
  }

  #take(count: number): readonly OpenDial[] {
    return this.#open.splice(0, count)
  }
}
