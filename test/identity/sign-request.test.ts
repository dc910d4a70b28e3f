import 'reflect-metadata'
import * as x509 from '@peculiar/x509'
import { type webcrypto, X509Certificate } from 'node:crypto'
import t from 'tap'
import type { Principal } from '../../src/core/identity/contract.ts'
import { printPrincipal } from '../../src/core/identity/principal.ts'
import { signRequest } from '../../src/core/identity/sign-request.ts'
import { createKeys, newEnrolment, printKey, printRequest, selfSign } from '../../src/core/identity/x509.ts'

const NOW = Date.parse('2026-12-01T12:00:00Z')
const HOUR_MS = 3_600_000
const SIGNING = { name: 'ECDSA', hash: 'SHA-256' }

const authorityKeys = await createKeys()
const issuer = {
  keyPem: await printKey(authorityKeys.privateKey),
  certificatePem: await selfSign(authorityKeys, 'hedgerow-1a2b3c4d', NOW),
}
const enrolment = newEnrolment()
const terms = { lifeMs: 24 * HOUR_MS, now: NOW, enrolment }
const ROLES: Principal[] = [
  { role: 'root', mesh: 'hedgerow-1a2b3c4d' },
  { role: 'cluster', mesh: 'hedgerow-1a2b3c4d', cluster: 'edge' },
  { role: 'node', mesh: 'hedgerow-1a2b3c4d', cluster: 'edge', node: 'n-1' },
  { role: 'relay', mesh: 'hedgerow-1a2b3c4d', cluster: 'edge', relay: 'r' },
]

for (const principal of ROLES)
  t.test(
    `the certificate of a ${principal.role} is, byte for byte, what the library’s own generator writes`,
    async (t) => {
      const keys = await createKeys()
      const pem = signRequest(issuer, await printRequest(keys, principal), principal, terms)
      const certificate = new X509Certificate(pem)
      t.ok(certificate.verify(new X509Certificate(issuer.certificatePem).publicKey), 'signed by the issuer')
      t.equal(certificate.serialNumber.slice(0, 16).toLowerCase(), enrolment)
      const expected = await byGenerator(principal, keys, certificate.serialNumber)
      t.equal(signedPart(pem), signedPart(expected))
    },
  )

/** Independent of what is tested: the generator of @peculiar/x509, with the same facts. */
async function byGenerator(principal: Principal, keys: webcrypto.CryptoKeyPair, serialNumber: string): Promise<string> {
  const signer = new x509.X509Certificate(issuer.certificatePem)
  const isIssuer = principal.role === 'cluster'
  const { digitalSignature, keyCertSign } = x509.KeyUsageFlags
  const units = { root: [], cluster: ['cluster'], node: ['edge'], relay: ['edge'] }[principal.role]
  const name = printPrincipal(principal).split('/').at(-1) ?? ''
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber,
    subject: [`O=${principal.mesh}`, ...units.map((unit) => `OU=${unit}`), `CN=${name}`].join(', '),
    issuer: signer.subjectName,
    notBefore: new Date(NOW - HOUR_MS),
    notAfter: new Date(NOW + 24 * HOUR_MS),
    publicKey: keys.publicKey,
    signingKey: authorityKeys.privateKey,
    signingAlgorithm: SIGNING,
    extensions: [
      new x509.BasicConstraintsExtension(isIssuer, isIssuer ? 0 : undefined, true),
      new x509.KeyUsagesExtension(digitalSignature | (isIssuer ? keyCertSign : 0), true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth, x509.ExtendedKeyUsage.clientAuth]),
      new x509.SubjectAlternativeNameExtension([{ type: 'url', value: printPrincipal(principal) }]),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(signer.publicKey),
    ],
  })
  return certificate.toString('pem')
}

/** All but the signature, which is another one each time: as many bytes as the first element says. */
function signedPart(pem: string): string {
  const { raw } = new X509Certificate(pem)
  const outer = raw.subarray(4) // a sequence of more than 255 bytes, as the one in it
  return outer.subarray(0, 4 + outer.readUInt16BE(2)).toString('hex')
}

const node = ROLES[2] as Principal
const rows = [
  { why: 'what is no request', csr: async () => 'x', says: 'not a certificate request' },
  { why: 'what is too long', csr: async () => 'x'.repeat(9_000), says: 'the request is too large' },
  {
    why: 'a certificate in place of a request',
    csr: async () => issuer.certificatePem,
    says: 'not a certificate request',
  },
  {
    why: 'the key of somebody else',
    csr: async () => withKeyOf(await printRequest(await createKeys(), node), await createKeys()),
    says: 'the request does not prove its key',
  },
  {
    why: 'another curve',
    csr: () => requestWith({ name: 'ECDSA', namedCurve: 'P-384' }, 'SHA-256'),
    says: 'its key is not ECDSA P-256',
  },
  {
    why: 'another hash',
    csr: () => requestWith({ name: 'ECDSA', namedCurve: 'P-256' }, 'SHA-384'),
    says: 'the request does not prove its key',
  },
  { why: 'another kind of key', csr: async () => requestWithRsa(), says: 'the request does not prove its key' },
]
for (const { why, csr, says } of rows)
  t.test(`${why} is refused`, async (t) => {
    const request = await csr()
    t.throws(() => signRequest(issuer, request, node, terms), {
      code: 'CERTIFICATE_REFUSED',
      details: { reason: says },
    })
  })

t.test('an issuer whose own certificate has ended signs nothing, and nothing that outlives it', async (t) => {
  const request = await printRequest(await createKeys(), node)
  const end = new X509Certificate(issuer.certificatePem).validToDate.getTime()
  t.throws(() => signRequest(issuer, request, node, { ...terms, now: end }), { code: 'CERTIFICATE_REFUSED' })
  const last = new X509Certificate(signRequest(issuer, request, node, { ...terms, now: end - HOUR_MS }))
  t.equal(last.validToDate.getTime(), end)
})

async function requestWith(algorithm: { name: string; namedCurve: string }, hash: string): Promise<string> {
  const keys = await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
  const signingAlgorithm = { name: 'ECDSA', hash }
  const request = await x509.Pkcs10CertificateRequestGenerator.create({ name: 'CN=n', keys, signingAlgorithm })
  return request.toString('pem')
}

async function requestWithRsa(): Promise<string> {
  const signingAlgorithm = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' }
  const algorithm = { ...signingAlgorithm, modulusLength: 2_048, publicExponent: new Uint8Array([1, 0, 1]) }
  const keys = await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
  const request = await x509.Pkcs10CertificateRequestGenerator.create({ name: 'CN=n', keys, signingAlgorithm })
  return request.toString('pem')
}

/** The same request with another key in it, and the signature as it was. */
async function withKeyOf(csrPem: string, other: webcrypto.CryptoKeyPair): Promise<string> {
  const der = Buffer.from(x509.PemConverter.decodeFirst(csrPem))
  const spki = Buffer.from(await crypto.subtle.exportKey('spki', other.publicKey))
  const ours = Buffer.from(new x509.Pkcs10CertificateRequest(csrPem).publicKey.rawData)
  spki.copy(der, der.indexOf(ours))
  return x509.PemConverter.encode(new Uint8Array(der).buffer, 'CERTIFICATE REQUEST')
}
