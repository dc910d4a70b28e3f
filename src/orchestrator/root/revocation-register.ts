import { createHash } from 'node:crypto'
import type { Authority } from '../../core/identity/authority.ts'
import type { Revocation } from '../../core/identity/contract.ts'
import { MAX_REVOCATIONS } from '../../core/identity/revocation-list.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Collection } from '../../core/kit/store.ts'

/** Who was enrolled, as its issuer reported it: what the root revokes when a node or relay is deleted. */
export interface EnrolmentRecord {
  role: 'node' | 'relay'
  /** `cluster/name`. */
  id: string
  enrolment: string
}

/**
 * A revoked certificate must stay in the list for as long as it could be used: it may be renewed for up to a year after it has
 * expired (`certificateGraceDays`), and a cluster's lives 30 days.
 */
const KEPT_MS = 400 * 24 * 3_600_000

/** Entries that stay although the clock says that they have expired. Larger: a longer list for every node. */
const KEPT_ANYWAY = 256

/** The root's list of revoked certificates: saved, numbered, and signed anew with each change. */
export class RevocationRegister {
  readonly #entries: Collection<Revocation>
  readonly #numbers: Collection<number>
  readonly #authority: Authority
  readonly #clock: Clock
  readonly #log: Log
  #text: string

  constructor(
    { entries, numbers }: { entries: Collection<Revocation>; numbers: Collection<number> },
    authority: Authority,
    { clock, log }: { clock: Clock; log: Log },
  ) {
    this.#entries = entries
    this.#numbers = numbers
    this.#authority = authority
    this.#clock = clock
    this.#log = log
    this.#text = this.#refreshed()
  }

  /** The signed list. There always is one: a node without any knows that it has never heard from its root. */
  get text(): string {
    return this.#text
  }

  /** The authorities are others than before: a new list names them. */
  refresh(): void {
    this.#text = this.#refreshed()
  }

  /** Adds to the list and signs it anew. Every copy of the old list is replaced wherever the new one arrives. */
  revoke(revoked: readonly Omit<Revocation, 'until'>[]): void {
    const until = this.#clock.wall() + KEPT_MS
    for (const entry of revoked) this.#entries.put(`${entry.kind} ${entry.id}`, { ...entry, until })
    this.#forgetOld()
    this.#text = this.#sign(this.#next())
    this.#log.warn('certificates revoked', { principals: revoked.map(({ principal }) => principal) })
  }

  get #number(): number {
    return this.#numbers.get('revocations') ?? 1
  }

  /** Counts from the wall clock on: a root that was restored from a backup must not number its lists as before. */
  #next(): number {
    const number = Math.max(this.#number + 1, Math.floor(this.#clock.wall() / 1_000))
    this.#numbers.put('revocations', number)
    return number
  }

  /** A crash between a change of the authorities and the new list is made good at the next start. */
  #refreshed(): string {
    const named = this.#numbers.get('authorities')
    const now = markOf(this.#authority.trusted)
    if (named === now) return this.#sign(this.#number)
    const isFirst = named === undefined && this.#authority.step === 'steady'
    const number = isFirst ? this.#number : this.#next()
    this.#numbers.put('authorities', now) // last, or a crash in between would leave a list that nobody takes
    return this.#sign(number)
  }

  #sign(number: number): string {
    return this.#authority.signRevocations(number, this.#entries.list())
  }

  /**
   * The oldest beyond the limit of a list, and of those that have expired all but the newest few hundred: a clock that is a year ahead
   * for a moment must not bring back whoever was revoked.
   */
  #forgetOld(): void {
    const oldestFirst = this.#entries.list().toSorted((a, b) => a.until - b.until)
    const surplus = oldestFirst.length - MAX_REVOCATIONS
    for (const [at, { kind, id, until }] of oldestFirst.entries()) {
      const isLeft = until >= this.#clock.wall() || at >= oldestFirst.length - KEPT_ANYWAY
      if (isLeft && at >= surplus) break
      this.#entries.delete(`${kind} ${id}`)
    }
  }
}

/** Tells one set of authorities from another, as a number that the store can keep. */
function markOf(authorities: string): number {
  return Number.parseInt(createHash('sha256').update(authorities).digest('hex').slice(0, 12), 16)
}
