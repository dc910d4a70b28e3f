import 'reflect-metadata'
import * as x509 from '@peculiar/x509'
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createSecureContext } from 'node:tls'
import { Authority } from '../../src/core/identity/authority.ts'
import type { Identity, Principal } from '../../src/core/identity/contract.ts'
import { HeldIdentity } from '../../src/core/identity/held.ts'
import { issueNode } from '../../src/core/identity/issuer.ts'
import { createRequest } from '../../src/core/identity/keys.ts'
import type { Clock } from '../../src/core/kit/clock.ts'

/** A mesh of certificates for tests: a real authority in a directory of its own. */
export class TestMesh implements AsyncDisposable {
  readonly authority: Authority
  readonly #dir: string

  private constructor(authority: Authority, dir: string) {
    this.authority = authority
    this.#dir = dir
  }

  static async create(): Promise<TestMesh> {
    const dir = await mkdtemp(join(tmpdir(), 'hedgerow-identity-'))
    return new TestMesh(await Authority.open(dir), dir)
  }

  get ca(): string {
    return this.authority.ca
  }

  get mesh(): string {
    return this.authority.mesh
  }

  /** What the authority would have issued with this clock. */
  async issueAt(clock: Clock, csrPem: string, principal: Principal): Promise<string> {
    return (await Authority.open(this.#dir, clock)).issue(csrPem, principal)
  }

  root(): Promise<HeldIdentity> {
    const principal: Principal = { role: 'root', mesh: this.mesh }
    return this.#hold(principal, (csr) => this.authority.issue(csr, principal))
  }

  cluster(cluster: string): Promise<HeldIdentity> {
    const principal: Principal = { role: 'cluster', mesh: this.mesh, cluster }
    return this.#hold(principal, (csr) => this.authority.issue(csr, principal))
  }

  node(cluster: HeldIdentity, node: string): Promise<HeldIdentity> {
    if (cluster.principal.role !== 'cluster') throw new Error('not a cluster')
    return this.#hold({ ...cluster.principal, role: 'node', node }, (csr) => issueNode(cluster, csr, node))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#dir, { recursive: true, force: true })
  }

  async #hold(principal: Principal, issue: (csr: string) => Promise<string>): Promise<HeldIdentity> {
    const { keyPem, csrPem } = await createRequest(principal)
    return HeldIdentity.inMemory({ keyPem, chain: await issue(csrPem), ca: this.ca })
  }
}

/** What somebody claims to be: key and chain, good or bad. */
export interface Claim {
  key: string
  chain: string
}

export interface Forgery {
  subject: string
  names?: { type: 'url' | 'dns' | 'ip'; value: string }[]
  isCa?: boolean
  /** Milliseconds from now. */
  from?: number
  until?: number
  /** Who signs; itself when left out. `name` is what is written as the issuer. */
  by?: Claim & { name?: string }
  /** What is sent after the leaf instead of the signer's chain. */
  sends?: string
  /** What the certificate says of the key that signed it; nothing when left out. */
  issuerKeyId?: string
}

const HOUR_MS = 3_600_000
const keys = { name: 'ECDSA', namedCurve: 'P-256' } as const
const signing = { name: 'ECDSA', hash: 'SHA-256' } as const

/** Any certificate an attacker with the keys in `by` could write. */
export async function forge(forgery: Forgery): Promise<Claim> {
  const { subject, names = [], isCa = false, from = -HOUR_MS, until = HOUR_MS, by, sends, issuerKeyId } = forgery
  const pair = await crypto.subtle.generateKey(keys, true, ['sign', 'verify'])
  const signer = by === undefined ? undefined : new x509.X509Certificate(by.chain)
  const signingKey = by === undefined ? pair.privateKey : await importKey(by.key)
  const usages = x509.KeyUsageFlags
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: Buffer.from(crypto.getRandomValues(new Uint8Array(8)).map((byte) => byte & 0x7f)).toString('hex'),
    subject,
    issuer: by?.name ?? signer?.subjectName ?? subject,
    notBefore: new Date(Date.now() + from),
    notAfter: new Date(Date.now() + until),
    publicKey: pair.publicKey,
    signingKey,
    signingAlgorithm: signing,
    extensions: [
      new x509.BasicConstraintsExtension(isCa, undefined, true),
      new x509.KeyUsagesExtension(usages.digitalSignature | (isCa ? usages.keyCertSign : 0), true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth, x509.ExtendedKeyUsage.clientAuth]),
      ...(issuerKeyId === undefined ? [] : [new x509.AuthorityKeyIdentifierExtension(issuerKeyId)]),
      ...(names.length > 0 ? [new x509.SubjectAlternativeNameExtension(names)] : []),
    ],
  })
  const key = x509.PemConverter.encode(await crypto.subtle.exportKey('pkcs8', pair.privateKey), 'PRIVATE KEY')
  return { key, chain: `${certificate.toString('pem')}\n${sends ?? by?.chain ?? ''}` }
}

/** Wears a claim as if it were an identity, checking nothing. */
export function wear(claim: Claim, honest: Identity): Identity {
  const context = createSecureContext({ key: claim.key, cert: claim.chain, ca: honest.ca, minVersion: 'TLSv1.3' })
  return {
    principal: honest.principal,
    ca: honest.ca,
    chain: claim.chain,
    key: claim.key,
    notAfter: new X509Certificate(claim.chain).validToDate,
    revocations: honest.revocations,
    secureContext: () => context,
    onRenewed: () => () => undefined,
  }
}

/** A proper request for a key that is not ours to sign. */
export async function requestOnP384(): Promise<string> {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-384', hash: 'SHA-384' }
  const keys = await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: 'CN=x',
    keys,
    signingAlgorithm: algorithm,
  })
  return request.toString('pem')
}

function importKey(pem: string) {
  const der = createPrivateKey(pem).export({ format: 'der', type: 'pkcs8' })
  return crypto.subtle.importKey('pkcs8', new Uint8Array(der), keys, false, ['sign'])
}
