import { X509Certificate } from 'node:crypto'
import type { Agent } from 'node:https'
import type { Duplex } from 'node:stream'
import { TLSSocket } from 'node:tls'
import { MeshError } from '../errors.ts'
import { pathOf } from './authorities.ts'
import type { Identity, Principal } from './contract.ts'
import { nameClock } from './clock-fault.ts'
import { postJson } from './post.ts'
import { printPrincipal } from './principal.ts'
import { provenPrincipal } from './proof.ts'
import type { Renew } from './renewal.ts'
import { clientOptions } from './tls.ts'
import { certificatesIn, enrolmentOf } from './x509.ts'

/**
 * A machine that was off for weeks comes back by itself: a certificate that was issued here, has not been revoked and expired less
 * than the grace period ago is proof enough to ask for a new one. It is good for nothing else: every other listener refuses it.
 *
 *     holder    POST /renew { csr, chain }, TLS with the expired certificate ─▶ issuer: provenInGrace ─▶ a new chain
 *
 * TLS proves that the holder has the key of the leaf, whatever its dates. Node reports only the last fault of a chain, so the
 * issuer judges signatures and dates itself, from the chain in the request.
 */
export const GRACE_DAYS = 30
const DAY_MS = 24 * 3_600_000
/** Leaf and cluster certificate, and the introduction of the next authority; a cluster sends one less. */
const MAX_CHAIN = 3

export interface GraceOptions {
  now: number
  graceDays?: number
}

export interface ProvenInGrace {
  principal: Principal
  /** What the new certificate keeps. */
  enrolment: string
}

/**
 * Who asks, although the certificate has expired.
 * @throws MeshError UNAUTHENTICATED without a certificate; PEER_REFUSED when it is not ours, revoked, or expired too long ago
 */
export function provenInGrace(
  socket: Duplex,
  chainPem: string,
  { ca, revocations }: Pick<Identity, 'ca' | 'revocations'>,
  { now, graceDays = GRACE_DAYS }: GraceOptions,
): ProvenInGrace {
  const presented = socket instanceof TLSSocket ? socket.getPeerCertificate()?.raw : undefined
  if (presented === undefined) throw new MeshError('UNAUTHENTICATED', { reason: 'no certificate' })
  const chain = parse(chainPem)
  const [leaf] = chain
  if (leaf === undefined || chain.length > MAX_CHAIN || !leaf.raw.equals(presented))
    throw refused('the chain does not begin with the certificate of the connection')
  const path = pathOf(chain, ca)?.certificates
  if (path === undefined) throw refused('the certificate was not issued in this mesh')
  const [, issuer] = path
  const principal = provenPrincipal(leaf)
  if (issuer !== undefined && provenPrincipal(issuer).role !== 'cluster') throw refused('not issued by a cluster')
  if (path.some((certificate) => revocations.isRevoked(certificate)))
    throw refused('its certificate was revoked', principal)
  if (leaf.validToDate.getTime() + graceDays * DAY_MS < now)
    throw refused(`the certificate expired more than ${graceDays} days ago`, principal)
  return { principal, enrolment: enrolmentOf(leaf) }
}

export interface RenewInGrace {
  /** `https://host:port` of the issuer. */
  url: string
  identity: Identity
  egress?: Agent | undefined
}

/**
 * Asks for a certificate with one that has expired; resolves to the new chain, PEM.
 * @throws MeshError PEER_REFUSED, CLOCK_SKEW, NOT_RUNNING
 */
export async function renewInGrace(
  { url, identity, egress }: RenewInGrace,
  csr: string,
  signal: AbortSignal,
): Promise<string> {
  const { principal, chain } = identity
  const issuer: Principal['role'] = principal.role === 'cluster' ? 'root' : 'cluster'
  const tls = clientOptions(identity, ({ role, mesh }) => role === issuer && mesh === principal.mesh)
  try {
    return (await postJson(new URL('/renew', url), { csr, chain }, { ...tls, agent: egress ?? false }, signal)).chain
  } catch (error) {
    throw await nameClock(error, url, egress)
  }
}

export interface RenewalRoutes {
  /** The control link to the issuer, and whether it is up. */
  link: { readonly isUp: boolean }
  overLink: Renew
  /** `https://host:port` of the issuer, asked anew for each try. */
  url: () => string
  identity: Identity
  egress?: Agent | undefined
}

/** Renews over the control link while that is up. Otherwise, as the issuer may refuse an expired certificate there, at `/renew`. */
export function renewBy({ link, overLink, url, identity, egress }: RenewalRoutes): Renew {
  return (csr, signal) =>
    link.isUp ? overLink(csr, signal) : renewInGrace({ url: url(), identity, egress }, csr, signal)
}

function parse(chainPem: string): X509Certificate[] {
  try {
    return certificatesIn(chainPem)
  } catch {
    return []
  }
}

function refused(reason: string, principal?: Principal): MeshError {
  return new MeshError('PEER_REFUSED', {
    reason,
    ...(principal === undefined ? {} : { principal: printPrincipal(principal) }),
  })
}
