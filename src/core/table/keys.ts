import type { ServiceEntry } from '../model/change.ts'
import type { Choice } from '../model/choice.ts'
import { interestKey, type ServiceId } from '../model/ids.ts'
import type { ServiceName } from '../model/name.ts'

/* A key is `app.namespace.service`, and covers the services of that name in every namespace. */

/** What the table holds of one key, beside its entries. */
export interface KeyState {
  isKnown: boolean
  /** Questions under way. */
  asking: number
  services: Set<ServiceId>
  /** Services that went while a question was under way, by the number of that change: an older answer must not bring them back. */
  gone: Map<ServiceId, number>
  /** When the last service went, or an answer contained none. */
  emptySince: number
  /** By `clock.now()`: a wall clock that steps must not make every key look unused. */
  usedAt: number
}

/** How long "there is no such service" is believed. Smaller: every typing error asks the cluster; larger: a new service is late. */
export const EMPTY_MS = 5_000

/** A question has been answered, or has failed. */
export function settle(state: KeyState): void {
  state.asking = Math.max(0, state.asking - 1)
  if (state.asking === 0) state.gone.clear()
}

export function newKey(usedAt: number): KeyState {
  const never = Number.NEGATIVE_INFINITY
  return { isKnown: false, asking: 0, services: new Set(), gone: new Map(), emptySince: never, usedAt }
}

/**
 * The service that a name means, out of those under its key. With the service's namespace: that one. Without: the only one, or
 * else the one in the namespace of the app.
 */
export function meantService(name: ServiceName, services: ReadonlySet<ServiceId>): Meant {
  const key = interestKey(name)
  const { appNamespace, service, serviceNamespace } = name
  if (services.size === 0) return { kind: 'none', reason: noSuchService(name) }
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

export function noSuchService({
  app,
  appNamespace,
  service,
}: Pick<ServiceName, 'app' | 'appNamespace' | 'service'>): string {
  return `app ${app}.${appNamespace} has no service ${service}`
}

export type Meant = { kind: 'service'; id: ServiceId } | { kind: 'none'; reason: string }

/** Why an existing service has no address for a choice. */
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
