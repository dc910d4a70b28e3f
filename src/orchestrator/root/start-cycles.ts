import type { Fault } from '../sla/findings.ts'
import { cycleIn, cycleText } from '../sla/start-order.ts'
import type { AppSpec } from '../spec.ts'
import type { RootStore } from './root-store.ts'

/** Services of a document that would wait in a circle with those that are there already. */
export function startCycles(apps: readonly AppSpec[], { store, prune }: { store: RootStore; prune: boolean }): Fault[] {
  return apps.flatMap(({ app, namespace, services }) => {
    if (prune || !services.some(({ startsAfterConnectivity }) => startsAfterConnectivity === true)) return []
    const named = new Set(services.map(({ id }) => id))
    const others = store.servicesOf({ app, namespace }).flatMap(({ id, spec }) => (named.has(id) ? [] : [spec]))
    const cycle = cycleIn([...services, ...others])
    if (cycle === undefined) return []
    const problem = `each would wait for the next to be ready, for ever: ${cycleText(cycle)}`
    const remedy = 'leave out start_after_connectivity, or the entry, of one of them'
    return [{ path: `${app}.${namespace}: connectivity`, problem, remedy }]
  })
}
