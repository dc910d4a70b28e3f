import { UNKNOWN_INCARNATION } from '../wire/hello.ts'

/** What names a session: one id for both nodes, and the process of the peer that it began with. */
export interface SessionKey {
  id: string
  /** Of the peer's process (wire/hello.ts). */
  incarnation: string
}

/**
 * Which session this is, and which side made it. A session that is used before the peer has answered is presumed: the id is our own
 * proposal, and the answer settles both. Stream ids belong to the two nodes, whatever the session is called.
 */
export class SessionIdentity {
  #key: SessionKey
  #isDialler: boolean

  /** @param isDialler whether our dial made the session: that side brings up more carriers */
  constructor(key: SessionKey, isDialler: boolean) {
    this.#key = key
    this.#isDialler = isDialler
  }

  get key(): SessionKey {
    return this.#key
  }

  get isDialler(): boolean {
    return this.#isDialler
  }

  get isPresumed(): boolean {
    return this.#key.incarnation === UNKNOWN_INCARNATION
  }

  /** The presumed session is agreed on; with another id than proposed, the peer's dial made it. */
  agree(key: SessionKey): void {
    if (!this.isPresumed) return
    this.#isDialler = key.id === this.#key.id
    this.#key = key
  }

  is({ id, incarnation }: SessionKey): boolean {
    return this.#key.id === id && this.#key.incarnation === incarnation
  }
}
