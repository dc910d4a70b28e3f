import { setTimeout as sleep } from 'node:timers/promises'
import type { RootClient, RowOf } from '../client/root-client.ts'

export interface Unplaceable {
  instance: string
  detail: string
}

/** Placing takes milliseconds where it works. Smaller: a cluster’s refusal comes too late to be shown; larger: people wait. */
const WITHIN_MS = 2_000
const POLL_MS = 100

/** From so many apps on, one list of everything is asked for less than a list for each. */
const MOST_APPS = 8

/** What of these services no node can take, as soon as every instance of theirs is decided. */
export async function unplaceableOf(
  root: Pick<RootClient, 'all'>,
  services: readonly string[],
): Promise<Unplaceable[]> {
  if (services.length === 0) return []
  const theirs = new Set(services)
  for (const endAt = performance.now() + WITHIN_MS; ; await sleep(POLL_MS)) {
    const instances = (await instancesNear(root, services)).filter(({ service }) => theirs.has(service))
    const isDecided = instances.length > 0 && instances.every(({ state }) => state !== 'requested')
    if (!isDecided && performance.now() < endAt) continue
    return instances
      .filter(({ state }) => state === 'unplaceable')
      .map(({ id, detail = '' }) => ({ instance: id, detail }))
  }
}

/** Those of the services, and others: a document may have thousands, and a list for each would be a flood. */
async function instancesNear(
  root: Pick<RootClient, 'all'>,
  services: readonly string[],
): Promise<RowOf<'/v1/instances'>[]> {
  const [only] = services
  if (services.length === 1 && only !== undefined) return root.all('/v1/instances', { query: { service: only } })
  const apps = [...new Set(services.map((service) => `${service.split('.', 2).join('.')}.`))]
  if (apps.length > MOST_APPS) return root.all('/v1/instances', {})
  const rows: RowOf<'/v1/instances'>[] = []
  for (const name of apps) rows.push(...(await root.all('/v1/instances', { query: { name } })))
  return rows
}

/** One line for each reason: `shop.acme.cart.prod.0 and 3 more: 2 nodes: 2 too little memory free`. */
export function linesOf(unplaceable: readonly Unplaceable[]): string[] {
  return [...Map.groupBy(unplaceable, ({ detail }) => detail)].map(([detail, all]) => {
    const more = all.length > 1 ? ` and ${all.length - 1} more` : ''
    return `${all[0]?.instance ?? ''}${more}: ${detail}`
  })
}
