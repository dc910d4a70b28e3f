import type { NodeId } from '../../src/core/model/ids.ts'

/** How many connections a relay forwards or holds at once. */
export interface ConnectionLimits {
  total: number
  /** Dialled by one node. */
  dialled: number
  /** Taken by one node. More than `dialled`, so that no single node can keep all others from reaching it. */
  accepted: number
  /** Dialled by one node to one other. */
  pair: number
}

/** Counts connections, in total and per node and pair, against their limits. */
export class ConnectionQuotas {
  readonly #limits: ConnectionLimits
  readonly #counts = new Map<string, number>()

  constructor(limits: ConnectionLimits) {
    this.#limits = limits
  }

  /** Counts one more connection, and returns the function that releases it; `undefined` when a limit is reached. */
  take(from: NodeId, to: NodeId): (() => void) | undefined {
    const { total, dialled, accepted, pair } = this.#limits
    const limits: ReadonlyArray<[string, number]> = [
      ['total', total],
      [`dialled ${from}`, dialled],
      [`accepted ${to}`, accepted],
      [`pair ${from} ${to}`, pair],
    ]
    if (limits.some(([key, most]) => this.#of(key) >= most)) return undefined
    for (const [key] of limits) this.#counts.set(key, this.#of(key) + 1)
    let isReleased = false
    return () => {
      if (isReleased) return
      isReleased = true
      for (const [key] of limits) this.#lower(key)
    }
  }

  #of(key: string): number {
    return this.#counts.get(key) ?? 0
  }

  #lower(key: string): void {
    const left = this.#of(key) - 1
    if (left > 0) this.#counts.set(key, left)
    else this.#counts.delete(key)
  }
}
