import { setTimeout as sleep } from 'node:timers/promises'
import type { RootClient } from '../client/root-client.ts'

export interface Unplaceable {
  instance: string
  detail: string
}

/** Placing takes milliseconds where it works. Smaller: a cluster’s refusal comes too late to be shown; larger: people wait. */
const WITHIN_MS = 2_000
const POLL_MS = 100

/** What of these services no node can take, as soon as every instance of theirs is decided. */
export async function unplaceableOf(root: RootClient, services: readonly string[]): Promise<Unplaceable[]> {
  if (services.length === 0) return []
  for (const endAt = performance.now() + WITHIN_MS; ; await sleep(POLL_MS)) {
    const instances = (
      await Promise.all(services.map((service) => root.all('/v1/instances', { query: { service } })))
    ).flat()
    const isDecided = instances.length > 0 && instances.every(({ state }) => state !== 'requested')
    if (!isDecided && performance.now() < endAt) continue
    return instances
      .filter(({ state }) => state === 'unplaceable')
      .map(({ id, detail = '' }) => ({ instance: id, detail }))
  }
}

/** One line for each reason: `shop.acme.cart.prod.0 and 3 more: 2 nodes: 2 too little memory free`. */
export function linesOf(unplaceable: readonly Unplaceable[]): string[] {
  return [...Map.groupBy(unplaceable, ({ detail }) => detail)].map(([detail, all]) => {
    const more = all.length > 1 ? ` and ${all.length - 1} more` : ''
    return `${all[0]?.instance ?? ''}${more}: ${detail}`
  })
}
