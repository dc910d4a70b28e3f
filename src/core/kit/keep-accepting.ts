import type { EventEmitter } from 'node:events'
import { ignore } from './ignore.ts'

/**
 * For a server that listens, or a bound UDP socket: what the system then reports (no descriptor for a connection, no memory for a
 * packet) is the misfortune of one client. Without a listener such an event would end the process.
 */
export function keepAccepting(server: EventEmitter): void {
  server.on('error', ignore)
}
