import type { EventEmitter } from 'node:events'

/** A listening socket, TCP or UDP. */
export interface Listening extends Pick<EventEmitter, 'on' | 'off'> {
  close(): unknown
}

/** A `close` takes about 15 µs; what arrives at the others while they wait for theirs in the same turn would be lost. */
const CLOSED_PER_TURN = 16
/** After a longer turn, too much time has passed since the listeners were polled. */
const SHORT_TURN_MS = 1
/** A listener that is never quiet for a whole turn is closed after this many. */
const MAX_TURNS = 5_000

/**
 * Closes listeners without losing the clients that are waiting at them. Closing resets what the kernel has queued and nobody has
 * accepted; where another process listens beside this one (SO_REUSEPORT), nothing else can be lost. So each is closed at the end
 * of a turn of the event loop in which it was polled and had nothing: its queue was empty a moment ago. The moment that remains
 * is closed by `net.ipv4.tcp_migrate_req=1`, where it may be set.
 */
export async function closeWhenIdle(listeners: Iterable<Listening>, event: 'connection' | 'message'): Promise<void> {
  const open = new Map([...listeners].map((listener) => [listener, { isQuiet: true }]))
  const watches = [...open].map(([listener, activity]) => {
    const onEvent = () => (activity.isQuiet = false)
    listener.on(event, onEvent)
    return () => listener.off(event, onEvent)
  })
  await endOfTurn()
  for (let turn = 0; open.size > 0; turn++) {
    for (const activity of open.values()) activity.isQuiet = true
    const startedAt = performance.now()
    await endOfTurn()
    if (performance.now() - startedAt > SHORT_TURN_MS && turn < MAX_TURNS) continue
    let closed = 0
    for (const [listener, { isQuiet }] of open) {
      if (!isQuiet && turn < MAX_TURNS) continue
      if (closed++ === CLOSED_PER_TURN) break
      listener.close()
      open.delete(listener)
    }
  }
  for (const stop of watches) stop()
}

/** After the loop has polled all sockets once. */
function endOfTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
