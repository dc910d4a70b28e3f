import type { SecureContext } from 'node:tls'
import { join } from 'node:path'
import { pathOf } from './authorities.ts'
import type { Principal } from './contract.ts'
import { openPrivateDirectory, replace } from './files.ts'
import { provenPrincipal } from './proof.ts'
import { certificatesIn, isKeyOf } from './x509.ts'

/** What makes an identity, PEM: the private key, the leaf (and its issuer), the mesh's authorities. */
export interface Credentials {
  keyPem: string
  chain: string
  ca: string
}

/** Key and chain in one file, so that no crash can leave a key with another key's certificate. */
export const IDENTITY_FILE = 'identity.pem'
export const CA_FILE = 'ca.pem'

/** @throws MeshError STATE_UNREADABLE */
export async function writeCredentials(dir: string, { keyPem, chain, ca }: Credentials): Promise<void> {
  await openPrivateDirectory(dir)
  await replace(join(dir, CA_FILE), ca)
  await replace(join(dir, IDENTITY_FILE), `${keyPem.trimEnd()}\n${chain}`)
}

/** Credentials whose parts fit together. */
export interface Held extends Credentials {
  principal: Principal
  notBefore: Date
  notAfter: Date
  context?: SecureContext
}

/** @throws when the parts do not fit */
export function hold(credentials: Credentials): Held {
  const chain = certificatesIn(credentials.chain)
  const [leaf] = chain
  if (leaf === undefined) throw new Error('no certificate')
  if (!isKeyOf(credentials.keyPem, leaf)) throw new Error('the key does not belong to the certificate')
  if (pathOf(chain, credentials.ca) === undefined) throw new Error('the chain does not lead to the authority')
  const principal = provenPrincipal(leaf)
  return { ...credentials, principal, notBefore: leaf.validFromDate, notAfter: leaf.validToDate }
}
