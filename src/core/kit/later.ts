/**
 * A value that is set once, after the parts that use it were built: for two parts that need each other. Read too early it
 * throws, so a wrong order of the start is a clear error.
 */
export class Later<T> {
  readonly #name: string
  #value: T | undefined

  constructor(name: string) {
    this.#name = name
  }

  set(value: T): T {
    if (this.#value !== undefined) throw new Error(`${this.#name} was set before`)
    this.#value = value
    return value
  }

  get value(): T {
    if (this.#value === undefined) throw new Error(`${this.#name} is used before it is started`)
    return this.#value
  }
}
