import { createSecureContext, type SecureContext } from 'node:tls'
import { join } from 'node:path'
import { MeshError } from '../errors.ts'
import { systemClock, type Clock } from '../kit/clock.ts'
import { keptAnswers } from '../kit/kept-answers.ts'
import { authorityIdOf, authorityIds, pathOf } from './authorities.ts'
import { cipherList } from './ciphers.ts'
import type { Identity, Principal, Trust } from './contract.ts'
import { CA_FILE, type Credentials, type Held, hold, IDENTITY_FILE, writeCredentials } from './credentials.ts'
import { readIfThere } from './files.ts'
import { createRequest } from './keys.ts'
import { printPrincipal } from './principal.ts'
import { type Renew, type RenewOptions, renewUntil } from './renewal.ts'
import { Revocations } from './revocation.ts'
import { certificatesIn } from './x509.ts'

/** Whatever joins or says hello is compared with it. */
const trustOf = keptAnswers((chain: string, ca: string, savedTrust: string): Trust => {
  const path = pathOf(certificatesIn(chain), ca)
  const saved = authorityIds(savedTrust)
  const trusts = authorityIds(ca).filter((id) => saved.includes(id))
  return path === undefined ? { trusts } : { trusts, presents: authorityIdOf(path.authority) }
})

const REVOCATIONS_FILE = 'revocations.json'

/** An identity this process holds: saved on disk or in memory, renewed in place with a new key each time. */
export class HeldIdentity implements Identity {
  readonly principal: Principal
  readonly revocations: Revocations
  readonly #dir: string | undefined
  readonly #clock: Clock
  readonly #listeners = new Set<() => void>()
  #held: Held
  #isSaved = true
  #saving: Promise<void> = Promise.resolve()
  /** The authorities that a restart would trust. */
  #savedTrust: string
  #hurry = new AbortController()

  private constructor(dir: string | undefined, credentials: Credentials, clock: Clock, revoked?: string) {
    this.#held = hold(credentials)
    this.principal = this.#held.principal
    this.revocations = new Revocations(
      credentials.ca,
      dir === undefined ? undefined : join(dir, REVOCATIONS_FILE),
      revoked,
    )
    this.#dir = dir
    this.#clock = clock
    this.#savedTrust = credentials.ca
    this.revocations.onTrust(() => this.#trustChanged())
  }

  /**
   * What an earlier start saved; `undefined` when there is nothing yet. It may have expired: see `notAfter`.
   * @throws MeshError STATE_UNREADABLE, STATE_CORRUPT
   */
  static async open(dir: string, clock: Clock = systemClock): Promise<HeldIdentity | undefined> {
    const text = await readIfThere(join(dir, IDENTITY_FILE))
    if (text === undefined) return undefined
    const ca = await readIfThere(join(dir, CA_FILE))
    const revoked = await readIfThere(join(dir, REVOCATIONS_FILE))
    try {
      const keyPem = /-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----\n?/.exec(text)?.[0]
      if (keyPem === undefined || ca === undefined) throw new Error(`no ${keyPem === undefined ? 'key' : CA_FILE}`)
      return new HeldIdentity(dir, { keyPem, chain: text.replace(keyPem, ''), ca }, clock, revoked)
    } catch (cause) {
      throw new MeshError('STATE_CORRUPT', { path: join(dir, IDENTITY_FILE) }, { cause })
    }
  }

  /** Keeps a new identity. @throws MeshError STATE_UNREADABLE, CERTIFICATE_REFUSED when the parts do not fit */
  static async save(dir: string, credentials: Credentials, clock: Clock = systemClock): Promise<HeldIdentity> {
    const identity = HeldIdentity.inMemory(credentials, clock, dir)
    await writeCredentials(dir, credentials)
    return identity
  }

  /** An identity that is not written down. @throws MeshError CERTIFICATE_REFUSED when the parts do not fit */
  static inMemory(credentials: Credentials, clock: Clock = systemClock, dir?: string): HeldIdentity {
    try {
      return new HeldIdentity(dir, credentials, clock)
    } catch (cause) {
      throw new MeshError(
        'CERTIFICATE_REFUSED',
        { reason: 'key, chain and authority do not belong together' },
        { cause },
      )
    }
  }

  get ca(): string {
    return this.revocations.authorities
  }

  get chain(): string {
    return this.#held.chain
  }

  get key(): string {
    return this.#held.keyPem
  }

  get notAfter(): Date {
    return this.#held.notAfter
  }

  get isExpired(): boolean {
    return this.notAfter.getTime() <= this.#clock.wall()
  }

  /** The list that this process knows names this very certificate, or no longer names its authority. */
  get isRevoked(): boolean {
    const path = pathOf(certificatesIn(this.chain), this.ca)
    return path === undefined || path.certificates.some((certificate) => this.revocations.isRevoked(certificate))
  }

  get trust(): Trust {
    return trustOf(this.chain, this.ca, this.#savedTrust)
  }

  /** For connections to and from the mesh: TLS 1.3, our key, only our authorities. */
  secureContext(): SecureContext {
    this.#held.context ??= createSecureContext({
      key: this.key,
      cert: this.chain,
      ca: this.ca,
      minVersion: 'TLSv1.3',
      ciphers: cipherList(),
    })
    return this.#held.context
  }

