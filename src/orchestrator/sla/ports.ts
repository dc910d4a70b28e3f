import type { PortSpec } from '../spec.ts'
import { Fields, isObject, nounOf } from './fields.ts'
import { quoted, type Findings } from './findings.ts'

/*
 *     port  = entry *( ";" entry )                "53:53/udp;80:8080"
 *     entry = callers [ ":" target ] [ "/" protocol ]
 *
 * `callers` is the port on the VIP; `target` the one in the container, the same when left out; tcp by default.
 */

const ENTRY = /^(\d{1,5})(?::(\d{1,5}))?(?:\/(tcp|udp))?$/i
const MAX_PORTS = 64

/** `port` (text or number) and our `ports` together. */
export function readPorts(service: Fields, findings: Findings): PortSpec[] {
  const found: { path: string; port: PortSpec }[] = []
  const take = (path: string, value: unknown) => {
    for (const port of portsIn(value, path, findings)) found.push({ path, port })
  }
  if (service.has('port')) take(service.at('port'), service.value('port'))
  for (const [i, value] of service.list('ports').entries()) take(`${service.at('ports')}[${i}]`, value)

  const seen = new Set<string>()
  const ports: PortSpec[] = []
  const hostPorts = new Set<string>()
  for (const { path, port } of found) {
    const key = `${port.port}/${port.protocol}`
    if (seen.has(key)) findings.fault(path, `port ${key} is listed twice`)
    else ports.push(port)
    seen.add(key)
    if (port.hostPort === undefined) continue
    const hostKey = `${port.hostPort}/${port.protocol}`
    if (hostPorts.has(hostKey)) findings.fault(`${path}.host_port`, `${hostKey} is listed twice`)
    hostPorts.add(hostKey)
  }
  if (ports.length > MAX_PORTS)
    findings.fault(service.at('ports'), `has ${ports.length} ports; ${MAX_PORTS} is the limit`)
  return ports.slice(0, MAX_PORTS)
}

function portsIn(value: unknown, path: string, findings: Findings): PortSpec[] {
  if (isObject(value)) {
    const port = portObject(value, path, findings)
    return port === undefined ? [] : [port]
  }
  if (typeof value === 'number') return entries(String(value), path, findings)
  if (typeof value === 'string') return entries(value, path, findings)
  findings.fault(path, `must be a port like "80:8080/tcp", not ${nounOf(value)}`)
  return []
}

function entries(text: string, path: string, findings: Findings): PortSpec[] {
  if (text.length > 2_048) {
    findings.fault(path, `is ${text.length} characters long; 2048 is the limit`)
    return []
  }
  const words = text.split(';').map((word) => word.trim())
  return words
    .filter((word) => word !== '')
    .flatMap((word) => {
      const port = entry(word)
      if (typeof port !== 'string') return [port]
      findings.fault(path, port, 'write "80", "80:8080" or "53:53/udp;80:8080"')
      return []
    })
}

function entry(word: string): PortSpec | string {
  const match = ENTRY.exec(word)
  if (match === null) return `${quoted(word)} is not a port`
  const port = Number(match[1])
  const target = match[2] === undefined ? port : Number(match[2])
  const outside = [port, target].find((number) => number < 1 || number > 65_535)
  if (outside !== undefined) return `port ${outside} is outside 1 to 65535`
  return { port, target, protocol: match[3]?.toLowerCase() === 'udp' ? 'udp' : 'tcp' }
}

/** RFC 6335 §5.1, without the rule that it needs a letter. */
const PORT_NAME = /^[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])?$/

function portObject(value: unknown, path: string, findings: Findings): PortSpec | undefined {
  const fields = Fields.read(value, ['port'], path, findings)
  if (fields === undefined) return undefined
  const port = fields.number('port')
  const name = fields.text('name')?.toLowerCase()
  if (!fields.isGiven('port')) findings.fault(fields.at('port'), 'is missing')
  if (name !== undefined && !PORT_NAME.test(name)) {
    findings.fault(
      fields.at('name'),
      `${quoted(name)} cannot be used in an SRV name`,
      'use letters, digits and inner hyphens',
    )
  }
  if (port === undefined) return undefined
  const target = fields.number('target') ?? port
  const protocol = fields.text('protocol') === 'udp' ? 'udp' : 'tcp'
  const hostPort = fields.number('host_port')
  const introduced = fields.text('proxyProtocol')
  if (introduced === 'v2' && protocol === 'udp')
    findings.fault(fields.at('proxyProtocol'), 'works for TCP only, and this port is UDP', 'remove it')
  return {
    port,
    target,
    protocol,
    ...(name === undefined ? {} : { name }),
    ...(introduced === 'v2' ? { proxyProtocol: 'v2' } : {}),
    ...(hostPort === undefined ? {} : { hostPort }),
  }
}
