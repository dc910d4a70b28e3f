import { createPrivateKey, createPublicKey, X509Certificate } from 'node:crypto'
import { join } from 'node:path'
import { MeshError } from '../errors.ts'
import { systemClock, type Clock } from '../kit/clock.ts'
import { authorityIdOf, fingerprintOf, idOfKey, joinAuthorities, meshOf } from './authorities.ts'
import { type AuthorityKey, type AuthorityState, parseAuthority, printAuthority } from './authority-file.ts'
import type { Principal, Revocation } from './contract.ts'
import { openPrivateDirectory, readIfThere, replace, writeNew } from './files.ts'
import { isPrincipalName } from './principal.ts'
import { signRevocations } from './revocation-list.ts'
import { signRequest } from './sign-request.ts'
import { CLUSTER_MS, createKeys, crossSign, LEAF_MS, newEnrolment, printKey, selfSign } from './x509.ts'

/** Keys, certificates and the step of a rotation in one file, so that no crash can leave one without the others. */
const FILE = 'authority.pem'

/**
 * The mesh's certificate authority, held by the root. It can be replaced while the mesh runs:
 *
 *     steady ── rotate ─▶ spreading ── issue ─▶ issuing ── retire ─▶ steady
 *
 *     step        signs certificates   is trusted        signs the list of revocations
 *     steady      the present one      the present one   the present one
 *     spreading   the present one      both              both
 *     issuing     the next one         both              both
 *
 * Each step is one replacement of the file, and everything else follows from what is in it.
 */
export class Authority {
  /** `hedgerow-1a2b3c4d`: from the first authority's key, so that two meshes never have the same name. */
  readonly mesh: string
  readonly #path: string
  readonly #clock: Clock
  #state: AuthorityState
  /** The next authority's key under the present one's signature; only while the next one signs. */
  #introduction: string

  private constructor(path: string, state: AuthorityState, introduction: string, clock: Clock) {
    this.mesh = meshOf(state.present.ca)
    this.#path = path
    this.#state = state
    this.#introduction = introduction
    this.#clock = clock
  }

  /** @throws MeshError STATE_UNREADABLE, STATE_CORRUPT */
  static async open(dir: string, clock: Clock = systemClock): Promise<Authority> {
    const path = join(dir, FILE)
    await openPrivateDirectory(dir)
    let saved = await readIfThere(path)
    if (saved === undefined) {
      const present = await create(clock.wall())
      await writeNew(path, printAuthority({ step: 'steady', present })) // false: another process was first, and its file is the one that counts
      saved = await readIfThere(path)
    }
    const state = parseAuthority(saved ?? '', path)
    return new Authority(path, state, await introductionOf(state, clock.wall()), clock)
  }

  get step(): AuthorityState['step'] {
    return this.#state.step
  }

  /** The certificate of the authority that signs now, PEM. */
  get ca(): string {
    return this.#signer.ca
  }

  /** SHA-256 of that certificate's DER, hex: what join tokens carry. */
  get fingerprint(): string {
    return fingerprintOf(this.ca)
  }

  /** Which authority signs now, and which one is there beside it. */
  get ids(): { signs: string; beside?: string } {
    const state = this.#state
    const signs = authorityIdOf(this.ca)
    if (state.step === 'steady') return { signs }
    return { signs, beside: authorityIdOf((state.step === 'issuing' ? state.present : state.next).ca) }
  }

  /** What every member is to trust (authorities.ts). */
  get trusted(): string {
    return joinAuthorities(
      this.#keys.map(({ ca }) => ca),
      this.mesh,
    )
  }

  /** Makes the next authority, to be trusted beside the present one. @throws MeshError STATE_UNREADABLE */
  async rotate(): Promise<void> {
    const state = this.#state
    if (state.step !== 'steady') throw new Error('a rotation is under way')
    await this.#become({
      step: 'spreading',
      present: state.present,
      next: await create(this.#clock.wall(), this.mesh),
    })
  }

  /** The next authority signs from now on. @throws MeshError STATE_UNREADABLE */
  async issueByNext(): Promise<void> {
    const state = this.#state
    if (state.step !== 'spreading') throw new Error('there is no authority that waits to sign')
    await this.#become({ ...state, step: 'issuing' })
  }

  /** Drops the authority that no longer signs, and its key. @throws MeshError STATE_UNREADABLE */
  async retire(): Promise<void> {
    const state = this.#state
    if (state.step !== 'issuing') throw new Error('no authority has been replaced')
    await this.#become({ step: 'steady', present: state.next })
  }

  /**
   * A certificate for the root (24 hours) or a cluster (30 days, able to issue to its own nodes), PEM. A renewal keeps the
   * `enrolment` of the certificate that it renews. During a rotation the next authority's introduction follows it.
   * @throws MeshError CERTIFICATE_REFUSED
   */
  async issue(csrPem: string, principal: Principal, enrolment: string = newEnrolment()): Promise<string> {
    if (principal.mesh !== this.mesh) throw new MeshError('CERTIFICATE_REFUSED', { reason: 'another mesh' })
    if (principal.role === 'node' || principal.role === 'relay')
      throw new MeshError('CERTIFICATE_REFUSED', { reason: `${principal.role}s ask their cluster` })
    if (principal.role === 'cluster' && !isPrincipalName(principal.cluster))
      throw new MeshError('CERTIFICATE_REFUSED', { reason: 'not a name for a cluster', cluster: principal.cluster })
    const introduction = this.#introduction
    const { ca: certificatePem, keyPem } = this.#signer
    const lifeMs = principal.role === 'cluster' ? CLUSTER_MS : LEAF_MS
    const life = { lifeMs, now: this.#clock.wall(), enrolment }
    return `${signRequest({ keyPem, certificatePem }, csrPem, principal, life)}${introduction}`
  }

  /** The list of revoked certificates and of the authorities, signed by each of these (revocation-list.ts). Numbers only grow. */
  signRevocations(number: number, entries: readonly Revocation[]): string {
    const keys = this.#keys.map(({ keyPem }) => keyPem)
    return signRevocations(keys, { number, entries, authorities: this.#keys.map(({ ca }) => ca) })
  }

  get #signer(): AuthorityKey {
    return this.#state.step === 'issuing' ? this.#state.next : this.#state.present
  }

  /** The present one first: versions before rotation read its signature only. */
  get #keys(): AuthorityKey[] {
    return this.#state.step === 'steady' ? [this.#state.present] : [this.#state.present, this.#state.next]
  }

  async #become(state: AuthorityState): Promise<void> {
    const introduction = await introductionOf(state, this.#clock.wall())
    await replace(this.#path, printAuthority(state))
    this.#state = state
    this.#introduction = introduction
  }
}

async function introductionOf(state: AuthorityState, now: number): Promise<string> {
  if (state.step !== 'issuing') return ''
  const { present, next } = state
  return `\n${await crossSign({ keyPem: present.keyPem, certificatePem: present.ca }, next.ca, now)}`
}

async function create(now: number, mesh?: string): Promise<AuthorityKey> {
  const keys = await createKeys()
  const keyPem = await printKey(keys.privateKey)
  const ca = await selfSign(keys, mesh ?? nameAfter(keyPem), now)
  return { keyPem, ca: new X509Certificate(ca).toString() }
}

function nameAfter(keyPem: string): string {
  return `hedgerow-${idOfKey(createPublicKey(createPrivateKey(keyPem))).slice(0, 8)}`
}
