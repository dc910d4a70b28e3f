import { MeshError } from '../../core/errors.ts'
import { isMeant } from '../sla/start-order.ts'
import type { AppSpec, Constraint, NearWish, ServiceSpec } from '../spec.ts'
import type { ServiceRecord } from './root-store.ts'

/*
 * A connection between two services, as a document writes it (docs/sla.md):
 *
 *     caller                                        called
 *       connectivity: [called]                        allow: [caller]                 where they are of two apps
 *       constraints: latency ≤ ms to called           prefersNear: caller             while the caller asks for a latency
 */

/** What a connection is to be like. */
export interface Wish {
  /** The greatest round trip in ms; absent: as far as may be. */
  latencyMs?: number | undefined
  /** The called service lets the caller in; absent: as it is. */
  allow?: boolean | undefined
}

export interface Ends {
  caller: ServiceSpec
  called: ServiceSpec
}

/** As they are to be. `called` is the same object where nothing of it changes. */
export function connected({ caller, called }: Ends, { latencyMs, allow }: Wish): Ends {
  const connectivity = caller.connectivity.some((key) => isMeant(called.id, key))
    ? caller.connectivity
    : [...caller.connectivity, called.id]
  const before = caller.constraints.find((each) => isLatencyTo(each, called))
  const kept = caller.constraints.filter((each) => !isLatencyTo(each, called))
  const bound: Constraint[] =
    latencyMs === undefined ? [] : [{ ...before, type: 'latency', service: called.id, threshold: latencyMs }]
  return {
    caller: { ...caller, connectivity, constraints: [...kept, ...bound] },
    called: nearBy(
      allow === undefined ? called : { ...called, allow: allowing(caller, called, allow) },
      caller,
      latencyMs,
    ),
  }
}

/** As they are to be when the one no longer calls the other. */
export function disconnected({ caller, called }: Ends): Ends {
  return {
    caller: {
      ...caller,
      connectivity: caller.connectivity.filter((key) => !isMeant(called.id, key)),
      constraints: caller.constraints.filter((each) => !isLatencyTo(each, called)),
    },
    called: nearBy({ ...called, allow: allowing(caller, called, false) }, caller, undefined),
  }
}

function isLatencyTo({ type, service = '' }: Constraint, { id }: ServiceSpec): boolean {
  return type === 'latency' && isMeant(id, service)
}

/** What lets in more than this service, its whole app for example, stays. */
function allowing({ id }: ServiceSpec, { allow }: ServiceSpec, isAllowed: boolean): string[] {
  const others = allow.filter((rule) => rule !== id)
  return isAllowed && !allow.includes('*') ? [...others, id] : others
}

function nearBy(called: ServiceSpec, caller: ServiceSpec, latencyMs: number | undefined): ServiceSpec {
  const { prefersNear = [], ...rest } = called
  const asks = called.constraints.some((each) => isLatencyTo(each, caller))
  const others = prefersNear.filter(({ service }) => !isMeant(caller.id, service))
  const wish: NearWish[] =
    latencyMs === undefined || asks ? [] : [{ type: 'latency', service: caller.id, threshold: latencyMs }]
  const near = [...others, ...wish].slice(0, MOST_WISHES)
  if (near.length === 0) return prefersNear.length === 0 ? called : rest
  return { ...called, prefersNear: near }
}

/** As of a document (sla/both-ends.ts). */
const MOST_WISHES = 16

/** The ends that may be changed, each in its app as it is. @throws MeshError USAGE */
export function appsOf(ends: readonly ServiceSpec[], appOf: (id: string) => AppOf): AppSpec[] {
  return [...Map.groupBy(ends, ({ app, appNamespace }) => `${app}.${appNamespace}`)].map(([id, services]) => {
    const [first] = services as [ServiceSpec]
    const { description = '', customer = '' } = appOf(id) ?? {}
    return { app: first.app, namespace: first.appNamespace, description, customer, services }
  })
}

type AppOf = { description: string; customer: string } | undefined

/** @throws MeshError USAGE: nothing calls itself over the mesh */
export function endsOf(caller: ServiceRecord, called: ServiceRecord): Ends {
  if (caller.id === called.id) throw new MeshError('USAGE', { reason: 'a service needs no connection to itself' })
  return { caller: caller.spec, called: called.spec }
}
