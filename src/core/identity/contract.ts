import type { SecureContext } from 'node:tls'
import type { X509Certificate } from 'node:crypto'

/**
 * Who somebody is, as the URI in the certificate says it (SPIFFE style):
 *
 *     spiffe://<mesh>/root                         the root (and its API)
 *     spiffe://<mesh>/cluster/<cluster>            a cluster; its certificate is an intermediate CA for its own nodes
 *     spiffe://<mesh>/cluster/<cluster>/node/<n>   a node, issued by its cluster
 *     spiffe://<mesh>/cluster/<cluster>/relay/<r>  a stand-alone relay, issued by its cluster; nodes of all clusters may use it
 */
export type Principal =
  | { role: 'root'; mesh: string }
  | { role: 'cluster'; mesh: string; cluster: string }
  | { role: 'node'; mesh: string; cluster: string; node: string }
  | { role: 'relay'; mesh: string; cluster: string; relay: string }

/** What this process proves itself with. It renews in place: take `secureContext()` anew for every connection. */
export interface Identity {
  readonly principal: Principal
  /** The certificates of the mesh's authorities, PEM: one, or two while one follows the other (authorities.ts). */
  readonly ca: string
  /** Leaf first, then the intermediate if any, PEM. */
  readonly chain: string
  readonly key: string
  readonly notAfter: Date
  /** Certificates of the mesh that no longer count; every TLS function here asks it. */
  readonly revocations: RevocationView
  secureContext(): SecureContext
  /** Called when the certificate or the authorities are others. */
  onRenewed(listener: () => void): () => void
}

/** A revoked enrolment, or a revoked signing key of a cluster (revocation-list.ts). */
export interface Revocation {
  kind: 'enrolment' | 'issuer'
  /** Hex: the enrolment (8 bytes), or the identifier of the key (20 bytes). */
  id: string
  /** When the last certificate that this revokes can no longer be used, milliseconds since 1970. */
  until: number
  /** Whose it was, as a URI, for people. */
  principal: string
}

/** `isDropped`: an authority no longer counts, and with it nothing that was proven while it did. */
export interface TrustChange {
  isDropped: boolean
}

/** What a member says of itself while an authority is replaced: ids of the authorities (authorities.ts). */
export interface Trust {
  /** Those that it trusts, also after a restart. */
  trusts: string[]
  /** The one that its certificate leads to; absent when none does any more. */
  presents?: string
}

/** The list of revoked certificates, as the rest of the program sees it. */
export interface RevocationView {
  /** Number of the newest list; 0 when there is none. */
  readonly number: number
  /** The newest list, signed, to be passed on; `undefined` when there is none. */
  readonly text: string | undefined
  isRevoked(leaf: X509Certificate): boolean
  /** True when the list names this enrolment. */
  hasEnrolment(enrolment: string): boolean
  /** Called after a newer list was taken, with the entries that are new in it. Returns what ends that. */
  onChanged(listener: (added: readonly Revocation[]) => void): () => void
  /** Called after the list has named other authorities than before. Returns what ends that. */
  onTrust(listener: (change: TrustChange) => void): () => void
  /**
   * Takes a list that came from anywhere; false when it is not newer than ours.
   * @throws MeshError STATE_CORRUPT when it is malformed or not signed by the authority
   */
  offer(text: string): boolean
}
