import type { Duplex } from 'node:stream'

/** How long a client that is refused has to read the reason. */
const READ_MS = 1_000
/** What the client may still send meanwhile; one that sends more is not reading. */
const MOST_BYTES = 256 * 1024

/**
 * Sends a last message, and ends the connection whatever the other side does. What it sends meanwhile is read and dropped:
 * closing with unread bytes would send a reset, which overtakes the message.
 */
export function endGracefully(socket: Duplex, message?: string | Buffer): void {
  if (socket.destroyed) return
  const cut = setTimeout(() => socket.destroy(), READ_MS)
  let read = 0
  socket.on('error', () => undefined).once('close', () => clearTimeout(cut))
  socket.on('data', (chunk: Buffer) => {
    read += chunk.length
    if (read > MOST_BYTES) socket.destroy()
  })
  socket.once('end', () => {
    if (socket.writableFinished) socket.destroy()
    else socket.once('finish', () => socket.destroy())
  })
  if (message === undefined) socket.end()
  else socket.end(message)
  socket.resume()
}
