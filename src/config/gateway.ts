import { MeshError } from '../core/errors.ts'
import { splitHostPort } from '../core/kit/host-port.ts'
import { parseName } from '../core/model/name.ts'
import type { AgentConfig, GatewayPortConfig } from './schema.ts'

/*
 * What the schema cannot say about the ports of the gateway, and the form in which `--gateway` names one:
 *
 *   tcp://0.0.0.0:5432=shop.acme.db.prod.any.closest.local:5432
 *   udp://0.0.0.0:53=…
 *   tls://0.0.0.0:443/shop.example.com=…       without the host name: for every other one
 *   http://0.0.0.0:80/shop.example.com=…
 */

const FLAG = /^(tcp|udp|tls|http):\/\/([^/=]+)(?:\/([^=]*))?=(.+)$/

/** Those that flags name; flags for one port and protocol are one. @throws MeshError USAGE */
export function gatewayPorts(flags: readonly string[]): GatewayPortConfig[] {
  const ports = new Map<string, GatewayPortConfig & { hosts: Record<string, string> }>()
  for (const flag of flags) {
    const [, scheme, listen = '', host = '', target = ''] = FLAG.exec(flag) ?? []
    if (scheme === undefined)
      throw new MeshError('USAGE', {
        option: '--gateway',
        given: flag,
        remedy: `Expected tcp://ADDRESS:PORT=NAME:PORT, udp://…, tls://ADDRESS:PORT/HOST=NAME:PORT or http://….`,
      })
    const protocol = scheme as 'tcp' | 'udp' | 'tls' | 'http'
    const key = `${protocol} ${listen}`
    const port = ports.get(key) ?? { listen, protocol, hosts: {} }
    ports.set(key, host === '' ? { ...port, to: target } : { ...port, hosts: { ...port.hosts, [host]: target } })
  }
  return [...ports.values()]
}

/** Faults of the ports, each with its path. */
export function gatewayFaults({ gateway, zones }: Pick<AgentConfig, 'gateway' | 'zones'>): string[] {
  const taken = new Map<string, number>()
  return gateway.ports.flatMap((port, i) => {
    const at = `agent.gateway.ports.${i}`
    const faults = faultsOf(port).map((fault) => `${at}: ${fault}`)
    const { port: number = 0 } = splitHostPort(port.listen) ?? {}
    if (number === 0) faults.push(`${at}.listen: must be an address and a port up to 65535`)
    const key = `${port.protocol === 'udp' ? 'udp' : 'tcp'} ${port.listen}`
    const other = taken.get(key)
    if (other !== undefined) faults.push(`${at}.listen: agent.gateway.ports.${other} has ${port.listen} as well`)
    taken.set(key, i)
    const targets: [string, string | undefined][] = [
      ['to', port.to],
      ...Object.entries(port.hosts ?? {}).map(([host, target]): [string, string] => [`hosts.${host}`, target]),
    ]
    for (const [key, target] of targets) {
      const fault = target === undefined ? undefined : targetFault(target, zones)
      if (fault !== undefined) faults.push(`${at}.${key}: ${fault}`)
    }
    return faults
  })
}

function faultsOf({
  protocol = 'tcp',
  to,
  hosts = {},
  certificates = [],
  alpn = [],
  proxyProtocol,
}: GatewayPortConfig): string[] {
  const names = Object.keys(hosts).length
  const faults: string[] = []
  if (protocol === 'tcp' || protocol === 'udp') {
    if (to === undefined) faults.push('needs `to`, a semantic name and a port')
    if (names > 0) faults.push('`hosts` needs the protocol `tls` or `http`, which tell host names')
  } else if (to === undefined && names === 0) faults.push('needs `hosts`, or `to` for every host name')
  if (certificates.length > 0 && protocol !== 'tls') faults.push('`certificates` needs the protocol `tls`')
  if (alpn.length > 0 && certificates.length === 0)
    faults.push('`alpn` needs `certificates`: where TLS is passed through, the service chooses')
  if (proxyProtocol === true && protocol === 'udp') faults.push('`proxyProtocol` is for TCP')
  return faults
}

function targetFault(target: string, zones: readonly string[]): string | undefined {
  const { host = '', port = 0 } = splitHostPort(target) ?? {}
  if (port === 0) return 'must be a semantic name and a port up to 65535'
  const name = parseName(host, zones)
  if (name.kind === 'name') return undefined
  return name.kind === 'outside'
    ? `${host} is not a name of the mesh; those end in ${zones.map((zone) => `.${zone}`).join(' or ')}`
    : `${host}: ${name.label}: ${name.reason}`
}
