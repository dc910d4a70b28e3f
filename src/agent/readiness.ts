/** What `/readyz` shows: for each named part whether it is ready. A part that has not started is not. */
export class Readiness {
  readonly #parts = new Map<string, () => boolean>()

  constructor(names: readonly string[]) {
    for (const name of names) this.#parts.set(name, () => false)
  }

  /** From now on `isReady` answers for the part. */
  follow(name: string, isReady: () => boolean): void {
    this.#parts.set(name, isReady)
  }

  readonly report = (): Record<string, boolean> =>
    Object.fromEntries([...this.#parts].map(([name, isReady]) => [name, isReady()]))
}
