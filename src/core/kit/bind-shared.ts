import { BoundSocket } from 'node:net'

export interface SharedAddress {
  /** A numeric address. */
  host: string
  port: number
  /** For a process that takes over while its predecessor still listens there. */
  isBeside?: boolean
}

/**
 * Binds a TCP address so that the next process of the same user may listen beside this one (SO_REUSEPORT; the kernel distributes
 * connections between both), and a program can be replaced without a moment in which nobody listens. Another program that has
 * the address must still be noticed: it is bound exclusively first, and then again to be shared.
 * @throws the system's error, for example EADDRINUSE
 */
export function bindShared({ host, port, isBeside = false }: SharedAddress): BoundSocket {
  if (!isBeside && port !== 0) new BoundSocket({ host, port, ipv6Only: isSpecific(host) }).close()
  return new BoundSocket({ host, port, reusePort: true, ipv6Only: isSpecific(host) })
}

/** `::` accepts IPv4 too, as Node's servers do. */
function isSpecific(host: string): boolean {
  return host !== '::'
}
