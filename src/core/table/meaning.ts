import type { ServiceEntry } from '../model/change.ts'
import type { Choice } from '../model/choice.ts'
import { interestKey, type ServiceId } from '../model/ids.ts'
import type { ServiceName } from '../model/name.ts'

/**
 * The service a name means, out of those under its key (DESIGN §2): with the service's namespace the one it says;
 * without, the only one, or else the one in the app's namespace.
 */
export function meantService(name: ServiceName, services: ReadonlySet<ServiceId>): Meant {
  const key = interestKey(name)
  const { app, appNamespace, service, serviceNamespace } = name
  if (services.size === 0) return { kind: 'none', reason: `app ${app}.${appNamespace} has no service ${service}` }
  const [only] = services
  if (serviceNamespace === undefined && services.size === 1) return { kind: 'service', id: only as ServiceId }
  const id = `${key}.${serviceNamespace ?? appNamespace}`
  if (services.has(id)) return { kind: 'service', id }
  const others = namespaces(services)
  return {
    kind: 'none',
    reason:
      serviceNamespace === undefined
        ? `several services ${service}, none of them in namespace ${appNamespace}; say which: ${others}`
        : `no service ${service} in namespace ${serviceNamespace}; there is one in ${others}`,
  }
}

export type Meant = { kind: 'service'; id: ServiceId } | { kind: 'none'; reason: string }

/** Why a service that exists has no address for a choice. */
export function noSuchChoice({ instance, policy }: Choice, { service, instances }: ServiceEntry): string {
  if (instance === 'any') return `${service.id} has no address for any.${policy}`
  const ordinals = instances.map(({ ordinal }) => ordinal).sort((a, b) => a - b)
  const some = ordinals.length > SHOWN ? `${ordinals.slice(0, SHOWN).join(', ')}, …` : ordinals.join(', ')
  const there = ordinals.length === 0 ? 'it has none' : `there are ${some}`
  return `${service.id} has no instance ${instance}; ${there}`
}

/** Instances listed in a reason. */
const SHOWN = 10

function namespaces(services: ReadonlySet<ServiceId>): string {
  return Array.from(services, (id) => id.slice(id.lastIndexOf('.') + 1))
    .sort()
    .join(', ')
}
