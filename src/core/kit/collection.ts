/** Documents of one kind, by key. Reads and writes are synchronous; a key exists once. */
export interface Collection<T> {
  get(key: string): T | undefined
  /** Grows with every write to the store; `undefined` for a key that does not exist. */
  revision(key: string): number | undefined
  put(key: string, value: T): void
  /** False, and nothing written, when the key exists. */
  create(key: string, value: T): boolean
  delete(key: string): boolean
  /** In key order; only keys that begin with `prefix`. */
  list(prefix?: string): T[]
  keys(prefix?: string): string[]
}
