import type { Principal } from './contract.ts'
import { createKeys, printKey, printRequest } from './x509.ts'

/** A new private key, and the request for its certificate. The key stays with whoever calls this. */
export async function createRequest(principal: Principal): Promise<{ keyPem: string; csrPem: string }> {
  const keys = await createKeys()
  return { keyPem: await printKey(keys.privateKey), csrPem: await printRequest(keys, principal) }
}
