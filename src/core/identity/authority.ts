import { createHash, createPrivateKey, createPublicKey, X509Certificate } from 'node:crypto'
import { join } from 'node:path'
import { MeshError } from '../errors.ts'
import { systemClock, type Clock } from '../kit/clock.ts'
import type { Principal, Revocation } from './contract.ts'
import { openPrivateDirectory, readIfThere, writeNew } from './files.ts'
import { isPrincipalName } from './principal.ts'
import { signRevocations } from './revocation.ts'
import {
  certificatesIn,
  CLUSTER_MS,
  createKeys,
  isKeyOf,
  LEAF_MS,
  newEnrolment,
  printKey,
  selfSign,
  signRequest,
} from './x509.ts'

/** Key and certificate in one file, so that no crash can leave one without the other. */
const FILE = 'authority.pem'

/** The mesh's certificate authority, held by the root. Created at first start, never written again. */
export class Authority {
  /** `hedgerow-1a2b3c4d`: from the authority's key, so that two meshes never have the same name. */
  readonly mesh: string
  /** The authority's certificate, PEM. */
  readonly ca: string
  /** SHA-256 of the certificate's DER, hex: what join tokens carry. */
  readonly fingerprint: string
  readonly #key: string
  readonly #clock: Clock

  private constructor(ca: string, key: string, clock: Clock) {
    this.mesh = meshOf(ca)
    this.ca = ca
    this.fingerprint = fingerprintOf(ca)
    this.#key = key
    this.#clock = clock
  }

  /** @throws MeshError STATE_UNREADABLE, STATE_CORRUPT */
  static async open(dir: string, clock: Clock = systemClock): Promise<Authority> {
    const path = join(dir, FILE)
    await openPrivateDirectory(dir)
    let saved = await readIfThere(path)
    if (saved === undefined) {
      await writeNew(path, await create(clock.wall())) // false: another process was first, and its file is the one that counts
      saved = await readIfThere(path)
    }
    const { ca, key } = parse(saved ?? '', path)
    return new Authority(ca, key, clock)
  }

  /**
   * A certificate for the root (24 hours) or a cluster (30 days, able to issue to its own nodes), PEM. A renewal keeps the
   * `enrolment` of the certificate that it renews.
   * @throws MeshError CERTIFICATE_REFUSED
   */
  async issue(csrPem: string, principal: Principal, enrolment: string = newEnrolment()): Promise<string> {
    if (principal.mesh !== this.mesh) throw new MeshError('CERTIFICATE_REFUSED', { reason: 'another mesh' })
    if (principal.role === 'node' || principal.role === 'relay')
      throw new MeshError('CERTIFICATE_REFUSED', { reason: `${principal.role}s ask their cluster` })
    if (principal.role === 'cluster' && !isPrincipalName(principal.cluster))
      throw new MeshError('CERTIFICATE_REFUSED', { reason: 'not a name for a cluster', cluster: principal.cluster })
    const issuer = { keyPem: this.#key, certificatePem: this.ca }
    const lifeMs = principal.role === 'cluster' ? CLUSTER_MS : LEAF_MS
    return signRequest(issuer, csrPem, principal, { lifeMs, now: this.#clock.wall(), enrolment })
  }

  /** The list of revoked certificates, signed (revocation.ts). Numbers only grow. */
  signRevocations(number: number, entries: readonly Revocation[]): string {
    return signRevocations(this.#key, number, entries)
  }
}

/** SHA-256 of a certificate's DER, hex. */
export function fingerprintOf(certificatePem: string): string {
  return new X509Certificate(certificatePem).fingerprint256.replaceAll(':', '').toLowerCase()
}

/** The mesh's name, from its authority's public key. */
export function meshOf(ca: string): string {
  return meshOfKey(new X509Certificate(ca).publicKey.export({ format: 'der', type: 'spki' }))
}

function meshOfKey(spki: Buffer): string {
  return `hedgerow-${createHash('sha256').update(spki).digest('hex').slice(0, 8)}`
}

async function create(now: number): Promise<string> {
  const keys = await createKeys()
  const keyPem = await printKey(keys.privateKey)
  const spki = createPublicKey(createPrivateKey(keyPem)).export({ format: 'der', type: 'spki' })
  return `${keyPem}\n${await selfSign(keys, meshOfKey(spki), now)}\n`
}

function parse(text: string, path: string): { ca: string; key: string } {
  try {
    const [certificate, ...rest] = certificatesIn(text)
    const key = /-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----/.exec(text)?.[0]
    if (certificate === undefined || rest.length > 0 || key === undefined)
      throw new Error('expected one private key and one certificate')
    if (!certificate.ca || !certificate.verify(certificate.publicKey)) throw new Error('not an authority')
    if (!isKeyOf(key, certificate)) throw new Error('the key does not belong to the certificate')
    return { ca: certificate.toString(), key }
  } catch (cause) {
    throw new MeshError('STATE_CORRUPT', { path }, { cause })
  }
}
