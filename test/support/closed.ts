/**
 * Resolves when the socket is closed, also by a reset: `events.once(socket, 'close')` rejects with an error that comes before it, as
 * ECONNRESET does to whoever still writes.
 */
export function closed(socket: NodeJS.EventEmitter): Promise<void> {
  return new Promise((resolve) => void socket.on('error', () => undefined).once('close', () => resolve()))
}
