import { X509Certificate } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { request, type Agent } from 'node:https'
import type { ConnectionOptions, DetailedPeerCertificate, Server, TlsOptions } from 'node:tls'
import { TLSSocket } from 'node:tls'
import type { Duplex } from 'node:stream'
import type { Socket } from 'node:net'
import { MeshError } from '../errors.ts'
import { endOf, fingerprintOf } from './authorities.ts'
import { cipherList, SSL_OP_PRIORITIZE_CHACHA } from './ciphers.ts'
import type { Identity, Principal, RevocationView } from './contract.ts'
import { endWithTrust } from './end-with-trust.ts'
import { printPrincipal } from './principal.ts'
import { provenPrincipal } from './proof.ts'
import { certificatesIn, enrolmentOf } from './x509.ts'

/**
 * TLS of the control links and the API. 1.3 only, both sides by principal, never by host name: certificates carry no
 * host names, `checkServerIdentity` is replaced by a check of the URI. No sessions are resumed (SEC-19): a resumed one
 * takes the identity from the ticket.
 */

/** A peer that has not finished its handshake by then is cut off (slowloris). Smaller fails on links of seconds. */
export const HANDSHAKE_MS = 5_000
const SSL_OP_NO_TICKET = 0x4000

/**
 * Options for `https.createServer`, `tls.createServer` or Fastify's `https`. With `requestClient` a certificate is asked
 * for but may be missing (people come with tokens): `principalOf` decides. Pass the server to `tend` once it exists.
 */
export function serverOptions(identity: Identity, { requestClient }: { requestClient: boolean }): TlsOptions {
  return {
    ...contextOptions(identity),
    requestCert: requestClient,
    rejectUnauthorized: false,
    handshakeTimeout: HANDSHAKE_MS,
  }
}

/** Keeps a server on the newest certificate and cuts resumed sessions. Returns what ends it. */
export function tend(server: Server, identity: Identity): () => void {
  const refuseResumed = (socket: TLSSocket) => {
    if (socket.isSessionReused()) socket.destroy()
  }
  server.prependListener('secureConnection', refuseResumed)
  const forget = identity.onRenewed(() => server.setSecureContext(contextOptions(identity)))
  return () => {
    forget()
    server.off('secureConnection', refuseResumed)
  }
}

/**
 * Who is at the other end of a finished handshake (SEC-1).
 * @throws MeshError UNAUTHENTICATED without a certificate, PEER_REFUSED when it is not good enough
 */
export function principalOf(socket: Duplex, revocations?: RevocationView): Principal {
  return certificateOf(socket, revocations).principal
}

/** The certificate of the other end: whose it is, which enrolment it belongs to, and how long a connection may rest on it. */
export interface PeerCertificate {
  principal: Principal
  enrolment: string
  notAfter: Date
  /** For `revocations.isRevoked` later, when the list has changed. */
  leaf: X509Certificate
}

/**
 * The same as `principalOf`, with the facts of the certificate.
 * @throws MeshError UNAUTHENTICATED without a certificate, PEER_REFUSED when it is not good enough or revoked
 */
export function certificateOf(socket: Duplex, revocations?: RevocationView): PeerCertificate {
  if (!(socket instanceof TLSSocket)) throw new MeshError('UNAUTHENTICATED', { reason: 'not a TLS connection' })
  // not getPeerX509Certificate: on clients of Node 24.21 each call drops a certificate, and the next call answers with
  // the one above (nodejs/node#65579)
  const leaf = socket.getPeerCertificate()?.raw
  if (leaf === undefined) throw new MeshError('UNAUTHENTICATED', { reason: 'no certificate' })
  if (socket.isSessionReused()) throw new MeshError('PEER_REFUSED', { reason: 'a resumed TLS session' })
  // `authorizationError` is null and `authorized` false where Node never checked: that counts as refused
  if (!socket.authorized)
    throw new MeshError('PEER_REFUSED', { reason: String(socket.authorizationError ?? 'not verified') })
  const certificate = new X509Certificate(leaf)
  const principal = provenPrincipal(certificate)
  refuseRevoked(certificate, principal, revocations)
  return { principal, enrolment: enrolmentOf(certificate), notAfter: certificate.validToDate, leaf: certificate }
}

/**
 * Options for clients of the mesh (`wss://` through kit/websocket, `https.request`): `trust` is an Identity, or the
 * authority alone for who has no certificate yet. The server's principal is checked before the first byte is sent.
 * With `https.request` also pass `agent: false`: pooled connections were checked for somebody else.
 */
