import { createSecureContext, type SecureContext } from 'node:tls'
import { join } from 'node:path'
import { MeshError } from '../errors.ts'
import { systemClock, type Clock } from '../kit/clock.ts'
import type { Identity, Principal } from './contract.ts'
import { openPrivateDirectory, readIfThere, replace } from './files.ts'
import { createRequest } from './keys.ts'
import { printPrincipal } from './principal.ts'
import { provenPrincipal } from './proof.ts'
import { type Renew, type RenewOptions, renewUntil } from './renewal.ts'
import { Revocations } from './revocation.ts'
import { certificatesIn, isKeyOf, leadsTo } from './x509.ts'

/** What makes an identity, PEM: the private key, the leaf (and its issuer), the mesh's authority. */
export interface Credentials {
  keyPem: string
  chain: string
  ca: string
}

/** Key and chain in one file, so that no crash can leave a key with another key's certificate. */
const FILE = 'identity.pem'
const CA_FILE = 'ca.pem'
const REVOCATIONS_FILE = 'revocations.json'

/** An identity this process holds: saved on disk or in memory, renewed in place with a new key each time. */
export class HeldIdentity implements Identity {
  readonly principal: Principal
  readonly ca: string
  readonly revocations: Revocations
  readonly #dir: string | undefined
  readonly #clock: Clock
  readonly #listeners = new Set<() => void>()
  #held: Held
  #isSaved = true

  private constructor(dir: string | undefined, credentials: Credentials, clock: Clock, revoked?: string) {
    this.#held = hold(credentials)
    this.principal = this.#held.principal
    this.ca = credentials.ca
    this.revocations = new Revocations(
      credentials.ca,
      dir === undefined ? undefined : join(dir, REVOCATIONS_FILE),
      revoked,
    )
    this.#dir = dir
    this.#clock = clock
  }

  /**
   * What an earlier start saved; `undefined` when there is nothing yet. It may have expired: see `notAfter`.
   * @throws MeshError STATE_UNREADABLE, STATE_CORRUPT
   */
  static async open(dir: string, clock: Clock = systemClock): Promise<HeldIdentity | undefined> {
    const text = await readIfThere(join(dir, FILE))
    if (text === undefined) return undefined
    const ca = await readIfThere(join(dir, CA_FILE))
    const revoked = await readIfThere(join(dir, REVOCATIONS_FILE))
    try {
      const keyPem = /-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----\n?/.exec(text)?.[0]
      if (keyPem === undefined || ca === undefined) throw new Error(`no ${keyPem === undefined ? 'key' : CA_FILE}`)
      return new HeldIdentity(dir, { keyPem, chain: text.replace(keyPem, ''), ca }, clock, revoked)
    } catch (cause) {
      throw new MeshError('STATE_CORRUPT', { path: join(dir, FILE) }, { cause })
    }
  }

  /** Keeps a new identity. @throws MeshError STATE_UNREADABLE, CERTIFICATE_REFUSED when the parts do not fit */
  static async save(dir: string, credentials: Credentials, clock: Clock = systemClock): Promise<HeldIdentity> {
    const identity = HeldIdentity.inMemory(credentials, clock, dir)
    await write(dir, credentials)
    return identity
  }

  /** An identity that is not written down. @throws MeshError CERTIFICATE_REFUSED when the parts do not fit */
  static inMemory(credentials: Credentials, clock: Clock = systemClock, dir?: string): HeldIdentity {
    try {
      return new HeldIdentity(dir, credentials, clock)
    } catch (cause) {
      throw new MeshError('CERTIFICATE_REFUSED', { reason: 'key, chain and authority do not fit' }, { cause })
    }
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

  /** The list of revocations that this process knows names this very certificate. */
  get isRevoked(): boolean {
    const [leaf] = certificatesIn(this.chain)
    return leaf !== undefined && this.revocations.isRevoked(leaf)
  }

  /** For connections to and from the mesh: TLS 1.3, our key, only our authority. */
  secureContext(): SecureContext {
    this.#held.context ??= createSecureContext({
      key: this.key,
      cert: this.chain,
      ca: this.ca,
      minVersion: 'TLSv1.3',
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
    for (const listener of this.#listeners) listener()
    await this.save()
  }

  /**
   * Writes the certificate that is in use, if it is not on disk yet. A disk that is full costs a restart the new certificate, never
   * the running process: the old one on disk can still be renewed.
   * @throws MeshError STATE_UNREADABLE
   */
  async save(): Promise<void> {
    if (this.#isSaved || this.#dir === undefined) return
    await write(this.#dir, { keyPem: this.key, chain: this.chain, ca: this.ca })
    this.#isSaved = true
  }

  /** Renews until the signal (renewal.ts). */
  renewLoop(options: RenewOptions, signal: AbortSignal): Promise<void> {
    return renewUntil(this, options, this.#clock, signal)
  }
}

async function write(dir: string, { keyPem, chain, ca }: Credentials): Promise<void> {
  await openPrivateDirectory(dir)
  await replace(join(dir, CA_FILE), ca)
  await replace(join(dir, FILE), `${keyPem.trimEnd()}\n${chain}`)
}

interface Held extends Credentials {
  principal: Principal
  notBefore: Date
  notAfter: Date
  context?: SecureContext
}

function hold(credentials: Credentials): Held {
  const chain = certificatesIn(credentials.chain)
  const [leaf] = chain
  if (leaf === undefined) throw new Error('no certificate')
  if (!isKeyOf(credentials.keyPem, leaf)) throw new Error('the key does not belong to the certificate')
  if (!leadsTo(chain, credentials.ca)) throw new Error('the chain does not lead to the authority')
  const principal = provenPrincipal(leaf)
  return { ...credentials, principal, notBefore: leaf.validFromDate, notAfter: leaf.validToDate }
}
