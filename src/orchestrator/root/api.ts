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
import { callerOf } from './people/callers.ts'
import type { Params } from './people/need.ts'

/** Since when, in seconds since 1970 (RFC 9745): 2026-11-30. */
const DEPRECATED = '@1795996800'

/** The API of earlier versions, under /api/v1: the same as /v1, which takes its place. The server has authenticated every caller. */
export function apiRoutes(app: App, context: ApiContext): void {
  // of when there was the administrator only: whoever else there is has /v1
  app.addHook('onRoute', (route) => {
    route.config = { ...route.config, needs: 'mesh mesh' }
  })
  app.addHook('preHandler', async ({ method }) => {
    if (method !== 'GET') await context.large.idle() // what changes while a document is applied would meet half of it
  })
  app.addHook('onSend', async (_request, reply) => {
    void reply.header('deprecation', DEPRECATED).header('link', '</v1/openapi.json>; rel="successor-version"')
  })
  app.addHook('onSend', async (request, { statusCode: status }) => {
    const { method, params, ip: from, id: requestId } = request
    const { url = '' } = request.routeOptions
    if (method === 'GET' || method === 'HEAD' || url.endsWith('/input') || status === 401 || request.is404) return
    const { user, id, by } = callerOf(request)
    const about = Object.values(params as Params).join('/')
    const token = by === 'credential' ? {} : { token: id }
    context.audit.record({ user, ...token, from, call: `${method} ${url}`, about, status, requestId })
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
