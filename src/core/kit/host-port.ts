import { isIPv6 } from 'node:net'

/** A host and a port: what sockets connect to and listen at. */
export interface HostPort {
  /** A numeric address or a name; IPv6 without brackets. */
  host: string
  port: number
}

const SHAPE = /^(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?))(?::(\d{1,5}))?$/

/** Reads `host`, `host:port`, `[v6]` or `[v6]:port`; port 0 is allowed. `undefined` when the text is none of them. */
export function splitHostPort(text: string): { host: string; port?: number } | undefined {
  const [, v6, name, digits] = SHAPE.exec(text) ?? []
  const host = v6 ?? name
  if (host === undefined || (v6 !== undefined && !isIPv6(v6))) return undefined
  if (digits === undefined) return { host }
  const port = Number(digits)
  return port <= 65_535 ? { host, port } : undefined
}

/** Reads `host:port` or `[v6]:port`, an address that can be dialled; `undefined` when the text is neither, or the port is 0. */
export function parseHostPort(text: string): HostPort | undefined {
  const { host, port } = splitHostPort(text) ?? {}
  return host === undefined || port === undefined || port === 0 ? undefined : { host, port }
}

export function printHostPort(host: string, port: number): string {
  return isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`
}

/** An IPv4 address as IPv4 where a socket for both families gave it as IPv6 (`::ffff:10.0.0.1`, RFC 4291 §2.5.5.2). */
export function unmapped(address: string): string {
  return address.replace(/^::ffff:(?=\d)/i, '')
}
