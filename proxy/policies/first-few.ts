import type { Instance } from '../../src/core/model/instance.ts'

/**
 * Keeps the few smallest of many in one pass, smallest first: a flow tries three or four candidates, so a thousand need not be
 * sorted. A second figure breaks ties; where that is equal too, the first added stays first.
 */
export class FirstFew {
  readonly #limit: number
  readonly #instances: Instance[] = []
  readonly #costs: number[] = []
  readonly #ties: number[] = []

  constructor(limit: number) {
    this.#limit = limit
  }

  /** True when an instance of this cost might still be taken. */
  wants(cost: number): boolean {
    return this.#costs.length < this.#limit || cost <= (this.#costs[this.#costs.length - 1] as number)
  }

  add(instance: Instance, cost: number, tie = 0): void {
    let place = this.#costs.length
    while (place > 0 && this.#isBefore(cost, tie, place - 1)) place--
    if (place >= this.#limit) return
    this.#instances.splice(place, 0, instance)
    this.#costs.splice(place, 0, cost)
    this.#ties.splice(place, 0, tie)
    if (this.#costs.length <= this.#limit) return
    this.#instances.pop()
    this.#costs.pop()
    this.#ties.pop()
  }

  inOrder(): Instance[] {
    return this.#instances
  }

  #isBefore(cost: number, tie: number, place: number): boolean {
    const other = this.#costs[place] as number
    return cost < other || (cost === other && tie < (this.#ties[place] as number))
  }
}
