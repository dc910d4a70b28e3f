/** How many there are of each key; keys without any are not kept. */
export class Counts<K> {
  readonly #counts = new Map<K, number>()
  #total = 0

  get total(): number {
    return this.#total
  }

  of(key: K): number {
    return this.#counts.get(key) ?? 0
  }

  change(key: K, by: 1 | -1): void {
    const count = this.of(key) + by
    if (count === 0) this.#counts.delete(key)
    else this.#counts.set(key, count)
    this.#total += by
  }
}
