import { createHash } from 'node:crypto'
import { MeshError } from '../../core/errors.ts'
import { matchesToken, mintToken, parseToken, type JoinToken } from '../../core/identity/token.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Collection, Store } from '../../core/kit/store.ts'

interface Lifespan {
  expiresAt: number
  /** Milliseconds since 1970; absent in records of an earlier version. */
  mintedAt?: number
}

interface TokenRecord extends Lifespan {
  hash: string
  /** The name of the cluster that joins with it; empty for nodes and relays, which choose theirs. */
  subject: string
}

/** Who joined with a token, so that whoever did not get the answer may ask for it again. */
interface Use extends Lifespan {
  /** SHA-256 of what was asked for, hex. */
  request: string
  enrolment: string
  subject: string
}

/** A token that is over, so that its holder hears why. */
interface PastToken {
  hash: string
  /** Milliseconds since 1970. */
  at: number
  end: 'used' | 'expired'
  /** Absent when it expired, or was used with an earlier version. */
  use?: Use
}

/** Of the past, the newest are kept, for this long. */
const PAST_TOKENS = 1_000
const PAST_MS = 30 * 86_400_000
/** Tokens that have expired are put away this often at most. Smaller: who makes a thousand looks through all of them each time; larger keeps more. */
const SWEEP_MS = 60_000

export interface JoinTokensOptions {
  role: JoinToken['role']
  /** Of the mesh's authorities: the first is the one that new tokens carry, and every one of them is taken. */
  fingerprints: () => readonly string[]
  clock: Clock
}

/** A clock that is corrected by so little at a restart takes no token away. */
const CLOCKS_DIFFER_MS = 10 * 60_000

/** The join tokens that an issuer has given out; only their hashes are kept, those of past tokens for a while (SEC-17). */
export class JoinTokens {
  readonly #store: Store
  readonly #saved: Collection<TokenRecord>
  readonly #past: Collection<PastToken>
  readonly #role: JoinToken['role']
  readonly #fingerprints: () => readonly string[]
  readonly #clock: Clock
  /** When the tokens of this process end, by `clock.now()`: a clock that is set meanwhile changes nothing for them. */
  readonly #endsAt = new Map<string, number>()
  /** By `clock.now()`. */
  #sweepAt = Number.NEGATIVE_INFINITY
  /** The past ones, oldest first; read when first needed. */
  #oldestFirst: { key: string; at: number }[] | undefined

  constructor(store: Store, { role, fingerprints, clock }: JoinTokensOptions) {
    this.#store = store
    // separate, so that a token for a node cannot be turned into one for a relay by changing the role in it
    this.#saved = store.keptCollection(role === 'relay' ? 'relay-join-tokens' : 'join-tokens')
    this.#past = store.keptCollection(role === 'relay' ? 'past-relay-join-tokens' : 'past-join-tokens')
    store.onRollback(() => {
      this.#oldestFirst = undefined
    })
    this.#role = role
    this.#fingerprints = fingerprints
    this.#clock = clock
  }

