import type { GatewayRoute } from '../../proxy/gateway/gateway.ts'
import type { CheckReport } from '../client/reports.ts'
import type { AgentParts } from './parts.ts'

/** One for the gateway as a whole, and one for each host name of it that does not work. None where nothing is published. */
export function gatewayChecks({ ingress: { gateway } }: Pick<AgentParts, 'ingress'>): CheckReport['checks'] {
  const routes = gateway?.routes() ?? []
  if (gateway === undefined || routes.length === 0) return []
  const broken = routes.filter(({ problem }) => problem !== undefined)
  const ports = new Set(routes.map(({ listen, protocol }) => `${protocol} ${listen}`)).size
  const many =
    gateway.refused === 0 ? '' : `; refused since the start, because a client or all had too many: ${gateway.refused}`
  return [
    {
      check: 'gateway',
      ok: broken.length === 0,
      finding: `${routes.length - broken.length} of ${routes.length} routes at ${ports} ports lead to a service; ${gateway.size} connections${many}`,
      remedy: '`hedgerow gateway` lists them.',
    },
    ...broken.map(({ problem = '', remedy, ...route }) => ({
      check: `gateway ${routeText(route)}`,
      ok: false,
      finding: problem,
      ...(remedy === undefined ? {} : { remedy }),
    })),
  ]
}

/** `tls 0.0.0.0:443 shop.example.com`. */
function routeText({ protocol, listen, host }: Pick<GatewayRoute, 'protocol' | 'listen' | 'host'>): string {
  return [protocol, listen, ...(host === undefined ? [] : [host])].join(' ')
}
