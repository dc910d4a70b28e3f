import { type KeyObject, sign } from 'node:crypto'

/** What a certificate says. Everything that is bytes is DER. */
export interface CertificateContent {
  /** Hex; positive, so its first bit is 0. */
  serial: string
  /** Names. */
  issuer: Uint8Array
  subject: Uint8Array
  notBefore: Date
  notAfter: Date
  /** SubjectPublicKeyInfo. */
  publicKey: Uint8Array
  extensions: readonly Uint8Array[]
}

/**
 * A certificate (RFC 5280 §4.1), PEM, signed with ECDSA and SHA-256. Written here because joining is mostly this: the library takes 10 ms of a
 * processor for each.
 *
 *     SEQUENCE
 *       SEQUENCE     version 3, serial, algorithm, issuer, validity, subject, public key, extensions
 *       SEQUENCE     algorithm
 *       BIT STRING   signature of the first
 */
export function signedCertificate(content: CertificateContent, key: KeyObject): string {
  const { serial, issuer, subject, notBefore, notAfter, publicKey, extensions } = content
  const validity = der(SEQUENCE, time(notBefore), time(notAfter))
  const signed = der(
    SEQUENCE,
    VERSION_3,
    der(INTEGER, Buffer.from(serial, 'hex')),
    ECDSA_WITH_SHA256,
    issuer,
    validity,
    subject,
    publicKey,
    der(EXTENSIONS, der(SEQUENCE, ...extensions)),
  )
  const bytes = der(SEQUENCE, signed, ECDSA_WITH_SHA256, der(BIT_STRING, NO_UNUSED_BITS, sign('sha256', signed, key)))
  const lines = bytes.toString('base64').match(/.{1,64}/g) ?? []
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----`
}

const INTEGER = 0x02
const BIT_STRING = 0x03
const UTC_TIME = 0x17
const GENERALIZED_TIME = 0x18
const SEQUENCE = 0x30
const EXTENSIONS = 0xa3
const VERSION_3 = Buffer.from('a003020102', 'hex')
/** SEQUENCE of the object identifier 1.2.840.10045.4.3.2. */
const ECDSA_WITH_SHA256 = Buffer.from('300a06082a8648ce3d040302', 'hex')
const NO_UNUSED_BITS = Buffer.from([0])

/** Tag, length, content. */
function der(tag: number, ...parts: readonly Uint8Array[]): Buffer {
  const content = Buffer.concat(parts)
  const { length } = content
  if (length < 0x80) return Buffer.concat([Buffer.from([tag, length]), content])
  if (length < 0x100) return Buffer.concat([Buffer.from([tag, 0x81, length]), content])
  return Buffer.concat([Buffer.from([tag, 0x82, length >> 8, length & 0xff]), content])
}

/** Two digits of the year before 2050, four from then on (§4.1.2.5); seconds. */
function time(at: Date): Buffer {
  const digits = at.toISOString().replaceAll(/[-:T]|\.\d+/g, '')
  const isOf20th = at.getUTCFullYear() < 2050
  return der(isOf20th ? UTC_TIME : GENERALIZED_TIME, Buffer.from(isOf20th ? digits.slice(2) : digits, 'latin1'))
}
