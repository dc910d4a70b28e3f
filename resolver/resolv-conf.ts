import { isIP, isIPv6 } from 'node:net'

/** A name server of the host. */
export interface Server {
  address: string
  port: number
}

/** glibc reads no more than three. */
const SERVER_LIMIT = 3
const DNS_PORT = 53

/** The `nameserver` lines of resolv.conf(5), in their order. */
export function parseResolvConf(text: string): Server[] {
  const servers: Server[] = []
  for (const line of text.split('\n')) {
    const [keyword, address] = line.trim().split(/\s+/)
    const server = keyword === 'nameserver' && address !== undefined ? parseServer(address) : undefined
    if (server !== undefined && servers.length < SERVER_LIMIT) servers.push(server)
  }
  return servers
}

/** `10.0.0.1`, `10.0.0.1:5353`, `fe80::1%eth0`, `[fd00::1]:53`; `undefined` when it is none of them. */
export function parseServer(text: string): Server | undefined {
  if (isIPv6(text)) return { address: text, port: DNS_PORT }
  const match = /^(?:\[([^\]]+)\]|([^:]+))(?::(\d{1,5}))?$/.exec(text)
  const address = match?.[1] ?? match?.[2]
  const port = Number(match?.[3] ?? DNS_PORT)
  if (address === undefined || isIP(address) === 0 || port < 1 || port > 65_535) return undefined
  return isIPv6(address) === (match?.[1] !== undefined) ? { address, port } : undefined
}

/**
 * Leaves out this resolver, and those of other agents on this machine (127.x.0.53 in another prefix), because a question that is
 * forwarded there comes back. `local` holds the addresses of the machine, for a resolver that listens on all of them.
 */
export function withoutOurselves(servers: readonly Server[], own: Server, local: ReadonlySet<string>): Server[] {
  const isEverywhere = own.address === '0.0.0.0' || own.address === '::'
  return servers.filter(({ address, port }) => {
    if (isAgentAddress(address)) return false
    if (port !== own.port) return true
    return address !== own.address && !(isEverywhere && (address.startsWith('127.') || local.has(address)))
  })
}

/** 127.0.0.53 itself is systemd-resolved. */
function isAgentAddress(address: string): boolean {
  return /^127\.[1-9]\d*\.0\.53$/.test(address)
}
