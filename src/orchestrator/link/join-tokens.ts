import { MeshError } from '../../core/errors.ts'
import { matchesToken, mintToken, parseToken, type JoinToken } from '../../core/identity/token.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Collection, Store } from '../../core/kit/store.ts'

interface Kept {
  hash: string
  expiresAt: number
  /** What the token is for: the cluster's name; empty for a node, which says its own. */
  subject: string
}

/** What the issuer keeps of the tokens it has out: hashes, until they are used or have expired (SEC-17). */
export class JoinTokens {
  readonly #store: Store
  readonly #kept: Collection<Kept>
  readonly #role: JoinToken['role']
  readonly #fingerprint: string
  readonly #clock: Clock

  constructor(
    store: Store,
    { role, fingerprint, clock }: { role: JoinToken['role']; fingerprint: string; clock: Clock },
  ) {
    this.#store = store
    // of its own: who holds a token for a node must not make one for a relay of it, by writing the other word in it
    this.#kept = store.collection(role === 'relay' ? 'relay-join-tokens' : 'join-tokens')
    this.#role = role
    this.#fingerprint = fingerprint
    this.#clock = clock
  }

  mint(url: string, subject: string, ttlSeconds: number): { token: string; expiresAt: number } {
    const { token, id, hash, expiresAt } = mintToken({
      role: this.#role,
      url,
      fingerprint: this.#fingerprint,
      ttlSeconds,
      clock: this.#clock,
    })
    this.#store.transaction(() => {
      for (const old of this.#kept.keys()) {
        if ((this.#kept.get(old)?.expiresAt ?? 0) < this.#clock.wall()) this.#kept.delete(old)
      }
      this.#kept.put(id, { hash, expiresAt, subject })
    })
    return { token, expiresAt }
  }

  /** Looks only. @throws MeshError TOKEN_INVALID or TOKEN_REFUSED, the same sentence for forged and used. */
  check(text: string): { id: string; subject: string } {
    const { role, id, secret, fingerprint } = parseToken(text)
    if (role !== this.#role) throw refused(`this is a token for a ${role}, here join ${this.#role}s`)
    if (fingerprint !== this.#fingerprint) throw refused('the token is of another mesh')
    const kept = this.#kept.get(id)
    if (kept === undefined || !matchesToken(kept.hash, secret)) throw refused('unknown, or used already')
    if (kept.expiresAt <= this.#clock.wall()) throw refused('expired')
    return { id, subject: kept.subject }
  }

  /** Uses the token up and records who came, in one transaction: of two at the same time one wins (SEC-8). */
  consume(text: string, record: () => void): void {
    this.#store.transaction(() => {
      const { id } = this.check(text)
      record()
      this.#kept.delete(id)
    })
  }
}

function refused(reason: string): MeshError {
  return new MeshError('TOKEN_REFUSED', { reason, remedy: 'ask for a new one: hedgerow token create' })
}
