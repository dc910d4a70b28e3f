import type { Duplex } from 'node:stream'
import type { RevocationView } from './contract.ts'

/**
 * Over this time the connections of a mesh that has dropped an authority are made anew. Smaller: more handshakes at once; larger:
 * whoever holds the dropped authority's key stays longer, 5 s are promised (SEC-12).
 */
const DROPPED_WITHIN_MS = 2_000

/**
 * A connection rests on the authorities that counted when it was made. Which of them stands behind a peer cannot be asked afterwards
 * (Node gives servers no intermediate certificates), so once one is dropped every connection is made anew.
 */
export function endWithTrust(socket: Duplex, revocations: Pick<RevocationView, 'onTrust'>): void {
  let end: NodeJS.Timeout | undefined
  const forget = revocations.onTrust(({ isDropped }) => {
    if (isDropped) end ??= setTimeout(() => socket.destroy(), Math.random() * DROPPED_WITHIN_MS)
  })
  socket.once('close', () => {
    clearTimeout(end)
    forget()
  })
}
