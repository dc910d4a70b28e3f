import { isIPv6 } from 'node:net'
import { addressToVip, parseIPv6, printIPv6, type VipRange } from '../../src/core/model/address.ts'

/** A connection that the kernel carries to an instance. */
export interface Connection {
  protocol: 'tcp' | 'udp'
  /** Where the instance listens. */
  host: string
  port: number
}

/*
 *   tcp 6 431999 ESTABLISHED src=127.0.0.1 dst=10.30.1.2 sport=40390 dport=80 src=127.0.0.1 dst=127.0.0.1 sport=20001 dport=40390 …
 *                            └ as the caller sent it ─┘                      └ as the instance answers ─┘
 */
const LINE =
  /\b(tcp|udp) +\d+ +\d+ +([A-Z_]+ +)?src=\S+ dst=(\S+) sport=\d+ dport=\d+ .*?src=(\S+) dst=\S+ sport=(\d+) /

/** States of connections that have ended and are still tracked for a while. */
const ENDED = new Set(['TIME_WAIT', 'CLOSE'])

/** The open connections to VIPs of the range, out of everything that the kernel tracks (`conntrack -L`, /proc/net/nf_conntrack). */
export function parseConnections(text: string, range: VipRange): Connection[] {
  return text.split('\n').flatMap((line) => {
    const [, protocol, state = '', vip = '', host = '', port] = LINE.exec(line) ?? []
    if (protocol === undefined || ENDED.has(state.trim()) || vip === host) return []
    if (addressToVip(range, vip) === undefined) return []
    return [{ protocol: protocol as Connection['protocol'], host: plain(host), port: Number(port) }]
  })
}

/** /proc prints every digit of an IPv6 address. */
function plain(host: string): string {
  const hextets = isIPv6(host) ? parseIPv6(host) : undefined
  return hextets === undefined ? host : printIPv6(hextets)
}

export function connectionKey({ protocol, host, port }: Connection): string {
  return `${protocol} ${host} ${port}`
}
