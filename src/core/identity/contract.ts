import type { SecureContext } from 'node:tls'
import type { RevocationView } from './revocation.ts'

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
  /** The mesh CA's certificate, PEM. */
  readonly ca: string
  /** Leaf first, then the intermediate if any, PEM. */
  readonly chain: string
  readonly key: string
  readonly notAfter: Date
  /** Certificates of the mesh that no longer count; every TLS function here asks it. */
  readonly revocations: RevocationView
  secureContext(): SecureContext
  onRenewed(listener: () => void): () => void
}
