import type { Collection } from './collection.ts'

/** A collection on disk, which also takes the text of a document. */
export interface SavedCollection<T> extends Collection<T> {
  putText(key: string, text: string): void
  createText(key: string, text: string): boolean
}

/**
 * A collection that is read from memory: for what is read far more often than it is written. Disk is written first. What it returns is
 * shared, so it is frozen at its top level: change a copy, and `put` that.
 */
export class KeptCollection<T> implements Collection<T> {
  readonly #saved: SavedCollection<T>
  /** Loaded when first needed. */
  #values: Map<string, T> | undefined
  /** In order, as the disk lists them. */
  #keys: string[] = []

  constructor(saved: SavedCollection<T>) {
    this.#saved = saved
  }

  /** What is in memory may no longer be what is saved: a transaction was rolled back. */
  reload(): void {
    this.#values = undefined
  }

  get(key: string): T | undefined {
    return this.#loaded().get(key)
  }

  revision(key: string): number | undefined {
    return this.#saved.revision(key)
  }

  put(key: string, value: T): void {
    const values = this.#loaded()
    const text = JSON.stringify(value)
    this.#saved.putText(key, text)
    this.#remember(values, key, text)
  }

  create(key: string, value: T): boolean {
    const values = this.#loaded()
    const text = JSON.stringify(value)
    const isNew = this.#saved.createText(key, text)
    if (isNew) this.#remember(values, key, text)
    return isNew
  }

  delete(key: string): boolean {
    const values = this.#loaded()
    if (!values.has(key)) return false
    this.#saved.delete(key)
    values.delete(key)
    this.#keys.splice(this.#placeOf(key), 1)
    return true
  }

  list(prefix = ''): T[] {
    const values = this.#loaded()
    return this.keys(prefix).map((key) => values.get(key) as T)
  }

  keys(prefix = ''): string[] {
    this.#loaded()
    if (prefix === '') return [...this.#keys]
    const start = this.#placeOf(prefix)
    let end = start
    while (this.#keys[end]?.startsWith(prefix) === true) end += 1
    return this.#keys.slice(start, end)
  }

  #loaded(): Map<string, T> {
    if (this.#values !== undefined) return this.#values
    this.#keys = this.#saved.keys()
    const values = this.#saved.list()
    this.#values = new Map(this.#keys.map((key, i) => [key, Object.freeze(values[i] as T)]))
    return this.#values
  }

  /** As the disk would return it: without keys that are `undefined`, and apart from what the caller may still change. */
  #remember(values: Map<string, T>, key: string, text: string): void {
    if (!values.has(key)) this.#keys.splice(this.#placeOf(key), 0, key)
    values.set(key, Object.freeze(JSON.parse(text) as T))
  }

  /** Where the key is, or would be. */
  #placeOf(key: string): number {
    let low = 0
    let high = this.#keys.length
    while (low < high) {
      const middle = (low + high) >> 1
      if ((this.#keys[middle] as string) < key) low = middle + 1
      else high = middle
    }
    return low
  }
}
