import { sourceOf } from '../../src/core/kit/admission.ts'

/*
 * What the clients of the gateway may have open: all together, and each address (each /64 of IPv6). TCP connections and UDP flows
 * count alike. A client beyond its limit is refused, so that it takes nothing from others.
 */

export interface ClientLimitsOptions {
  readonly connections: number
  readonly connectionsPerClient: number
}

export class ClientLimits {
  readonly #options: ClientLimitsOptions
  readonly #open = new Map<string, number>()
  #all = 0
  refused = 0

  constructor(options: ClientLimitsOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#all
  }

  /** Counts one of this address, until the result is called; `undefined`: it may not have another. */
  enter(remoteAddress: string | undefined): (() => void) | undefined {
    const source = sourceOf({ remoteAddress })
    const own = this.#open.get(source) ?? 0
    if (own >= this.#options.connectionsPerClient || this.#all >= this.#options.connections) {
      this.refused += 1
      return undefined
    }
    this.#open.set(source, own + 1)
    this.#all += 1
    let isOver = false
    return () => {
      if (isOver) return
      isOver = true
      this.#all -= 1
      const left = (this.#open.get(source) ?? 1) - 1
      if (left === 0) this.#open.delete(source)
      else this.#open.set(source, left)
    }
  }
}
