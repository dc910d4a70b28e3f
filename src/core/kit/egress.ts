import { Agent } from 'node:https'

/**
 * The agent for HTTPS and WebSocket connections that must leave through an HTTP proxy (CONNECT, RFC 9110 §9.3.6); `undefined`
 * when they need none.
 *
 * Reads `HTTPS_PROXY` and `NO_PROXY`, in upper or lower case, as curl does. Connections are not kept for reuse: each one's peer
 * was verified for the request that made it.
 */
export function egressOf(environment: Readonly<Record<string, string | undefined>>): Agent | undefined {
  const proxy = environment['https_proxy'] ?? environment['HTTPS_PROXY']
  if (proxy === undefined || proxy === '') return undefined
  const noProxy = environment['no_proxy'] ?? environment['NO_PROXY']
  return new Agent({
    keepAlive: false,
    proxyEnv: { HTTPS_PROXY: proxy, ...(noProxy === undefined ? {} : { NO_PROXY: noProxy }) },
  })
}