  /** `url` is where the holder joins. `expiresAt` is in milliseconds since 1970. */
  mint(url: string, subject: string, ttlSeconds: number): { token: string; expiresAt: number } {
    const { token, id, hash, expiresAt } = mintToken({
      role: this.#role,
      url,
      fingerprint: this.#fingerprints()[0] ?? '',
      ttlSeconds,
      clock: this.#clock,
    })
    this.#store.transaction(() => {
      if (this.#clock.now() >= this.#sweepAt) this.#sweep()
      this.#saved.put(id, { hash, expiresAt, mintedAt: this.#clock.wall(), subject })
    })
    this.#endsAt.set(id, this.#clock.now() + ttlSeconds * 1_000)
    return { token, expiresAt }
  }

  /**
   * Does not use the token up. A token that was used is as good as before for the very same request, for as long as it would have lived:
   * `joined` is the enrolment that it was used for.
   * @throws MeshError TOKEN_INVALID or TOKEN_REFUSED; only a holder of the secret hears what became of it
   */
  check(text: string, request?: string): { id: string; subject: string; joined?: string } {
    const { role, id, secret, fingerprint } = parseToken(text)
    if (role !== this.#role) throw refused(`this is a token for a ${role}, but only a ${this.#role} can join here`)
    if (!this.#fingerprints().includes(fingerprint)) throw refused('the token belongs to another mesh')
    const record = this.#saved.get(id)
    if (record === undefined) return this.#checkPast(id, secret, request)
    if (!matchesToken(record.hash, secret)) throw refused(UNKNOWN)
    if (this.#isOver(id, record)) throw refused(this.#whyOver(record))
    return { id, subject: record.subject }
  }

  /** Those that nobody used in time are of the past: in one that lists many, not each time. Within a transaction. */
  #sweep(): void {
    for (const old of this.#saved.keys()) {
      const record = this.#saved.get(old)
      if (record === undefined || !this.#isOver(old, record)) continue
      this.#end(old, { hash: record.hash, at: Math.min(record.expiresAt, this.#clock.wall()), end: 'expired' })
    }
    this.#sweepAt = this.#clock.now() + SWEEP_MS
  }

  #whyOver({ mintedAt = 0, expiresAt }: TokenRecord): string {
    const now = this.#clock.wall()
    if (mintedAt > now) return `it was made in the future, by the clock of its issuer (now ${timeOf(now)})`
    return this.#whyExpired(expiresAt)
  }

  #whyExpired(at: number): string {
    const now = this.#clock.wall()
    return `it has expired ${lengthOf(Math.max(0, now - at))} ago, by the clock of its issuer (now ${timeOf(now)})`
  }

  #checkPast(id: string, secret: string, request: string | undefined): { id: string; subject: string; joined: string } {
    const past = this.#past.get(id)
    if (past === undefined || !matchesToken(past.hash, secret)) throw refused(UNKNOWN)
    if (past.end === 'expired') throw refused(this.#whyExpired(past.at))
    const { use } = past
    const isSame = use !== undefined && request !== undefined && use.request === digestOf(request)
    if (!isSame || this.#isOver(id, use)) throw refused(`it was already used, at ${timeOf(past.at)}`)
    return { id, subject: use.subject, joined: use.enrolment }
  }

  /** Within a transaction. */
  #end(id: string, past: PastToken): void {
    this.#saved.delete(id)
    if (past.use === undefined) this.#endsAt.delete(id)
    this.#past.put(id, past)
    const kept = this.#oldestFirst
    const isNewest = kept !== undefined && past.at >= (kept.at(-1)?.at ?? 0)
    if (isNewest) kept.push({ key: id, at: past.at })
    this.#forgetPast(isNewest ? kept : this.#readPast())
  }

  #readPast(): { key: string; at: number }[] {
    const all = this.#past.keys().map((key) => ({ key, at: this.#past.get(key)?.at ?? 0 }))
    return (this.#oldestFirst = all.sort((a, b) => a.at - b.at))
  }

  #forgetPast(oldestFirst: { key: string; at: number }[]): void {
    const since = this.#clock.wall() - PAST_MS
    const excess = oldestFirst.length - PAST_TOKENS
    const kept = oldestFirst.findIndex(({ at }, place) => place >= excess && at >= since)
    const gone = oldestFirst.splice(0, kept === -1 ? oldestFirst.length : kept)
    for (const { key } of gone) {
      this.#past.delete(key)
      this.#endsAt.delete(key)
    }
  }

  /**
   * Uses the token up and records who joined, in one transaction: of two at the same time one wins (SEC-8). Two that bring the same
   * request are one: the second learns of the first one's enrolment, and nothing is recorded again.
   */
  consume(text: string, { request, enrolment }: { request: string; enrolment: string }, record: () => void): string {
    return this.#store.transaction(() => {
      const { id, joined } = this.check(text, request)
      if (joined !== undefined) return joined
      record()
      const { hash, ...token } = this.#saved.get(id) as TokenRecord
      const use = { ...token, request: digestOf(request), enrolment }
      this.#end(id, { hash, at: this.#clock.wall(), end: 'used', use })
      return enrolment
    })
  }

  /**
   * A token of an earlier process is judged by the wall clock. One that was made while that was ahead would be valid for as long as
   * the clock was wrong, so it does not count before the time at which it was made.
   */
  #isOver(id: string, { expiresAt, mintedAt = 0 }: Lifespan): boolean {
    const endsAt = this.#endsAt.get(id)
    if (endsAt !== undefined) return endsAt <= this.#clock.now()
    const now = this.#clock.wall()
    return expiresAt <= now || mintedAt - CLOCKS_DIFFER_MS > now
  }
}

const UNKNOWN = 'it is unknown or was already used'

function digestOf(request: string): string {
  return createHash('sha256').update(request).digest('hex')
}

function timeOf(ms: number): string {
  return new Date(ms).toISOString()
}

/** A stretch of time for people, in its largest whole unit. */
function lengthOf(ms: number): string {
  const seconds = Math.floor(ms / 1_000)
  if (seconds >= 172_800) return `${Math.floor(seconds / 86_400)} days`
  if (seconds >= 7_200) return `${Math.floor(seconds / 3_600)} hours`
  if (seconds >= 120) return `${Math.floor(seconds / 60)} minutes`
  return seconds === 1 ? '1 second' : `${seconds} seconds`
}

function refused(reason: string): MeshError {
  return new MeshError('TOKEN_REFUSED', { reason })
}