  onRenewed(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** When the certificate begins to be valid. */
  get notBefore(): Date {
    return this.#held.notBefore
  }

  /**
   * Asks for a new certificate with a new key, and uses it from then on.
   * @throws MeshError CERTIFICATE_REFUSED when the answer does not fit, and the old certificate stays; STATE_UNREADABLE when the
   *   new one is in use, but cannot be saved
   */
  async renewOnce(renew: Renew, signal: AbortSignal): Promise<void> {
    const { keyPem, csrPem } = await createRequest(this.principal)
    const credentials = { keyPem, chain: await renew(csrPem, signal), ca: this.ca }
    const renewed = HeldIdentity.inMemory(credentials).#held
    if (printPrincipal(renewed.principal) !== printPrincipal(this.principal))
      throw new MeshError('CERTIFICATE_REFUSED', { reason: 'issued to another principal' })
    this.#held = renewed
    this.#isSaved = false
    this.#hurry = new AbortController()
    this.#tellListeners()
    await this.save()
  }

  /** The issuer asks for it: an authority is being replaced. */
  renewSoon(): void {
    this.#hurry.abort()
  }

  /** Aborts when a renewal is asked for; another one after each renewal. */
  get hurry(): AbortSignal {
    return this.#hurry.signal
  }

  /**
   * Writes the certificate that is in use, if it is not on disk yet. A disk that is full costs a restart the new certificate, never
   * the running process: the old one on disk can still be renewed.
   * @throws MeshError STATE_UNREADABLE
   */
  async save(): Promise<void> {
    const saving = this.#saving.then(() => this.#save())
    this.#saving = saving.catch(() => undefined) // one at a time, whatever became of the one before
    await saving
  }

  /** Authorities without the one that our certificate leads to are not written: a restart must be able to say what is wrong. */
  async #save(): Promise<void> {
    const { ca } = this
    const isTrustSaved = this.#savedTrust === ca || this.trust.presents === undefined
    if (this.#isSaved && isTrustSaved) return
    const held = this.#held
    const written = isTrustSaved ? this.#savedTrust : ca
    if (this.#dir !== undefined)
      await writeCredentials(this.#dir, { keyPem: held.keyPem, chain: held.chain, ca: written })
    if (held === this.#held) this.#isSaved = true
    if (isTrustSaved) return
    this.#savedTrust = ca
    this.#tellListeners()
  }

  #trustChanged(): void {
    delete this.#held.context
    this.#tellListeners()
    this.save().catch(() => undefined) // tried again by the renewal, and not confirmed until then
  }

  #tellListeners(): void {
    for (const listener of this.#listeners) listener()
  }

  /** Renews until the signal (renewal.ts). */
  async renewLoop(options: RenewOptions, signal: AbortSignal): Promise<void> {
    await this.save().catch(() => undefined) // what a crash kept from being written
    return renewUntil(this, options, this.#clock, signal)
  }
}
