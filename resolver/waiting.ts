/**
 * Questions that wait for an answer from elsewhere. At the limit, the client that has the most of them loses its oldest, so
 * that names without an answer do not shut out those of others: a server that works answers long before its turn comes.
 */
export class WaitingQuestions {
  readonly #limit: number
  /** By client, oldest first; the client that has waited longest comes first. */
  readonly #byClient = new Map<string, Set<AbortController>>()
  #size = 0

  constructor(limit: number) {
    this.#limit = limit
  }

  get size(): number {
    return this.#size
  }

  /** Runs `ask` with a signal that is aborted when the question must make room for another. */
  async wait<T>(client: string, ask: (signal: AbortSignal) => Promise<T>): Promise<T> {
    if (this.#size >= this.#limit) this.#makeRoom()
    const question = new AbortController()
    const ofClient = this.#byClient.get(client) ?? new Set()
    this.#byClient.set(client, ofClient.add(question))
    this.#size += 1
    try {
      return await ask(question.signal)
    } finally {
      this.#remove(client, question)
    }
  }

  #makeRoom(): void {
    let most: [client: string, questions: Set<AbortController>] | undefined
    for (const each of this.#byClient) if (most === undefined || each[1].size > most[1].size) most = each
    if (most === undefined) return
    const [oldest] = most[1]
    if (oldest === undefined) return
    this.#remove(most[0], oldest)
    oldest.abort()
  }

  #remove(client: string, question: AbortController): void {
    const ofClient = this.#byClient.get(client)
    if (ofClient?.delete(question) !== true) return // it has made room already
    this.#size -= 1
    if (ofClient.size === 0) this.#byClient.delete(client)
  }
}
