import type * as Asn1X509 from '@peculiar/asn1-x509'
import { createHash, createPrivateKey, createPublicKey, sign, verify, X509Certificate } from 'node:crypto'
import { MeshError } from '../errors.ts'
import { keptAnswers } from '../kit/kept-answers.ts'
import type { Principal } from './contract.ts'
import { printPrincipal } from './principal.ts'
import { asn1Library, x509Library } from './x509-library.ts'
import { firstOf, type Issuer, namesOf, serial, SKEW_MS } from './x509.ts'

/*
 * What joins, and whoever renews, waits for this, a thousand at once. So a request is read once and a certificate written once, by the classes
 * that @peculiar/x509 is made of; by its own generator, which reads again whatever it has written, one costs almost four times as much.
 */

/** Larger is no certificate request of ours. */
const MAX_CSR_CHARS = 8_192
/** ecdsa-with-SHA256, RFC 5758 §3.2: what requests are signed with, and certificates. */
const SIGNATURE = '1.2.840.10045.4.3.2'
const HASH = 'sha256'
/** P-256, as Node calls it. */
const CURVE = 'prime256v1'
/** RFC 5280 §4.1.2.4 */
const NAME_KINDS = { O: '2.5.4.10', OU: '2.5.4.11', CN: '2.5.4.3' }

/**
 * Signs a certificate for the key in the request; subject and extensions of the request are ignored.
 * @throws MeshError CERTIFICATE_REFUSED when the request is malformed or does not prove its key.
 */
export function signRequest(
  issuer: Issuer,
  csrPem: string,
  principal: Principal,
  { lifeMs, now, enrolment }: { lifeMs: number; now: number; enrolment: string },
): string {
  const { schema, x509: asn1 } = asn1Library()
  const subjectPublicKeyInfo = provenKey(csrPem)
  const signer = signerOf(issuer.keyPem, issuer.certificatePem)
  const notAfter = new Date(Math.min(now + lifeMs, signer.notAfter))
  if (notAfter.getTime() <= now) throw new MeshError('CERTIFICATE_REFUSED', { reason: "the issuer's own has expired" })
  const signature = new asn1.AlgorithmIdentifier({ algorithm: SIGNATURE })
  const tbsCertificate = new asn1.TBSCertificate({
    version: asn1.Version.v3,
    serialNumber: new Uint8Array(Buffer.from(serial(enrolment), 'hex')).buffer,
    signature,
    issuer: signer.subject,
    validity: new asn1.Validity({ notBefore: new Date(now - SKEW_MS), notAfter }),
    subject: nameOf(principal),
    subjectPublicKeyInfo,
    extensions: new asn1.Extensions([
      ...usesOf(principal.role === 'cluster'),
      extensionOf(
        asn1.id_ce_subjectAltName,
        new asn1.SubjectAlternativeName([
          new asn1.GeneralName({ uniformResourceIdentifier: printPrincipal(principal) }),
        ]),
      ),
      extensionOf(asn1.id_ce_subjectKeyIdentifier, keyIdentifierOf(subjectPublicKeyInfo)),
      signer.keyIdentifier,
    ]),
  })
  const signatureValue = sign(HASH, new Uint8Array(schema.AsnConvert.serialize(tbsCertificate)), signer.key)
  const certificate = new asn1.Certificate({
    tbsCertificate,
    signatureAlgorithm: signature,
    signatureValue: new Uint8Array(signatureValue).buffer,
  })
  return x509Library().PemConverter.encode(schema.AsnConvert.serialize(certificate), 'CERTIFICATE')
}

/** The key of a request, which must be signed with it. */
function provenKey(csrPem: string): Asn1X509.SubjectPublicKeyInfo {
  if (csrPem.length > MAX_CSR_CHARS) throw new MeshError('CERTIFICATE_REFUSED', { reason: 'the request is too large' })
  const { subjectPublicKeyInfo, key, isProven } = readRequest(csrPem)
  if (!isProven) throw new MeshError('CERTIFICATE_REFUSED', { reason: 'the request does not prove its key' })
  if (key.asymmetricKeyDetails?.namedCurve !== CURVE)
    throw new MeshError('CERTIFICATE_REFUSED', { reason: 'its key is not ECDSA P-256' })
  return subjectPublicKeyInfo
}

