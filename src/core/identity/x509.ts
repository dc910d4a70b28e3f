import { createPrivateKey, createPublicKey, randomBytes, type webcrypto, X509Certificate } from 'node:crypto'
import { keptAnswers } from '../kit/kept-answers.ts'
import type { Principal } from './contract.ts'
import { x509Library } from './x509-library.ts'

/**
 *   mesh CA (10 years, pathLen 1)
 *     ├─▶ root     leaf, 24 h
 *     └─▶ cluster  intermediate CA, 30 days, pathLen 0
 *           ├─▶ node   leaf, 24 h
 *           └─▶ relay  leaf, 24 h
 *
 * Every certificate but the CA's carries exactly one subject alternative name: the principal's URI. There are no host
 * names in them: our clients compare the URI (tls.ts), so a certificate is good at whatever address its holder has.
 */
export const HOUR_MS = 3_600_000
export const LEAF_MS = 24 * HOUR_MS
export const CLUSTER_MS = 30 * 24 * HOUR_MS
const AUTHORITY_MS = 3650 * 24 * HOUR_MS
/** A machine whose clock is behind by less than this takes a fresh certificate as valid. */
export const SKEW_MS = HOUR_MS

/** The authority's common name; clusters have an organisational unit, so none can have a name like it. */
export const AUTHORITY_NAME = 'mesh authority'

const KEYS = { name: 'ECDSA', namedCurve: 'P-256' } as const
const SIGNING = { name: 'ECDSA', hash: 'SHA-256' } as const

/** A key to sign with, and the certificate that says whose it is (the first of `certificatePem`). */
export interface Issuer {
  keyPem: string
  certificatePem: string
}

export async function createKeys(): Promise<webcrypto.CryptoKeyPair> {
  return crypto.subtle.generateKey(KEYS, true, ['sign', 'verify'])
}

export async function printKey(key: webcrypto.CryptoKey): Promise<string> {
  const x509 = x509Library()
  return x509.PemConverter.encode(await crypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY')
}

export async function selfSign(keys: webcrypto.CryptoKeyPair, mesh: string, now: number): Promise<string> {
  const x509 = x509Library()
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serial(),
    name: `O=${mesh}, CN=${AUTHORITY_NAME}`,
    notBefore: new Date(now - SKEW_MS),
    notAfter: new Date(now + AUTHORITY_MS),
    keys,
    signingAlgorithm: SIGNING,
    extensions: [
      new x509.BasicConstraintsExtension(true, 1, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  })
  return certificate.toString('pem')
}

/**
 * The key of the next authority, signed by the present one: with it, whoever knows only the present one can follow a chain of the
 * next. Both have one name, so this certificate does not count as an intermediate (RFC 5280 §4.2.1.9, "self-issued").
 */
export async function crossSign(present: Issuer, nextPem: string, now: number): Promise<string> {
  const x509 = x509Library()
  const signer = new x509.X509Certificate(present.certificatePem)
  const next = new x509.X509Certificate(nextPem)
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serial(),
    subject: next.subjectName,
    issuer: signer.subjectName,
    notBefore: new Date(now - SKEW_MS),
    notAfter: new Date(Math.min(signer.notAfter.getTime(), next.notAfter.getTime())),
    publicKey: next.publicKey,
    signingKey: await signingKey(present.keyPem),
    signingAlgorithm: SIGNING,
    extensions: [
      new x509.BasicConstraintsExtension(true, 1, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(next.publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(signer.publicKey),
    ],
  })
  return certificate.toString('pem')
}

/** A request for a certificate: proof of the key, and nothing else (the issuer decides the principal). */
export async function printRequest(keys: webcrypto.CryptoKeyPair, principal: Principal): Promise<string> {
  const x509 = x509Library()
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: subjectOf(principal),
    keys,
    signingAlgorithm: SIGNING,
  })
  return request.toString('pem')
}

/** Certificates of a PEM text, in order. @throws when one cannot be parsed */
export function certificatesIn(pem: string): X509Certificate[] {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []
  return blocks.map((block) => certificateIn(block))
}

/** Of a chain only the leaf is another one each time. */
const certificateIn = keptAnswers((block: string) => new X509Certificate(block))

export function firstOf(pem: string): string {
  return certificatesIn(pem)[0]?.toString() ?? pem
}

/** True when the private key belongs to the certificate. */
export function isKeyOf(keyPem: string, certificate: X509Certificate): boolean {
  return createPublicKey(createPrivateKey(keyPem)).equals(certificate.publicKey)
}

function subjectOf(principal: Principal): string {
  return namesOf(principal)
    .map(([kind, name]) => `${kind}=${name}`)
    .join(', ')
}

/** The parts of a subject's name, from the outermost. */
export function namesOf(principal: Principal): [kind: 'O' | 'OU' | 'CN', name: string][] {
  const { mesh } = principal
  switch (principal.role) {
    case 'root':
      return [
        ['O', mesh],
        ['CN', 'root'],
      ]
    case 'cluster':
      return subjectNames(mesh, 'cluster', principal.cluster)
    case 'node':
      return subjectNames(mesh, principal.cluster, principal.node)
    case 'relay':
      return subjectNames(mesh, principal.cluster, principal.relay)
    default:
      principal satisfies never
      throw new Error('unknown role')
  }
}

function subjectNames(mesh: string, unit: string, name: string): ReturnType<typeof namesOf> {
  return [
    ['O', mesh],
    ['OU', unit],
    ['CN', name],
  ]
}

function signingKey(keyPem: string): Promise<webcrypto.CryptoKey> {
  const der = createPrivateKey(keyPem).export({ format: 'der', type: 'pkcs8' })
  return crypto.subtle.importKey('pkcs8', new Uint8Array(der), KEYS, false, ['sign'])
}

const ENROLMENT_BYTES = 8

/** A new enrolment id, hex: 63 random bits. What joins gets one; its renewals keep it. */
export function newEnrolment(): string {
  const bytes = randomBytes(ENROLMENT_BYTES)
  bytes[0] = ((bytes[0] as number) & 0x7f) | 0x40 // a serial number is positive, and its length always the same
  return bytes.toString('hex')
}

/** The enrolment that a certificate belongs to: the first half of its serial number. */
export function enrolmentOf({ serialNumber }: Pick<X509Certificate, 'serialNumber'>): string {
  return serialNumber.slice(0, 2 * ENROLMENT_BYTES).toLowerCase()
}

/**
 * Identifies the key that signed the certificate, hex, as the certificate itself says; `undefined` when it does not, or cannot be
 * read here: TLS accepts forms that this parser refuses, and a cluster decides what it signs.
 */
export function issuerKeyIdOf(certificate: X509Certificate): string | undefined {
  const x509 = x509Library()
  try {
    const parsed = new x509.X509Certificate(new Uint8Array(certificate.raw))
    return parsed.getExtension(x509.AuthorityKeyIdentifierExtension)?.keyId
  } catch {
    return undefined
  }
}

/** Identifies the key of a certificate, hex: what `issuerKeyIdOf` finds in those that it signs. */
export function keyIdOf(certificatePem: string): string | undefined {
  const x509 = x509Library()
  return new x509.X509Certificate(firstOf(certificatePem)).getExtension(x509.SubjectKeyIdentifierExtension)?.keyId
}

/** 63 bits of enrolment and 64 random ones: positive, and never the same twice (RFC 5280 §4.1.2.2). */
export function serial(enrolment: string = newEnrolment()): string {
  return enrolment + randomBytes(8).toString('hex')
}
