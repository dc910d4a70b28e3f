import { createSecureContext, type SecureContext } from 'node:tls'
import { join } from 'node:path'
import { MeshError } from '../errors.ts'
import { Backoff } from '../kit/backoff.ts'
import { systemClock, type Clock } from '../kit/clock.ts'
import { silentLog, type Log } from '../kit/log.ts'
import type { Identity, Principal } from './contract.ts'
import { openPrivateDirectory, readIfThere, replace } from './files.ts'
import { createRequest } from './keys.ts'
import { printPrincipal } from './principal.ts'
import { provenPrincipal } from './proof.ts'
import { certificatesIn, isKeyOf, leadsTo } from './x509.ts'

/** What makes an identity, PEM: the private key, the leaf (and its issuer), the mesh's authority. */
export interface Credentials {
  keyPem: string
  chain: string
  ca: string
}

export interface RenewOptions {
  /** Asks the issuer for a certificate; resolves to the chain, PEM. */
  renew: (csrPem: string, signal: AbortSignal) => Promise<string>
  log?: Log
  random?: () => number
}

/** Key and chain in one file, so that no crash can leave a key with another key's certificate. */
const FILE = 'identity.pem'
const CA_FILE = 'ca.pem'
/** Renewed after this part of its life: a third remains to reach an issuer that is down. */
const RENEW_AT = 2 / 3
/** ± this part of the life, so that nodes that joined together do not renew together. */
const JITTER = 1 / 20
/** Sleeps are cut so that a suspended machine or a changed clock is noticed. */
const NAP_MS = 10 * 60_000
const RETRY = { firstMs: 5_000, limitMs: 15 * 60_000 }

/** An identity this process holds: saved on disk or in memory, renewed in place with a new key each time. */
export class HeldIdentity implements Identity {
  readonly principal: Principal
  readonly ca: string
  readonly #dir: string | undefined
  readonly #clock: Clock
  readonly #listeners = new Set<() => void>()
  #held: Held

  private constructor(dir: string | undefined, credentials: Credentials, clock: Clock) {
    this.#held = hold(credentials)
    this.principal = this.#held.principal
    this.ca = credentials.ca
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
    try {
      const keyPem = /-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----\n?/.exec(text)?.[0]
      if (keyPem === undefined || ca === undefined) throw new Error(`no ${keyPem === undefined ? 'key' : CA_FILE}`)
      return new HeldIdentity(dir, { keyPem, chain: text.replace(keyPem, ''), ca }, clock)
    } catch (cause) {
      throw new MeshError('STATE_CORRUPT', { path: join(dir, FILE) }, { cause })
    }
  }

  /** Keeps a new identity. @throws MeshError STATE_UNREADABLE, CERTIFICATE_REFUSED when the parts do not fit */
  static async save(dir: string, credentials: Credentials, clock: Clock = systemClock): Promise<HeldIdentity> {
    const identity = HeldIdentity.inMemory(credentials, clock, dir)
    await openPrivateDirectory(dir)
    await replace(join(dir, CA_FILE), credentials.ca)
    await replace(join(dir, FILE), `${credentials.keyPem.trimEnd()}\n${credentials.chain}`)
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

  /** Renews until the signal: at two thirds of the certificate's life, then with backoff until it works. */
  async renewLoop({ renew, log = silentLog, random = Math.random }: RenewOptions, signal: AbortSignal): Promise<void> {
    const retry = new Backoff({ ...RETRY, random })
    let dueAt = renewalAt(this.#held, random)
    while (!signal.aborted) {
      const waitMs = dueAt - this.#clock.wall()
      if (waitMs > 0) {
        await this.#clock.sleep(Math.min(waitMs, NAP_MS), signal)
        continue
      }
      try {
        await this.#renew(renew, signal)
        retry.reset()
        dueAt = renewalAt(this.#held, random)
        log.info('certificate renewed', { until: this.notAfter })
      } catch (error) {
        if (signal.aborted) return
        dueAt = this.#clock.wall() + retry.nextMs()
        log.warn('certificate not renewed', { error, until: this.notAfter })
      }
    }
  }

  async #renew(renew: RenewOptions['renew'], signal: AbortSignal): Promise<void> {
    const { keyPem, csrPem } = await createRequest(this.principal)
    const credentials = { keyPem, chain: await renew(csrPem, signal), ca: this.ca }
    const renewed = HeldIdentity.inMemory(credentials).#held
    if (printPrincipal(renewed.principal) !== printPrincipal(this.principal))
      throw new MeshError('CERTIFICATE_REFUSED', { reason: 'issued to another principal' })
    if (this.#dir !== undefined) await HeldIdentity.save(this.#dir, credentials)
    this.#held = renewed
    for (const listener of this.#listeners) listener()
  }
}

/** When to renew, milliseconds since 1970: two thirds into the life, give or take a twentieth. */
export function renewalAt({ notBefore, notAfter }: { notBefore: Date; notAfter: Date }, random: () => number): number {
  const lifeMs = notAfter.getTime() - notBefore.getTime()
  return notBefore.getTime() + Math.round(lifeMs * (RENEW_AT + (random() * 2 - 1) * JITTER))
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