function readRequest(csrPem: string) {
  const { schema, csr } = asn1Library()
  try {
    const der = x509Library().PemConverter.decodeFirst(csrPem)
    const request = schema.AsnConvert.parse(der, csr.CertificationRequest)
    const { certificationRequestInfo: info, certificationRequestInfoRaw: signed, signature } = request
    const spki = Buffer.from(schema.AsnConvert.serialize(info.subjectPKInfo))
    const key = createPublicKey({ key: spki, format: 'der', type: 'spki' })
    const isProven =
      signed !== undefined &&
      request.signatureAlgorithm.algorithm === SIGNATURE &&
      verify(HASH, new Uint8Array(signed), key, new Uint8Array(signature))
    return { subjectPublicKeyInfo: info.subjectPKInfo, key, isProven }
  } catch (cause) {
    throw new MeshError('CERTIFICATE_REFUSED', { reason: 'not a certificate request' }, { cause })
  }
}

/** For what a certificate is good; the same for all of a kind, and written once. */
const usesOf = keptAnswers((isIssuer: boolean) => {
  const { x509: asn1 } = asn1Library()
  const { digitalSignature, keyCertSign } = asn1.KeyUsageFlags
  const { id_kp_serverAuth: server, id_kp_clientAuth: client } = asn1
  const constraints = new asn1.BasicConstraints({ cA: isIssuer, ...(isIssuer ? { pathLenConstraint: 0 } : {}) })
  const keyUsage = new asn1.KeyUsage(digitalSignature | (isIssuer ? keyCertSign : 0))
  return [
    extensionOf(asn1.id_ce_basicConstraints, constraints, true),
    extensionOf(asn1.id_ce_keyUsage, keyUsage, true),
    extensionOf(asn1.id_ce_extKeyUsage, new asn1.ExtendedKeyUsage([server, client])),
  ]
})

/** Of a key that signs for many. */
const signerOf = keptAnswers((keyPem: string, certificatePem: string) => {
  const { schema, x509: asn1 } = asn1Library()
  const { raw } = new X509Certificate(firstOf(certificatePem))
  const { subject, subjectPublicKeyInfo, validity } = schema.AsnConvert.parse(raw, asn1.Certificate).tbsCertificate
  const keyIdentifier = new asn1.KeyIdentifier(keyIdentifierOf(subjectPublicKeyInfo).buffer)
  return {
    subject,
    notAfter: validity.notAfter.getTime().getTime(),
    key: createPrivateKey(keyPem),
    keyIdentifier: extensionOf(asn1.id_ce_authorityKeyIdentifier, new asn1.AuthorityKeyIdentifier({ keyIdentifier })),
  }
})

function extensionOf(extnID: string, value: object, critical = false): Asn1X509.Extension {
  const { schema, x509: asn1 } = asn1Library()
  return new asn1.Extension({ extnID, critical, extnValue: new schema.OctetString(schema.AsnConvert.serialize(value)) })
}

/** RFC 5280 §4.2.1.2 (1) */
function keyIdentifierOf({ subjectPublicKey }: Asn1X509.SubjectPublicKeyInfo): Asn1X509.SubjectKeyIdentifier {
  const { x509: asn1 } = asn1Library()
  const digest = createHash('sha1').update(new Uint8Array(subjectPublicKey)).digest()
  return new asn1.SubjectKeyIdentifier(new Uint8Array(digest).buffer)
}

function nameOf(principal: Principal): Asn1X509.Name {
  const { x509: asn1 } = asn1Library()
  const parts = namesOf(principal).map(([kind, name]) => {
    const value = new asn1.AttributeValue({ printableString: name }) // of what names may be made of (principal.ts)
    return new asn1.RelativeDistinguishedName([new asn1.AttributeTypeAndValue({ type: NAME_KINDS[kind], value })])
  })
  return new asn1.Name(parts)
}
