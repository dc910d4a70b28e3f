import { sourceOf, THIS_MACHINE } from '../src/core/kit/admission.ts'
import { type Ends, isFromHere, type LocalUsers, localUsers } from '../src/core/kit/local-users.ts'

export interface WaitingOptions {
  readonly limit: number
  /** Whether any program of this machine may send from this address; absent: loopback only. */
  readonly isHere?: ((address: string) => boolean | undefined) | undefined
  readonly users?: Pick<LocalUsers, 'userOf'>
}

interface Question {
  readonly ends: Ends
  /** One socket of a user. */
  readonly client: string
  user: string
  readonly gone: AbortController
}

/**
 * Questions that wait for an answer from elsewhere. At the limit, whoever has the most of them loses the oldest: of the users of this
 * machine and the other machines the one that has most, and of its sockets the one that has most. So names without an answer do not
 * shut out those of others: a server that works answers long before its turn comes. When half of the places are taken, users are told
 * apart (local-users.ts).
 */
export class WaitingQuestions {
  readonly #options: WaitingOptions
  /** By user and client, oldest first; those that have waited longest come first. */
  readonly #byUser = new Map<string, Map<string, Set<Question>>>()
  readonly #unasked = new Set<Question>()
  #size = 0

  constructor(options: WaitingOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#size
  }

  /** Runs `ask` with a signal that is aborted when the question must make room for another. */
  async wait<T>(ends: Ends, ask: (signal: AbortSignal) => Promise<T>): Promise<T> {
    if (this.#size >= this.#options.limit) this.#makeRoom()
    const question = this.#questionFrom(ends)
    this.#add(question)
    if (question.user === THIS_MACHINE) this.#unasked.add(question)
    if (this.#size * 2 >= this.#options.limit) this.#tellUsersApart()
    try {
      return await ask(question.gone.signal)
    } finally {
      this.#unasked.delete(question)
      this.#remove(question)
    }
  }

  #questionFrom(ends: Ends): Question {
    const { remoteAddress = '', remotePort } = ends
    const isHere = this.#options.isHere?.(remoteAddress) ?? isFromHere(ends)
    const user = isHere ? THIS_MACHINE : sourceOf(ends)
    return { ends, client: `${remotePort} ${remoteAddress}`, user, gone: new AbortController() }
  }

  #tellUsersApart(): void {
    const { users = localUsers } = this.#options
    for (const question of this.#unasked) {
      void users.userOf(question.ends).then((uid) => {
        if (uid === undefined || !this.#remove(question)) return
        question.user = `uid ${uid}`
        this.#add(question)
      })
    }
    this.#unasked.clear()
  }

  #makeRoom(): void {
    const clients = largest(this.#byUser.values(), (ofUser) => total(ofUser))
    const questions = clients && largest(clients.values(), ({ size }) => size)
    const [oldest] = questions ?? []
    if (oldest === undefined) return
    this.#remove(oldest)
    oldest.gone.abort()
  }

  #add(question: Question): void {
    const clients = this.#byUser.get(question.user) ?? new Map<string, Set<Question>>()
    const questions = clients.get(question.client) ?? new Set()
    this.#byUser.set(question.user, clients.set(question.client, questions.add(question)))
    this.#size += 1
  }

  /** False when it has made room already. */
  #remove(question: Question): boolean {
    const clients = this.#byUser.get(question.user)
    const questions = clients?.get(question.client)
    if (clients === undefined || questions?.delete(question) !== true) return false
    this.#size -= 1
    if (questions.size === 0) clients.delete(question.client)
    if (clients.size === 0) this.#byUser.delete(question.user)
    return true
  }
}

/** The first of those that have most. */
function largest<T>(all: Iterable<T>, sizeOf: (one: T) => number): T | undefined {
  let [most, size] = [undefined as T | undefined, 0]
  for (const one of all) {
    const own = sizeOf(one)
    if (own > size) [most, size] = [one, own]
  }
  return most
}

function total(clients: ReadonlyMap<string, ReadonlySet<unknown>>): number {
  let sum = 0
  for (const { size } of clients.values()) sum += size
  return sum
}
