import type { Service, ServicePort } from '../src/core/model/service.ts'

/*
 *   _http . _tcp . shop.acme.cart.prod.any.rr.local     RFC 2782: port, protocol, name
 *   _8080 . _tcp . …                                    a port by its number
 *           _tcp . …                                    nothing itself, but above the two
 */
export interface ServiceLabels {
  /** Without the underscore; absent in `_tcp.<name>`. */
  port?: string
  protocol: string
  /** The name after them. */
  of: string
}

/** The labels that start with an underscore; `undefined` when the name has none. */
export function findService(name: string): ServiceLabels | undefined {
  if (!name.startsWith('_')) return undefined
  const [first = '', second = ''] = name.split('.', 2)
  if (!second.startsWith('_')) return { protocol: first.slice(1), of: name.slice(first.length + 1) }
  return { port: first.slice(1), protocol: second.slice(1), of: name.slice(first.length + second.length + 2) }
}

/** By the port's name, else its number, else (any word) the only port of this protocol that has no name. */
export function portsAt(labels: ServiceLabels, service: Service): readonly ServicePort[] {
  const ports = service.ports.filter(({ protocol }) => protocol === labels.protocol)
  if (labels.port === undefined) return ports
  const named = ports.filter(({ name }) => name?.toLowerCase() === labels.port)
  if (named.length > 0) return named
  if (/^\d+$/.test(labels.port)) return ports.filter(({ port }) => String(port) === labels.port)
  const nameless = ports.filter(({ name }) => name === undefined)
  return nameless.length === 1 ? nameless : []
}
