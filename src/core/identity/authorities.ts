import { createHash, type KeyObject, X509Certificate } from 'node:crypto'
import { MeshError } from '../errors.ts'
import { keptAnswers } from '../kit/kept-answers.ts'
import { AUTHORITY_NAME, certificatesIn } from './x509.ts'

/**
 * The authorities that a member trusts: one, or two while one follows the other (docs/operations.md, "Replace the certificate
 * authority"). As a text they are certificates in PEM, one after the other.
 *
 *     chain of a node     leaf ─ cluster ─ authority
 *     issued by the next  leaf ─ cluster ─ next, signed by the present ─ present     for whoever knows only the present one
 *                                     └─ next                                        for whoever knows the next one
 */
export const MAX_AUTHORITIES = 2
/** Larger is no certificate of an authority. */
export const MAX_AUTHORITY_CHARS = 2_048

/** How an authority is called among people and between members: the beginning of its public key's SHA-256, hex. */
export function authorityIdOf(certificate: X509Certificate | string): string {
  return typeof certificate === 'string' ? idOfText(certificate) : idOfKey(certificate.publicKey)
}

const idOfText = keptAnswers((pem: string) => idOfKey(new X509Certificate(pem).publicKey))

/** The same of a key without a certificate. */
export function idOfKey(publicKey: KeyObject): string {
  return digest(publicKey.export({ format: 'der', type: 'spki' })).slice(0, 16)
}

/** SHA-256 of a certificate's DER, hex. */
export function fingerprintOf(certificate: X509Certificate | string): string {
  const { raw } = typeof certificate === 'string' ? new X509Certificate(certificate) : certificate
  return digest(raw)
}

function digest(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** The mesh whose authority this is, as its subject says. */
export function meshOf(authority: X509Certificate | string): string {
  const { subject } = typeof authority === 'string' ? new X509Certificate(authority) : authority
  const [, mesh = ''] = /^O=([^\n]+)\n/.exec(subject) ?? []
  if (subject !== nameOfAuthority(mesh)) throw new MeshError('CERTIFICATE_REFUSED', { reason: 'not an authority' })
  return mesh
}

/** One text of several certificates. @throws MeshError STATE_CORRUPT when one is not an authority of the mesh, or there are too many */
export function joinAuthorities(pems: readonly string[], mesh: string): string {
  const certificates = pems.flatMap((pem) => certificatesOf(pem))
  const areGood = certificates.every(
    (one) => one.ca && one.subject === nameOfAuthority(mesh) && one.checkIssued(one) && one.verify(one.publicKey),
  )
  if (!areGood || certificates.length === 0 || certificates.length > MAX_AUTHORITIES)
    throw new MeshError('STATE_CORRUPT', { what: 'authorities', reason: 'not the authorities of this mesh' })
  return certificates.map((one) => one.toString()).join('')
}

/** Ids of the authorities in a text. */
export function authorityIds(authorities: string): string[] {
  return certificatesIn(authorities).map((one) => authorityIdOf(one))
}

/** Fingerprints of the authorities, that of `first` (an id) before the others. */
export function fingerprints(authorities: string, first: string | undefined): readonly string[] {
  return inOrder(authorities, first).map(({ fingerprint }) => fingerprint)
}

/** What a server answers at `/ca`, where one asks who knows only a fingerprint. */
export function authoritiesAnswer(authorities: string, first: string | undefined) {
  const ordered = inOrder(authorities, first)
  const [signs] = ordered
  return {
    fingerprint: signs?.fingerprint ?? '',
    ca: signs?.pem ?? '',
    authorities: ordered.map(({ pem }) => pem).join(''),
  }
}

/** Whoever joins asks for it. */
const inOrder = keptAnswers((authorities: string, first: string | undefined) => {
  const isFirst = (one: X509Certificate) => authorityIdOf(one) === first
  return certificatesIn(authorities)
    .toSorted((a, b) => Number(isFirst(b)) - Number(isFirst(a)))
    .map((one) => ({ pem: one.toString(), fingerprint: fingerprintOf(one) }))
})

export interface Path {
  /** Leaf first, without authorities: the leaf, or the leaf and its cluster. */
  certificates: X509Certificate[]
  /** Who signed the last of them: a trusted authority, or one that a trusted one has signed in the chain. */
  authority: X509Certificate
}

/** How a chain (leaf first) leads up to one of the authorities, each certificate signed by the next; `undefined` when it does not. */
export function pathOf(chain: readonly X509Certificate[], authorities: string): Path | undefined {
  const trusted = certificatesIn(authorities)
  // only an authority signs this name: a cluster's certificate has an organisational unit
  const introduced = chain.slice(1).filter((one) => isAuthority(one) && signerOf(one, trusted) !== undefined)
  const signers = [...trusted, ...introduced]
  const [leaf, cluster] = chain
  if (leaf === undefined) return undefined
  const direct = signerOf(leaf, signers)
  if (direct !== undefined) return { certificates: [leaf], authority: direct }
  if (cluster === undefined || signerOf(leaf, [cluster]) === undefined) return undefined
  const authority = signerOf(cluster, signers)
  return authority === undefined ? undefined : { certificates: [leaf, cluster], authority }
}

/** What a server sends after its own chain: the authority at its end, for those who know only its fingerprint (tls.ts, `fetchCa`). */
export function endOf(chainPem: string, authorities: string): string {
  const chain = certificatesIn(chainPem)
  const trusted = certificatesIn(authorities)
  const last = chain.at(-1)
  const end = last === undefined ? undefined : signerOf(last, trusted)
  return (end ?? trusted[0])?.toString() ?? ''
}

function signerOf(certificate: X509Certificate, candidates: readonly X509Certificate[]): X509Certificate | undefined {
  return candidates.find((one) => certificate.checkIssued(one) && certificate.verify(one.publicKey))
}

function isAuthority({ ca, subject, issuer }: X509Certificate): boolean {
  return ca && subject === issuer && subject.endsWith(`\nCN=${AUTHORITY_NAME}`)
}

function nameOfAuthority(mesh: string): string {
  return `O=${mesh}\nCN=${AUTHORITY_NAME}`
}

function certificatesOf(pem: string): X509Certificate[] {
  try {
    return certificatesIn(pem)
  } catch {
    return []
  }
}
