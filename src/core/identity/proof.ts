import type { X509Certificate } from 'node:crypto'
import { MeshError } from '../errors.ts'
import type { Principal } from './contract.ts'
import { parsePrincipal, printPrincipal } from './principal.ts'
import { AUTHORITY_NAME } from './x509.ts'

/**
 * Who a certificate speaks for (SEC-1), once TLS has proven its key and verified it up to our authority and nothing else:
 *
 *   role      leaf     issuer's name, exactly
 *   root      no CA    O=<mesh> CN=mesh authority
 *   cluster   CA       O=<mesh> CN=mesh authority
 *   node      no CA    O=<mesh> OU=cluster CN=<the node's own cluster>
 *   relay     no CA    O=<mesh> OU=cluster CN=<the relay's own cluster>
 *
 * Why the issuer's name is enough: a chain is only verified when each issuer's name is the subject of the certificate
 * whose key signed, the authority allows one intermediate and no more, and so that subject was written by the authority.
 * Cluster A can write B's name into what it signs, but then A's key does not verify it. (The intermediate itself cannot
 * be asked: Node 24.21 does not give it to servers, nodejs/node#65579.)
 * @throws MeshError PEER_REFUSED with the reason
 */
export function provenPrincipal(leaf: X509Certificate): Principal {
  const principal = onlyName(leaf)
  if (principal === undefined) throw refused('not exactly one name of the mesh in the certificate')
  if (leaf.ca !== (principal.role === 'cluster')) throw refused(`not a certificate for a ${principal.role}`)
  if (leaf.issuer !== issuerOf(principal))
    throw refused('issued by somebody who may not', { principal: printPrincipal(principal), issuer: leaf.issuer })
  return principal
}

/**
 * The one name in the certificate. Anything beside it — a second URI, a DNS name — makes it none: nothing may be said
 * twice, and Node prints the names as one text, in which only this exact form is beyond doubt.
 */
function onlyName({ subjectAltName }: X509Certificate): Principal | undefined {
  return subjectAltName?.startsWith('URI:') ? parsePrincipal(subjectAltName.slice('URI:'.length)) : undefined
}

function issuerOf(principal: Principal): string {
  const isOfCluster = principal.role === 'node' || principal.role === 'relay'
  const issuer = isOfCluster ? `OU=cluster\nCN=${principal.cluster}` : `CN=${AUTHORITY_NAME}`
  return `O=${principal.mesh}\n${issuer}`
}

function refused(reason: string, facts: Record<string, string> = {}): MeshError {
  return new MeshError('PEER_REFUSED', { reason, ...facts })
}
