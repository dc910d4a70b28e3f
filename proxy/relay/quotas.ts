import type { NodeId } from '../../src/core/model/ids.ts'

/** How many connections a relay forwards or holds at once. */
export interface ConnectionLimits {
  total: number
  /** By one node. */
  dialled: number
  /** To one node. More than `dialled`, so that no single node can keep all others from reaching it. */
  accepted: number
  /** By one node to one other. */
  pair: number
}

/** Counts connections in all the ways in which they are limited. */
export class ConnectionQuotas {
  readonly #limits: ConnectionLimits
  readonly #counts = new Map<string, number>()

  constructor(limits: ConnectionLimits) {
    this.#limits = limits
  }

  /** Takes a place and returns what frees it; `undefined` when a limit is reached. */
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
    let isFree = false
    return () => {
      if (isFree) return
      isFree = true
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