export function clientOptions(
  trust: Identity | { ca: string },
  expected: (principal: Principal) => boolean = isServer,
) {
  return {
    // made once: each costs a millisecond and 40 KiB
    ...('secureContext' in trust ? { secureContext: trust.secureContext() } : { ca: trust.ca, ciphers: cipherList() }),
    minVersion: 'TLSv1.3',
    checkServerIdentity: (_host: string, certificate: object): Error | undefined => {
      try {
        const leaf = new X509Certificate((certificate as DetailedPeerCertificate).raw)
        const principal = provenPrincipal(leaf)
        demand(principal, expected)
        if ('revocations' in trust) refuseRevoked(leaf, principal, trust.revocations)
        return undefined
      } catch (error) {
        return error as Error
      }
    },
  } as const satisfies ConnectionOptions
}

/** For `DialOptions.verify`: the same check on a socket that is connected already. The connection ends with the trust in its authority. */
export function verifyServer(expected: (principal: Principal) => boolean, revocations?: RevocationView) {
  return (socket: Socket): void => {
    demand(principalOf(socket, revocations), expected)
    if (revocations !== undefined) endWithTrust(socket, revocations)
  }
}

/**
 * The authority's certificate (PEM) from a server of the mesh, believed only because its fingerprint is the one in the
 * join token.
 * @throws MeshError NOT_RUNNING, TOKEN_REFUSED
 */
export async function fetchCa(url: string, fingerprint: string, signal: AbortSignal, egress?: Agent): Promise<string> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(HANDSHAKE_MS)])
  const offered = await new Promise<X509Certificate[]>((resolve, reject) => {
    // nothing is said and nothing but certificates is read, so there is nothing to protect yet
    const asking = request(url, {
      path: '/ca',
      rejectUnauthorized: false,
      minVersion: 'TLSv1.3',
      agent: egress ?? false,
      signal: limit,
    })
    asking.on('error', (cause) => reject(new MeshError('NOT_RUNNING', { address: url }, { cause })))
    asking.on('response', (response) => {
      const chain = presented((response.socket as TLSSocket).getPeerCertificate(true))
      void authoritiesOf(response).then((authorities) => {
        resolve([...chain, ...authorities])
        asking.destroy()
      })
    })
    asking.end()
  })
  const found = offered.find((certificate) => fingerprintOf(certificate) === fingerprint)
  if (found === undefined)
    throw new MeshError('TOKEN_REFUSED', {
      reason: 'the server belongs to another mesh than the token, or has replaced its authority since',
      address: url,
    })
  return found.toString()
}

/** Longer is no answer of `/ca`. */
const MAX_CA_CHARS = 16_384

/** The authorities in an answer of `/ca`; none when it is anything else. While one follows another, the chain shows only one of them. */
async function authoritiesOf(response: IncomingMessage): Promise<X509Certificate[]> {
  let text = ''
  try {
    for await (const part of response.setEncoding('utf8')) {
      text += String(part)
      if (text.length > MAX_CA_CHARS) return []
    }
    const { authorities } = JSON.parse(text) as { authorities?: unknown }
    return certificatesIn(typeof authorities === 'string' ? authorities : '')
  } catch {
    return []
  }
}

/** The chain sent ends with the authority's certificate, for `fetchCa`. */
function contextOptions(identity: Identity) {
  return {
    key: identity.key,
    cert: `${identity.chain.trimEnd()}\n${endOf(identity.chain, identity.ca)}`,
    ca: identity.ca,
    minVersion: 'TLSv1.3',
    ciphers: cipherList(),
    honorCipherOrder: true,
    secureOptions: SSL_OP_NO_TICKET | SSL_OP_PRIORITIZE_CHACHA,
  } as const satisfies TlsOptions
}

function isServer({ role }: Principal): boolean {
  return role === 'root' || role === 'cluster'
}

function refuseRevoked(leaf: X509Certificate, principal: Principal, revocations: RevocationView | undefined): void {
  if (revocations?.isRevoked(leaf) !== true) return
  throw new MeshError('PEER_REFUSED', { reason: 'its certificate was revoked', principal: printPrincipal(principal) })
}

function demand(principal: Principal, expected: (principal: Principal) => boolean): void {
  if (!expected(principal))
    throw new MeshError('PEER_REFUSED', { reason: 'somebody else answered', principal: printPrincipal(principal) })
}

/** Longer is no chain of ours: leaf, intermediate, the introduction of the next authority, authority. */
const MAX_CHAIN = 5

/** A self-signed certificate is its own issuer there: the walk ends. */
function presented(leaf: DetailedPeerCertificate): X509Certificate[] {
  const chain: X509Certificate[] = []
  let next: DetailedPeerCertificate | undefined = leaf
  while (next?.raw !== undefined && chain.length < MAX_CHAIN) {
    chain.push(new X509Certificate(next.raw))
    next = next.issuerCertificate === next ? undefined : next.issuerCertificate
  }
  return chain
}
