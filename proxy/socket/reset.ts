import type { Socket } from 'node:net'

/**
 * Sends RST now. While a FIN is being sent, libuv answers EINVAL to a reset, Node 24 leaks the descriptor, and the other side
 * sees a clean end: in that state the reset waits for the FIN (one turn of the event loop).
 */
export function resetSocket(socket: Socket): void {
  if (socket.destroyed) return
  if (socket.connecting || 'encrypted' in socket)
    socket.destroy() // of TLS: without its closing alert, which clients take for an error
  else if (socket.writableEnded && !socket.writableFinished && socket.writableLength === 0) {
    socket.once('finish', () => socket.resetAndDestroy())
  } else socket.resetAndDestroy()
}
