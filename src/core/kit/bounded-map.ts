/**
 * A map of bounded size: when it is full, a new key takes the place of one that may be forgotten, else of the oldest. For what
 * strangers can make us remember; a smaller bound forgets sooner, a larger one costs memory during an attack.
 */
export class BoundedMap<K, V> extends Map<K, V> {
  readonly #limit: number
  readonly #mayForget: ((value: V) => boolean) | undefined

  /** `mayForget`: entries for which this holds go first, all of them at once. */
  constructor(limit: number, mayForget?: (value: V) => boolean) {
    super()
    this.#limit = limit
    this.#mayForget = mayForget
  }

  /** Makes the entry the newest. */
  override set(key: K, value: V): this {
    this.delete(key)
    if (this.size >= this.#limit) this.#makeRoom()
    return super.set(key, value)
  }

  getOrCreate(key: K, create: () => V): V {
    const found = this.get(key)
    if (found !== undefined) return found
    const created = create()
    this.set(key, created)
    return created
  }

  #makeRoom(): void {
    if (this.#mayForget !== undefined) {
      for (const [key, value] of this) if (this.#mayForget(value)) this.delete(key)
    }
    for (const oldest of this.keys()) {
      if (this.size < this.#limit) return
      this.delete(oldest)
    }
  }
}
