import type { ServerResponse } from 'node:http'
import type { Caller } from './may.ts'
import { checkNeed, type Need, type Owners, type Params } from './need.ts'
import type { People } from './people.ts'

interface OpenRequest {
  caller: Caller
  needs: Need
  params: Params
  method: string
  response: Pick<ServerResponse, 'destroy'>
}

type Known = Owners & Pick<People, 'again' | 'onChanged'>

/** What is being answered: a stream ends when whoever reads it may no longer. Smaller looks more often; larger ends it later. */
export const LOOK_MS = 1_000

export class OpenRequests {
  readonly #people: Known
  readonly #open = new Set<OpenRequest>()
  readonly #guards = new WeakMap<OpenRequest['response'], () => boolean>()

  constructor(people: Known) {
    this.#people = people
    people.onChanged(() => this.check())
  }

  /** The credential of the root may always. Returns what is called when it has been answered. */
  enter(request: OpenRequest): () => void {
    if (request.caller.by === 'credential') return () => undefined
    this.#open.add(request)
    return () => this.#open.delete(request)
  }

  /** How much of a user is being answered. */
  countOf(user: string): number {
    return this.#open.values().reduce((sum, { caller }) => sum + Number(caller.user === user), 0)
  }

  /** Cuts those whose token has ended, or was revoked, and those that need what their user may no longer do. */
  check(): void {
    for (const request of this.#open) {
      if (this.#mayGoOn(request)) continue
      this.#open.delete(request)
      request.response.destroy()
    }
  }

  /** What the answer needs beside what its route says; asked again whenever somebody may do something else. */
  guard(response: OpenRequest['response'], mayGoOn: () => boolean): void {
    this.#guards.set(response, mayGoOn)
  }

  #mayGoOn({ caller, needs, params, method, response }: OpenRequest): boolean {
    if (needs === 'self' && method !== 'GET') return true // short, and the answer of whoever ends its own session
    const now = this.#people.again(caller)
    if (now === undefined || this.#guards.get(response)?.() === false) return false
    try {
      checkNeed(needs, params, now, this.#people)
      return true
    } catch {
      return false
    }
  }
}
