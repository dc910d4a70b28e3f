import type { EventEmitter } from 'node:events'

/** A listening socket, TCP or UDP. */
export interface Listening extends Pick<EventEmitter, 'on' | 'off'> {
  close(): unknown
}

/** A `close` costs some 15 µs; what arrives at those that wait for theirs in the same turn would be lost. */
const CLOSED_PER_TURN = 16
/** In a longer turn, too much time has passed since the listeners were looked at. */
const SHORT_TURN_MS = 1
/** A listener that is never quiet for a turn is closed after so many. */
const TURNS = 5_000

/**
 * Closes listeners without losing who waits at them. Closing resets what the kernel has queued and nobody has accepted; with
 * another process listening beside (SO_REUSEPORT), that is all there is to lose. So each is closed at the end of a turn of the
 * event loop in which it was asked and had nothing: its queue was empty a moment ago. The moment that is left is closed
 * by `net.ipv4.tcp_migrate_req=1`, where one may set it.
 */
export async function closeWhenIdle(listeners: Iterable<Listening>, event: 'connection' | 'message'): Promise<void> {
  const left = new Map([...listeners].map((listener) => [listener, { isQuiet: true }]))
  const watches = [...left].map(([listener, heard]) => {
    const hear = () => (heard.isQuiet = false)
    listener.on(event, hear)
    return () => listener.off(event, hear)
  })
  await endOfTurn()
  for (let turn = 0; left.size > 0; turn++) {
    for (const heard of left.values()) heard.isQuiet = true
    const startedAt = performance.now()
    await endOfTurn()
    if (performance.now() - startedAt > SHORT_TURN_MS && turn < TURNS) continue
    let closed = 0
    for (const [listener, { isQuiet }] of left) {
      if (!isQuiet && turn < TURNS) continue
      if (closed++ === CLOSED_PER_TURN) break
      listener.close()
      left.delete(listener)
    }
  }
  for (const stop of watches) stop()
}

/** After the loop has looked at all sockets once. */
function endOfTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
