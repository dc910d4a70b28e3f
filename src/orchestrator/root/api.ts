import type { App } from '../link/link-server.ts'
import { appRoutes } from './api-apps.ts'
import { authorityRoutes } from './api-authority.ts'
import { clusterRoutes } from './api-clusters.ts'
import { execRoutes } from './api-exec.ts'
import { eventRoutes } from './api-events.ts'
import { explainRoutes } from './api-explain.ts'
import { instanceRoutes } from './api-instances.ts'
import { moveRoutes } from './api-moves.ts'
import { removalRoutes } from './api-removal.ts'
import { secretRoutes } from './api-secrets.ts'
import { statusRoute } from './api-status.ts'
import type { ApiContext } from './api-context.ts'

/** The API, under /api/v1. The server has authenticated every caller. */
export function apiRoutes(app: App, context: ApiContext): void {
  app.addHook('preHandler', async ({ method }) => {
    if (method !== 'GET') await context.large.idle() // what changes while a document is applied would meet half of it
  })
  appRoutes(app, context)
  instanceRoutes(app, context)
  execRoutes(app, context)
  moveRoutes(app, context)
  clusterRoutes(app, context)
  removalRoutes(app, context)
  authorityRoutes(app, context)
  eventRoutes(app, context)
  explainRoutes(app, context)
  secretRoutes(app, context)
  statusRoute(app, context)
}
