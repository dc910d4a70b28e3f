import { isIP } from 'node:net'

/*
 * What an operator publishes: ports of this machine, and where each leads.
 *
 *   tcp, udp   the port leads to one service
 *   tls        the host name of the ClientHello decides; passed through, or terminated where there are certificates
 *   http       the `Host` of the first request decides, for the whole connection
 */

export interface GatewayPort {
  readonly listen: { readonly host: string; readonly port: number }
  readonly protocol: GatewayProtocol
  /** Where everything goes that no entry of `hosts` is for. */
  readonly to?: GatewayTarget
  /** By host name in lower case; `*.example.com` is for every name below. */
  readonly hosts: Readonly<Record<string, GatewayTarget>>
  /** TLS is terminated with these; without any it is passed through. */
  readonly certificates: readonly CertificateFiles[]
  /** What is offered to clients by ALPN when TLS is terminated, the first preferred. */
  readonly alpn: readonly string[]
  /** The service is told the client's address before its first byte (PROXY protocol, version 2). */
  readonly proxyProtocol: boolean
}

export type GatewayProtocol = 'tcp' | 'udp' | 'tls' | 'http'

export interface GatewayTarget {
  /** A semantic name. */
  readonly name: string
  readonly port: number
}

/** Files in PEM; the certificate with its chain. */
export interface CertificateFiles {
  readonly certificate: string
  readonly key: string
}

/** Where a client that asks for `host` goes: its own entry, the longest `*.` entry above it, or the entry for all others. */
export function routeTo(
  { hosts, to }: Pick<GatewayPort, 'hosts' | 'to'>,
  host: string | undefined,
): GatewayTarget | undefined {
  if (host === undefined) return to
  if (Object.hasOwn(hosts, host)) return hosts[host]
  if (isIP(host) !== 0) return to
  for (let dot = host.indexOf('.'); dot >= 0; dot = host.indexOf('.', dot + 1)) {
    const above = `*${host.slice(dot)}`
    if (Object.hasOwn(hosts, above)) return hosts[above]
  }
  return to
}

/** Every service that a port leads to, with the host name for which it does. */
export function routesOf({ hosts, to }: GatewayPort): { host?: string; target: GatewayTarget }[] {
  const named = Object.entries(hosts).map(([host, target]) => ({ host, target }))
  return to === undefined ? named : [...named, { target: to }]
}
