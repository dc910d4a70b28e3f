import { sourceOf, THIS_MACHINE } from '../../src/core/kit/admission.ts'
import { type Ends, isFromHere, type LocalUsers, localUsers } from '../../src/core/kit/local-users.ts'
import type { Log } from '../../src/core/kit/log.ts'
import { SteadyMap } from '../../src/core/kit/steady-map.ts'

/*
 * Whose flows are open. A connection to a VIP is a flow at once, also one that says nothing, and so is each port that datagrams come
 * from: a program that opens them without end would take every place and descriptor from the programs of other users, among them
 * other instances.
 *
 *     fewer than half of what may be ─▶ admitted, nobody is asked
 *     more ─▶ whose are they all? ─▶ whose is this one? ─▶ `mayHaveMore` of that user: admitted, or refused
 *
 * Connections: user-limits.ts. UDP flows: proxy/datagrams/places.ts.
 */

/** A connection, or a UDP flow. */
export interface UserFlow {
  readonly ends: Ends
  readonly isOver: boolean
  /** Calls the listener once, when it is over. */
  whenOver(listener: () => void): void
}

export interface UserFlowsOptions {
  /** Flows that this agent can carry. */
  capacity: number
  log: Log
  /** Whether any program of this machine may send from this address; absent: loopback, and the address that was called. */
  isHere?: ((address: string) => boolean) | undefined
  users?: Pick<LocalUsers, 'userOf'> | undefined
}

/** One log line for each user and this long. */
const LOG_MS = 10_000
const REMEMBERED = 256

export class UserFlows<F extends UserFlow> {
  readonly #options: UserFlowsOptions
  readonly #mayHaveMore: (user: string, flow: F) => boolean
  /** Those that nobody was asked about, numbered. */
  readonly #unasked = new SteadyMap<number, F>()
  /** The others, in the order in which they came to be known, or were moved. */
  readonly #byUser = new Map<string, Set<F>>()
  readonly #users = new Map<F, string>()
  readonly #loggedAt = new Map<string, number>()
  #size = 0
  #last = 0

  constructor(options: UserFlowsOptions, mayHaveMore: (user: string, flow: F) => boolean) {
    this.#options = options
    this.#mayHaveMore = mayHaveMore
  }

  /** Counts this flow until it is over; false when its user may not have it. */
  enter(flow: F): boolean | Promise<boolean> {
    if (flow.isOver) return true
    this.#size += 1
    const number = ++this.#last
    this.#unasked.set(number, flow)
    flow.whenOver(() => {
      this.#size -= 1
      this.#unasked.delete(number)
    })
    if (this.#size * 2 < this.#options.capacity) return true
    this.#unasked.delete(number)
    for (const one of this.#unasked.values()) void this.#ask(one, () => true)
    this.#unasked.clear()
    return this.#ask(flow, this.#mayHaveMore)
  }

  of(user: string): ReadonlySet<F> {
    return this.#byUser.get(user) ?? NONE
  }

  /** The user that has most flows. */
  largest(): string | undefined {
    let [largest, most] = [undefined as string | undefined, 0]
    for (const [user, { size }] of this.#byUser) if (size > most) [largest, most] = [user, size]
    return largest
  }

  /** The flow comes last of its user's. */
  moveLast(flow: F): void {
    const own = this.#byUser.get(this.#users.get(flow) ?? '')
    if (own?.delete(flow) === true) own.add(flow)
  }

  refused(user: string): void {
    const now = performance.now()
    if (now - (this.#loggedAt.get(user) ?? Number.NEGATIVE_INFINITY) < LOG_MS) return
    if (this.#loggedAt.size > REMEMBERED) this.#loggedAt.clear()
    this.#loggedAt.set(user, now)
    this.#options.log.warn('new flows of one user are refused', { user, open: this.of(user).size })
  }

  /** Counts the flow to its user unless the verdict is against it. */
  async #ask(flow: F, verdict: (user: string, flow: F) => boolean): Promise<boolean> {
    const user = await this.#userOf(flow.ends)
    if (flow.isOver) return true
    if (!verdict(user, flow)) return false
    this.#users.set(flow, user)
    const own = this.#byUser.get(user) ?? new Set()
    this.#byUser.set(user, own.add(flow))
    flow.whenOver(() => {
      this.#users.delete(flow)
      own.delete(flow)
      if (own.size === 0) this.#byUser.delete(user)
    })
    return true
  }

  async #userOf(ends: Ends): Promise<string> {
    const { users = localUsers, isHere = () => isFromHere(ends) } = this.#options
    if (!isHere(ends.remoteAddress ?? '')) return sourceOf(ends)
    const uid = await users.userOf(ends)
    return uid === undefined ? THIS_MACHINE : `uid ${uid}`
  }
}

const NONE: ReadonlySet<never> = new Set()
