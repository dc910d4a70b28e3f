import { BoundSocket } from 'node:net'

export interface SharedAddress {
  /** A numeric address. */
  host: string
  port: number
  /** For the process that takes over: the one before still listens there. */
  isBeside?: boolean
}

/**
 * A TCP address at which the next process of the same user may listen beside this one (SO_REUSEPORT; the kernel deals
 * connections out to both), so that a program can be replaced without a moment in which nobody listens. That somebody
 * else has it must still be noticed: it is bound alone first, and then again to be shared.
 * @throws the system's error, as EADDRINUSE
 */
export function bindShared({ host, port, isBeside = false }: SharedAddress): BoundSocket {
  if (!isBeside && port !== 0) new BoundSocket({ host, port, ipv6Only: isSpecific(host) }).close()
  return new BoundSocket({ host, port, reusePort: true, ipv6Only: isSpecific(host) })
}

/** `::` takes IPv4 too, as a server of Node's does. */
function isSpecific(host: string): boolean {
  return host !== '::'
}
