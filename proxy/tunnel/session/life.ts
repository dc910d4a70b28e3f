/**
 * The life of a session; nothing else decides what follows what.
 *
 *                ┌──────── a carrier joins: resumed ────────┐
 *                ▼                                          │
 *     begun ──▶ up ──the last carrier dies, streams wait──▶ suspended
 *                │                                          └──no carrier joins in time: given up──▶ ended
 *                ├──the last carrier dies, and nothing waits──▶ ended
 *                ├──finish()──▶ finishing ──the last carrier has closed──▶ ended
 *                └──cut(), GOAWAY, the peer breaks a rule──▶ ended            (from every state)
 */
const NEXT = {
  up: ['suspended', 'finishing', 'ended'],
  suspended: ['up', 'finishing', 'ended'],
  finishing: ['ended'],
  ended: [],
} as const satisfies Record<string, readonly string[]>

type State =
  | { readonly name: 'up' }
  | { readonly name: 'suspended'; readonly since: number }
  | { readonly name: 'finishing' }
  | { readonly name: 'ended' }

/** The state that a session is in, and how often and how long it was suspended. Times in milliseconds, from one clock. */
export class SessionLife {
  #state: State = { name: 'up' }
  #resumes = 0
  #longestPauseMs = 0

  get isUp(): boolean {
    return this.#state.name === 'up'
  }

  get isFinishing(): boolean {
    return this.#state.name === 'finishing'
  }

  get hasEnded(): boolean {
    return this.#state.name === 'ended'
  }

  get pauses(): { resumes: number; longestPauseMs: number } {
    return { resumes: this.#resumes, longestPauseMs: this.#longestPauseMs }
  }

  /** How long no carrier has been there while streams wait; undefined unless suspended. */
  suspendedMs(now: number): number | undefined {
    return this.#state.name === 'suspended' ? now - this.#state.since : undefined
  }

  suspend(now: number): void {
    this.#become({ name: 'suspended', since: now })
  }

  /** @returns how long it was suspended; undefined when it was not */
  resume(now: number): number | undefined {
    const pauseMs = this.suspendedMs(now)
    if (pauseMs === undefined) return undefined
    this.#become({ name: 'up' })
    this.#resumes += 1
    this.#longestPauseMs = Math.max(this.#longestPauseMs, pauseMs)
    return pauseMs
  }

  finish(): void {
    this.#become({ name: 'finishing' })
  }

  end(): void {
    this.#become({ name: 'ended' })
  }

  #become(next: State): void {
    const allowed: readonly string[] = NEXT[this.#state.name]
    if (!allowed.includes(next.name)) throw new Error(`a session that is ${this.#state.name} cannot be ${next.name}`)
    this.#state = next
  }
}
