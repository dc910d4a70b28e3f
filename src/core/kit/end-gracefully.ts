import type { Duplex } from 'node:stream'

/** How long somebody who is refused may take to read why. */
const READ_MS = 1_000
/** What may still come meanwhile; more, and there is nobody who wants to read. */
const MOST_BYTES = 256 * 1024

/**
 * Says the last word, and ends the connection whatever the other side does then. What it sends meanwhile is read away: closing
 * with unread bytes would be a reset that overtakes the word.
 */
export function endGracefully(socket: Duplex, word?: string | Buffer): void {
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
  if (word === undefined) socket.end()
  else socket.end(word)
  socket.resume()
}
