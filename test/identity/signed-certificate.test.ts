import 'reflect-metadata' // @peculiar/x509 throws without it
import * as x509 from '@peculiar/x509'
import { X509Certificate } from 'node:crypto'
import t from 'tap'
import {
  createKeys,
  newEnrolment,
  printKey,
  printRequest,
  selfSign,
  signRequest,
} from '../../src/core/identity/x509.ts'
import '../support/no-orphans.ts'

const MESH = 'hedgerow-1a2b3c4d'

t.test('what is signed here reads as what the library signs', async (t) => {
  const keys = await createKeys()
  const keyPem = await printKey(keys.privateKey)
  const holder = await createKeys()
  const principal = { role: 'node', mesh: MESH, cluster: 'edge', node: 'n1' } as const
  const csr = await printRequest(holder, principal)
  for (const now of [Date.UTC(2026, 0, 2, 3, 4, 5, 678), Date.UTC(2049, 11, 31, 23, 0, 0), Date.UTC(2050, 5, 1)]) {
    const certificatePem = await selfSign(keys, MESH, now)
    const life = { lifeMs: 86_400_000, now, enrolment: newEnrolment() }
    const pem = await signRequest({ keyPem, certificatePem }, csr, principal, life)
    const read = new x509.X509Certificate(pem)
    const authority = new x509.X509Certificate(certificatePem)
    const expected = await x509.X509CertificateGenerator.create({
      serialNumber: read.serialNumber,
      subject: `O=${MESH}, OU=edge, CN=n1`,
      issuer: authority.subject,
      notBefore: new Date(now - 3_600_000),
      notAfter: new Date(now + 86_400_000),
      publicKey: holder.publicKey,
      signingKey: keys.privateKey,
      signingAlgorithm: { name: 'ECDSA', hash: 'SHA-256' },
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth, x509.ExtendedKeyUsage.clientAuth]),
        new x509.SubjectAlternativeNameExtension([{ type: 'url', value: `spiffe://${MESH}/cluster/edge/node/n1` }]),
        await x509.SubjectKeyIdentifierExtension.create(holder.publicKey),
        await x509.AuthorityKeyIdentifierExtension.create(authority.publicKey),
      ],
    })
    const at = new Date(now).toISOString()
    t.equal(signedPart(read), signedPart(expected), `byte for byte, at ${at}`)
    t.ok(new X509Certificate(pem).verify(new X509Certificate(certificatePem).publicKey), 'and the signature is good')
  }
})

/** What the signature is of: the first of the three parts. */
function signedPart({ rawData }: x509.X509Certificate): string {
  const bytes = Buffer.from(rawData)
  return bytes.subarray(4, 8 + bytes.readUInt16BE(6)).toString('hex')
}
