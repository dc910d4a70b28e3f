import { createSocket, type Socket } from 'node:dgram'
import { isIPv6 } from 'node:net'

/** What UDP over IPv4 can carry: 65,535 less the IP and UDP headers (RFC 768, RFC 791). */
export const MAX_DATAGRAM = 65_507

/**
 * Smaller: a burst is lost while the event loop is busy. The kernel gives at most net.core.rmem_max, doubled; it is memory
 * only while datagrams wait.
 */
export const RECEIVE_BYTES = 1024 * 1024

/** Bytes that may wait in this process for the kernel to take them; beyond them datagrams are dropped. */
const WAITING_BYTES = 256 * 1024

/** A socket of the address's family, on which `bind`, `connect` and `send` do their work in the call. */
export function udpSocket(address: string, { reusePort = false } = {}): Socket {
  const type = isIPv6(address) ? 'udp6' : 'udp4'
  return createSocket({ type, ipv6Only: type === 'udp6', reusePort, lookup: withoutLookup })
}

/** Bound when it returns. @throws the system's error; the socket is closed then. */
export function boundSocket(
  { address, port }: { address: string; port: number },
  options?: { reusePort: boolean },
): Socket {
  const socket = udpSocket(address, options)
  let failure: Error | undefined
  socket.on('error', (error) => (failure ??= error)) // later ones are about one datagram, which is lost
  socket.bind({ address, port, exclusive: true })
  if (failure !== undefined) {
    socket.close()
    throw failure
  }
  socket.setRecvBufferSize(RECEIVE_BYTES)
  return socket
}

/** Whether a datagram of this many bytes may be given to the socket now. */
export function maySend(socket: Socket, bytes: number): boolean {
  return bytes <= MAX_DATAGRAM && socket.getSendQueueSize() <= WAITING_BYTES
}

/** Addresses need no look-up; Node's own look-up costs another turn of the event loop, even for an address. */
function withoutLookup(
  address: string,
  _options: unknown,
  found: (error: NodeJS.ErrnoException | null, address: string, family: number) => void,
): void {
  found(null, address, isIPv6(address) ? 6 : 4)
}
