import type { Socket } from 'node:net'
import { sourceOf } from '../../src/core/kit/admission.ts'
import { Counts } from '../../src/core/kit/counts.ts'
import { type Ends, endsOf, isFromHere, type LocalUsers, localUsers } from '../../src/core/kit/local-users.ts'
import type { Log } from '../../src/core/kit/log.ts'

/*
 * How many flows the users of this machine may have open, over VIPs and proxies together. A connection to a VIP is a flow at once, also one that says
 * nothing: a program that opens them without end would take every place and descriptor from the programs of other users, among
 * them other instances.
 *
 *     few flows are open ─▶ admitted, nobody is asked
 *     more than half of what may be ─▶ whose connections are these? ─▶ three quarters of them of one user: refused
 */

/** The part of all flows that those of one user may be. Larger: less is left for others. */
const SHARE = 0.75
/** One log line for each user and this long. */
const LOG_MS = 10_000

export interface UserLimitsOptions {
  /** Flows that this agent can carry. */
  capacity: number
  log: Log
  users?: Pick<LocalUsers, 'userOf'>
}

export class UserLimits {
  readonly #capacity: number
  readonly #log: Log
  readonly #users: Pick<LocalUsers, 'userOf'>
  /** Open ones whose user was not asked for yet. */
  readonly #unasked = new Map<Socket, Ends>()
  readonly #counts = new Counts<string>()
  readonly #loggedAt = new Map<string, number>()
  #size = 0

  constructor({ capacity, log, users = localUsers }: UserLimitsOptions) {
    this.#capacity = capacity
    this.#log = log
    this.#users = users
  }

  /** Counts this connection until it is closed; false when its user has too many. */
  enter(socket: Socket): boolean | Promise<boolean> {
    if (socket.destroyed) return true
    this.#size += 1
    this.#unasked.set(socket, endsOf(socket))
    socket.once('close', () => {
      this.#size -= 1
      this.#unasked.delete(socket)
    })
    if (this.#size * 2 < this.#capacity) return true
    this.#unasked.delete(socket)
    for (const [one, ends] of this.#unasked) void this.#ask(one, ends, () => true)
    this.#unasked.clear()
    return this.#ask(socket, endsOf(socket), (user) => this.#mayHaveMore(user))
  }

  /** Counts the connection unless the verdict is against it; those that are open already come first. */
  async #ask(socket: Socket, ends: Ends, verdict: (user: string) => boolean): Promise<boolean> {
    const uid = isFromHere(ends) ? await this.#users.userOf(ends) : undefined
    const user = uid === undefined ? sourceOf(ends) : `uid ${uid}`
    if (socket.destroyed) return true
    if (!verdict(user)) return false
    this.#counts.change(user, 1)
    socket.once('close', () => this.#counts.change(user, -1))
    return true
  }

  #mayHaveMore(user: string): boolean {
    const count = this.#counts.of(user)
    if (count < this.#capacity * SHARE) return true
    const now = performance.now()
    if (now - (this.#loggedAt.get(user) ?? Number.NEGATIVE_INFINITY) < LOG_MS) return false
    if (this.#loggedAt.size > 256) this.#loggedAt.clear()
    this.#loggedAt.set(user, now)
    this.#log.warn('new flows of one user are refused', { user, open: count })
    return false
  }
}
