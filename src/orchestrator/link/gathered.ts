import { isMeshError } from '../../core/errors.ts'

interface Waiting<I, O> {
  item: I
  answer: PromiseWithResolvers<O>
}

export interface GatherOptions<P extends object, I, O> {
  /** All items of one turn for one peer: the outcome of each, in order. */
  many: (peer: P, items: readonly I[]) => Promise<readonly Outcome<O>[]>
  /** For a peer of an earlier version, which does not know the request for many. */
  one: (peer: P, item: I) => Promise<O>
  /** Resolves when the peer can take more; what is asked meanwhile goes with the rest. */
  ready?: (peer: P) => Promise<void>
  /** How many bytes an item has, about. */
  sizeOf?: (item: I) => number
}

export type Outcome<O> = { value: O } | { error: unknown }

/**
 * Requests of one kind, made one by one and sent together: what is asked of a peer within one turn of the event loop goes in one
 * message, or in several when it is much. What is asked while the peer works on the message before goes together as well, so that a peer
 * of which much is asked gets few messages, and one of which little is asked gets them at once.
 */
export class Gathered<P extends object, I, O> {
  readonly #options: Required<GatherOptions<P, I, O>>
  readonly #waiting = new Map<P, Waiting<I, O>[]>()
  /** Peers that answered that they do not know it. */
  readonly #old = new WeakSet<P>()

  constructor(options: GatherOptions<P, I, O>) {
    this.#options = { sizeOf: () => 100, ready: () => Promise.resolve(), ...options }
  }

  ask(peer: P, item: I): Promise<O> {
    const waiting = this.#waiting.get(peer)
    const answer = Promise.withResolvers<O>()
    if (waiting !== undefined) waiting.push({ item, answer })
    else {
      this.#waiting.set(peer, [{ item, answer }])
      setImmediate(() => void this.#flush(peer))
    }
    return answer.promise
  }

  async #flush(peer: P): Promise<void> {
    const { ready } = this.#options
    for (let waiting = this.#waiting.get(peer); waiting !== undefined; waiting = this.#waiting.get(peer)) {
      await ready(peer)
      const answered = this.#send(peer, waiting.splice(0, this.#batchOf(waiting)))
      if (waiting.length === 0) await settledWithin(answered, LINGER_MS)
      if (waiting.length === 0) this.#waiting.delete(peer)
    }
  }

  /** How many of the first go in one message. */
  #batchOf(waiting: readonly Waiting<I, O>[]): number {
    let bytes = 0
    for (const [count, { item }] of waiting.slice(0, MOST).entries()) {
      bytes += this.#options.sizeOf(item)
      if (bytes > MOST_BYTES) return Math.max(1, count)
    }
    return Math.min(MOST, waiting.length)
  }

  async #send(peer: P, waiting: readonly Waiting<I, O>[]): Promise<void> {
    const { many, one } = this.#options
    const [only] = waiting
    if (only !== undefined && (waiting.length === 1 || this.#old.has(peer))) {
      for (const { item, answer } of waiting) one(peer, item).then(answer.resolve, answer.reject)
      await Promise.allSettled(waiting.map(({ answer }) => answer.promise))
      return
    }
    try {
      const outcomes = await many(
        peer,
        waiting.map(({ item }) => item),
      )
      for (const [i, { answer }] of waiting.entries()) settle(answer, outcomes[i])
    } catch (error) {
      if (isUnknown(error)) {
        this.#old.add(peer)
        return this.#send(peer, waiting)
      }
      for (const { answer } of waiting) answer.reject(error)
    }
  }
}

/** Of one message. Smaller costs messages, larger holds up what follows it at the peer. */
const MOST = 100
const MOST_BYTES = 512 * 1024
/** What is asked behind a message waits for its answer, for so long at most. Smaller sends more messages, larger lets one slow answer delay others. */
const LINGER_MS = 50

/** Resolves when it has settled, or then. */
function settledWithin(promise: Promise<void>, ms: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms)
    void promise.finally(() => {
      clearTimeout(timer)
      resolve()
    })
  })
}

function settle<O>(answer: PromiseWithResolvers<O>, outcome: Outcome<O> | undefined): void {
  if (outcome === undefined) answer.reject(new Error('a request for many was answered for fewer'))
  else if ('error' in outcome) answer.reject(outcome.error)
  else answer.resolve(outcome.value)
}

/** As link.ts answers a request that it does not know. */
function isUnknown(error: unknown): boolean {
  return isMeshError(error, 'MESSAGE_INVALID') && String(error.details['problem']).startsWith('unknown request')
}
