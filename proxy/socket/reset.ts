import type { Socket } from 'node:net'

/**
 * Sends RST, now. While a FIN is on its way out, libuv answers EINVAL to a reset and Node 24 leaks the descriptor, and the
 * other side sees a clean end: then the reset waits for the FIN (one turn of the loop).
 */
export function resetSocket(socket: Socket): void {
  if (socket.destroyed) return
  if (socket.connecting) socket.destroy()
  else if (socket.writableEnded && !socket.writableFinished && socket.writableLength === 0) {
    socket.once('finish', () => socket.resetAndDestroy())
  } else socket.resetAndDestroy()
}
