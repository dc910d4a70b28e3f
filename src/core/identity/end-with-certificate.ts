import type { TLSSocket } from 'node:tls'
import type { Identity } from './contract.ts'
import { endWithTrust } from './end-with-trust.ts'
import type { PeerCertificate } from './tls.ts'

/**
 * A connection rests on its peer's certificate, so it ends with it: when that expires, and as soon as it is known to be revoked. The
 * peer of a session then makes another connection with its newer certificate, if it has one, and streams move over.
 */
export function endWithCertificate(
  socket: TLSSocket,
  { notAfter, leaf }: PeerCertificate,
  { revocations }: Pick<Identity, 'revocations'>,
): void {
  const end = () => void socket.destroy()
  // TLS has just found it valid by this clock, so what is left of it is known; from here on only elapsed time counts
  const expiry = setTimeout(end, Math.max(0, notAfter.getTime() - Date.now()))
  expiry.unref()
  const forget = revocations.onChanged(() => {
    if (revocations.isRevoked(leaf)) end()
  })
  socket.once('close', () => {
    clearTimeout(expiry)
    forget()
  })
  endWithTrust(socket, revocations)
}
