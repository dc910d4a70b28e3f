import { interestOf, type ServiceId } from '../../core/model/ids.ts'
import type { ServiceSpec } from '../spec.ts'

export type Ordered = Pick<ServiceSpec, 'id' | 'app' | 'appNamespace' | 'connectivity' | 'startsAfterConnectivity'>

/** What the service starts after: those of its own app that it calls, as ids or interest keys. Its own other instances are no reason to wait. */
export function startsAfter(spec: Ordered): string[] {
  if (spec.startsAfterConnectivity !== true) return []
  const prefix = `${spec.app}.${spec.appNamespace}.`
  return spec.connectivity.filter((key) => key.startsWith(prefix) && !isMeant(spec.id, key))
}

/** A key is the id of one service, or the interest key of those with the same name. */
export function isMeant(id: ServiceId, key: string): boolean {
  return key === id || key === interestOf(id)
}

/** The first circle of services that would wait for one another for ever, each once; `undefined` when there is none. */
export function cycleIn(services: readonly Ordered[]): ServiceId[] | undefined {
  const ordered = services.filter(({ startsAfterConnectivity }) => startsAfterConnectivity === true)
  if (ordered.length === 0) return undefined
  const keyed = ordered.flatMap((service) => [service.id, interestOf(service.id)].map((key) => ({ key, service })))
  const byKey = Map.groupBy(keyed, ({ key }) => key)
  const isDone = new Set<ServiceId>()
  for (const first of ordered) {
    // depth first, with a stack of its own: a chain may be as long as a document
    const path: { id: ServiceId; rest: Ordered[] }[] = []
    const on = new Set<ServiceId>()
    const enter = (service: Ordered) => {
      path.push({
        id: service.id,
        rest: startsAfter(service).flatMap((key) => byKey.get(key)?.map((each) => each.service) ?? []),
      })
      on.add(service.id)
    }
    if (!isDone.has(first.id)) enter(first)
    for (let top = path.at(-1); top !== undefined; top = path.at(-1)) {
      const next = top.rest.pop()
      if (next === undefined) {
        isDone.add(top.id)
        on.delete(top.id)
        path.pop()
      } else if (on.has(next.id)) {
        const ids = path.map(({ id }) => id)
        return ids.slice(ids.indexOf(next.id))
      } else if (!isDone.has(next.id)) enter(next)
    }
  }
  return undefined
}

/** `shop.acme.a.prod → shop.acme.b.prod → shop.acme.a.prod` */
export function cycleText(cycle: readonly ServiceId[]): string {
  return [...cycle, ...cycle.slice(0, 1)].join(' → ')
}
