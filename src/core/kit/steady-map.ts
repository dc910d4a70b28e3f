/** A larger array than this is given back once nothing is in the map. */
const KEPT_PLACES = 1_024

/**
 * A Map for what comes and goes all the time and holds much: flows. It is one whose values are in an array, written in place:
 *
 *     places: Map( key ─▶ number )      values: [ flow │ flow │ – │ flow ]
 *
 * A Map keeps its entries in a table. It makes a new one after as many new keys as fit, and the old table points to the new one. Once one
 * is in V8's old generation, as in any agent that was idle for a moment, all that follow are taken for alive until everything is
 * collected, and with them whatever was in each: nearly every flow, with its sockets. So the tables here hold numbers alone.
 */
export class SteadyMap<K extends string | number, V extends object> {
  readonly #places = new Map<K, number>()
  readonly #values: (V | undefined)[] = []
  readonly #free: number[] = []

  get size(): number {
    return this.#places.size
  }

  has(key: K): boolean {
    return this.#places.has(key)
  }

  get(key: K): V | undefined {
    const place = this.#places.get(key)
    return place === undefined ? undefined : this.#values[place]
  }

  set(key: K, value: V): void {
    const known = this.#places.get(key)
    const place = known ?? this.#free.pop() ?? this.#values.length
    this.#values[place] = value
    if (known === undefined) this.#places.set(key, place)
  }

  delete(key: K): boolean {
    const place = this.#places.get(key)
    if (place === undefined) return false
    this.#places.delete(key)
    this.#values[place] = undefined
    this.#free.push(place)
    if (this.#places.size === 0 && this.#values.length > KEPT_PLACES) this.clear()
    return true
  }

  clear(): void {
    this.#places.clear()
    this.#values.length = 0
    this.#free.length = 0
  }

  /** In the order in which their keys came; like that of a Map, it goes on while entries are added and deleted. */
  *values(): Generator<V, void, undefined> {
    for (const place of this.#places.values()) yield this.#values[place] as V
  }
}
