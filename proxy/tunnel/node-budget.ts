/** What holds bytes for readers that do not read: the streams of one session. */
export interface Holder {
  readonly heldBytes: number
  /** Gives up the stream that holds most. */
  shed(): void
}

/**
 * Bytes received and not yet consumed, over all sessions of this node: beyond the limit the session that holds most gives
 * up a stream, however little each of them may hold by its own limit. On the way of every chunk: an addition and a comparison.
 */
export class NodeBudget {
  readonly #limit: number
  readonly #holders = new Set<Holder>()
  #bytes = 0

  constructor(limitBytes: number) {
    this.#limit = limitBytes
  }

  get heldBytes(): number {
    return this.#bytes
  }

  join(holder: Holder): void {
    this.#holders.add(holder)
  }

  leave(holder: Holder): void {
    this.#holders.delete(holder)
  }

  changeHeld(bytes: number): void {
    this.#bytes += bytes
    if (bytes > 0 && this.#bytes > this.#limit) this.#shed()
  }

  #shed(): void {
    let most: Holder | undefined
    for (const holder of this.#holders) {
      if (most === undefined || holder.heldBytes > most.heldBytes) most = holder
    }
    most?.shed()
  }
}
