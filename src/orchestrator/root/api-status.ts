import type { App } from '../link/link-server.ts'
import type { ApiContext } from './api-context.ts'

export function statusRoute(app: App, context: ApiContext): void {
  app.get('/status', () => statusOf(context))
}

/** The root itself, and how much there is of everything. */
export function statusOf(context: ApiContext) {
  const { store, clusters, vips, view, clock, mesh, version, server, authority, startedAt } = context
  const states: Record<string, number> = {}
  for (const { state } of store.instances.list()) states[state] = (states[state] ?? 0) + 1
  return {
    mesh,
    version,
    authority: authority.ids.signs,
    authorityStep: authority.step,
    url: server.url,
    upSeconds: Math.round((clock.now() - startedAt) / 1000),
    clusters: Array.from(clusters.all(), ({ name }) => name),
    apps: store.apps.keys().length,
    services: store.services.keys().length,
    instances: states,
    vipsUsed: view.isWhole ? vips.used : store.services.keys().reduce((sum, id) => sum + vips.of(id).size, 0),
  }
}
